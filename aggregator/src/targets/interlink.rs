//! interLink: how its plugins reach the Kubernetes API from outside the cluster. What the cluster needs
//! for that, and the Helm values that tell of it.

pub mod endpoint;
mod manifests;
pub mod values;

use std::fmt::Write as _;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1 as core;
use kube::api::Api;
use serde_json::Value;

use self::endpoint::{Endpoint, Found};
use self::manifests::Families;
use self::values::{Indentation, values};
use crate::certificates::Certificate;
use crate::checks::Observed;
use crate::checks::kubernetes::{Reader, read};
use crate::cluster_file::interlink::{Address, InterlinkTarget};
use crate::form::{Form, Variant};

/// What leads from outside to the Kubernetes API. The cluster is asked for the address that plugins
/// use, unless the cluster file has it.
///
/// # Errors
///
/// When nobody tells the address; in words.
pub async fn prepare(
    target: &InterlinkTarget,
    reader: &Observed<Reader>,
) -> Result<Vec<Value>, String> {
    let access = &target.api_access;
    let address = if let Some(address) = &access.address {
        address.clone()
    } else {
        let Endpoint { address, .. } = Endpoint::find(access, reader).await;
        known(address, "the address that plugins use", "apiAccess.address")?.value
    };
    // Without a cluster to ask, what most have.
    let families = families(reader).await.unwrap_or(Families::Four);
    Ok(manifests::manifests(access, &address, families))
}

/// What kinds of addresses the cluster's pods have, as the API server's own Service tells; `None`: it
/// does not.
async fn families(reader: &Observed<Reader>) -> Option<Families> {
    let service = read(reader, async |reader| {
        let api = Api::namespaced(reader.access.client.clone(), "default");
        reader.get::<core::Service>(api, "kubernetes").await
    })
    .await;
    let spec = service.seen()?.as_ref()?.spec.as_ref()?;
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    Families::of(&addresses.filter_map(|it| it.parse().ok()).collect::<Vec<_>>())
}

/// What `prepare` has left to a person, of what it has made; `None`: nothing.
pub fn left(target: &InterlinkTarget, manifests: &[Value]) -> Option<String> {
    manifests::certificate_by_default(&target.api_access, manifests).map(|argument| {
        format!(
            "the controller of the class {} knows certificates by names, and for an address clients ask for none: start it with {argument}",
            target.api_access.ingress.class_name
        )
    })
}

/// The Helm values that tell interLink's virtual kubelet how plugins reach the API.
///
/// # Errors
///
/// Which of the three is not known, and why; in words.
pub async fn document(target: &InterlinkTarget, reader: &Observed<Reader>) -> Result<Form, String> {
    let Endpoint { address, port, ca } = Endpoint::find(&target.api_access, reader).await;
    let address = known(address, "the address that plugins use", "apiAccess.address")?;
    let port = known(port, "the port that plugins use", "apiAccess.port")?;
    let ca = known(ca, "the CA", "apiAccess.caFile")?;
    let mut note = format!("the address {} is from {}", address.value, address.from);
    // Writing to a String cannot fail.
    let _ = write!(note, ", the port {} from {}, the CA from {}", port.value, port.from, ca.from);
    let mut form = form(&address.value, port.value, &ca.value);
    form.notes.insert(0, note);
    Ok(form)
}

/// What the values look like.
pub fn form(address: &Address, port: NonZeroU16, ca: &[Certificate]) -> Form {
    let variant = |indentation: Indentation, about| Variant {
        name: indentation.variant(),
        about,
        value: values(address, port, ca, indentation),
        rows: Vec::new(),
    };
    Form {
        variants: vec![
            variant(Indentation::Plain, "the certificate as it is"),
            variant(
                Indentation::Chart,
                "the certificate with six more spaces from its second line on, for charts that indent its first line alone: these break with the plain form, and others spoil the certificate with this one",
            ),
        ],
        secrets: Vec::new(),
        notes: vec![
            "if helm or the virtual kubelet finds no YAML with the plain form, the chart indents the certificate's first line alone: use --variant unindented-chart".to_owned(),
        ],
    }
}

fn known<T>(observed: Observed<Found<T>>, what: &str, key: &str) -> Result<Found<T>, String> {
    observed
        .result
        .map_err(|unseen| format!("{what} is not known: {unseen}; set {key} in the cluster file"))
}
