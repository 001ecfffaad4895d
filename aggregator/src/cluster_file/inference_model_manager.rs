//! The Inference Model Manager: what its platform is installed with.

use std::path::PathBuf;

use rollcall_daemon::http::check_service_url;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::{Host, Url};

use super::target::{TargetName, http_url};

/// A target of this kind.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceModelManagerTarget {
    /// The name that commands know it by.
    pub name: TargetName,
    /// What the cluster file says of it.
    pub platform: Platform,
}

/// The platform, as its charts are to be told. What is left out is as those charts have it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Platform {
    /// The domain of the inference endpoints: each gets a name of its own right below it.
    #[serde(deserialize_with = "dns_name")]
    pub grpc_dns_domain: String,
    /// The name that the management API is reached by.
    #[serde(default, deserialize_with = "some_dns_name")]
    pub management_host: Option<String>,
    /// The namespace of the management API; MinIO's keys and the endpoints' certificate are there.
    #[serde(default = "management_namespace", deserialize_with = "namespace")]
    pub management_namespace: String,
    /// The namespace of the CRD controller.
    #[serde(default = "controller_namespace", deserialize_with = "namespace")]
    pub controller_namespace: String,
    /// The namespace of the ingress controller.
    #[serde(default = "ingress_namespace", deserialize_with = "namespace")]
    pub ingress_namespace: String,
    /// Where the models are stored.
    #[serde(default)]
    pub minio: Minio,
    /// Who says who a user is: Dex.
    pub oidc: Oidc,
    /// Users, as Kubernetes names them, who must not read the platform's secrets.
    #[serde(default, deserialize_with = "names")]
    pub ordinary_users: Vec<String>,
    /// Groups, as Kubernetes names them, that must not read the platform's secrets.
    #[serde(default = "everybody", deserialize_with = "names")]
    pub ordinary_groups: Vec<String>,
}

/// MinIO, or another service that speaks S3. What is left out is taken from the Secret
/// `minio-access-info` of the management namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Minio {
    /// Where the platform reaches it, for example `http://minio.storage:9000`.
    #[serde(default, deserialize_with = "some_http_url")]
    pub endpoint_url: Option<Url>,
    /// Where this machine reaches the same service, if it does not know the name above.
    #[serde(default, deserialize_with = "some_http_url")]
    pub probe_url: Option<Url>,
    /// The region that requests are signed for.
    #[serde(default, deserialize_with = "some_word")]
    pub region: Option<String>,
    /// The file with the access key's id.
    #[serde(default)]
    pub access_key_id_file: Option<PathBuf>,
    /// The file with the secret key.
    #[serde(default)]
    pub secret_key_file: Option<PathBuf>,
    /// The only CA that is trusted for its certificate; the system's if left out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Dex, and what the Kubernetes API server must know of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Oidc {
    /// The issuer's URL.
    pub issuer_url: IssuerUrl,
    /// The client's id in Dex.
    #[serde(deserialize_with = "word")]
    pub client_id: String,
    /// The file with the client's secret; else it is taken from the Secret `dex` of the management
    /// namespace.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The claim that says who a user is.
    #[serde(default = "username_claim", deserialize_with = "word")]
    pub username_claim: String,
    /// What the API server puts before a user's name.
    #[serde(default, deserialize_with = "some_word")]
    pub username_prefix: Option<String>,
    /// The claim that says which groups a user is in.
    #[serde(default = "groups_claim", deserialize_with = "word")]
    pub groups_claim: String,
    /// What the API server puts before a group's name.
    #[serde(default, deserialize_with = "some_word")]
    pub groups_prefix: Option<String>,
    /// The only CA that is trusted for the issuer's certificate; the system's if left out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// An issuer's URL. Issuers are compared letter by letter (`OpenID` Connect Core 1.0, 3.1.3.7), so
/// that the text counts, down to a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerUrl {
    text: String,
    url: Url,
}

impl IssuerUrl {
    /// The issuer as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The issuer as a URL.
    pub const fn url(&self) -> &Url {
        &self.url
    }
}

impl<'de> Deserialize<'de> for IssuerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The errors do not show the text: it may hold a password.
        let url =
            Url::parse(&text).map_err(|error| D::Error::custom(format!("no URL: {error}")))?;
        check_service_url(&url).map_err(D::Error::custom)?;
        if url.scheme() != "https" {
            let message = "must begin with https://: the Kubernetes API server takes no other";
            return Err(D::Error::custom(message));
        }
        Ok(Self { text, url })
    }
}

fn management_namespace() -> String {
    "mgt-api".to_owned()
}

fn controller_namespace() -> String {
    "crd".to_owned()
}

fn ingress_namespace() -> String {
    "ingress-nginx".to_owned()
}

fn username_claim() -> String {
    "email".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

/// Who has a token at all, who has none, and everything that runs in pods.
fn everybody() -> Vec<String> {
    ["system:authenticated", "system:unauthenticated", "system:serviceaccounts"]
        .map(str::to_owned)
        .to_vec()
}

fn some_http_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    http_url(deserializer).map(Some)
}

/// A text without blanks and control characters, such as goes into a flag of a program.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(D::Error::custom("must be a text without blanks"));
    }
    Ok(text)
}

fn some_word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    word(deserializer).map(Some)
}

/// Names of users or groups, none of which is empty: Kubernetes refuses to say what such a one may do.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    if names.iter().any(|name| name.trim().is_empty()) {
        return Err(D::Error::custom("one of the names is empty"));
    }
    Ok(names)
}

/// A namespace's name: a DNS label of at most 63 characters (RFC 1123).
fn namespace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_label(&text) {
        return Ok(text);
    }
    let shown: String = text.chars().take(80).collect();
    Err(D::Error::custom(format!(
        "namespace {shown:?} must be 1 to 63 lower-case letters, digits and '-', with none of the last at its ends"
    )))
}

/// A DNS name: labels in lower case, at least two, with dots between them.
fn dns_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    // What ends in a number is an address, or is taken for one.
    let is_address = !matches!(Host::parse(&text), Ok(Host::Domain(_)));
    let is_name = text.len() <= 253 && text.contains('.') && text.split('.').all(is_label);
    if is_name && !is_address {
        return Ok(text);
    }
    let shown: String = text.chars().take(80).collect();
    Err(D::Error::custom(format!(
        "{shown:?} must be a domain such as grpc.example.org, in lower case, without a star or a port, and no address"
    )))
}

fn some_dns_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    dns_name(deserializer).map(Some)
}

fn is_label(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_file::{ClusterFile, Target};

    const MINIMAL: &str = "cluster: {id: west, regionId: us-west-2}
targets:
  - name: models
    type: inference-model-manager
    platform:
      grpcDnsDomain: grpc.example.org
      oidc:
        issuerUrl: https://dex.example.org/dex
        clientId: infer-platform
";

    fn platform(text: &str) -> Platform {
        let mut file = ClusterFile::parse(text).expect("valid");
        match file.targets.pop() {
            Some(Target::InferenceModelManager(target)) => target.platform,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_is_as_the_charts_have_it() {
        let expected = Platform {
            grpc_dns_domain: "grpc.example.org".to_owned(),
            management_host: None,
            management_namespace: "mgt-api".to_owned(),
            controller_namespace: "crd".to_owned(),
            ingress_namespace: "ingress-nginx".to_owned(),
            minio: Minio::default(),
            oidc: Oidc {
                issuer_url: IssuerUrl {
                    text: "https://dex.example.org/dex".to_owned(),
                    url: Url::parse("https://dex.example.org/dex").expect("a URL"),
                },
                client_id: "infer-platform".to_owned(),
                client_secret_file: None,
                username_claim: "email".to_owned(),
                username_prefix: None,
                groups_claim: "groups".to_owned(),
                groups_prefix: None,
                ca_file: None,
            },
            ordinary_users: Vec::new(),
            ordinary_groups: everybody(),
        };
        assert_eq!(platform(MINIMAL), expected);
    }

    #[test]
    fn every_key() {
        let text = format!(
            "{MINIMAL}        clientSecretFile: dex-secret
        usernameClaim: sub
        usernamePrefix: 'infer:'
        groupsClaim: group
        groupsPrefix: 'infer:'
        caFile: dex-ca.pem
      managementHost: mgt.example.org
      managementNamespace: management
      controllerNamespace: controller
      ingressNamespace: ingress
      minio:
        endpointUrl: https://minio.storage:9000
        probeUrl: https://127.0.0.1:9000
        region: eu-1
        accessKeyIdFile: key-id
        secretKeyFile: key
        caFile: minio-ca.pem
      ordinaryUsers: ['infer:someone']
      ordinaryGroups: ['infer:everyone']
"
        );
        let platform = platform(&text);
        assert_eq!(platform.management_host.as_deref(), Some("mgt.example.org"));
        assert_eq!(platform.oidc.username_prefix.as_deref(), Some("infer:"));
        assert_eq!(
            platform.minio.probe_url.as_ref().map(Url::as_str),
            Some("https://127.0.0.1:9000/")
        );
        assert_eq!(platform.ordinary_groups, ["infer:everyone"]);
    }

    #[test]
    fn an_issuer_is_kept_letter_by_letter() {
        for issuer in
            ["https://dex.example.org", "https://dex.example.org/", "https://DEX.example.org/dex/"]
        {
            let text = MINIMAL.replace("https://dex.example.org/dex", issuer);
            assert_eq!(platform(&text).oidc.issuer_url.as_str(), issuer);
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (good, bad, words) in [
            (
                "grpc.example.org",
                "'*.example.org'",
                "line 6, column 22: grpcDnsDomain: \"*.example.org\" must be a domain such as",
            ),
            ("grpc.example.org", "GRPC.example.org", "in lower case"),
            ("grpc.example.org", "localhost", "must be a domain"),
            ("grpc.example.org", "10.0.0.1", "and no address"),
            ("grpc.example.org", "grpc.example.7", "and no address"),
            ("grpc.example.org", "grpc.0x1f", "and no address"),
            ("oidc:", "managementHost: 192.0.2.1\n      oidc:", "and no address"),
            ("oidc:", "ordinaryUsers: [someone, '']\n      oidc:", "one of the names is empty"),
            ("oidc:", "ordinaryGroups: [' ']\n      oidc:", "one of the names is empty"),
            (
                "https://dex.example.org/dex",
                "http://dex.example.org",
                "line 8, column 20: issuerUrl: must begin with https://",
            ),
            ("https://dex.example.org/dex", "https://me:secret@dex.example.org", "line 8"),
            (
                "infer-platform",
                "'infer platform'",
                "line 9, column 19: clientId: must be a text without blanks",
            ),
            ("oidc:", "controllerNamespace: CRD\n      oidc:", "namespace \"CRD\" must be 1 to 63"),
            ("oidc:", "colour: blue\n      oidc:", "colour"),
            ("oidc:", "minio: {endpointUrl: 'minio:9000'}\n      oidc:", "line 7"),
            ("clientId: infer-platform", "caFile: dex.pem", "clientId"),
        ] {
            let text = MINIMAL.replacen(good, bad, 1);
            let error = ClusterFile::parse(&text).expect_err(bad);
            let said = rollcall_report::error_chain(&error);
            assert!(said.contains(words), "{bad}: {said}");
            assert!(!said.contains("me:secret"), "{said}");
        }
    }
}
