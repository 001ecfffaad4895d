//! What is checked of the API servers' flags for Dex's tokens, as their static pods show them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, ListParams};

use super::{Facts, judge_read};
use crate::checks::kubernetes::{Reader, read};
use crate::checks::{Observed, Verdict, handful};
use crate::cluster_file::inference_model_manager::Oidc;

/// Where control planes show their static pods.
const NAMESPACE: &str = "kube-system";

const PROGRAM: &str = "kube-apiserver";

/// Takes the place of all flags `--oidc-…`, with a file on the control plane (Kubernetes 1.30 and
/// later).
const IN_A_FILE: &str = "authentication-config";

/// The claim that needs no prefix: for any other the API server makes one of the issuer.
const EMAIL: &str = "email";

/// The claim that counts where no flag names one.
const SUB: &str = "sub";

/// The prefix that is none.
const NO_PREFIX: &str = "-";

const USERNAME_CLAIM: &str = "oidc-username-claim";
const USERNAME_PREFIX: &str = "oidc-username-prefix";

/// An API server, as its static pod shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiServer {
    pod: String,
    /// Its flags for tokens of others, without the dashes.
    flags: BTreeMap<String, String>,
}

/// Reads the API servers' flags.
pub(super) async fn look(reader: &Observed<Reader>) -> Observed<Vec<ApiServer>> {
    read(reader, async |reader| {
        let api: Api<core::Pod> = Api::namespaced(reader.access.client.clone(), NAMESPACE);
        let pods = reader.list(api, ListParams::default()).await;
        pods.map(|pods| pods.into_iter().filter_map(ApiServer::of).collect())
    })
    .await
}

/// Whether the flags are seen.
pub(super) fn seen(facts: &Facts) -> Verdict {
    judge_read(&facts.api_servers, |servers| judge_seen(servers))
}

pub(super) fn issuer_url(facts: &Facts) -> Verdict {
    let issuer = facts.platform.oidc.issuer_url.as_str();
    judge(facts, |servers| judge_flag(servers, "oidc-issuer-url", Some(issuer)))
}

pub(super) fn client_id(facts: &Facts) -> Verdict {
    let id = facts.platform.oidc.client_id.as_str();
    judge(facts, |servers| judge_flag(servers, "oidc-client-id", Some(id)))
}

pub(super) fn username_claim(facts: &Facts) -> Verdict {
    let claim = facts.platform.oidc.username_claim.as_str();
    judge(facts, |servers| judge_username_claim(servers, claim))
}

pub(super) fn username_prefix(facts: &Facts) -> Verdict {
    judge(facts, |servers| judge_username_prefix(servers, &facts.platform.oidc))
}

pub(super) fn groups_claim(facts: &Facts) -> Verdict {
    let claim = facts.platform.oidc.groups_claim.as_str();
    judge(facts, |servers| judge_flag(servers, "oidc-groups-claim", Some(claim)))
}

pub(super) fn groups_prefix(facts: &Facts) -> Verdict {
    let prefix = facts.platform.oidc.groups_prefix.as_deref();
    judge(facts, |servers| judge_flag(servers, "oidc-groups-prefix", prefix))
}

pub(super) fn ca_file(facts: &Facts) -> Verdict {
    judge(facts, |servers| judge_ca_file(servers, facts.dex.needs_ca()))
}

/// Judges flags, where they are seen.
fn judge(facts: &Facts, judge: impl FnOnce(&[ApiServer]) -> Verdict) -> Verdict {
    judge_read(&facts.api_servers, |servers| {
        if servers.is_empty() {
            Verdict::skipped("no API server's static pod is seen")
        } else if servers.iter().any(|it| it.flags.contains_key(IN_A_FILE)) {
            Verdict::skipped(format!("it stands in the file of --{IN_A_FILE}"))
        } else {
            judge(servers)
        }
    })
}

fn judge_seen(servers: &[ApiServer]) -> Verdict {
    let in_a_file: Vec<&str> = servers
        .iter()
        .filter(|it| it.flags.contains_key(IN_A_FILE))
        .map(|it| it.pod.as_str())
        .collect();
    if servers.is_empty() {
        Verdict::warn(format!(
            "no static pod of an API server is in {NAMESPACE}: a managed control plane does not show its flags"
        ))
    } else if in_a_file.is_empty() {
        Verdict::pass(handful(servers.iter().map(|it| it.pod.as_str())))
    } else {
        Verdict::warn(format!(
            "--{IN_A_FILE} is set on {}: what it says of Dex stands in a file of the control plane",
            handful(in_a_file)
        ))
        .mend("make sure that the file names Dex's issuer, the client as an audience, its CA and both claims")
    }
}

/// Whether a flag has its value on all API servers; `None`: it is not to be set.
fn judge_flag(servers: &[ApiServer], flag: &str, wanted: Option<&str>) -> Verdict {
    judge_value(servers, flag, wanted, |server| server.flag(flag).map(str::to_owned))
}

/// Whether what a flag comes to, set or not, is what is wanted on all API servers; `None`: nothing.
fn judge_value(
    servers: &[ApiServer],
    flag: &str,
    wanted: Option<&str>,
    value: impl Fn(&ApiServer) -> Option<String>,
) -> Verdict {
    let set = |server: &ApiServer| {
        let (set, value) = (server.flag(flag), value(server));
        let comes_to = match value {
            _ if value.as_deref() == set => String::new(),
            Some(value) => format!(" (that is {value})"),
            None => " (that is none)".to_owned(),
        };
        format!("{}{comes_to}", shown(flag, set))
    };
    let others: Vec<String> = servers
        .iter()
        .filter(|server| value(server).as_deref() != wanted)
        .map(|server| format!("{} on {}", set(server), server.pod))
        .collect();
    let all = servers.len();
    if others.is_empty() {
        // They may say the same in several ways.
        let mut ways: Vec<String> = servers.iter().map(set).collect();
        ways.sort();
        ways.dedup();
        return Verdict::pass(format!("{} on {all} of {all}", ways.join(" or ")));
    }
    let seen = others.join("; ");
    let expected = match wanted {
        Some(value) => format!("the cluster file says {value}"),
        None => "the cluster file names none".to_owned(),
    };
    let differ = if others.len() == all { "" } else { "the API servers differ: " };
    Verdict::fail(format!("{differ}{seen}; {expected}"))
}

fn judge_username_claim(servers: &[ApiServer], wanted: &str) -> Verdict {
    let claim = |server: &ApiServer| Some(server.username_claim().to_owned());
    judge_value(servers, USERNAME_CLAIM, Some(wanted), claim)
}

fn judge_username_prefix(servers: &[ApiServer], oidc: &Oidc) -> Verdict {
    const FLAG: &str = USERNAME_PREFIX;
    // As the API server has it.
    let wanted = oidc.username_prefix.as_deref().filter(|prefix| *prefix != NO_PREFIX);
    let is_made_up = |it: &ApiServer| it.flag(FLAG).is_none() && it.username_prefix().is_some();
    if oidc.username_prefix.is_none() && servers.iter().all(is_made_up) {
        let first = servers.first().and_then(ApiServer::username_prefix).unwrap_or_default();
        return Verdict::warn(format!(
            "--{FLAG} is not set, and the claim is not {EMAIL}: the API server puts {first} before every name"
        ))
        .mend(format!("set --{FLAG} and oidc.usernamePrefix; {NO_PREFIX} is for no prefix"));
    }
    judge_value(servers, FLAG, wanted, ApiServer::username_prefix)
}

fn judge_ca_file(servers: &[ApiServer], needs_ca: Option<bool>) -> Verdict {
    const FLAG: &str = "oidc-ca-file";
    let (with, without): (Vec<&ApiServer>, Vec<&ApiServer>) =
        servers.iter().partition(|it| it.flag(FLAG).is_some());
    let names = |servers: &[&ApiServer]| {
        let names: Vec<&str> = servers.iter().map(|it| it.pod.as_str()).collect();
        handful(names)
    };
    let all = servers.len();
    match (needs_ca, with.first(), without.first()) {
        (None, ..) => Verdict::skipped("Dex was not seen, and so not whether it needs a CA"),
        (Some(true), Some(first), None) => {
            Verdict::pass(format!("{} on {all} of {all}", shown(FLAG, first.flag(FLAG))))
        }
        (Some(true), ..) => Verdict::fail(format!(
            "--{FLAG} is not set on {}, and Dex's certificate is not believed with the CAs that this machine knows",
            names(&without)
        )),
        // Which CAs the control planes know is not seen.
        (Some(false), None, _) => Verdict::pass(format!(
            "--{FLAG} is not set, and Dex's certificate is believed with the CAs that this machine knows"
        )),
        (Some(false), Some(_), _) => Verdict::warn(format!(
            "--{FLAG} is set on {}, and Dex's certificate is believed with the CAs that this machine knows: only what that file holds counts for the API server",
            names(&with)
        ))
        .mend(format!(
            "make sure that the file holds Dex's CA; take --{FLAG} away only if that is a public one, not if it is one of yours that is installed on this machine"
        )),
    }
}

fn shown(flag: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("--{flag}={value}"),
        None => format!("--{flag} is not set"),
    }
}

impl ApiServer {
    fn of(pod: core::Pod) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let spec = pod.spec.unwrap_or_default();
        let flags = spec.containers.iter().find_map(|container| {
            let words = container.command.iter().chain(&container.args).flatten();
            let words: Vec<&str> = words.flat_map(|word| split(word)).collect();
            let is_it = container.name == PROGRAM
                || words.iter().any(|word| word.rsplit('/').next() == Some(PROGRAM));
            is_it.then(|| flags(&words))
        })?;
        Some(Self { pod: pod.metadata.name.unwrap_or_default(), flags })
    }

    fn flag(&self, name: &str) -> Option<&str> {
        self.flags.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The claim that it calls users by.
    fn username_claim(&self) -> &str {
        self.flag(USERNAME_CLAIM).unwrap_or(SUB)
    }

    /// What it puts before users' names; `None`: nothing.
    fn username_prefix(&self) -> Option<String> {
        match self.flag(USERNAME_PREFIX) {
            Some(NO_PREFIX) => None,
            Some(prefix) => Some(prefix.to_owned()),
            None if self.username_claim() == EMAIL => None,
            None => self.flag("oidc-issuer-url").map(|issuer| format!("{issuer}#")),
        }
    }
}

/// The words of a word: some control planes start the API server by a line for a shell.
fn split(word: &str) -> impl Iterator<Item = &str> {
    let is_line = word.contains(PROGRAM) && word.contains(char::is_whitespace);
    let (line, whole) = if is_line { (word, None) } else { ("", Some(word)) };
    line.split_whitespace().chain(whole)
}

/// The flags that matter, of a command line: `--name=value` or `--name value`. Of one that stands
/// there twice the last counts, as for the program.
fn flags(words: &[&str]) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--") else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value),
            None => match words.next_if(|next| !next.starts_with("--")) {
                Some(value) => (flag, *value),
                None => (flag, ""),
            },
        };
        // The program takes both.
        let name = name.replace('_', "-");
        if name.starts_with("oidc-") || name == IN_A_FILE {
            flags.insert(name, value.trim_matches(['"', '\'']).to_owned());
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Skipped, Warn};

    fn pod(container: &Value) -> Option<ApiServer> {
        let pod = json!({
            "metadata": {"name": "kube-apiserver-a"},
            "spec": {"containers": [container]},
        });
        ApiServer::of(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn command_lines() {
        for (what, container, expected) in [
            (
                "kubeadm's",
                json!({"name": "kube-apiserver", "command": ["kube-apiserver", "--v=2", "--oidc-client-id=x", "--oidc-groups-claim=a=b"]}),
                Some(vec![("oidc-client-id", "x"), ("oidc-groups-claim", "a=b")]),
            ),
            (
                "two words a flag, in the arguments",
                json!({"name": "kube-apiserver", "args": ["--oidc-client-id", "x", "--oidc-ca-file", "--v=2"]}),
                Some(vec![("oidc-ca-file", ""), ("oidc-client-id", "x")]),
            ),
            (
                "a shell's line",
                json!({"name": "api", "command": ["/bin/sh", "-c", "exec /usr/local/bin/kube-apiserver --oidc-client-id='x' --v=2 2>&1 | tee /var/log/api"]}),
                Some(vec![("oidc-client-id", "x")]),
            ),
            (
                "the last counts",
                json!({"name": "kube-apiserver", "command": ["kube-apiserver", "--oidc-client-id=x", "--oidc_client_id=y"]}),
                Some(vec![("oidc-client-id", "y")]),
            ),
            (
                "no flags",
                json!({"name": "kube-apiserver", "command": ["/x/kube-apiserver"]}),
                Some(vec![]),
            ),
            ("another program", json!({"name": "etcd", "command": ["etcd"]}), None),
        ] {
            let found = pod(&container).map(|server| server.flags);
            let expected = expected.map(|flags: Vec<(&str, &str)>| {
                flags.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
            });
            assert_eq!(found, expected, "{what}");
        }
    }

    fn server(pod: &str, flags: &[(&str, &str)]) -> ApiServer {
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ApiServer { pod: pod.to_owned(), flags: flags.collect() }
    }

    #[test]
    fn one_flag() {
        let (x, y, none) = (("oidc-client-id", "x"), ("oidc-client-id", "y"), server("c", &[]));
        for (servers, wanted, outcome, words) in [
            (
                vec![server("a", &[x]), server("b", &[x])],
                Some("x"),
                Pass,
                "--oidc-client-id=x on 2 of 2",
            ),
            (
                vec![server("a", &[x])],
                Some("y"),
                Fail,
                "--oidc-client-id=x on a; the cluster file says y",
            ),
            (
                vec![none.clone()],
                Some("x"),
                Fail,
                "--oidc-client-id is not set on c; the cluster file says x",
            ),
            (vec![none.clone()], None, Pass, "--oidc-client-id is not set on 1 of 1"),
            (
                vec![server("a", &[x])],
                None,
                Fail,
                "--oidc-client-id=x on a; the cluster file names none",
            ),
            (
                vec![server("a", &[x]), server("b", &[y]), none],
                Some("x"),
                Fail,
                "the API servers differ: --oidc-client-id=y on b; --oidc-client-id is not set on c;",
            ),
        ] {
            let verdict = judge_flag(&servers, "oidc-client-id", wanted);
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }

    #[test]
    fn the_claim() {
        let claim = |value| server("a", &[("oidc-username-claim", value)]);
        for (servers, wanted, outcome, words) in [
            (vec![claim("email")], "email", Pass, "--oidc-username-claim=email on 1 of 1"),
            // Without the flag it is sub.
            (vec![server("a", &[])], "sub", Pass, "is not set (that is sub) on 1 of 1"),
            (
                vec![server("a", &[]), claim("sub")],
                "sub",
                Pass,
                "--oidc-username-claim is not set (that is sub) or --oidc-username-claim=sub on 2 of 2",
            ),
            (
                vec![server("a", &[])],
                "email",
                Fail,
                "is not set (that is sub) on a; the cluster file says email",
            ),
            (vec![claim("email")], "sub", Fail, "=email on a; the cluster file says sub"),
        ] {
            let verdict = judge_username_claim(&servers, wanted);
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }

    #[test]
    fn the_ca() {
        let (with, without) = (server("a", &[("oidc-ca-file", "/pki/ca.crt")]), server("b", &[]));
        for (servers, needs_ca, outcome, words) in [
            (vec![with.clone()], Some(true), Pass, "--oidc-ca-file=/pki/ca.crt on 1 of 1"),
            (vec![with.clone(), without.clone()], Some(true), Fail, "is not set on b,"),
            (vec![without.clone()], Some(false), Pass, "the CAs that this machine knows"),
            // It may be a private one that is installed on this machine alone.
            (vec![with.clone(), without], Some(false), Warn, "is set on a,"),
            (vec![with], None, Skipped, "Dex was not seen"),
        ] {
            let verdict = judge_ca_file(&servers, needs_ca);
            assert!(!verdict.seen.contains("public"), "{words}: {}", verdict.seen);
            let mend = verdict.mend.as_deref().unwrap_or("only if that is a public one");
            assert!(mend.contains("only if that is a public one"), "{words}: {mend}");
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }

    #[test]
    fn where_flags_are_not_seen() {
        for (servers, outcome, words) in [
            (vec![], Warn, "a managed control plane does not show its flags"),
            (vec![server("a", &[(IN_A_FILE, "/x")])], Warn, "--authentication-config is set on a"),
            (vec![server("a", &[]), server("b", &[])], Pass, "a, b"),
        ] {
            let verdict = judge_seen(&servers);
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }

    #[test]
    fn prefixes() {
        let oidc = |claim: &str, prefix: Option<&str>| -> Oidc {
            let mut oidc = json!({"issuerUrl": "https://dex.example.org", "clientId": "x", "usernameClaim": claim});
            if let Some(prefix) = prefix {
                oidc["usernamePrefix"] = prefix.into();
            }
            serde_json::from_value(oidc).expect("settings")
        };
        let made_up = "https://dex.example.org#";
        for (claim, prefix, set, outcome, words) in [
            ("email", None, None, Pass, "is not set on 1 of 1"),
            ("sub", None, None, Warn, "puts https://dex.example.org# before every name"),
            ("sub", Some("infer:"), Some("infer:"), Pass, "--oidc-username-prefix=infer: on"),
            ("email", None, Some("infer:"), Fail, "the cluster file names none"),
            ("email", Some("infer:"), None, Fail, "the cluster file says infer:"),
            // No prefix is said in two ways, on either side.
            ("sub", None, Some("-"), Pass, "--oidc-username-prefix=- (that is none) on 1 of 1"),
            ("sub", Some("-"), Some("-"), Pass, "(that is none) on 1 of 1"),
            ("email", Some("-"), None, Pass, "is not set on 1 of 1"),
            ("email", Some("-"), Some("infer:"), Fail, "the cluster file names none"),
            ("email", Some("infer:"), Some("-"), Fail, "the cluster file says infer:"),
            // One that is made up may be meant, or not.
            ("sub", Some(made_up), None, Pass, "is not set (that is https://dex.example.org#)"),
            ("sub", Some("-"), None, Fail, "is not set (that is https://dex.example.org#) on a;"),
        ] {
            let mut flags = vec![("oidc-issuer-url", "https://dex.example.org")];
            flags.extend([("oidc-username-claim", claim)].iter().filter(|_| claim != "sub"));
            flags.extend(set.map(|prefix| ("oidc-username-prefix", prefix)));
            let server = server("a", &flags);
            let verdict = judge_username_prefix(&[server], &oidc(claim, prefix));
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }
}
