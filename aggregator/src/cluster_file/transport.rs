//! How a target's services are reached. In the cluster file these keys stand among the target's.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{self, HeaderName};
use rollcall_daemon::http::ClientCertificate;
use rollcall_daemon::secret::warn_if_exposed;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use url::Url;

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

/// How long a request may take, where the target does not say.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn timeout<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let timeout = super::duration(deserializer)?;
    if (Duration::from_secs(1)..=Duration::from_mins(10)).contains(&timeout) {
        Ok(Some(timeout))
    } else {
        Err(D::Error::custom("must be from 1s to 10m"))
    }
}

pub(super) fn header_files<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<(HeaderName, PathBuf)>>, D::Error> {
    deserializer.deserialize_map(HeaderFiles).map(Some)
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
