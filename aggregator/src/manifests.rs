//! Objects of Kubernetes that a target needs beforehand: printed for a person, or applied.

use std::fmt;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::{self, ApiCapabilities, ApiResource, Scope};
use rollcall_daemon::kubernetes::{Access, words};
use serde_json::Value;
use tokio::time::timeout;

/// In whose name fields are applied: what another has set stays another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// `prepare`.
    Preparation,
    /// `submit`.
    Onboarding,
}

impl Manager {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Preparation => "rollcall-prepare",
            Self::Onboarding => "rollcall",
        }
    }
}

/// How an object is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writing {
    /// In whose name.
    pub manager: Manager,
    /// What becomes of fields that somebody else has set otherwise.
    pub conflicts: Conflicts,
    /// Whether it is only tried: the server says what it would do, and stores nothing.
    pub dry_run: bool,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Kind, and namespace and name.
    pub what: String,
    /// What was done.
    pub outcome: Result<Change, String>,
}

/// What applying an object did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was none.
    Created,
    /// It was another.
    Changed,
    /// It was as it should be.
    Unchanged,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        })
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(change) => write!(f, "{} {change}", self.what),
            Err(words) => write!(f, "{}: {words}", self.what),
        }
    }
}

/// The objects as YAML documents, each after `---`.
///
/// # Errors
///
/// When one cannot be written as YAML.
pub fn yaml(manifests: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    for manifest in manifests {
        let document = serde_saphyr::to_string(manifest)
            .map_err(|error| format!("{} cannot be written as YAML: {error}", name_of(manifest)))?;
        text.push_str("---\n");
        text.push_str(document.trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// What is done about fields that somebody else has set otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflicts {
    /// The object is left as it is, and that fails.
    Fail,
    /// They are set all the same.
    TakeOver,
}

/// Applies the objects in their order, by server-side apply. What is as it should be is not written
/// to. It ends at the first that fails: what comes after needs it. Before each, `told` hears how many are
/// done, and which one is next.
pub async fn apply(
    access: &Access,
    manifests: &[Value],
    conflicts: Conflicts,
    limit: Duration,
    mut told: impl FnMut(usize, &str),
) -> Vec<Applied> {
    let mut applied = Vec::new();
    // Nothing is begun that cannot come to an end.
    for manifest in manifests {
        let known = timeout(limit, resource_of(access, manifest)).await;
        if let Ok(Err(words)) = known {
            return vec![Applied { what: name_of(manifest), outcome: Err(words) }];
        }
    }
    for manifest in manifests {
        let what = name_of(manifest);
        told(applied.len(), &what);
        let writing = Writing { manager: Manager::Preparation, conflicts, dry_run: false };
        let outcome = match timeout(limit, apply_one(access, manifest, writing)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                let limit = humantime::format_duration(limit);
                Err(format!("{} gave no answer within {limit}", access.place()))
            }
        };
        let has_failed = outcome.is_err();
        applied.push(Applied { what, outcome });
        if has_failed {
            break;
        }
    }
    applied
}

/// Applies one object, or tells what that would do.
///
/// # Errors
///
/// What was asked and what came back, in words; another's field with another value is named.
pub async fn apply_one(
    access: &Access,
    manifest: &Value,
    writing: Writing,
) -> Result<Change, String> {
    let object: DynamicObject = serde_json::from_value(manifest.clone())
        .map_err(|error| format!("it is no object of Kubernetes: {error}"))?;
    let told = |request: &str, error: &kube::Error| {
        format!("{request} at {}: {}", access.place(), words::of(error))
    };
    let (resource, capabilities) = resource_of(access, manifest).await?;
    let client = access.client.clone();
    let namespace = object.metadata.namespace.as_deref();
    let api: Api<DynamicObject> = match (&capabilities.scope, namespace) {
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client, namespace, &resource),
        (Scope::Namespaced, None) => return Err("it has no namespace".to_owned()),
        (Scope::Cluster, _) => Api::all_with(client, &resource),
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    let before = api.get_opt(&name).await.map_err(|error| told("GET", &error))?;
    let Writing { manager, conflicts, dry_run } = writing;
    let force = conflicts == Conflicts::TakeOver;
    let params = PatchParams { force, ..PatchParams::apply(manager.as_str()) };
    let refused = |error: kube::Error| {
        let hint = match &error {
            kube::Error::Api(status) if status.is_conflict() && manager == Manager::Preparation => {
                "; if it is to be as it is here, apply with --force-conflicts"
            }
            _ => "",
        };
        format!("{}{hint}", told("apply", &error))
    };
    let patch = Patch::Apply(manifest);
    if before.is_some() || dry_run {
        // Writing what is there already may still write whose it is, and when it was applied.
        let trial = PatchParams { dry_run: true, ..params.clone() };
        let tried = api.patch(&name, &trial, &patch).await.map_err(refused)?;
        let is_equal = before.as_ref().is_some_and(|before| content(before) == content(&tried));
        if is_equal {
            return Ok(Change::Unchanged);
        }
    }
    if !dry_run {
        api.patch(&name, &params, &patch).await.map_err(refused)?;
    }
    Ok(if before.is_some() { Change::Changed } else { Change::Created })
}

/// What the API server knows of an object's kind.
async fn resource_of(
    access: &Access,
    manifest: &Value,
) -> Result<(ApiResource, ApiCapabilities), String> {
    let types: TypeMeta = serde_json::from_value(manifest.clone())
        .map_err(|error| format!("it is no object of Kubernetes: {error}"))?;
    let kind = GroupVersionKind::try_from(&types).map_err(|error| error.to_string())?;
    discovery::pinned_kind(&access.client, &kind).await.map_err(|error| {
        let (kind, group, place) = (&types.kind, &types.api_version, access.place());
        match &error {
            kube::Error::Api(status) if status.code == 404 => {
                format!("{place} knows no {kind} of {group}: install what brings it first")
            }
            kube::Error::Discovery(_) => {
                format!("{place} knows no {kind} of {group}: install what brings it first")
            }
            other => format!("discovery of {group} at {place}: {}", words::of(other)),
        }
    })
}

/// An object without what is kept about its writing.
fn content(object: &DynamicObject) -> DynamicObject {
    let mut content = object.clone();
    content.metadata.managed_fields = None;
    content.metadata.resource_version = None;
    content.metadata.generation = None;
    content
}

/// `Deployment kube-system/dns`.
fn name_of(manifest: &Value) -> String {
    let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or("object");
    let name = text("/metadata/name").unwrap_or("without a name");
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents() {
        let manifests = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
            json!({"kind": "ConfigMap", "metadata": {"name": "b", "namespace": "a"},
                   "data": {"yes": "no", "number": "1.20", "text": "two\nlines\n"}}),
        ];
        let text = yaml(&manifests).expect("YAML");
        let parts: Vec<&str> = text.split("---\n").skip(1).collect();
        assert_eq!(parts.len(), 2, "{text}");
        for (part, manifest) in parts.iter().zip(&manifests) {
            let read: Value = serde_saphyr::from_str(part).expect("YAML");
            assert_eq!(read, *manifest, "{part}");
        }
        assert_eq!(manifests.each_ref().map(name_of), ["Namespace a", "ConfigMap a/b"]);
    }
}
