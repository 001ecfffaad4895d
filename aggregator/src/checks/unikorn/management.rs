//! What is checked of the network's management cluster, and of the way from there to here.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::ResourceAttributes;
use k8s_openapi::api::core::v1 as core;
use kube::api::Api;
use rollcall_daemon::kubernetes::Access;
use rollcall_daemon::secret::Secret;
use serde_json::Value;
use url::Url;

use super::{Facts, Observed, Verdict, observe};
use crate::checks::kubernetes::{Reader, read};
use crate::cluster_file::UnikornTarget;
use crate::manifests::Change;
use crate::targets::unikorn::{self, look_at_management, reachable};

/// What was seen of it.
#[derive(Debug)]
pub(super) struct Management {
    version: Observed<String>,
    /// What applying the Region would do.
    dry_run: Observed<Change>,
    /// The Region as it is there; `None`: there is none.
    pub(super) live: Observed<Option<Value>>,
    /// The servers that the Secret's kubeconfig names.
    kubeconfig: Observed<Handed>,
    /// The addresses that this cluster has for itself.
    own: Vec<IpAddr>,
    /// Whether it lets its bearer do everything, after the version of whoever answers it.
    rights: Observed<(String, bool)>,
}

/// What the Secret was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Handed {
    /// There is no Secret.
    Nothing,
    /// It has no key `kubeconfig`.
    NoKey,
    /// It holds no kubeconfig, or one that only some machine can follow.
    Useless(String),
    /// A kubeconfig, and the servers that it names.
    Kubeconfig(Vec<String>),
}

impl Management {
    pub(super) async fn look(
        target: &UnikornTarget,
        cluster: &Observed<Reader>,
        region: Option<&Value>,
        limit: Duration,
    ) -> Self {
        let Some(management) = &target.region.management else {
            const WHY: &str = "region.management is left out of the cluster file";
            return Self {
                version: Observed::not_tried(WHY),
                dry_run: Observed::not_tried(WHY),
                live: Observed::not_tried(WHY),
                kubeconfig: Observed::not_tried(WHY),
                own: Vec::new(),
                rights: Observed::not_tried(WHY),
            };
        };
        let reader = look_at_management(management, limit).await;
        let (own, dry_run, live, secret) = tokio::join!(
            read(cluster, async |reader| reader.own_addresses().await),
            read_management(&reader, async |reader| match region {
                Some(region) if is_empty(region) => {
                    Observed::not_tried("no class is offered, and an empty Region is not applied")
                }
                Some(region) => {
                    observe(limit, unikorn::submit(&reader.access, region, true)).await
                }
                None => Observed::not_tried("the aggregator has not told the Region"),
            }),
            read_management(&reader, async |reader| unikorn::live(reader, target).await),
            read_management(&reader, async |reader| {
                let namespace = target.region.namespace.as_str();
                let secrets: Api<core::Secret> =
                    Api::namespaced(reader.access.client.clone(), namespace);
                reader.get(secrets, &target.region.kubeconfig_secret()).await
            }),
        );
        let text = secret.seen().and_then(Option::as_ref).and_then(kubeconfig_of);
        let kubeconfig = secret.map(|secret| handed(secret.as_ref()));
        let rights = match (&kubeconfig.result, text) {
            (Ok(Handed::Kubeconfig(_)), Some(text)) => rights(&text, limit).await,
            _ => Observed::not_tried("there is no kubeconfig to try"),
        };
        let own = own.seen().cloned().unwrap_or_default();
        Self {
            version: reader.map(|reader| reader.version),
            dry_run,
            live,
            kubeconfig,
            own,
            rights,
        }
    }
}

/// Looks at something in the management cluster, where that answers.
async fn read_management<T>(
    reader: &Observed<Reader>,
    look: impl AsyncFnOnce(&Reader) -> Observed<T>,
) -> Observed<T> {
    match reader.seen() {
        Some(_) => read(reader, look).await,
        None => Observed::not_tried("the management cluster does not answer"),
    }
}

fn is_empty(region: &Value) -> bool {
    let classes = region.pointer("/spec/kubernetes/nodes").and_then(Value::as_array);
    classes.is_none_or(Vec::is_empty)
}

fn kubeconfig_of(secret: &core::Secret) -> Option<Secret> {
    let data = secret.data.as_ref()?;
    let text = String::from_utf8(data.get("kubeconfig")?.0.clone()).ok()?;
    Some(Secret::new(text))
}

fn handed(secret: Option<&core::Secret>) -> Handed {
    let Some(secret) = secret else { return Handed::Nothing };
    let data = secret.data.as_ref().and_then(|data| data.get("kubeconfig"));
    let Some(data) = data else { return Handed::NoKey };
    match unikorn::servers_of(&data.0) {
        Ok(servers) => Handed::Kubeconfig(servers),
        Err(words) => Handed::Useless(words),
    }
}

/// Whether the kubeconfig works from here, and lets its bearer do everything.
async fn rights(kubeconfig: &Secret, limit: Duration) -> Observed<(String, bool)> {
    let opened = observe(limit, Access::open_text(kubeconfig)).await;
    let reader = Reader::of(opened, limit).await;
    let everything = ResourceAttributes {
        verb: Some("*".to_owned()),
        group: Some("*".to_owned()),
        resource: Some("*".to_owned()),
        ..ResourceAttributes::default()
    };
    match reader.result {
        Ok(reader) => reader.may(&everything).await.map(|may| (reader.version.clone(), may)),
        Err(unseen) => Observed { result: Err(unseen), took: reader.took },
    }
}

pub(super) fn answers(facts: &Facts) -> Verdict {
    facts.management.version.judge(|version| Verdict::pass(version))
}

pub(super) fn accepted(facts: &Facts) -> Verdict {
    facts.management.dry_run.judge(|change| match change {
        Change::Created => Verdict::warn("it would be accepted, and is not there yet")
            .mend("rollcall-aggregator submit TARGET applies it"),
        Change::Changed => Verdict::warn("it would be accepted, and is another there")
            .mend("rollcall-aggregator submit TARGET applies it"),
        Change::Unchanged => Verdict::pass("it is there, as it should be"),
    })
}

pub(super) fn secret(facts: &Facts) -> Verdict {
    let region = &facts.target.region;
    let name = format!("Secret {}/{}", region.namespace, region.kubeconfig_secret());
    facts.management.kubeconfig.judge(|handed| match handed {
        Handed::Nothing => Verdict::fail(format!("there is no {name}")),
        Handed::NoKey => Verdict::fail(format!("{name} has no key kubeconfig")),
        Handed::Useless(words) => Verdict::fail(format!("{name}: {words}")),
        Handed::Kubeconfig(servers) => {
            let here = servers.iter().filter_map(|server| {
                let url = Url::parse(server).map_err(|error| format!("{server}: {error}"));
                url.and_then(|url| reachable(&url, &facts.management.own)).err()
            });
            match here.collect::<Vec<_>>().as_slice() {
                [] => Verdict::pass(format!("{name}: {}", servers.join(", "))),
                words => Verdict::fail(format!("{name}: {}", words.join("; "))),
            }
        }
    })
}

pub(super) fn lets_in(facts: &Facts) -> Verdict {
    facts.management.rights.judge(|(version, may)| {
        if *may {
            Verdict::pass(format!("{version}, with all rights"))
        } else {
            Verdict::fail("it works, and does not allow everything, which the network asks for")
        }
    })
}
