//! A Unikorn region: the Region object that declares this cluster's node classes, and the kubeconfig
//! that the network takes the cluster with.

pub mod region;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use rollcall_daemon::kubernetes::{Access, Selection};
use rollcall_daemon::secret::Secret;
use rollcall_report::error_chain;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use url::Url;

use super::kubeconfig::Kubeconfig;
use super::reach::Reach;
use crate::certificates::{from_ders, to_pem};
use crate::checks::kubernetes::{Reader, words_of};
use crate::checks::{Observed, observe};
use crate::cluster_file::UnikornTarget;
use crate::cluster_file::unikorn::Management;
use crate::manifests::{self, Applied, Change, Conflicts, Manager, Writing};

/// Where the network's account is in this cluster.
const NAMESPACE: &str = "rollcall-unikorn";
/// The network's account.
const ACCOUNT: &str = "unikorn-region";
/// The Secret that the controller-manager fills with the account's token.
const TOKEN: &str = "unikorn-region-token";
/// How often the token is looked for.
const LOOK: Duration = Duration::from_millis(300);

/// What this cluster needs beforehand: an account for the network, which asks for all rights. Nothing
/// where a kubeconfig is given.
pub fn prepare(target: &UnikornTarget) -> Vec<Value> {
    if target.region.access.kubeconfig_file.is_some() {
        return Vec::new();
    }
    let account = json!({ "name": ACCOUNT, "namespace": NAMESPACE });
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": format!("{NAMESPACE}-{ACCOUNT}") },
            // Unikorn asks for it: it makes virtual clusters, with namespaces, roles and custom
            // resources of their own.
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }],
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": TOKEN,
                "namespace": NAMESPACE,
                "annotations": { "kubernetes.io/service-account.name": ACCOUNT },
            },
            "type": "kubernetes.io/service-account-token",
        }),
    ]
}

/// The kubeconfig that the network is given, whole in itself. Where none is given, it is made with the
/// token of the network's account, which is waited for.
///
/// # Errors
///
/// Why there is none, in words.
pub async fn kubeconfig(
    target: &UnikornTarget,
    reader: &Reader,
    limit: Duration,
) -> Result<Value, String> {
    let access = &target.region.access;
    // Without the right to look, what kubectl would use is believed.
    let own = reader.own_addresses().await.seen().cloned().unwrap_or_default();
    if let Some(path) = &access.kubeconfig_file {
        let read = Kubeconfig::read(path, "region.access.kubeconfigFile");
        let kubeconfig = read.map_err(|error| error_chain(&error))?;
        for server in kubeconfig.servers() {
            let url = Url::parse(&shown(&server))
                .map_err(|error| format!("the server in {} is no URL: {error}", path.display()))?;
            reachable(&url, &own)?;
        }
        return Ok(kubeconfig.content().clone());
    }
    let server = access.server.as_ref().unwrap_or(&reader.access.url);
    reachable(server, &own)?;
    let token = token(reader, limit).await?;
    let mut cluster = json!({ "server": server.as_str().trim_end_matches('/') });
    if let (Some(ca), Some(cluster)) = (&reader.access.ca, cluster.as_object_mut()) {
        let pem = to_pem(&from_ders(ca).map_err(|said| format!("the API server's CA: {said}"))?);
        cluster.insert("certificate-authority-data".to_owned(), STANDARD.encode(pem).into());
    }
    let name = target.region.name.as_str();
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": cluster }],
        "users": [{ "name": ACCOUNT, "user": { "token": token.expose() } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": ACCOUNT } }],
        "current-context": name,
    }))
}

/// Whether the network can come to the server that the kubeconfig will name.
///
/// # Errors
///
/// Why not, in words.
pub async fn check_server(target: &UnikornTarget, reader: &Reader) -> Result<(), String> {
    let access = &target.region.access;
    if access.kubeconfig_file.is_some() {
        return kubeconfig(target, reader, Duration::ZERO).await.map(drop);
    }
    let own = reader.own_addresses().await.seen().cloned().unwrap_or_default();
    reachable(access.server.as_ref().unwrap_or(&reader.access.url), &own)
}

/// The servers that a kubeconfig names.
///
/// # Errors
///
/// Why it is of no use to the network, in words that show nothing of it.
pub fn servers_of(kubeconfig: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(kubeconfig).map_err(|_binary| "it is no text".to_owned())?;
    let whole =
        Kubeconfig::parse(text).map_err(|what| format!("its kubeconfig {}", what.words()))?;
    Ok(whole.servers().iter().map(|server| shown(server)).collect())
}

/// A server as it may be shown: without a password that its URL may hold.
fn shown(server: &str) -> String {
    let Ok(mut url) = Url::parse(server) else { return "(no URL)".to_owned() };
    // They fail for a URL that can hold neither.
    let _has_none = url.set_username("");
    let _has_none = url.set_password(None);
    url.to_string()
}

/// Whether the network, which is elsewhere, can come to an address; `own` are those that the cluster has
/// for itself.
///
/// # Errors
///
/// Why not, in words.
pub fn reachable(server: &Url, own: &[IpAddr]) -> Result<(), String> {
    match Reach::of(server, &[], own) {
        _ if server.scheme() != "https" => Err(format!(
            "the API server at {server} is not https, and a token with all rights goes there"
        )),
        Reach::Inside(why) => Err(format!(
            "the network cannot come to the API server at {server}: {why}; set region.access.server"
        )),
        Reach::Outside | Reach::Private(_) => Ok(()),
    }
}

/// The token of the network's account, which the controller-manager fills in.
async fn token(reader: &Reader, limit: Duration) -> Result<Secret, String> {
    let secrets: Api<core::Secret> = Api::namespaced(reader.access.client.clone(), NAMESPACE);
    let end = Instant::now() + limit;
    loop {
        let seen = reader.get(secrets.clone(), TOKEN).await;
        let secret = seen.result.map_err(|unseen| unseen.to_string())?;
        let Some(secret) = secret else {
            return Err(format!(
                "there is no Secret {NAMESPACE}/{TOKEN}: run prepare with --apply first"
            ));
        };
        let token = secret.data.and_then(|mut data| data.remove("token"));
        if let Some(token) = token.and_then(|token| String::from_utf8(token.0).ok()) {
            return Ok(Secret::new(token));
        }
        if Instant::now() + LOOK > end {
            return Err(format!(
                "no token came into Secret {NAMESPACE}/{TOKEN} within {}: is the kube-controller-manager running?",
                humantime::format_duration(limit)
            ));
        }
        sleep(LOOK).await;
    }
}

/// The Secret beside the Region, which holds this cluster's kubeconfig.
pub fn secret(target: &UnikornTarget, kubeconfig: &Value) -> Value {
    let region = &target.region;
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": region.kubeconfig_secret(),
            "namespace": region.namespace.as_str(),
        },
        "type": "Opaque",
        // JSON is YAML.
        "data": { "kubeconfig": STANDARD.encode(kubeconfig.to_string()) },
    })
}

/// The way to the management cluster.
///
/// # Errors
///
/// Why there is none, in words.
pub async fn management(target: &UnikornTarget, limit: Duration) -> Result<Reader, String> {
    let Some(management) = &target.region.management else {
        return Err(format!(
            "target {}: region.management tells how the network's management cluster is reached, and is left out; apply what document prints there yourself",
            target.name
        ));
    };
    look_at_management(management, limit)
        .await
        .result
        .map_err(|unseen| format!("the management cluster: {unseen}"))
}

/// Looks for the management cluster.
pub async fn look_at_management(management: &Management, limit: Duration) -> Observed<Reader> {
    let Management { kubeconfig_file, context } = management;
    let selection = Selection {
        kubeconfig: Some(kubeconfig_file.clone()),
        default_kubeconfig: false,
        context: context.clone(),
    };
    Reader::open(&selection, limit).await
}

/// The Region as the management cluster has it; `None`: there is none.
pub async fn live(management: &Reader, target: &UnikornTarget) -> Observed<Option<Value>> {
    let kind = GroupVersionKind::gvk("region.unikorn-cloud.org", "v1alpha1", "Region");
    let resource = ApiResource::from_gvk(&kind);
    let namespace = target.region.namespace.as_str();
    let client = management.access.client.clone();
    let regions: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
    let live = observe(management.limit(), async {
        regions
            .get_opt(target.region.name.as_str())
            .await
            .map_err(|error| words_of("GET of the Region", &management.access, &error))
    });
    live.await.map(|live| live.and_then(|live| serde_json::to_value(live).ok()))
}

/// The ids of the classes that the Region there declares, whoever declared them.
pub async fn declared(management: &Reader, target: &UnikornTarget) -> Observed<Vec<String>> {
    live(management, target).await.map(|live| {
        let nodes = live.as_ref().and_then(|live| live.pointer("/spec/kubernetes/nodes"));
        let nodes = nodes.and_then(Value::as_array).into_iter().flatten();
        nodes.filter_map(|node| node.get("id")?.as_str().map(str::to_owned)).collect()
    })
}

/// Applies the Region in the management cluster. Entries that others declared stay as they are; where
/// another holds a field with another value, nothing is changed.
///
/// # Errors
///
/// What was refused, in words.
pub async fn submit(access: &Access, region: &Value, dry_run: bool) -> Result<Change, String> {
    let (manager, conflicts) = (Manager::Onboarding, Conflicts::Fail);
    let writing = Writing { manager, conflicts, dry_run };
    manifests::apply_one(access, region, writing).await.map_err(|words| {
        if words.contains("field not declared in schema") && words.contains("architecture") {
            format!("{words}; the network's servers are too old for cpu.architecture: set region.cpuArchitecture: false")
        } else {
            words
        }
    })
}

/// Applies the kubeconfig's Secret in the management cluster.
pub async fn hand_over(
    access: &Access,
    target: &UnikornTarget,
    kubeconfig: &Value,
    conflicts: Conflicts,
    limit: Duration,
) -> Vec<Applied> {
    manifests::apply(access, &[secret(target, kubeconfig)], conflicts, limit, |_, _| {}).await
}

/// Where a kubeconfig is written for a person to hand on.
pub fn by_hand(target: &UnikornTarget, path: &Path) -> String {
    let region = &target.region;
    format!(
        "in the management cluster: kubectl create secret generic --namespace {} {} --from-file kubeconfig={}",
        region.namespace,
        region.kubeconfig_secret(),
        path.display()
    )
}
