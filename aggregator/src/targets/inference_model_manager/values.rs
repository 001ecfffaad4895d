//! The Helm values of the platform's charts. Keys that the charts fill in well by themselves are
//! left to them.

use std::path::Path;

use rollcall_daemon::secret::{Secret, read_secret_file};
use rollcall_report::error_chain;
use serde_json::{Map, Value, json};

use super::minio::{AccessInfo, SIGNATURE, Store};
use crate::cluster_file::inference_model_manager::Platform;
use crate::form::{Form, Variant};

/// What the values are made of.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) platform: &'a Platform,
    /// The Secret with MinIO's keys.
    pub(super) stored: &'a Stored,
    /// MinIO; `None`: it is not known.
    pub(super) store: Option<Store>,
    /// The secret of Dex's client, if it is known.
    pub(super) client_secret: Option<Secret>,
}

/// Whether the cluster has the Secret with MinIO's keys, and whose it is.
#[derive(Debug)]
pub(super) enum Stored {
    /// The management API's chart made it, and would take it away if it were told not to.
    ByChart(AccessInfo),
    /// Somebody made it, and the chart would fail to make another.
    ByHand(AccessInfo),
    /// There is none.
    Nowhere,
    /// It could not be looked for.
    Unknown,
}

pub(super) fn read_file(path: &Path) -> Result<Secret, String> {
    read_secret_file(path).map_err(|error| error_chain(&error))
}

/// The values for all charts.
pub(super) fn form(known: &Known<'_>, mut notes: Vec<String>) -> Form {
    let platform = known.platform;
    let namespace = &platform.management_namespace;
    if platform.management_host.is_none() {
        notes.push(
            "ingress.hosts and ingress.tls.hosts of management-api are left out: set \
             managementHost in the cluster file"
                .to_owned(),
        );
    }
    if known.client_secret.is_none() {
        notes.push(format!(
            "the secret of Dex's client is left out: set oidc.clientSecretFile in the cluster \
             file, or make the Secret dex in {namespace}"
        ));
    }
    if matches!(known.stored, Stored::Unknown) && known.store.is_some() {
        notes.push(format!(
            "whether the Secret {} is in {namespace} is not known: if it is, set \
             minio.secretCreate to false",
            super::MINIO_SECRET
        ));
    }
    if platform.oidc.ca_file.is_some() {
        notes.push(
            "put the CA of Dex's certificate into the folder certs of the management API's chart, \
             as ca-dex.crt"
                .to_owned(),
        );
    }
    if platform.minio.ca_file.is_some() {
        notes.push(
            "what serves the models must know the CA of MinIO's certificate: its chart has no \
             value for that"
                .to_owned(),
        );
    }
    Form {
        variants: vec![
            Variant {
                name: "controller",
                about: "the chart crd-subchart",
                value: controller(known),
                rows: Vec::new(),
            },
            Variant {
                name: "management-api",
                about: "the chart management-api-subchart",
                value: management_api(known),
                rows: Vec::new(),
            },
            Variant {
                name: "dex",
                about: "the chart dex-subchart; connectors, storage and web remain to be added",
                value: dex(known),
                rows: Vec::new(),
            },
        ],
        secrets: SECRETS.map(str::to_owned).to_vec(),
        notes,
    }
}

/// Where Dex may send whoever signs in: what the management API asks it for, which its chart sets, and
/// what is for a client without a browser. Dex refuses all that its client does not name.
const REDIRECT_URIS: [&str; 2] = ["http://127.0.0.1:5555/callback", "urn:ietf:wg:oauth:2.0:oob"];

/// Where the values hold secrets.
const SECRETS: [&str; 4] =
    ["/minio/accessKey", "/minio/secretKey", "/dex/secret", "/config/staticClients/0/secret"];

fn controller(known: &Known<'_>) -> Value {
    let mut values = Map::new();
    values.insert("namespace".to_owned(), known.platform.controller_namespace.clone().into());
    values.insert("platformDomain".to_owned(), known.platform.grpc_dns_domain.clone().into());
    if let Some(store) = &known.store {
        let is_tls = i32::from(store.endpoint_url.scheme() == "https");
        values.insert("s3_use_https".to_owned(), is_tls.into());
        values.insert("s3_verify_ssl".to_owned(), is_tls.into());
    }
    Value::Object(values)
}

fn management_api(known: &Known<'_>) -> Value {
    let platform = known.platform;
    let issuer = platform.oidc.issuer_url.url();
    let path = issuer.path().trim_end_matches('/');
    let mut values = Map::new();
    let mut set = |key: &str, value: Value| values.insert(key.to_owned(), value);
    set("namespace", platform.management_namespace.clone().into());
    set("platformDomain", platform.grpc_dns_domain.clone().into());
    set("ingNamespace", platform.ingress_namespace.clone().into());
    if let Some(host) = &platform.management_host {
        set("ingress", json!({"hosts": host, "tls": {"hosts": host}}));
    }
    // The management API takes the paths apart from the host.
    let port = issuer.port_or_known_default().unwrap_or_default();
    set("dexUrl", format!("https://{}:{port}", issuer.host_str().unwrap_or_default()).into());
    set("dexTokenPath", format!("{path}/token").into());
    set("dexAuthPath", format!("{path}/auth").into());
    set("dexKeysPath", format!("{path}/keys").into());
    if let Some(store) = &known.store {
        let is_to_be_made = !matches!(known.stored, Stored::ByHand(_));
        set(
            "minio",
            json!({
                "secretCreate": is_to_be_made,
                "accessKey": store.access_key_id.expose(),
                "secretKey": store.secret_key.expose(),
                "endpoint": store.endpoint(),
                "endpointUrl": bare(&store.endpoint_url),
                "minioRegion": store.region,
                "minioSignatureVersion": SIGNATURE,
            }),
        );
    } else if matches!(known.stored, Stored::ByHand(_)) {
        // Whatever it lacks, the chart would fail to make another.
        set("minio", json!({"secretCreate": false}));
    }
    let mut client = json!({"id": platform.oidc.client_id});
    if let (Some(secret), Some(client)) = (&known.client_secret, client.as_object_mut()) {
        client.insert("secret".to_owned(), secret.expose().into());
    }
    set("dex", client);
    Value::Object(values)
}

fn dex(known: &Known<'_>) -> Value {
    let oidc = &known.platform.oidc;
    let host = oidc.issuer_url.url().host_str().unwrap_or_default();
    // A list of values takes the place of the chart's own: all of the client must be here.
    let mut client =
        json!({"id": oidc.client_id, "name": oidc.client_id, "redirectURIs": REDIRECT_URIS});
    if let (Some(secret), Some(client)) = (&known.client_secret, client.as_object_mut()) {
        client.insert("secret".to_owned(), secret.expose().into());
    }
    json!({
        "issuer": oidc.issuer_url.as_str(),
        "ingress": {"hosts": host, "tls": {"hosts": host}},
        "config": {"issuer": oidc.issuer_url.as_str(), "staticClients": [client]},
    })
}

/// A URL without the slash that stands for no path.
fn bare(url: &url::Url) -> &str {
    let text = url.as_str();
    if url.path() == "/" { text.trim_end_matches('/') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(more: &Value) -> Platform {
        let mut platform = json!({
            "grpcDnsDomain": "grpc.example.org",
            "oidc": {"issuerUrl": "https://dex.example.org/dex", "clientId": "infer-platform"},
        });
        let more = more.as_object().into_iter().flatten();
        for (key, value) in more {
            platform[key] = value.clone();
        }
        serde_json::from_value(platform).expect("a platform")
    }

    fn store() -> Store {
        Store {
            endpoint_url: "http://minio.storage:9000".parse().expect("a URL"),
            region: "us-east-1".to_owned(),
            access_key_id: Secret::new("the-key-id".to_owned()),
            secret_key: Secret::new("the-secret-key".to_owned()),
        }
    }

    fn values(form: &Form, name: &str) -> Value {
        form.variant(Some(name)).expect("a variant").value.clone()
    }

    #[test]
    fn all_is_known() {
        let platform = platform(&json!({"managementHost": "mgt.example.org"}));
        let client_secret = Some(Secret::new("the-client-secret".to_owned()));
        let stored = Stored::Nowhere;
        let known =
            Known { platform: &platform, stored: &stored, store: Some(store()), client_secret };
        let form = form(&known, Vec::new());
        assert_eq!(form.notes, [""; 0]);
        assert_eq!(
            values(&form, "controller"),
            json!({
                "namespace": "crd",
                "platformDomain": "grpc.example.org",
                "s3_use_https": 0,
                "s3_verify_ssl": 0,
            })
        );
        assert_eq!(
            values(&form, "management-api"),
            json!({
                "namespace": "mgt-api",
                "platformDomain": "grpc.example.org",
                "ingNamespace": "ingress-nginx",
                "ingress": {"hosts": "mgt.example.org", "tls": {"hosts": "mgt.example.org"}},
                "dexUrl": "https://dex.example.org:443",
                "dexTokenPath": "/dex/token",
                "dexAuthPath": "/dex/auth",
                "dexKeysPath": "/dex/keys",
                "minio": {
                    "secretCreate": true,
                    "accessKey": "the-key-id",
                    "secretKey": "the-secret-key",
                    "endpoint": "minio.storage:9000",
                    "endpointUrl": "http://minio.storage:9000",
                    "minioRegion": "us-east-1",
                    "minioSignatureVersion": "s3v4",
                },
                "dex": {"id": "infer-platform", "secret": "the-client-secret"},
            })
        );
        let client = json!({
            "id": "infer-platform",
            "name": "infer-platform",
            "redirectURIs": ["http://127.0.0.1:5555/callback", "urn:ietf:wg:oauth:2.0:oob"],
            "secret": "the-client-secret",
        });
        assert_eq!(
            values(&form, "dex"),
            json!({
                "issuer": "https://dex.example.org/dex",
                "ingress": {"hosts": "dex.example.org", "tls": {"hosts": "dex.example.org"}},
                "config": {"issuer": "https://dex.example.org/dex", "staticClients": [client]},
            })
        );
        // All that is secret is where the form says, in every shape.
        let (masked, found) = form.masked();
        assert!(found);
        for variant in &masked.variants {
            for secret in ["the-key-id", "the-secret-key", "the-client-secret"] {
                assert!(!variant.value.to_string().contains(secret), "{secret}: {variant:?}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_and_named() {
        let platform = platform(&json!({"minio": {"caFile": "ca.pem"}}));
        let stored = Stored::Unknown;
        let known =
            Known { platform: &platform, stored: &stored, store: None, client_secret: None };
        let form = form(&known, vec!["a note".to_owned()]);
        let notes = form.notes.join("\n");
        for words in ["a note", "set managementHost", "oidc.clientSecretFile", "the CA of MinIO"] {
            assert!(notes.contains(words), "{words}: {notes}");
        }
        let management = values(&form, "management-api");
        assert_eq!(management["dex"], json!({"id": "infer-platform"}));
        for key in ["minio", "ingress"] {
            assert_eq!(management.get(key), None, "{key}");
        }
        assert_eq!(values(&form, "controller").get("s3_use_https"), None);
    }

    #[test]
    fn who_makes_the_secret() {
        let platform = platform(&json!({}));
        for (stored, expected) in [
            (Stored::Nowhere, true),
            (Stored::Unknown, true),
            (Stored::ByChart(AccessInfo::default()), true),
            (Stored::ByHand(AccessInfo::default()), false),
        ] {
            let store = Some(store());
            let known = Known { platform: &platform, stored: &stored, store, client_secret: None };
            let values = values(&form(&known, Vec::new()), "management-api");
            assert_eq!(values["minio"]["secretCreate"], json!(expected), "{stored:?}");
        }
        // Also where something is missing in it.
        let stored = Stored::ByHand(AccessInfo::default());
        let known =
            Known { platform: &platform, stored: &stored, store: None, client_secret: None };
        let values = values(&form(&known, Vec::new()), "management-api");
        assert_eq!(values["minio"], json!({"secretCreate": false}));
    }
}
