//! `AIchor` engines: what the form of an on-premises engine is filled with.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

use super::target::TargetName;

/// An engine of `AIchor`.
#[derive(Debug, Clone, PartialEq)]
pub struct AichorTarget {
    /// The name that commands know it by.
    pub name: TargetName,
    /// What the cluster file says of it.
    pub engine: Engine,
}

/// The engine as `AIchor`'s form asks for it. What is left out is taken from the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Engine {
    /// The engine's name: lower-case letters, digits and `-`, a letter first.
    #[serde(deserialize_with = "engine_name")]
    pub name: String,
    /// A tag that `AIchor` asks some organisations for.
    #[serde(default, deserialize_with = "some_text")]
    pub ecosystem: Option<String>,
    /// Where `AIchor` reaches the Kubernetes API; else where the kubeconfig does.
    #[serde(default)]
    pub api_hostname: Option<ApiHostname>,
    /// The ingress controller's address; else that of its Service of type `LoadBalancer`.
    #[serde(default)]
    pub load_balancer_ip: Option<IpAddr>,
    /// The CA of the API server's certificate, PEM; else that of the kubeconfig.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The namespace of `AIchor`'s service account.
    #[serde(default = "default_namespace", deserialize_with = "namespace")]
    pub namespace: String,
    /// A user and a password in place of the token. Kubernetes has known none since 1.19.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
}

/// A user of the API server with a password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicAuth {
    /// The user's name.
    #[serde(deserialize_with = "text")]
    pub user: String,
    /// The file with the password.
    pub password_file: PathBuf,
}

/// Where `AIchor` reaches the Kubernetes API: an `https://` URL, or a host with or without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiHostname {
    shown: String,
    url: Url,
}

impl ApiHostname {
    /// As it goes into the form.
    pub fn as_str(&self) -> &str {
        &self.shown
    }

    /// The same as a URL.
    pub const fn url(&self) -> &Url {
        &self.url
    }
}

impl From<Url> for ApiHostname {
    /// As `kubectl cluster-info` shows it.
    fn from(url: Url) -> Self {
        Self { shown: url.as_str().trim_end_matches('/').to_owned(), url }
    }
}

impl fmt::Display for ApiHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

/// The errors do not show the text: it may hold a password. Line and key say which it is.
impl<'de> Deserialize<'de> for ApiHostname {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const ALLOWED: &str = "must be an https:// URL such as https://api.example.org:6443, or a \
                               host with or without a port";
        let text = String::deserialize(deserializer)?;
        let written = if text.contains("://") { text.clone() } else { format!("https://{text}") };
        let url = Url::parse(&written)
            .map_err(|error| D::Error::custom(format!("{ALLOWED}: {error}")))?;
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if url.scheme() != "https" || !is_bare {
            return Err(D::Error::custom(format!(
                "{ALLOWED}, without a user, a query or a fragment"
            )));
        }
        Ok(Self { shown: text.trim_end_matches('/').to_owned(), url })
    }
}

fn engine_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.starts_with(|first: char| first.is_ascii_lowercase()) && name.chars().all(allowed) {
        Ok(name)
    } else {
        let shown: String = name.chars().take(80).collect();
        Err(D::Error::custom(format!(
            "engine name {shown:?} must be lower-case letters, digits and '-', and begin with a letter"
        )))
    }
}

fn default_namespace() -> String {
    "aichor".to_owned()
}

/// A name as Kubernetes takes it for a namespace.
fn namespace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let has_end = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 63 || has_end || !name.chars().all(allowed) {
        let shown: String = name.chars().take(80).collect();
        return Err(D::Error::custom(format!(
            "namespace {shown:?} must be 1 to 63 lower-case letters, digits and '-', with none of the last at its ends"
        )));
    }
    Ok(name)
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err(D::Error::custom("must be a text of one line, and not empty"));
    }
    Ok(text)
}

fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_file::{ClusterFile, Target};

    fn parse(engine: &str) -> Result<Engine, String> {
        let text = format!(
            "cluster: {{id: west, regionId: us-west-2}}\ntargets:\n  - name: aichor\n    type: aichor\n    engine:\n{engine}"
        );
        let file =
            ClusterFile::parse(&text).map_err(|error| rollcall_report::error_chain(&error))?;
        match file.targets.into_iter().next() {
            Some(Target::Aichor(target)) => Ok(target.engine),
            other => panic!("not an engine: {other:?}"),
        }
    }

    #[test]
    fn the_name_alone_is_needed() {
        let expected = Engine {
            name: "west".to_owned(),
            ecosystem: None,
            api_hostname: None,
            load_balancer_ip: None,
            ca_file: None,
            namespace: "aichor".to_owned(),
            basic_auth: None,
        };
        assert_eq!(parse("      name: west\n"), Ok(expected));
    }

    #[test]
    fn every_key() {
        let engine = parse(
            "      name: w-1
      ecosystem: vision
      apiHostname: https://api.example.org:6443/
      loadBalancerIp: 192.0.2.7
      caFile: ca.pem
      namespace: aichor-lab
      basicAuth: {user: aichor, passwordFile: password}
",
        )
        .expect("valid");
        let api = engine.api_hostname.as_ref().map(ApiHostname::as_str);
        assert_eq!(api, Some("https://api.example.org:6443"));
        assert_eq!(engine.load_balancer_ip, Some([192, 0, 2, 7].into()));
        assert_eq!(engine.ca_file, Some("ca.pem".into()));
        assert_eq!(engine.namespace, "aichor-lab");
        let basic = BasicAuth { user: "aichor".to_owned(), password_file: "password".into() };
        assert_eq!(engine.basic_auth, Some(basic));
    }

    #[test]
    fn hosts_as_they_are_written() {
        for (written, shown, url) in [
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443", "https://10.0.0.1:6443/"),
            ("https://api.example.org/", "https://api.example.org", "https://api.example.org/"),
            ("api.example.org", "api.example.org", "https://api.example.org/"),
            ("api.example.org:6443", "api.example.org:6443", "https://api.example.org:6443/"),
            ("'[2001:db8::1]:6443'", "[2001:db8::1]:6443", "https://[2001:db8::1]:6443/"),
            (
                "https://rancher.example.org/k8s/clusters/c-1",
                "https://rancher.example.org/k8s/clusters/c-1",
                "https://rancher.example.org/k8s/clusters/c-1",
            ),
        ] {
            let engine = parse(&format!("      name: west\n      apiHostname: {written}\n"));
            let api = engine.expect(written).api_hostname.expect(written);
            assert_eq!((api.as_str(), api.url().as_str()), (shown, url));
        }
    }

    #[test]
    fn mistakes_are_named() {
        const HOST: &str = "must be an https:// URL such as https://api.example.org:6443";
        const NAME: &str = "must be lower-case letters, digits and '-', and begin with a letter";
        for (lines, words) in [
            ("      ecosystem: x\n", "missing field"),
            ("      name: 1west\n", NAME),
            ("      name: West\n", NAME),
            ("      name: ''\n", NAME),
            ("      name: west_1\n", NAME),
            ("      name: west\n      ecosystem: ''\n", "must be a text of one line"),
            ("      name: west\n      apiHostname: http://10.0.0.1\n", HOST),
            ("      name: west\n      apiHostname: 'https://'\n", HOST),
            ("      name: west\n      apiHostname: https://me:hunter22@a.example\n", HOST),
            ("      name: west\n      apiHostname: https://a.example?x=hunter22\n", HOST),
            ("      name: west\n      loadBalancerIp: lb.example.org\n", "IP"),
            ("      name: west\n      namespace: Aichor\n", "must be 1 to 63 lower-case letters"),
            ("      name: west\n      namespace: -aichor\n", "must be 1 to 63 lower-case letters"),
            ("      name: west\n      token: hunter22\n", "unknown field"),
            ("      name: west\n      basicAuth: {user: a}\n", "passwordFile"),
            ("      name: west\n      basicAuth: {user: a, password: b}\n", "unknown field"),
        ] {
            let error = parse(lines).expect_err(lines);
            assert!(error.contains(words), "{lines}: {error}");
            let said = error.lines().next().unwrap_or_default();
            assert!(!said.contains("hunter22"), "{lines}: {error}");
        }
    }
}
