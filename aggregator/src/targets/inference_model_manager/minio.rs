//! MinIO, as the cluster file and the Secret `minio-access-info` tell of it.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use rollcall_daemon::http::check_service_url;
use rollcall_daemon::secret::{Secret, SecretError, read_secret_file};
use rollcall_report::error_chain;
use thiserror::Error;
use url::Url;

use super::MINIO_SECRET;
use crate::cluster_file::inference_model_manager::Minio;

/// The access key's id.
pub const ACCESS_KEY_ID: &str = "minio.access_key_id";
/// The secret key.
pub const SECRET_KEY: &str = "minio.access_secret_key";
/// Host and port, for what serves the models.
pub const ENDPOINT: &str = "minio.endpoint";
/// The URL, for the management API.
pub const ENDPOINT_URL: &str = "minio.endpoint_url";
/// The region that requests are signed for.
pub const REGION: &str = "minio.minio_region";
/// How requests are signed.
pub const SIGNATURE_VERSION: &str = "minio.signature_version";

/// All keys of the Secret; its charts look for every one of them.
pub const KEYS: [&str; 6] =
    [ACCESS_KEY_ID, SECRET_KEY, ENDPOINT, ENDPOINT_URL, REGION, SIGNATURE_VERSION];

/// The only version of signatures that is checked here, in its charts' word.
pub const SIGNATURE: &str = "s3v4";

/// The region where nobody says another.
const DEFAULT_REGION: &str = "us-east-1";

/// What the Secret `minio-access-info` holds.
#[derive(Debug, Clone, Default)]
pub struct AccessInfo(BTreeMap<&'static str, Entry>);

/// The value of a key.
#[derive(Debug, Clone)]
enum Entry {
    Text(Secret),
    NoText,
}

impl AccessInfo {
    /// Takes what is known of a Secret.
    pub fn of(secret: &core::Secret) -> Self {
        let entry = |key: &'static str| {
            let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
            let text = std::str::from_utf8(bytes);
            let text = text.map(|text| Entry::Text(Secret::new(text.to_owned())));
            Some((key, text.unwrap_or(Entry::NoText)))
        };
        Self(KEYS.into_iter().filter_map(entry).collect())
    }

    /// A value as it is used, white space and all; `None`: it is not there, empty, or no text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            Entry::Text(text) => Some(text.expose()).filter(|text| !text.is_empty()),
            Entry::NoText => None,
        }
    }

    /// What is wrong with it by itself. No value is shown.
    pub fn faults(&self) -> Vec<String> {
        let fault = |key: &'static str| match self.0.get(key) {
            None => Some(format!("{key} is missing")),
            Some(Entry::NoText) => Some(format!("{key} is no text")),
            Some(Entry::Text(text)) => {
                let text = text.expose();
                if text.is_empty() {
                    Some(format!("{key} is empty"))
                } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
                    // As `echo KEY | base64` makes it.
                    Some(format!("{key} has a line break or a blank in it"))
                } else {
                    None
                }
            }
        };
        KEYS.into_iter().filter_map(fault).collect()
    }
}

/// Where the models are stored, and the key to it.
#[derive(Debug, Clone)]
pub struct Store {
    /// Where the platform reaches it.
    pub endpoint_url: Url,
    /// The region that requests are signed for.
    pub region: String,
    /// The access key's id.
    pub access_key_id: Secret,
    /// The secret key.
    pub secret_key: Secret,
}

/// Why it is not known where the models are stored, or with which key.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Neither the cluster file nor the Secret tells.
    #[error(
        "{what} is not known: set minio.{key} in the cluster file, or make the Secret {MINIO_SECRET}"
    )]
    Missing {
        /// What is missing.
        what: &'static str,
        /// The key of the cluster file.
        key: &'static str,
    },
    /// A file of the cluster file cannot be read.
    #[error("{}", error_chain(.0))]
    File(SecretError),
    /// What the Secret has as the region is one of its keys.
    #[error("{REGION} of the Secret {MINIO_SECRET} is one of its keys: mend it there")]
    KeyAsRegion,
    /// What the Secret has is no URL.
    #[error("{ENDPOINT_URL} of the Secret {MINIO_SECRET} is no URL of an HTTP service: {said}")]
    NoUrl {
        /// What is wrong with it.
        said: String,
    },
}

impl StoreError {
    /// Whether something that was named is broken, as against not named at all.
    pub const fn is_broken(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl Store {
    /// What the cluster file says, and the Secret where that is silent.
    ///
    /// # Errors
    ///
    /// What neither says, or what is of no use.
    pub fn settle(minio: &Minio, info: Option<&AccessInfo>) -> Result<Self, StoreError> {
        let stored = |key| info.and_then(|info| info.text(key)).map(str::trim);
        let endpoint_url = match (&minio.endpoint_url, stored(ENDPOINT_URL)) {
            (Some(url), _) => url.clone(),
            (None, Some(text)) => service_url(text).map_err(|said| StoreError::NoUrl { said })?,
            (None, None) => {
                return Err(StoreError::Missing { what: "MinIO's URL", key: "endpointUrl" });
            }
        };
        let secret = |path: Option<&Path>, key, what, named| match (path, stored(key)) {
            (Some(path), _) => read_secret_file(path).map_err(StoreError::File),
            (None, Some(text)) => Ok(Secret::new(text.to_owned())),
            (None, None) => Err(StoreError::Missing { what, key: named }),
        };
        let (id_file, key_file) = (&minio.access_key_id_file, &minio.secret_key_file);
        let region = minio.region.as_deref().or_else(|| stored(REGION));
        // It is shown, and is to be a value of a chart: no place for a key.
        let is_key = |region: &str| [ACCESS_KEY_ID, SECRET_KEY].map(stored).contains(&Some(region));
        if minio.region.is_none() && region.is_some_and(is_key) {
            return Err(StoreError::KeyAsRegion);
        }
        Ok(Self {
            endpoint_url,
            region: region.unwrap_or(DEFAULT_REGION).to_owned(),
            access_key_id: secret(
                id_file.as_deref(),
                ACCESS_KEY_ID,
                "the access key's id",
                "accessKeyIdFile",
            )?,
            secret_key: secret(key_file.as_deref(), SECRET_KEY, "the secret key", "secretKeyFile")?,
        })
    }

    /// Host and port, as what serves the models wants them.
    pub fn endpoint(&self) -> String {
        endpoint_of(&self.endpoint_url)
    }

    /// The region, for people.
    pub fn shown_region(&self) -> &str {
        self.shown(&self.region, is_like_region).unwrap_or("(not shown, for it looks like none)")
    }

    /// A text of the Secret, if it looks as it should: one that does not may be a key in the wrong
    /// place.
    fn shown<'a>(&self, text: &'a str, is_like_it: impl Fn(&str) -> bool) -> Option<&'a str> {
        let is_key = [&self.access_key_id, &self.secret_key].map(Secret::expose).contains(&text);
        (is_like_it(text) && !is_key).then_some(text)
    }

    /// Where the Secret says otherwise than the cluster file, or than itself. No key is shown, and no
    /// text that might be one.
    pub fn disagreements(&self, info: &AccessInfo) -> Vec<String> {
        let mut found = Vec::new();
        match info.text(ENDPOINT_URL).map(|text| service_url(text.trim())) {
            // A key that is missing is told of elsewhere.
            None => {}
            Some(Err(said)) => found.push(format!("{ENDPOINT_URL} is {said}")),
            Some(Ok(url)) => {
                if url != self.endpoint_url {
                    let wanted = &self.endpoint_url;
                    found.push(format!("{ENDPOINT_URL} is {url}, endpointUrl {wanted}"));
                }
                let endpoint = info.text(ENDPOINT).map(str::trim).unwrap_or_default();
                if !endpoint.is_empty() && !is_endpoint_of(endpoint, &url) {
                    let wanted = endpoint_of(&url);
                    let is = match self.shown(endpoint, is_like_endpoint) {
                        Some(endpoint) => format!("is {endpoint}"),
                        None => "is no host and port".to_owned(),
                    };
                    found.push(format!("{ENDPOINT} {is}, and not {wanted} as in {ENDPOINT_URL}"));
                }
            }
        }
        let region = info.text(REGION).map_or(self.region.as_str(), str::trim);
        if region != self.region {
            let is = match self.shown(region, is_like_region) {
                Some(region) => format!("is {region}"),
                None => "looks like no region".to_owned(),
            };
            found.push(format!("{REGION} {is}, and region {}", self.region));
        }
        for (key, what, own) in [
            (ACCESS_KEY_ID, "accessKeyIdFile", &self.access_key_id),
            (SECRET_KEY, "secretKeyFile", &self.secret_key),
        ] {
            if info.text(key).is_some_and(|stored| stored.trim() != own.expose()) {
                found.push(format!("{key} is not what {what} holds"));
            }
        }
        let version = info.text(SIGNATURE_VERSION).map_or(SIGNATURE, str::trim);
        if version != SIGNATURE {
            let is = match self.shown(version, is_like_version) {
                Some(version) => format!("is {version}"),
                None => "looks like no version".to_owned(),
            };
            found.push(format!("{SIGNATURE_VERSION} {is}, and not {SIGNATURE}"));
        }
        found
    }
}

/// Whether a text looks like host and port.
fn is_like_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    !host.is_empty() && host.chars().all(is_name) && port.parse::<u16>().is_ok()
}

/// Whether a text looks like a region, such as `us-east-1`.
fn is_like_region(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&text.len()) && text.chars().all(is_part)
}

/// Whether a text looks like a version of signatures, such as `s3v4`.
fn is_like_version(text: &str) -> bool {
    text.starts_with("s3") && text.len() <= 4 && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The words show nothing of the text, which may hold a password, or be one.
fn service_url(text: &str) -> Result<Url, String> {
    // `minio:9000` is a URL of the scheme minio.
    let url = Url::parse(text).map_err(|_invalid| "no URL: it begins with http:// or https://")?;
    check_service_url(&url).map_err(|error| format!("no URL of MinIO: {error}"))?;
    Ok(url)
}

/// Host and port of a URL; the port is left out where it is the scheme's own.
fn endpoint_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether host and port are those of a URL; the scheme's own port may stand there or not.
fn is_endpoint_of(endpoint: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
    endpoint == with_port || endpoint == endpoint_of(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 6] = [
        (ACCESS_KEY_ID, "the-key-id"),
        (SECRET_KEY, "the-secret-key"),
        (ENDPOINT, "minio.storage:9000"),
        (ENDPOINT_URL, "http://minio.storage:9000"),
        (REGION, "us-east-1"),
        (SIGNATURE_VERSION, "s3v4"),
    ];

    fn info(changed: &[(&'static str, &str)]) -> AccessInfo {
        let mut data: BTreeMap<String, ByteString> = ALL
            .iter()
            .chain(changed)
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        data.retain(|_, ByteString(bytes)| bytes != b"(left out)");
        AccessInfo::of(&core::Secret { data: Some(data), ..core::Secret::default() })
    }

    #[test]
    fn what_is_wrong_with_the_secret_itself() {
        assert!(info(&[]).faults().is_empty());
        for (key, value, expected) in [
            (SECRET_KEY, "(left out)", "minio.access_secret_key is missing"),
            (SECRET_KEY, "", "minio.access_secret_key is empty"),
            (ENDPOINT, "minio.storage:9000\n", "minio.endpoint has a line break or a blank in it"),
        ] {
            assert_eq!(info(&[(key, value)]).faults(), [expected]);
        }
        let none = AccessInfo::of(&core::Secret::default());
        assert_eq!(none.faults().len(), KEYS.len());
        assert!(!format!("{:?}", info(&[])).contains("the-"), "{:?}", info(&[]));
    }

    #[test]
    fn the_cluster_file_counts_before_the_secret() {
        let stored = Store::settle(&Minio::default(), Some(&info(&[]))).expect("all is there");
        assert_eq!(stored.endpoint_url.as_str(), "http://minio.storage:9000/");
        assert_eq!(stored.endpoint(), "minio.storage:9000");
        assert_eq!(stored.secret_key.expose(), "the-secret-key");
        assert!(stored.disagreements(&info(&[])).is_empty());

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        std::fs::write(&path, "another-key\n").expect("written");
        let minio = Minio {
            endpoint_url: Some(Url::parse("https://s3.example.org").expect("a URL")),
            region: Some("eu-1".to_owned()),
            access_key_id_file: Some(path.clone()),
            secret_key_file: Some(path),
            ..Minio::default()
        };
        let own = Store::settle(&minio, Some(&info(&[]))).expect("all is there");
        assert_eq!((own.region.as_str(), own.secret_key.expose()), ("eu-1", "another-key"));
        assert_eq!(own.endpoint(), "s3.example.org");
        let said = own.disagreements(&info(&[])).join("; ");
        for words in [
            "minio.endpoint_url is http://minio.storage:9000/, endpointUrl https://s3.example.org/",
            "minio.minio_region is us-east-1, and region eu-1",
            "minio.access_key_id is not what accessKeyIdFile holds",
            "minio.access_secret_key is not what secretKeyFile holds",
        ] {
            assert!(said.contains(words), "{said}");
        }
        assert!(!said.contains("another-key") && !said.contains("the-secret-key"), "{said}");
    }

    #[test]
    fn where_the_secret_contradicts_itself() {
        let url = |text| info(&[(ENDPOINT_URL, text)]);
        for (changed, expected) in [
            (
                info(&[(ENDPOINT, "minio:9000")]),
                "minio.endpoint is minio:9000, and not minio.storage:9000",
            ),
            (
                info(&[(ENDPOINT, "http://minio.storage:9000")]),
                "minio.endpoint is no host and port, and not minio.storage:9000",
            ),
            (info(&[(SIGNATURE_VERSION, "s3")]), "minio.signature_version is s3, and not s3v4"),
            (
                info(&[(SIGNATURE_VERSION, "the-secret-key")]),
                "minio.signature_version looks like no version, and not s3v4",
            ),
        ] {
            let store = Store::settle(&Minio::default(), Some(&changed)).expect("all is there");
            let said = store.disagreements(&changed);
            assert!(said.len() == 1 && said[0].starts_with(expected), "{expected}: {said:?}");
        }
        // The port of the scheme itself may be told or not.
        for endpoint in ["s3.example.org", "s3.example.org:443"] {
            let changed = info(&[(ENDPOINT, endpoint), (ENDPOINT_URL, "https://s3.example.org")]);
            let store = Store::settle(&Minio::default(), Some(&changed)).expect("all is there");
            assert!(store.disagreements(&changed).is_empty(), "{endpoint}");
        }
        for text in ["minio.storage:9000", "s3.example.org", "ftp://minio"] {
            let error = Store::settle(&Minio::default(), Some(&url(text))).expect_err(text);
            assert!(error.to_string().contains("is no URL of an HTTP service"), "{error}");
        }
    }

    #[test]
    fn what_may_be_a_key_is_not_shown() {
        let own = Minio {
            endpoint_url: Some(Url::parse("http://minio.storage:9000").expect("a URL")),
            region: Some("us-east-1".to_owned()),
            ..Minio::default()
        };
        for (key, text, words) in [
            (ENDPOINT_URL, "the-secret-key", "minio.endpoint_url is no URL"),
            (ENDPOINT_URL, "http://user:other-secret@minio:9000", "minio.endpoint_url is no URL"),
            (ENDPOINT_URL, "user:other-secret@minio:9000", "minio.endpoint_url is no URL"),
            (ENDPOINT, "the-secret-key", "minio.endpoint is no host and port"),
            (ENDPOINT, "user:other-secret@minio:9000", "minio.endpoint is no host and port"),
            (REGION, "the-secret-key", "minio.minio_region looks like no region"),
            (REGION, "Other-Secret/+", "minio.minio_region looks like no region"),
            (SIGNATURE_VERSION, "the-key-id", "minio.signature_version looks like no version"),
        ] {
            let changed = info(&[(key, text)]);
            let store = Store::settle(&own, Some(&changed)).expect("all is there");
            let said = store.disagreements(&changed).join("; ");
            assert!(said.contains(words), "{text} in {key}: {said}");
            for secret in ["secret-key", "key-id", "other-secret", "Other-Secret"] {
                let left = said.replace("secretKeyFile", "");
                assert!(!left.contains(secret), "{text} in {key}: {said}");
            }
        }
        // What is in the place of the region would go into the values of a chart.
        for key in ["the-key-id", "the-secret-key"] {
            let error = Store::settle(&Minio::default(), Some(&info(&[(REGION, key)])));
            let said = error.expect_err("no region").to_string();
            assert!(said.contains("is one of its keys") && !said.contains(key), "{said}");
        }
        let strange = info(&[(REGION, "Other-Secret/+")]);
        let store = Store::settle(&Minio::default(), Some(&strange)).expect("all is there");
        assert!(!store.shown_region().contains("Other-Secret"), "{}", store.shown_region());
    }

    #[test]
    fn what_nobody_says() {
        for (left_out, words) in [
            (ENDPOINT_URL, "MinIO's URL is not known: set minio.endpointUrl"),
            (ACCESS_KEY_ID, "the access key's id is not known: set minio.accessKeyIdFile"),
            (SECRET_KEY, "the secret key is not known: set minio.secretKeyFile"),
        ] {
            let info = info(&[(left_out, "(left out)")]);
            let error = Store::settle(&Minio::default(), Some(&info)).expect_err(left_out);
            assert!(error.to_string().starts_with(words), "{error}");
            assert!(!error.is_broken());
        }
        let minio = Minio { secret_key_file: Some("/nonexistent/key".into()), ..Minio::default() };
        let error = Store::settle(&minio, Some(&info(&[]))).expect_err("no file");
        assert!(error.is_broken() && error.to_string().contains("/nonexistent/key"), "{error}");
    }
}
