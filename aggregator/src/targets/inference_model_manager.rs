//! The Inference Model Manager: its own charts install it; here is what they are to be told.

pub mod minio;
mod values;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use kube::api::Api;
use serde_json::Value;

use crate::checks::Observed;
use crate::checks::kubernetes::{Reader, read};
use crate::cluster_file::inference_model_manager::InferenceModelManagerTarget;
use crate::form::Form;
use minio::{AccessInfo, Store};
use values::{Known, Stored};

/// The Secret with MinIO's keys, in the namespace of the management API.
pub const MINIO_SECRET: &str = "minio-access-info";

/// The Secret with the endpoints' certificate, in the namespace of the management API.
pub const TLS_SECRET: &str = "tls-secret";

/// The Secret with what the management API is to Dex, in its namespace.
pub const DEX_SECRET: &str = "dex";

/// The key of that Secret that holds the client's secret.
const DEX_CLIENT_SECRET: &str = "staticClient.secret";

/// There is nothing to prepare.
///
/// # Errors
///
/// Always: what installs the platform instead.
#[expect(clippy::unused_async, reason = "other targets' is, and they are called alike")]
pub async fn prepare(
    target: &InferenceModelManagerTarget,
    _reader: &Observed<Reader>,
) -> Result<Vec<Value>, String> {
    let name = &target.name;
    Err(format!(
        "rollcall prepares nothing for a target of type inference-model-manager: the platform's own \
         charts install it. See what they still need with `rollcall-aggregator check {name}`, and \
         take their values from `rollcall-aggregator document {name}`"
    ))
}

/// The values of the platform's charts, one variant a chart. What the cluster file leaves out is
/// read from the cluster; what neither knows is left out and named in a note.
///
/// # Errors
///
/// When a file that the cluster file names cannot be read.
pub async fn document(
    target: &InferenceModelManagerTarget,
    reader: &Observed<Reader>,
) -> Result<Form, String> {
    let platform = &target.platform;
    let (info, dex) = tokio::join!(
        read_secret(reader, &platform.management_namespace, MINIO_SECRET),
        read_secret(reader, &platform.management_namespace, DEX_SECRET),
    );
    let mut notes: Vec<String> =
        [(MINIO_SECRET, &info), (DEX_SECRET, &dex)].into_iter().filter_map(unread).collect();
    let stored = match info.result {
        Ok(Some(secret)) => Stored::of(&secret),
        Ok(None) => Stored::Nowhere,
        Err(_noted) => Stored::Unknown,
    };
    let info = stored.info();
    let store = match Store::settle(&platform.minio, info) {
        Ok(store) => Some(store),
        Err(missing) if missing.is_broken() => return Err(missing.to_string()),
        Err(missing) => {
            notes.push(format!("minio is left out of the values: {missing}"));
            None
        }
    };
    let client_secret = match &platform.oidc.client_secret_file {
        Some(path) => Some(values::read_file(path)?),
        None => dex.result.ok().flatten().and_then(|secret| text_of(&secret, DEX_CLIENT_SECRET)),
    };
    Ok(values::form(&Known { platform, stored: &stored, store, client_secret }, notes))
}

/// Why a Secret was not read, for people.
fn unread((name, seen): (&str, &Observed<Option<core::Secret>>)) -> Option<String> {
    let why = seen.result.as_ref().err()?;
    Some(format!("the Secret {name} could not be read: {why}"))
}

/// Reads a Secret; `None`: there is none.
pub async fn read_secret(
    reader: &Observed<Reader>,
    namespace: &str,
    name: &str,
) -> Observed<Option<core::Secret>> {
    read(reader, async |reader| {
        reader.get(Api::namespaced(reader.access.client.clone(), namespace), name).await
    })
    .await
}

/// A text of a Secret, less the white space around it; `None`: it is not there, or no text.
fn text_of(secret: &core::Secret, key: &str) -> Option<rollcall_daemon::secret::Secret> {
    let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let is_there = !text.is_empty();
    is_there.then(|| rollcall_daemon::secret::Secret::new(text.to_owned()))
}

impl Stored {
    fn of(secret: &core::Secret) -> Self {
        let labels = secret.metadata.labels.iter().flatten();
        let mut labels = labels.filter(|(key, _)| *key == "app.kubernetes.io/managed-by");
        let is_charts = labels.any(|(_, by)| by == "Helm");
        let info = AccessInfo::of(secret);
        if is_charts { Self::ByChart(info) } else { Self::ByHand(info) }
    }

    /// What it holds.
    fn info(&self) -> Option<&AccessInfo> {
        match self {
            Self::ByChart(info) | Self::ByHand(info) => Some(info),
            Self::Nowhere | Self::Unknown => None,
        }
    }
}
