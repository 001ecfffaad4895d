//! How interLink's plugins reach the Kubernetes API from outside the cluster.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::target::TargetName;

/// A target of this kind.
#[derive(Debug, Clone, PartialEq)]
pub struct InterlinkTarget {
    /// The name that commands know it by.
    pub name: TargetName,
    /// What the cluster file says of it.
    pub api_access: ApiAccess,
}

/// The way to the Kubernetes API that plugins are given. Every key may be left out: what it does not
/// say is taken from the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Entry")]
pub struct ApiAccess {
    /// The name or address that plugins use; else that of the Ingress or of its controller.
    pub address: Option<Address>,
    /// The port that plugins use; else that of the Ingress's controller.
    pub port: Option<NonZeroU16>,
    /// The CA that the certificate there is checked with.
    pub ca: CaSource,
    /// The Ingress that leads to the API.
    pub ingress: IngressKeys,
    /// The token of a service account to try with.
    pub token: TokenSource,
    /// The image of the reverse proxy: NGINX, not run as root.
    pub image: String,
}

/// Where the CA comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// The certificate's Secret that the Ingress names, `ca.crt` in it.
    Ingress,
    /// A file, PEM.
    File(PathBuf),
    /// A Secret.
    Secret(SecretEntry),
}

/// Where a service account's token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The Secret that `prepare` makes.
    Prepared,
    /// A file.
    File(PathBuf),
    /// A Secret, `token` in it.
    Secret(SecretEntry),
}

/// One entry of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEntry {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl fmt::Display for SecretEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in the Secret {}/{}", self.key, self.namespace, self.name)
    }
}

/// The Ingress that leads to the API. The defaults are those of interLink's guide.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IngressKeys {
    /// Its namespace, where `prepare` puts all that it makes.
    #[serde(deserialize_with = "namespace")]
    pub namespace: String,
    /// Its name.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The class of the controller that serves it, for `prepare`.
    #[serde(deserialize_with = "name")]
    pub class_name: String,
}

impl Default for IngressKeys {
    fn default() -> Self {
        Self {
            namespace: "ingress-nginx-internal".to_owned(),
            name: "default".to_owned(),
            class_name: "nginx-internal".to_owned(),
        }
    }
}

/// The image that runs as no root and listens on any port it is told to.
const IMAGE: &str = "docker.io/nginxinc/nginx-unprivileged:1.28-alpine";

impl Default for ApiAccess {
    fn default() -> Self {
        Self {
            address: None,
            port: None,
            ca: CaSource::Ingress,
            ingress: IngressKeys::default(),
            token: TokenSource::Prepared,
            image: IMAGE.to_owned(),
        }
    }
}

/// As it stands in the file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Entry {
    address: Option<Address>,
    #[serde(deserialize_with = "port")]
    port: Option<NonZeroU16>,
    ca_file: Option<PathBuf>,
    ca_secret: Option<SecretKeys>,
    ingress: IngressKeys,
    token_file: Option<PathBuf>,
    token_secret: Option<SecretKeys>,
    #[serde(deserialize_with = "image")]
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretKeys {
    #[serde(default, deserialize_with = "some_namespace")]
    namespace: Option<String>,
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(default, deserialize_with = "some_key")]
    key: Option<String>,
}

impl SecretKeys {
    fn entry(self, ingress: &IngressKeys, key: &str) -> SecretEntry {
        SecretEntry {
            namespace: self.namespace.unwrap_or_else(|| ingress.namespace.clone()),
            name: self.name,
            key: self.key.unwrap_or_else(|| key.to_owned()),
        }
    }
}

/// Keys that do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Conflict {
    #[error("caFile and caSecret: the CA comes from one of them")]
    TwoCas,
    #[error("tokenFile and tokenSecret: the token comes from one of them")]
    TwoTokens,
}

impl TryFrom<Entry> for ApiAccess {
    type Error = Conflict;

    fn try_from(entry: Entry) -> Result<Self, Conflict> {
        let ingress = entry.ingress;
        let ca = match (entry.ca_file, entry.ca_secret) {
            (None, None) => CaSource::Ingress,
            (Some(path), None) => CaSource::File(path),
            (None, Some(secret)) => CaSource::Secret(secret.entry(&ingress, "ca.crt")),
            (Some(_), Some(_)) => return Err(Conflict::TwoCas),
        };
        let token = match (entry.token_file, entry.token_secret) {
            (None, None) => TokenSource::Prepared,
            (Some(path), None) => TokenSource::File(path),
            (None, Some(secret)) => TokenSource::Secret(secret.entry(&ingress, "token")),
            (Some(_), Some(_)) => return Err(Conflict::TwoTokens),
        };
        let image = entry.image.unwrap_or_else(|| IMAGE.to_owned());
        Ok(Self { address: entry.address, port: entry.port, ca, ingress, token, image })
    }
}

/// How a machine is named: by an address, or by a name in DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A name, in lower case.
    Name(String),
}

impl Address {
    /// Takes a name or an address as people write it; IPv6 with or without brackets.
    ///
    /// # Errors
    ///
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = inner.unwrap_or(text).parse() {
            return Ok(Self::Ip(address));
        }
        let name = text.to_ascii_lowercase();
        // A number at the end, hexadecimal too, makes it an IPv4 address to a URL.
        let is_number = |label: &str| match label.strip_prefix("0x") {
            Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
            None => label.bytes().all(|b| b.is_ascii_digit()),
        };
        let ends_in_number = name.rsplit('.').next().is_some_and(is_number);
        if is_subdomain(&name) && !ends_in_number {
            return Ok(Self::Name(name));
        }
        Err(InvalidAddress { shown: text.chars().take(80).collect() })
    }

    /// As it stands in a URL.
    pub fn in_url(&self) -> String {
        match self {
            Self::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            Self::Ip(IpAddr::V4(_)) | Self::Name(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.pad(name),
        }
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// A text that names no machine.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "address {shown:?} must be an IP address or a name such as k8s.example.org, without https:// and port"
)]
pub struct InvalidAddress {
    shown: String,
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    let port = Value::deserialize(deserializer)?.as_u64().and_then(|port| u16::try_from(port).ok());
    match port.and_then(NonZeroU16::new) {
        Some(port) => Ok(Some(port)),
        None => Err(D::Error::custom("port must be a whole number from 1 to 65535")),
    }
}

fn image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let image = String::deserialize(deserializer)?;
    if image.is_empty() || image.contains(char::is_whitespace) {
        return Err(D::Error::custom("image must be a container image, such as registry/name:tag"));
    }
    Ok(Some(image))
}

fn namespace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() <= 63 && is_label(&text) {
        return Ok(text);
    }
    let shown: String = text.chars().take(80).collect();
    Err(D::Error::custom(format!(
        "{shown:?} is no namespace: at most 63 lower-case letters, digits, and '-' between them"
    )))
}

fn some_namespace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    namespace(deserializer).map(Some)
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_subdomain(&text) {
        return Ok(text);
    }
    let shown: String = text.chars().take(80).collect();
    Err(D::Error::custom(format!(
        "{shown:?} is no name of an object: lower-case letters and digits, with '-' and '.' between them"
    )))
}

fn some_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 253 || !text.chars().all(allowed) {
        return Err(D::Error::custom(
            "key must be one of a Secret: letters, digits, '-', '_' and '.'",
        ));
    }
    Ok(Some(text))
}

/// Whether a text is a DNS subdomain of RFC 1123, in lower case.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| label.len() <= 63 && is_label(label))
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ApiAccess, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_guide() {
        let access = parse("{}").expect("valid");
        assert_eq!(access, ApiAccess::default());
        let ingress = access.ingress;
        assert_eq!(
            (ingress.namespace.as_str(), ingress.name.as_str(), ingress.class_name.as_str()),
            ("ingress-nginx-internal", "default", "nginx-internal")
        );
    }

    #[test]
    fn every_key() {
        let text = "address: K8s.Example.org
port: 60443
caSecret: {namespace: cert-manager, name: root, key: tls.crt}
tokenFile: /run/token
ingress: {namespace: internal, name: api, className: inner}
image: registry.example.org/nginx:1
";
        let expected = ApiAccess {
            address: Some(Address::Name("k8s.example.org".to_owned())),
            port: NonZeroU16::new(60443),
            ca: CaSource::Secret(SecretEntry {
                namespace: "cert-manager".to_owned(),
                name: "root".to_owned(),
                key: "tls.crt".to_owned(),
            }),
            ingress: IngressKeys {
                namespace: "internal".to_owned(),
                name: "api".to_owned(),
                class_name: "inner".to_owned(),
            },
            token: TokenSource::File("/run/token".into()),
            image: "registry.example.org/nginx:1".to_owned(),
        };
        assert_eq!(parse(text).expect("valid"), expected);

        // A Secret without a namespace is the Ingress's neighbour.
        let access = parse("ingress: {namespace: internal}\ntokenSecret: {name: probe}");
        let token = SecretEntry {
            namespace: "internal".to_owned(),
            name: "probe".to_owned(),
            key: "token".to_owned(),
        };
        assert_eq!(access.expect("valid").token, TokenSource::Secret(token));
    }

    #[test]
    fn what_is_refused() {
        for (text, words) in [
            ("adress: a", "unknown field"),
            ("address: https://k8s.example.org", "without https:// and port"),
            ("address: 'k8s.example.org:443'", "without https:// and port"),
            ("address: 10.0.0.256", "must be an IP address or a name"),
            ("address: '10.0.0.0x1f'", "must be an IP address or a name"),
            ("address: 'k8s.0X'", "must be an IP address or a name"),
            ("address: ''", "must be an IP address or a name"),
            ("port: 0", "from 1 to 65535"),
            ("port: 65536", "from 1 to 65535"),
            ("port: https", "from 1 to 65535"),
            ("caFile: ca.pem\ncaSecret: {name: ca}", "caFile and caSecret"),
            ("tokenFile: t\ntokenSecret: {name: t}", "tokenFile and tokenSecret"),
            ("tokenSecret: {namespace: a}", "name"),
            ("tokenSecret: {name: T_}", "is no name of an object"),
            ("tokenSecret: {name: t, key: a/b}", "one of a Secret"),
            ("ingress: {namespace: a.b}", "is no namespace"),
            ("image: ''", "a container image"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn addresses() {
        for (text, expected, in_url) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.3"),
            ("fd00::1", "fd00::1", "[fd00::1]"),
            ("[FD00::1]", "fd00::1", "[fd00::1]"),
            ("K8s.Example.org", "k8s.example.org", "k8s.example.org"),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!(
                (address.to_string().as_str(), address.in_url().as_str()),
                (expected, in_url)
            );
        }
    }
}
