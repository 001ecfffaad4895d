//! Targets: the networks to register with, and how they are reached.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{self, HeaderName};
use rollcall_daemon::http::{ClientCertificate, check_service_url};
use rollcall_daemon::secret::warn_if_exposed;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use url::Url;

use super::nodes::NodePolicy;

/// A network to register with. Its state is kept under its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Entry")]
pub struct Target {
    /// The name that commands, metrics and the store know it by.
    pub name: TargetName,
    /// What kind of network it is.
    pub kind: TargetKind,
    /// AIOS's parser, for example `http://parser.example.org:8000`.
    pub parser_url: Url,
    /// AIOS's cluster controller gateway, for example `http://gateway.example.org:5000`.
    pub gateway_url: Url,
    /// How the document is wrapped.
    pub envelope: Envelope,
    /// How much is done without a person.
    pub mode: Mode,
    /// How often the network's entry is looked at while nothing changes here. A difference is left for
    /// a sixth of it before it is put right, and two updates are half of it apart.
    pub look_every: Duration,
    /// Which of the cluster's Nodes it is offered.
    pub nodes: NodePolicy,
    /// The network's infrastructure on the cluster, if it is wanted.
    pub infrastructure: Option<Infrastructure>,
    /// How its services are reached.
    pub transport: TransportSettings,
}

/// How much is done for a target without a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything, but for taking away many nodes at once.
    #[default]
    Auto,
    /// Nothing is sent before a person has approved it.
    Approve,
    /// Nothing is sent at all; the entry is looked at.
    Observe,
}

/// What AIOS's infrastructure on the cluster is made with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrastructure {
    /// The kubeconfig that the network is given; read for each request.
    pub kubeconfig_file: PathBuf,
    /// AIOS's tasks' database, where the work is followed.
    #[serde(deserialize_with = "http_url")]
    pub tasks_url: Url,
}

/// How a target's services are reached, and what is sent along to be let in. In the cluster file its
/// keys stand among the target's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportSettings {
    /// The only CA that is trusted for the services' certificates; the system's if left out.
    pub ca_file: Option<PathBuf>,
    /// The certificate that the services know us by, and its key.
    pub client_certificate_files: Option<(PathBuf, PathBuf)>,
    /// The proxy for all that `NO_PROXY` does not name; those of the environment if left out.
    pub proxy: Option<Url>,
    /// The file with the token to send as `Authorization: Bearer …`; read for each request.
    pub bearer_token_file: Option<PathBuf>,
    /// Further headers, each with the file that holds its value; read for each request.
    pub header_files: Vec<(HeaderName, PathBuf)>,
    /// How long a request may take as a whole.
    pub timeout: Duration,
    /// Lets secrets (headers, a join command in the document) go over plain HTTP to another machine.
    pub insecure_http: bool,
}

impl TransportSettings {
    /// The client certificate, for the HTTP library.
    pub fn client_certificate(&self) -> Option<ClientCertificate<'_>> {
        self.client_certificate_files
            .as_ref()
            .map(|(cert_file, key_file)| ClientCertificate { cert_file, key_file })
    }

    /// The keys that ask for secret headers.
    pub fn secret_headers(&self) -> Vec<&'static str> {
        let bearer_token = self.bearer_token_file.as_ref().map(|_| "bearerTokenFile");
        let headers = (!self.header_files.is_empty()).then_some("headerFiles");
        bearer_token.into_iter().chain(headers).collect()
    }

    /// Warns of secret files that every user of the machine can read. To be called once, at the
    /// start.
    pub fn warn_if_exposed(&self) {
        let key = self.client_certificate_files.iter().map(|(_, key)| key);
        let headers =
            self.bearer_token_file.iter().chain(self.header_files.iter().map(|(_, path)| path));
        for path in key.chain(headers) {
            warn_if_exposed(path);
        }
    }
}

/// A target as it stands in the file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: TargetName,
    #[serde(rename = "type")]
    kind: TargetKind,
    #[serde(deserialize_with = "http_url")]
    parser_url: Url,
    #[serde(deserialize_with = "http_url")]
    gateway_url: Url,
    #[serde(default)]
    envelope: Envelope,
    #[serde(default)]
    mode: Mode,
    #[serde(default = "default_look_every", deserialize_with = "look_every")]
    look_every: Duration,
    #[serde(default)]
    nodes: NodePolicy,
    #[serde(default)]
    infrastructure: Option<Infrastructure>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    client_cert_file: Option<PathBuf>,
    #[serde(default)]
    client_key_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "some_http_url")]
    proxy: Option<Url>,
    #[serde(default)]
    bearer_token_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "header_files")]
    header_files: Vec<(HeaderName, PathBuf)>,
    #[serde(default = "default_timeout", deserialize_with = "timeout")]
    timeout: Duration,
    #[serde(default)]
    insecure_http: bool,
}

/// What is wrong with a target as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("target {target}: {conflict}")]
struct InvalidTarget {
    target: TargetName,
    conflict: Conflict,
}

/// Keys of a target that do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Conflict {
    #[error("clientKeyFile is missing: the key of the certificate in clientCertFile")]
    NoKey,
    #[error("clientCertFile is missing: the certificate of the key in clientKeyFile")]
    NoCertificate,
    #[error("bearerTokenFile and Authorization in headerFiles: a request has one of them")]
    TwoAuthorizations,
}

impl TryFrom<Entry> for Target {
    type Error = InvalidTarget;

    fn try_from(entry: Entry) -> Result<Self, InvalidTarget> {
        let invalid = |conflict| InvalidTarget { target: entry.name.clone(), conflict };
        let client_certificate_files = match (entry.client_cert_file, entry.client_key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(invalid(Conflict::NoKey)),
            (None, Some(_)) => return Err(invalid(Conflict::NoCertificate)),
        };
        if entry.bearer_token_file.is_some()
            && entry.header_files.iter().any(|(name, _)| *name == header::AUTHORIZATION)
        {
            return Err(invalid(Conflict::TwoAuthorizations));
        }
        Ok(Self {
            name: entry.name,
            kind: entry.kind,
            parser_url: entry.parser_url,
            gateway_url: entry.gateway_url,
            envelope: entry.envelope,
            mode: entry.mode,
            look_every: entry.look_every,
            nodes: entry.nodes,
            infrastructure: entry.infrastructure,
            transport: TransportSettings {
                ca_file: entry.ca_file,
                client_certificate_files,
                proxy: entry.proxy,
                bearer_token_file: entry.bearer_token_file,
                header_files: entry.header_files,
                timeout: entry.timeout,
                insecure_http: entry.insecure_http,
            },
        })
    }
}

/// Kinds of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// An AIOS network.
    Aios,
}

/// How the document is wrapped for AIOS's parser.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Envelope {
    /// `{"header": …, "body": {"spec": {"values": DOCUMENT}}}`: what the parser takes.
    #[default]
    ParserV1,
    /// The bare document, as AIOS's documentation shows.
    Flat,
}

/// A target's name: lower-case letters, digits and `-`, at most 40 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TargetName(String);

impl TargetName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for TargetName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        // It names an object of Kubernetes, where the store is there.
        let has_end = text.starts_with('-') || text.ends_with('-');
        if text.is_empty() || text.len() > 40 || has_end || !text.chars().all(allowed) {
            let shown: String = text.chars().take(80).collect();
            return Err(D::Error::custom(format!(
                "target name {shown:?} must be 1 to 40 lower-case letters, digits and '-', with none of the last at its ends"
            )));
        }
        Ok(Self(text))
    }
}

/// The errors do not show the text: it may hold a password. Line and key say which it is.
fn http_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    let url = Url::parse(&text).map_err(|error| D::Error::custom(format!("no URL: {error}")))?;
    check_service_url(&url).map_err(D::Error::custom)?;
    Ok(url)
}

fn some_http_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    http_url(deserializer).map(Some)
}

const fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let timeout = super::duration(deserializer)?;
    if (Duration::from_secs(1)..=Duration::from_mins(10)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err(D::Error::custom("must be from 1s to 10m"))
    }
}

const fn default_look_every() -> Duration {
    Duration::from_secs(30)
}

fn look_every<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let pause = super::duration(deserializer)?;
    if (Duration::from_secs(1)..=Duration::from_hours(1)).contains(&pause) {
        Ok(pause)
    } else {
        Err(D::Error::custom("must be from 1s to 1h"))
    }
}

fn header_files<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(HeaderName, PathBuf)>, D::Error> {
    deserializer.deserialize_map(HeaderFiles)
}

struct HeaderFiles;

impl<'de> Visitor<'de> for HeaderFiles {
    type Value = Vec<(HeaderName, PathBuf)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of header names to files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut files: Self::Value = Vec::new();
        while let Some(OurHeader(name)) = map.next_key()? {
            let path = map.next_value()?;
            // The names' upper and lower case is one.
            if files.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("header {name} stands there twice")));
            }
            files.push((name, path));
        }
        Ok(files)
    }
}

/// The name of a header that may be set: not one that the request has anyway, and not one that is
/// between two ends of a connection.
struct OurHeader(HeaderName);

impl<'de> Deserialize<'de> for OurHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let shown: String = text.chars().take(80).collect();
        let name = HeaderName::try_from(&text)
            .map_err(|_said| D::Error::custom(format!("{shown:?} is no name of an HTTP header")))?;
        let kept = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::CONNECTION,
            header::PROXY_AUTHENTICATE,
            header::PROXY_AUTHORIZATION,
            header::TE,
            header::TRAILER,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            header::EXPECT,
            HeaderName::from_static("keep-alive"),
            HeaderName::from_static("proxy-connection"),
        ];
        if kept.contains(&name) {
            let message = format!("header {shown:?} is set by the connection, not by a file");
            return Err(D::Error::custom(message));
        }
        Ok(Self(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_file::ClusterFile;

    const BEFORE: &str = "cluster: {id: west, regionId: us-west-2}
targets:
  - name: aios
    type: aios
    parserUrl: http://p:1
    gatewayUrl: http://g:2
";

    #[test]
    fn how_a_target_is_reached() {
        let minimal = ClusterFile::parse(BEFORE).expect("valid");
        let expected = TransportSettings {
            ca_file: None,
            client_certificate_files: None,
            proxy: None,
            bearer_token_file: None,
            header_files: Vec::new(),
            timeout: Duration::from_secs(30),
            insecure_http: false,
        };
        assert_eq!(minimal.targets[0].transport, expected);

        let text = format!(
            "{BEFORE}    caFile: ca.pem
    clientCertFile: c.pem
    clientKeyFile: k.pem
    proxy: http://proxy.example:3128
    bearerTokenFile: token
    headerFiles:
      X-Api-Key: key
      x-tenant: tenant
    timeout: 10m
    insecureHttp: true
"
        );
        let file = ClusterFile::parse(&text).expect("valid");
        let expected = TransportSettings {
            ca_file: Some("ca.pem".into()),
            client_certificate_files: Some(("c.pem".into(), "k.pem".into())),
            proxy: Some("http://proxy.example:3128".parse().expect("a URL")),
            bearer_token_file: Some("token".into()),
            header_files: vec![
                (HeaderName::from_static("x-api-key"), "key".into()),
                (HeaderName::from_static("x-tenant"), "tenant".into()),
            ],
            timeout: Duration::from_mins(10),
            insecure_http: true,
        };
        assert_eq!(file.targets[0].transport, expected);
    }

    #[test]
    fn errors_name_line_and_key() {
        for (what, more, line, words) in [
            (
                "a certificate without its key",
                "clientCertFile: c",
                3,
                ": target aios: clientKeyFile is",
            ),
            (
                "a key without its certificate",
                "clientKeyFile: k",
                3,
                ": target aios: clientCertFile",
            ),
            ("a proxy that is none", "proxy: socks5://p:1", 7, "proxy: must be a URL that begins"),
            ("a proxy without a scheme", "proxy: p.example", 7, "proxy: no URL"),
            ("a password in a proxy", "proxy: http://u:hunter2@p:1", 7, "proxy: must not hold a"),
            ("a token in a proxy", "proxy: http://p:1/?t=hunter2", 7, "proxy: must not hold a"),
            ("a proxy of nothing", "proxy:", 7, "proxy"),
            ("no unit", "timeout: 30", 7, "timeout"),
            ("no time", "timeout: 999ms", 7, "timeout: must be from 1s to 10m"),
            ("too much time", "timeout: 601s", 7, "timeout: must be from 1s to 10m"),
            ("no mapping", "headerFiles: hunter", 7, "headerFiles"),
            ("no name", "headerFiles:\n      X Key: f", 8, "\"X Key\" is no name"),
            ("a host", "headerFiles:\n      Host: f", 8, "header \"Host\" is set by"),
            ("a length", "headerFiles:\n      content-length: f", 8, "\"content-length\" is set"),
            ("a type", "headerFiles:\n      X-Key: f\n      Content-Type: f", 9, "Content-Type"),
            ("a hop", "headerFiles: {Transfer-Encoding: f}", 7, "Transfer-Encoding"),
            ("another hop", "headerFiles: {Keep-Alive: f}", 7, "Keep-Alive"),
            ("twice", "headerFiles:\n      X-Key: f\n      x-key: g", 0, "header x-key stands"),
            (
                "two authorizations",
                "bearerTokenFile: f\n    headerFiles: {authorization: g}",
                3,
                "bearerTokenFile and Authorization",
            ),
            ("a token itself", "bearerToken: hunter2", 7, "bearerToken"),
        ] {
            let text = format!("{BEFORE}    {more}\n");
            let problem = ClusterFile::parse(&text).expect_err(what).to_string();
            assert!(problem.contains(words), "{what}: {problem}");
            assert!(!problem.contains("hunter2"), "{what}: {problem}");
            let at = if line == 0 { "line ".to_owned() } else { format!("line {line},") };
            assert!(problem.starts_with(&at), "{what}: {problem}");
            assert!(!problem.starts_with("line 0"), "{what}: {problem}");
        }
    }
}
