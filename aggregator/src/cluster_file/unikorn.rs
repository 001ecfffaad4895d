//! Unikorn regions: what the Region says of the cluster, and which classes its owner has declared.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

use super::nodes::{NodePolicy, labels};
use super::target::{TargetName, some_http_url};
use crate::class::NodeClassId;

/// A Unikorn region.
#[derive(Debug, Clone, PartialEq)]
pub struct UnikornTarget {
    /// The name that commands know it by.
    pub name: TargetName,
    /// Which of the cluster's Nodes it is offered.
    pub nodes: NodePolicy,
    /// The region.
    pub region: Region,
}

/// A region that is one Kubernetes cluster, and how it is declared.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Region {
    /// The Region object's name in the management cluster.
    pub name: ObjectName,
    /// Its namespace there.
    #[serde(default = "region_namespace")]
    pub namespace: ObjectName,
    /// Its labels, such as `unikorn-cloud.org/name`.
    #[serde(default, deserialize_with = "labels")]
    pub labels: BTreeMap<String, String>,
    /// The Secret beside it that holds this cluster's kubeconfig; `NAME-kubeconfig` if left out.
    #[serde(default)]
    pub kubeconfig_secret: Option<ObjectName>,
    /// Which memory a class has.
    #[serde(default)]
    pub memory: MemoryKind,
    /// Whether `cpu.architecture` is written, which older servers do not know.
    #[serde(default = "yes")]
    pub cpu_architecture: bool,
    /// Classes that the owner has declared, in their order; nodes that fit none get one by their shape.
    #[serde(default, deserialize_with = "unique_classes")]
    pub classes: Vec<DeclaredClass>,
    /// How the management cluster is reached, for `submit`, `check` and `prepare`.
    #[serde(default)]
    pub management: Option<Management>,
    /// How the network reaches this cluster.
    #[serde(default, deserialize_with = "access")]
    pub access: RegionAccess,
}

impl Region {
    /// The Secret that holds this cluster's kubeconfig.
    pub fn kubeconfig_secret(&self) -> String {
        match &self.kubeconfig_secret {
            Some(name) => name.0.clone(),
            None => format!("{}-kubeconfig", self.name.0),
        }
    }
}

/// Which memory a class has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryKind {
    /// What the kernel has to give out, of the node that has least.
    #[default]
    Usable,
    /// What is installed.
    Installed,
}

/// A class that the owner has declared.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredClass {
    /// Its id, a version 4 UUID.
    pub id: NodeClassId,
    /// Its flavor's name.
    pub name: ObjectName,
    /// Which nodes belong to it; `None`: those alone that carry its label already.
    #[serde(default, deserialize_with = "some_fits")]
    pub fits: Option<Fits>,
}

/// What a node must have to belong to a class: all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fits {
    /// Labels of the Node, each with its value.
    #[serde(deserialize_with = "labels")]
    pub selector: BTreeMap<String, String>,
    /// Online CPUs.
    pub vcpus: Option<u32>,
    /// How many GPUs.
    pub gpus: Option<u32>,
    /// The GPUs' model, as their driver tells it.
    pub gpu_model: Option<String>,
}

/// How the management cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Management {
    /// Its kubeconfig.
    pub kubeconfig_file: PathBuf,
    /// The kubeconfig's context; its current one if left out.
    #[serde(default)]
    pub context: Option<String>,
}

/// How the network reaches this cluster.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegionAccess {
    /// The API server's URL from outside; else that of our own kubeconfig.
    #[serde(deserialize_with = "some_http_url")]
    pub server: Option<Url>,
    /// A kubeconfig to hand on; else one is made with a service account of its own.
    pub kubeconfig_file: Option<PathBuf>,
}

/// A name that every object of Kubernetes may have: a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName(String);

impl ObjectName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for ObjectName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const MOST_CHARS: usize = 63;
        let text = String::deserialize(deserializer)?;
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_name = (1..=MOST_CHARS).contains(&text.len())
            && text.chars().all(inside)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_name {
            return Ok(Self(text));
        }
        let shown: String = text.chars().take(80).collect();
        Err(D::Error::custom(format!(
            "{shown:?} must be 1 to {MOST_CHARS} lower-case letters, digits and '-', with none of the last at its ends"
        )))
    }
}

fn region_namespace() -> ObjectName {
    ObjectName("unikorn-region".to_owned())
}

fn some_fits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Fits>, D::Error> {
    let fits = Fits::deserialize(deserializer)?;
    if fits == Fits::default() {
        return Err(D::Error::custom("fits names nothing, so that every node would: leave it out"));
    }
    Ok(Some(fits))
}

fn access<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RegionAccess, D::Error> {
    let access = RegionAccess::deserialize(deserializer)?;
    if access.server.is_some() && access.kubeconfig_file.is_some() {
        return Err(D::Error::custom("kubeconfigFile names its own server: leave out server"));
    }
    if access.server.as_ref().is_some_and(|server| server.scheme() != "https") {
        return Err(D::Error::custom(
            "server: a token with all rights goes there: it must be https",
        ));
    }
    Ok(access)
}

const fn yes() -> bool {
    true
}

fn unique_classes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<DeclaredClass>, D::Error> {
    let classes = Vec::<DeclaredClass>::deserialize(deserializer)?;
    for (index, class) in classes.iter().enumerate() {
        let others = classes.iter().skip(index + 1);
        for other in others {
            if other.id == class.id {
                return Err(D::Error::custom(format!("two classes have the id {}", class.id)));
            }
            if other.name == class.name {
                let name = class.name.as_str();
                return Err(D::Error::custom(format!("two classes are named {name}")));
            }
        }
    }
    Ok(classes)
}
