//! What runs in a cluster to serve it: controllers, by the images and arguments of their containers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::PodSpec;
use kube::api::{Api, ListParams, ObjectMeta};

use super::kubernetes::Reader;
use super::{Observed, handful};

/// A Deployment or a `DaemonSet`, as far as it is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The images of its containers.
    pub images: Vec<String>,
    /// Commands and arguments of its containers, each word by itself.
    pub words: Vec<String>,
    /// The environment of its containers, as far as it is told outright.
    pub environment: BTreeMap<String, String>,
    /// How many of its pods are ready.
    pub ready: i32,
}

/// All Deployments and `DaemonSets` of a cluster.
pub async fn workloads(reader: &Reader) -> Observed<Vec<Workload>> {
    let client = &reader.access.client;
    let (deployments, daemon_sets) = tokio::join!(
        reader.list::<Deployment>(Api::all(client.clone()), ListParams::default()),
        reader.list::<DaemonSet>(Api::all(client.clone()), ListParams::default()),
    );
    let took = deployments.took.max(daemon_sets.took);
    let result = deployments.result.and_then(|deployments| {
        let daemon_sets = daemon_sets.result?;
        let deployments = deployments.into_iter().map(|it| {
            let spec = it.spec.and_then(|spec| spec.template.spec);
            let ready = it.status.and_then(|status| status.ready_replicas).unwrap_or_default();
            Workload::of(it.metadata, spec, ready)
        });
        let daemon_sets = daemon_sets.into_iter().map(|it| {
            let spec = it.spec.and_then(|spec| spec.template.spec);
            let ready = it.status.map(|status| status.number_ready).unwrap_or_default();
            Workload::of(it.metadata, spec, ready)
        });
        Ok(deployments.chain(daemon_sets).collect())
    });
    Observed { result, took }
}

impl Workload {
    fn of(metadata: ObjectMeta, spec: Option<PodSpec>, ready: i32) -> Self {
        let containers = spec.map(|spec| spec.containers).unwrap_or_default();
        let (mut images, mut words, mut environment) = (Vec::new(), Vec::new(), BTreeMap::new());
        for container in containers {
            let variables = container.env.unwrap_or_default();
            environment.extend(variables.into_iter().filter_map(|it| Some((it.name, it.value?))));
            images.extend(container.image);
            words.extend(container.command.unwrap_or_default());
            words.extend(container.args.unwrap_or_default());
        }
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            images,
            words,
            environment,
            ready,
        }
    }

    /// Whether it is the controller of the community's ingress-nginx, wherever its image is kept.
    pub fn is_ingress_nginx(&self) -> bool {
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        let is_labelled = label("app.kubernetes.io/name") == Some("ingress-nginx")
            && label("app.kubernetes.io/component").is_none_or(|it| it == "controller");
        is_labelled || self.images.iter().any(|image| is_ingress_nginx(image))
    }

    /// Whether it is external-dns.
    pub fn is_external_dns(&self) -> bool {
        self.labels.get("app.kubernetes.io/name").is_some_and(|name| name == "external-dns")
            || self.images.iter().any(|image| image_name(image).ends_with("/external-dns"))
    }

    /// Whether a flag that is on or off is on, by what Go's programs take for that.
    pub fn has_switched_on(&self, name: &str) -> bool {
        let on = ["", "1", "t", "T", "true", "TRUE", "True"];
        self.flag(name).is_some_and(|value| on.contains(&value))
    }

    /// The value of a flag, `--name=value` or `--name value`; an empty one where it stands alone. Of
    /// several the last counts.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let mut found = None;
        for (index, word) in self.words.iter().enumerate() {
            let Some(rest) = word.strip_prefix("--").and_then(|it| it.strip_prefix(name)) else {
                continue;
            };
            if let Some(value) = rest.strip_prefix('=') {
                found = Some(value);
            } else if rest.is_empty() {
                let next = self.words.get(index + 1).map(String::as_str);
                found = Some(next.filter(|next| !next.starts_with('-')).unwrap_or_default());
            }
        }
        found
    }

    /// Its namespace and name.
    pub fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Whether an image is the controller of the community's ingress-nginx, wherever it is kept.
pub fn is_ingress_nginx(image: &str) -> bool {
    let name = image_name(image);
    name.ends_with("ingress-nginx/controller") || name.ends_with("nginx-ingress-controller")
}

/// An image's name without its tag and digest.
fn image_name(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        // A port of a registry has a path behind it.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// The places of workloads, for a message.
pub fn places<'a>(workloads: impl IntoIterator<Item = &'a Workload>) -> String {
    let places: Vec<String> = workloads.into_iter().map(Workload::place).collect();
    handful(places.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let words = [
            "/controller",
            "--one=1",
            "--two",
            "2",
            "--bare",
            "--empty=",
            "--twice=a",
            "--twice=b",
            "--last",
        ];
        let workload = Workload { words: words.map(str::to_owned).into(), ..Workload::default() };
        for (name, expected) in [
            ("one", Some("1")),
            ("two", Some("2")),
            ("bare", Some("")),
            ("empty", Some("")),
            ("twice", Some("b")),
            ("last", Some("")),
            ("on", None),
            ("missing", None),
        ] {
            assert_eq!(workload.flag(name), expected, "{name}");
        }
    }

    #[test]
    fn who_is_who() {
        let with = |image: &str, label: Option<(&str, &str)>| Workload {
            images: vec![image.to_owned()],
            labels: label
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            ..Workload::default()
        };
        let name = |value| Some(("app.kubernetes.io/name", value));
        for (what, workload, ingress, dns) in [
            (
                "its image",
                with("k8s.gcr.example/ingress-nginx/controller:v1.11.3@sha256:0", None),
                true,
                false,
            ),
            (
                "a mirror with a port",
                with("mirror:5000/ingress-nginx/controller", None),
                true,
                false,
            ),
            ("an old one", with("quay.example/nginx-ingress-controller:0.30.0", None), true, false),
            ("its label", with("mine:1", name("ingress-nginx")), true, false),
            (
                "external-dns",
                with("k8s.example/external-dns/external-dns:v0.15.0", None),
                false,
                true,
            ),
            ("its label, too", with("mine:1", name("external-dns")), false, true),
            ("another nginx", with("nginx:1.27", None), false, false),
        ] {
            assert_eq!(workload.is_ingress_nginx(), ingress, "{what}");
            assert_eq!(workload.is_external_dns(), dns, "{what}");
        }
    }
}
