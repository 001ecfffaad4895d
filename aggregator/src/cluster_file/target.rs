//! Targets: the systems to onboard the cluster to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{self, HeaderName};
use rollcall_daemon::http::check_service_url;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use url::Url;
use utoipa::ToSchema;

use super::aichor::{AichorTarget, Engine};
use super::aios::{self, AiosTarget, Envelope, Infrastructure, Mode};
use super::inference_model_manager::{InferenceModelManagerTarget, Platform};
use super::interlink::{ApiAccess, InterlinkTarget};
use super::nodes::NodePolicy;
use super::transport::{self, TransportSettings};
use super::unikorn::{Region, UnikornTarget};

/// A system to onboard the cluster to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Entry")]
pub enum Target {
    /// An AIOS network.
    Aios(Box<AiosTarget>),
    /// A Unikorn region.
    Unikorn(UnikornTarget),
    /// An engine of `AIchor`.
    Aichor(AichorTarget),
    /// The Kubernetes API for `InterLink`'s plugins.
    Interlink(InterlinkTarget),
    /// The Inference Model Manager's platform.
    InferenceModelManager(Box<InferenceModelManagerTarget>),
}

/// Kinds of systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// An AIOS network.
    Aios,
    /// A Unikorn region.
    Unikorn,
    /// An engine of `AIchor`.
    Aichor,
    /// The Kubernetes API for `InterLink`'s plugins.
    Interlink,
    /// The Inference Model Manager's platform.
    InferenceModelManager,
}

impl TargetKind {
    /// The kind as it stands in the cluster file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aios => "aios",
            Self::Unikorn => "unikorn",
            Self::Aichor => "aichor",
            Self::Interlink => "interlink",
            Self::InferenceModelManager => "inference-model-manager",
        }
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Target {
    /// The name that commands know it by.
    pub const fn name(&self) -> &TargetName {
        match self {
            Self::Aios(target) => &target.name,
            Self::Unikorn(target) => &target.name,
            Self::Aichor(target) => &target.name,
            Self::Interlink(target) => &target.name,
            Self::InferenceModelManager(target) => &target.name,
        }
    }

    /// What kind of system it is.
    pub const fn kind(&self) -> TargetKind {
        match self {
            Self::Aios(_) => TargetKind::Aios,
            Self::Unikorn(_) => TargetKind::Unikorn,
            Self::Aichor(_) => TargetKind::Aichor,
            Self::Interlink(_) => TargetKind::Interlink,
            Self::InferenceModelManager(_) => TargetKind::InferenceModelManager,
        }
    }

    /// Which of the cluster's Nodes it is offered; `None`: it is not told of nodes.
    pub const fn nodes(&self) -> Option<&NodePolicy> {
        match self {
            Self::Aios(target) => Some(&target.nodes),
            Self::Unikorn(target) => Some(&target.nodes),
            Self::Aichor(_) | Self::Interlink(_) | Self::InferenceModelManager(_) => None,
        }
    }

    /// The target, where it is an AIOS network.
    pub const fn aios(&self) -> Option<&AiosTarget> {
        if let Self::Aios(target) = self { Some(target) } else { None }
    }

    /// The target, where it is a Unikorn region.
    pub const fn unikorn(&self) -> Option<&UnikornTarget> {
        if let Self::Unikorn(target) = self { Some(target) } else { None }
    }
}

/// A target as it stands in the file: the keys of all kinds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: TargetName,
    #[serde(rename = "type")]
    kind: TargetKind,
    #[serde(default, deserialize_with = "given")]
    nodes: Option<NodePolicy>,
    #[serde(default, deserialize_with = "given")]
    region: Option<Region>,
    #[serde(default, deserialize_with = "given")]
    engine: Option<Engine>,
    #[serde(default, deserialize_with = "given")]
    api_access: Option<ApiAccess>,
    #[serde(default, deserialize_with = "given")]
    platform: Option<Platform>,
    #[serde(default, deserialize_with = "some_http_url")]
    parser_url: Option<Url>,
    #[serde(default, deserialize_with = "some_http_url")]
    gateway_url: Option<Url>,
    #[serde(default, deserialize_with = "given")]
    envelope: Option<Envelope>,
    #[serde(default, deserialize_with = "given")]
    mode: Option<Mode>,
    #[serde(default, deserialize_with = "aios::look_every")]
    look_every: Option<Duration>,
    #[serde(default, deserialize_with = "given")]
    infrastructure: Option<Infrastructure>,
    #[serde(default, deserialize_with = "given")]
    ca_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "given")]
    client_cert_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "given")]
    client_key_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "some_http_url")]
    proxy: Option<Url>,
    #[serde(default, deserialize_with = "given")]
    bearer_token_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "transport::header_files")]
    header_files: Option<Vec<(HeaderName, PathBuf)>>,
    #[serde(default, deserialize_with = "transport::timeout")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "given")]
    insecure_http: Option<bool>,
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
    #[error("{key} is missing: every target of type {kind} has it")]
    Missing { key: &'static str, kind: TargetKind },
    #[error("{key} is no key of a target of type {kind}")]
    OfAnotherKind { key: &'static str, kind: TargetKind },
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
        let name = entry.name.clone();
        entry.of_its_kind().map_err(|conflict| InvalidTarget { target: name, conflict })
    }
}

impl Entry {
    fn of_its_kind(self) -> Result<Target, Conflict> {
        let kind = self.kind;
        if let Some(key) = self.key_of_another_kind() {
            return Err(Conflict::OfAnotherKind { key, kind });
        }
        let missing = |key| Conflict::Missing { key, kind };
        let name = self.name.clone();
        Ok(match kind {
            TargetKind::Aios => Target::Aios(Box::new(self.aios()?)),
            TargetKind::Unikorn => Target::Unikorn(UnikornTarget {
                name,
                nodes: self.nodes.unwrap_or_default(),
                region: self.region.ok_or_else(|| missing("region"))?,
            }),
            TargetKind::Aichor => Target::Aichor(AichorTarget {
                name,
                engine: self.engine.ok_or_else(|| missing("engine"))?,
            }),
            TargetKind::Interlink => Target::Interlink(InterlinkTarget {
                name,
                api_access: self.api_access.ok_or_else(|| missing("apiAccess"))?,
            }),
            TargetKind::InferenceModelManager => {
                Target::InferenceModelManager(Box::new(InferenceModelManagerTarget {
                    name,
                    platform: self.platform.ok_or_else(|| missing("platform"))?,
                }))
            }
        })
    }

    /// A key that is there and that means nothing for this kind of target.
    fn key_of_another_kind(&self) -> Option<&'static str> {
        use TargetKind::{Aichor, Aios, InferenceModelManager, Interlink, Unikorn};
        let keys: [(&str, bool, &[TargetKind]); 19] = [
            ("nodes", self.nodes.is_some(), &[Aios, Unikorn]),
            ("region", self.region.is_some(), &[Unikorn]),
            ("engine", self.engine.is_some(), &[Aichor]),
            ("apiAccess", self.api_access.is_some(), &[Interlink]),
            ("platform", self.platform.is_some(), &[InferenceModelManager]),
            ("parserUrl", self.parser_url.is_some(), &[Aios]),
            ("gatewayUrl", self.gateway_url.is_some(), &[Aios]),
            ("envelope", self.envelope.is_some(), &[Aios]),
            ("mode", self.mode.is_some(), &[Aios]),
            ("lookEvery", self.look_every.is_some(), &[Aios]),
            ("infrastructure", self.infrastructure.is_some(), &[Aios]),
            ("caFile", self.ca_file.is_some(), &[Aios]),
            ("clientCertFile", self.client_cert_file.is_some(), &[Aios]),
            ("clientKeyFile", self.client_key_file.is_some(), &[Aios]),
            ("proxy", self.proxy.is_some(), &[Aios]),
            ("bearerTokenFile", self.bearer_token_file.is_some(), &[Aios]),
            ("headerFiles", self.header_files.is_some(), &[Aios]),
            ("timeout", self.timeout.is_some(), &[Aios]),
            ("insecureHttp", self.insecure_http.is_some(), &[Aios]),
        ];
        let is_foreign = |(_, is_given, kinds): &&(_, bool, &[TargetKind])| {
            *is_given && !kinds.contains(&self.kind)
        };
        keys.iter().find(is_foreign).map(|(key, ..)| *key)
    }

    fn aios(self) -> Result<AiosTarget, Conflict> {
        let missing = |key| Conflict::Missing { key, kind: TargetKind::Aios };
        let client_certificate_files = match (self.client_cert_file, self.client_key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(Conflict::NoKey),
            (None, Some(_)) => return Err(Conflict::NoCertificate),
        };
        let header_files = self.header_files.unwrap_or_default();
        if self.bearer_token_file.is_some()
            && header_files.iter().any(|(name, _)| *name == header::AUTHORIZATION)
        {
            return Err(Conflict::TwoAuthorizations);
        }
        Ok(AiosTarget {
            name: self.name,
            parser_url: self.parser_url.ok_or_else(|| missing("parserUrl"))?,
            gateway_url: self.gateway_url.ok_or_else(|| missing("gatewayUrl"))?,
            envelope: self.envelope.unwrap_or_default(),
            mode: self.mode.unwrap_or_default(),
            look_every: self.look_every.unwrap_or(aios::LOOK_EVERY),
            nodes: self.nodes.unwrap_or_default(),
            infrastructure: self.infrastructure,
            transport: TransportSettings {
                ca_file: self.ca_file,
                client_certificate_files,
                proxy: self.proxy,
                bearer_token_file: self.bearer_token_file,
                header_files,
                timeout: self.timeout.unwrap_or(transport::TIMEOUT),
                insecure_http: self.insecure_http.unwrap_or_default(),
            },
        })
    }
}

/// A target's name: lower-case letters, digits and `-`, at most 40 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(
    value_type = String,
    min_length = 1,
    max_length = 40,
    pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
)]
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

/// What stands there is a value: a key without one is a mistake.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The errors do not show the text: it may hold a password. Line and key say which it is.
pub(super) fn http_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    let url = Url::parse(&text).map_err(|error| D::Error::custom(format!("no URL: {error}")))?;
    check_service_url(&url).map_err(D::Error::custom)?;
    Ok(url)
}

pub(super) fn some_http_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Url>, D::Error> {
    http_url(deserializer).map(Some)
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

    fn aios(file: &ClusterFile) -> &AiosTarget {
        file.aios_targets().next().expect("a target")
    }

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
        assert_eq!(aios(&minimal).transport, expected);

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
        assert_eq!(aios(&file).transport, expected);
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
