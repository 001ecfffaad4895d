//! What the network's infrastructure is made with, before it is asked for.

use serde_json::Value;
use url::Url;

use super::Facts;
use crate::checks::Verdict;

const NONE: &str = "the cluster file declares no infrastructure for this target";

/// Whether the kubeconfig can be used elsewhere.
pub(super) fn kubeconfig(facts: &Facts) -> Verdict {
    match &facts.infrastructure {
        Some(infrastructure) => judge_kubeconfig(&infrastructure.kubeconfig),
        None => Verdict::pass(NONE),
    }
}

/// Whether tasks can be followed.
pub(super) fn tasks(facts: &Facts) -> Verdict {
    let Some(infrastructure) = &facts.infrastructure else { return Verdict::pass(NONE) };
    infrastructure.tasks.judge(|reply| {
        let body = serde_json::from_slice::<Value>(&reply.body).ok();
        // There is no such task, and it says so as it says everything.
        match body.as_ref().and_then(|body| body.get("success")) {
            Some(Value::Bool(_)) => {
                Verdict::pass(format!("{} answered as a tasks' database does", reply.sent))
            }
            _ => Verdict::fail(format!(
                "that is not how a tasks' database answers ({} answered {})",
                reply.sent, reply.status
            )),
        }
    })
}

fn judge_kubeconfig(servers: &Result<Vec<String>, String>) -> Verdict {
    let servers = match servers {
        Ok(servers) => servers,
        Err(words) => return Verdict::fail(words),
    };
    let is_here = |server: &&String| {
        let host = Url::parse(server).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.is_some_and(|host| {
            let host = host.trim_matches(['[', ']']);
            host == "localhost"
                || host
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback() || address.is_unspecified())
        })
    };
    if servers.is_empty() {
        Verdict::fail("it names no server")
    } else if let Some(server) = servers.iter().find(is_here) {
        Verdict::warn(format!("its server {server} is this machine to whoever uses it"))
    } else {
        Verdict::pass(servers.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Warn};

    #[test]
    fn what_a_kubeconfig_is_worth() {
        let servers = |servers: &[&str]| Ok(servers.iter().map(ToString::to_string).collect());
        for (what, kubeconfig, outcome) in [
            ("another machine", servers(&["https://192.0.2.1:6443"]), Pass),
            ("by name", servers(&["https://west.example.org:6443"]), Pass),
            ("this machine", servers(&["https://127.0.0.1:6443"]), Warn),
            ("this machine by name", servers(&["https://localhost:6443"]), Warn),
            ("this machine, IPv6", servers(&["https://[::1]:6443"]), Warn),
            ("any address", servers(&["https://0.0.0.0:6443"]), Warn),
            ("one of two", servers(&["https://192.0.2.1", "https://127.0.0.1"]), Warn),
            ("none", servers(&[]), Fail),
            ("of no use", Err("is no kubeconfig".to_owned()), Fail),
        ] {
            assert_eq!(judge_kubeconfig(&kubeconfig).outcome, outcome, "{what}");
        }
    }
}
