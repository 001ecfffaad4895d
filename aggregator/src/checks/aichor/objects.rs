//! What is checked of the objects that `prepare` makes.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Subject};

use super::Facts;
use crate::checks::{Verdict, handful};
use crate::targets::aichor::rights::{Difference, rights};
use crate::targets::aichor::token::{KIND, TokenSecret};
use crate::targets::aichor::{ACCOUNT, BINDING, ROLE, TOKEN_SECRET, has_basic_auth};

/// Whether the namespace is there, and stays.
pub(super) fn namespace(facts: &Facts) -> Verdict {
    let name = &facts.engine.namespace;
    facts.namespace.judge(|found| match found {
        Some(namespace) if is_going(namespace) => {
            Verdict::fail(format!("Namespace {name} is being deleted"))
                .mend("wait until it is gone, then rollcall-aggregator prepare TARGET --apply")
        }
        Some(_) => Verdict::pass(name),
        None => Verdict::fail(format!("there is no Namespace {name}")),
    })
}

fn is_going(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

/// Whether the account is there.
pub(super) fn account(facts: &Facts) -> Verdict {
    let name = format!("{}/{ACCOUNT}", facts.engine.namespace);
    facts.account.judge(|found| match found {
        Some(_) => Verdict::pass(name),
        None => Verdict::fail(format!("there is no ServiceAccount {name}")),
    })
}

/// Whether the role gives what `AIchor` asks for, and nothing else.
pub(super) fn role(facts: &Facts) -> Verdict {
    facts.role.judge(|found| match found {
        Some(role) => judge_role(role),
        None => Verdict::fail(format!("there is no ClusterRole {ROLE}")),
    })
}

/// Whether the account has the role, and nobody else.
pub(super) fn binding(facts: &Facts) -> Verdict {
    facts.binding.judge(|found| match found {
        Some(binding) => judge_binding(binding, &facts.engine.namespace),
        None => Verdict::fail(format!("there is no ClusterRoleBinding {BINDING}")),
    })
}

/// Whether the Secret is there and has a token of the account that is there.
pub(super) fn secret(facts: &Facts) -> Verdict {
    let account = facts.account.seen().and_then(Option::as_ref);
    facts.secret.judge(|found| judge_secret(found.as_ref(), account, &facts.engine.namespace))
}

/// Whether the server takes what the form is filled with.
pub(super) fn credentials(facts: &Facts) -> Verdict {
    match &facts.engine.basic_auth {
        None => Verdict::pass("the form is filled with a token"),
        Some(_) => facts.version.judge(|version| judge_basic_auth(version)),
    }
}

fn judge_role(role: &ClusterRole) -> Verdict {
    let Difference { missing, beyond } = Difference::of(role.rules.as_deref().unwrap_or_default());
    let all = [("missing", missing), ("beyond", beyond)];
    let told: Vec<String> = all
        .into_iter()
        .filter(|(_, rights)| !rights.is_empty())
        .map(|(what, rights)| format!("{what}: {}", rights.join("; ")))
        .collect();
    if told.is_empty() {
        Verdict::pass(format!("{ROLE} gives {} rights", rights().count()))
    } else {
        Verdict::fail(told.join("; "))
    }
}

fn judge_binding(binding: &ClusterRoleBinding, namespace: &str) -> Verdict {
    let role = &binding.role_ref;
    if (role.kind.as_str(), role.name.as_str()) != ("ClusterRole", ROLE) {
        return Verdict::fail(format!("{BINDING} gives {} {}", role.kind, role.name)).mend(format!(
            "kubectl delete clusterrolebinding {BINDING}, for its role cannot be changed, then rollcall-aggregator prepare TARGET --apply"
        ));
    }
    let is_ours = |subject: &&Subject| {
        subject.kind == "ServiceAccount"
            && subject.name == ACCOUNT
            && subject.namespace.as_deref() == Some(namespace)
    };
    let subjects = binding.subjects.as_deref().unwrap_or_default();
    let others: Vec<String> =
        subjects.iter().filter(|subject| !is_ours(subject)).map(shown).collect();
    let has_ours = subjects.iter().any(|subject| is_ours(&subject));
    match (has_ours, &others[..]) {
        (true, []) => Verdict::pass(format!("{ROLE} to {namespace}/{ACCOUNT}")),
        (true, others) => Verdict::warn(format!(
            "others have {ROLE}, too: {}",
            handful(others.iter().map(String::as_str))
        )),
        (false, []) => Verdict::fail(format!("{BINDING} gives the role to nobody")),
        (false, others) => Verdict::fail(format!(
            "{BINDING} gives the role to {}, and not to {namespace}/{ACCOUNT}",
            handful(others.iter().map(String::as_str))
        )),
    }
}

fn shown(subject: &Subject) -> String {
    match &subject.namespace {
        Some(namespace) => format!("{} {namespace}/{}", subject.kind, subject.name),
        None => format!("{} {}", subject.kind, subject.name),
    }
}

fn judge_secret(
    secret: Option<&TokenSecret>,
    account: Option<&ServiceAccount>,
    namespace: &str,
) -> Verdict {
    let name = format!("{namespace}/{TOKEN_SECRET}");
    let anew = format!(
        "kubectl delete secret --namespace {namespace} {TOKEN_SECRET}, then rollcall-aggregator prepare TARGET --apply"
    );
    let Some(secret) = secret else { return Verdict::fail(format!("there is no Secret {name}")) };
    if secret.kind != KIND {
        return Verdict::fail(format!("{name} is of type {:?}, not {KIND}", secret.kind))
            .mend(anew);
    }
    if secret.account.as_deref() != Some(ACCOUNT) {
        let whose = secret.account.as_deref().unwrap_or("none");
        return Verdict::fail(format!("{name} is for the account {whose}, not {ACCOUNT}"))
            .mend(anew);
    }
    if secret.token.is_none() {
        return Verdict::fail(format!("{name} has no token yet")).mend(
            "the controller-manager puts it there: is it running, with --service-account-private-key-file?",
        );
    }
    let uid = account.and_then(|account| account.metadata.uid.as_deref());
    match (&secret.account_uid, uid) {
        (Some(then), Some(now)) if then != now => {
            Verdict::fail(format!("{name} has the token of an account {ACCOUNT} that is deleted"))
                .mend(anew)
        }
        _ => Verdict::pass(name),
    }
}

fn judge_basic_auth(version: &str) -> Verdict {
    match has_basic_auth(version) {
        Some(true) => Verdict::pass(format!("{version} may take a user and a password")),
        Some(false) => Verdict::fail(format!(
            "engine.basicAuth is set, and {version} takes no user and password: they left Kubernetes in 1.19"
        )),
        None => Verdict::warn(format!(
            "engine.basicAuth is set, and the version {version} does not tell whether it is before 1.19"
        )),
    }
}

#[cfg(test)]
mod tests {
    use rollcall_daemon::secret::Secret;
    use serde_json::{Value, json};

    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Warn};
    use crate::cluster_file::aichor::Engine;
    use crate::targets::aichor::manifests;

    fn made(kind: &str) -> Value {
        let engine: Engine = serde_json::from_value(json!({"name": "west"})).expect("an engine");
        let wanted = |it: &Value| it["kind"] == kind;
        manifests(&engine).into_iter().find(wanted).expect(kind)
    }

    #[test]
    fn roles() {
        let role = |change: &dyn Fn(&mut Value)| -> ClusterRole {
            let mut role = made("ClusterRole");
            change(&mut role["rules"]);
            serde_json::from_value(role).expect("a role")
        };
        for (what, role, outcome, seen) in [
            ("as made", role(&|_| {}), Pass, "dp-sa-cluster-role gives 67 rights"),
            (
                "one verb less, one resource more",
                role(&|rules| {
                    rules[5]["verbs"] = json!(["create", "get"]);
                    rules[4]["resources"] = json!(["events", "nodes"]);
                }),
                Fail,
                "missing: delete services; beyond: create nodes",
            ),
            (
                "everything",
                role(&|rules| {
                    *rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
                }),
                Fail,
                "beyond: * *.*",
            ),
        ] {
            let verdict = judge_role(&role);
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen), "{what}");
        }
        let nothing = judge_role(&role(&|rules| *rules = Value::Null));
        let all = "get, list, watch, create, update, patch, delete pods; ";
        assert!(
            nothing.seen.contains(all) && nothing.seen.ends_with("workflows.argoproj.io"),
            "{nothing:?}"
        );
    }

    #[test]
    fn bindings() {
        let binding = |change: &dyn Fn(&mut Value)| -> ClusterRoleBinding {
            let mut binding = made("ClusterRoleBinding");
            change(&mut binding);
            serde_json::from_value(binding).expect("a binding")
        };
        let somebody =
            json!({"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"});
        for (what, binding, outcome, seen) in [
            (
                "as made",
                binding(&|_| {}),
                Pass,
                "dp-sa-cluster-role to aichor/dp-cluster-service-account",
            ),
            (
                "with somebody else",
                binding(&|it| it["subjects"].as_array_mut().expect("some").push(somebody.clone())),
                Warn,
                "others have dp-sa-cluster-role, too: User eve",
            ),
            (
                "in another namespace",
                binding(&|it| it["subjects"][0]["namespace"] = json!("default")),
                Fail,
                "gives the role to ServiceAccount default/dp-cluster-service-account, and not to",
            ),
            ("nobody", binding(&|it| it["subjects"] = json!([])), Fail, "gives the role to nobody"),
            (
                "another role",
                binding(&|it| it["roleRef"]["name"] = json!("view")),
                Fail,
                "gives ClusterRole view",
            ),
        ] {
            let verdict = judge_binding(&binding, "aichor");
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(seen), "{what}: {verdict:?}");
        }
    }

    #[test]
    fn secrets() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"uid": "1"}})).expect("an account");
        let good = || TokenSecret {
            kind: KIND.to_owned(),
            account: Some(ACCOUNT.to_owned()),
            account_uid: Some("1".to_owned()),
            token: Some(Secret::new("hunter22".to_owned())),
        };
        for (what, secret, outcome, seen) in [
            ("as made", Some(good()), Pass, "aichor/dp-cluster-service-account-token"),
            ("none", None, Fail, "there is no Secret aichor/"),
            ("empty", Some(TokenSecret { token: None, ..good() }), Fail, "has no token yet"),
            (
                "opaque",
                Some(TokenSecret { kind: "Opaque".to_owned(), ..good() }),
                Fail,
                "is of type \"Opaque\"",
            ),
            (
                "another's",
                Some(TokenSecret { account: Some("default".to_owned()), ..good() }),
                Fail,
                "is for the account default",
            ),
            (
                "of a former account",
                Some(TokenSecret { account_uid: Some("0".to_owned()), ..good() }),
                Fail,
                "of an account dp-cluster-service-account that is deleted",
            ),
        ] {
            let verdict = judge_secret(secret.as_ref(), Some(&account), "aichor");
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(seen), "{what}: {verdict:?}");
            assert!(!format!("{verdict:?}").contains("hunter22"), "{what}: {verdict:?}");
        }
    }

    #[test]
    fn users_and_passwords() {
        for (version, outcome) in
            [("v1.18.9", Pass), ("v1.19.0", Fail), ("v1.33.1", Fail), ("main", Warn)]
        {
            assert_eq!(judge_basic_auth(version).outcome, outcome, "{version}");
        }
    }
}
