//! The secrets that the Kubernetes API and a proxy before it are sent, and taking them out of what
//! either answers.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{Response, header};
use http_body_util::{BodyExt as _, Collected, Full, LengthLimitError, Limited};
use kube::Config;
use kube::client::DynBody;
use kube::core::Status;
use secrecy::ExposeSecret as _;
use url::Url;

/// Stands in the place of a secret that came back.
const MASK: &str = "*** masked ***";

/// A text that is shorter than this is no secret.
const SHORTEST: usize = 8;

/// The longest refusal that is read, in bytes.
const LONGEST_REFUSAL: usize = 64 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;

type Read = Pin<Box<dyn Future<Output = Result<Collected<Bytes>, BoxError>> + Send>>;

/// An answer that is being sifted.
pub(super) type Sifted =
    Pin<Box<dyn Future<Output = Result<Response<Box<DynBody>>, BoxError>> + Send>>;

/// What must not be shown, whoever repeats it. Credentials that a plugin makes are not known here.
pub(super) struct Secrets {
    texts: Vec<String>,
    /// Holds a secret that changes.
    token_file: Option<PathBuf>,
}

impl Secrets {
    /// The secrets that go out with a configuration; of a token file also what it holds now.
    pub(super) fn of(config: &Config) -> Self {
        let user = &config.auth_info;
        let inline = [&user.token, &user.password].into_iter().flatten();
        let inline = inline.map(|secret| secret.expose_secret().to_owned());
        let provider = user.auth_provider.iter().flat_map(|it| provided(&it.config));
        let proxy = config.proxy_url.as_ref().and_then(|it| Url::parse(&it.to_string()).ok());
        let proxy = proxy.as_ref().and_then(Url::password).map(str::to_owned);
        let texts = inline.chain(provider).chain(proxy).collect();
        let mut secrets = Self { texts, token_file: user.token_file.as_ref().map(PathBuf::from) };
        secrets.texts.extend(secrets.token());
        secrets
    }

    /// What the token file holds at present.
    fn token(&self) -> Option<String> {
        self.token_file.as_ref().and_then(|path| fs::read_to_string(path).ok())
    }

    /// An answer as it is handed on. A refusal comes without the secrets: there is hardly a place
    /// that does not show it.
    pub(super) fn sifted(self: Arc<Self>, answer: Response<Box<DynBody>>) -> Sifted {
        let is_refusal = answer.status().is_client_error() || answer.status().is_server_error();
        if !is_refusal {
            return Box::pin(future::ready(Ok(answer)));
        }
        let (mut head, body) = answer.into_parts();
        // Its type is written down: within the async block the compiler cannot tell that it is Send.
        let read: Read = Box::pin(Limited::new(body, LONGEST_REFUSAL).collect());
        Box::pin(async move {
            let body = match read.await {
                Ok(body) => self.without_secrets(&body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => {
                    format!("more than {LONGEST_REFUSAL} bytes, which are not read").into_bytes()
                }
                Err(error) => return Err(error),
            };
            head.headers.remove(header::CONTENT_LENGTH);
            let body = Full::from(body).map_err(|never| match never {});
            let body: Box<DynBody> = Box::new(body);
            Ok(Response::from_parts(head, body))
        })
    }

    /// A refusal without the secrets. That of the API itself may hold them with escapes.
    fn without_secrets(&self, body: &[u8]) -> Vec<u8> {
        if let Ok(mut status) = serde_json::from_slice::<Status>(body) {
            status.message = self.masked(&status.message);
            if let Ok(body) = serde_json::to_vec(&status) {
                return self.masked(&String::from_utf8_lossy(&body)).into_bytes();
            }
        }
        self.masked(&String::from_utf8_lossy(body)).into_bytes()
    }

    /// A text without the secrets, those that the token file holds at present among them.
    pub(super) fn masked(&self, text: &str) -> String {
        let now = self.token();
        let secrets = self.texts.iter().chain(&now).map(|secret| secret.trim());
        let mut secrets: Vec<&str> = secrets.filter(|secret| secret.len() >= SHORTEST).collect();
        // One may be part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }
}

/// The secrets of a kubeconfig's `auth-provider`.
fn provided(config: &HashMap<String, String>) -> impl Iterator<Item = String> {
    let secret = |(key, value): (&String, &String)| {
        (key.contains("token") || key.contains("secret")).then(|| value.clone())
    };
    config.iter().filter_map(secret)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::config::{AuthInfo, AuthProviderConfig};
    use secrecy::SecretString;

    use super::*;

    #[test]
    fn secrets_that_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        fs::write(&token, "the-first-token\n").expect("written");
        let mut config = Config::new("https://192.0.2.1".parse().expect("a URL"));
        config.proxy_url = "http://me:proxy-password@proxy.example".parse().ok();
        let entries = [("id-token", "token-of-a-provider"), ("client-id", "client-of-a-provider")];
        let entries = entries.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let provider = AuthProviderConfig {
            name: "oidc".into(),
            config: entries.into(),
            other: BTreeMap::default(),
        };
        config.auth_info = AuthInfo {
            token: Some(SecretString::from("an-inline-token")),
            password: Some(SecretString::from("an-inline-token-and-more")),
            token_file: Some(token.display().to_string()),
            auth_provider: Some(provider),
            ..AuthInfo::default()
        };
        let secrets = Secrets::of(&config);
        fs::write(&token, "the-next-token\n").expect("replaced");
        for (text, expected) in [
            ("Bearer an-inline-token.", "Bearer *** masked ***."),
            ("an-inline-token-and-more", "*** masked ***"),
            ("the-first-token", "*** masked ***"),
            ("the-next-token, the-next-token", "*** masked ***, *** masked ***"),
            ("token-of-a-provider", "*** masked ***"),
            ("client-of-a-provider", "client-of-a-provider"),
            ("me:proxy-password", "me:*** masked ***"),
            ("a-third-token", "a-third-token"),
        ] {
            assert_eq!(secrets.masked(text), expected);
        }
        config.auth_info =
            AuthInfo { token: Some(SecretString::from("short")), ..AuthInfo::default() };
        assert_eq!(Secrets::of(&config).masked("too short"), "too short");
    }
}
