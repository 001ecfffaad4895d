//! How the Kubernetes API is reached: by a kubeconfig, or by the service account of this pod.

use std::collections::HashMap;
use std::env;

use hyper_util::client::proxy::matcher::Matcher;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use rollcall_daemon::http::{install_crypto_provider, is_confidential};
use secrecy::ExposeSecret as _;
use url::Url;

use super::{Selection, words};

/// Stands in the place of a secret that came back.
const MASK: &str = "*** masked ***";

/// A text that is shorter than this is no secret.
const SHORTEST_SECRET: usize = 8;

/// A way to the Kubernetes API.
pub(super) struct Access {
    /// Talks to it.
    pub(super) client: Client,
    /// Where it is.
    pub(super) url: Url,
    /// The proxy on the way, for messages.
    proxy: Option<String>,
    /// What must not be shown, whoever repeats it.
    secrets: Vec<String>,
}

impl Access {
    /// Prepares to talk to the API. A credential plugin of the kubeconfig runs now; nothing is
    /// connected to.
    ///
    /// # Errors
    ///
    /// In words: what was tried, what is wrong with it, what to do.
    pub(super) async fn open(selection: &Selection) -> Result<Self, String> {
        install_crypto_provider();
        let mut config = configure(selection).await?;
        let url = shown(&config.cluster_url).ok_or("the cluster's server is no URL")?;
        keep_to_ourselves(&mut config, &url);
        // A check tells what it sees; it does not wait for better times.
        config.default_retry = false;
        let secrets = secrets(&config.auth_info);
        let proxy = config.proxy_url.as_ref().and_then(shown).map(|proxy| proxy.to_string());
        // Credential plugins are waited for in the way.
        let made = tokio::task::spawn_blocking(move || Client::try_from(config)).await;
        let client = made
            .map_err(|error| format!("the Kubernetes client could not be set up: {error}"))?
            .map_err(|error| {
                masked(&format!("no way to {url}: {}", words::of(&error)), &secrets)
            })?;
        Ok(Self { client, url, proxy, secrets })
    }

    /// What a request came to, without secrets.
    pub(super) fn words(&self, request: &str, error: &kube::Error) -> String {
        let through = self.proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}"));
        let through = through.unwrap_or_default();
        let words = format!("{request} at {}{through}: {}", self.url, words::of(error));
        masked(&words, &self.secrets)
    }
}

/// A URL as it may be shown: without the user and password that it may hold.
fn shown(url: &hyper::Uri) -> Option<Url> {
    let mut url = Url::parse(&url.to_string()).ok()?;
    // They fail for a URL that can hold neither.
    let _has_none = url.set_username("");
    let _has_none = url.set_password(None);
    Some(url)
}

/// Takes the credentials away where they would go over plain HTTP to another machine, as kubectl
/// does.
fn keep_to_ourselves(config: &mut Config, url: &Url) {
    if !is_confidential(url) {
        config.auth_info = AuthInfo::default();
    }
}

/// The configuration, from where kubectl has it, or of this pod.
async fn configure(selection: &Selection) -> Result<Config, String> {
    let kubeconfig = match &selection.kubeconfig {
        Some(path) => Some(
            Kubeconfig::read_from(path)
                .map_err(|error| format!("kubeconfig {}: {}", path.display(), problem(&error)))?,
        ),
        None if has_default_kubeconfig() => Some(Kubeconfig::read().map_err(|error| {
            format!("the kubeconfig of KUBECONFIG or ~/.kube/config: {}", problem(&error))
        })?),
        None => None,
    };
    let Some(kubeconfig) = kubeconfig else {
        if let Some(context) = &selection.context {
            return Err(format!(
                "there is no kubeconfig to take the context {context} from: name one with --kubeconfig"
            ));
        }
        return Config::incluster().map_err(|error| {
            format!(
                "there is no kubeconfig (--kubeconfig, KUBECONFIG, ~/.kube/config), and no service account of a pod: {}",
                words::chain(&error)
            )
        });
    };
    let options = KubeConfigOptions { context: selection.context.clone(), ..Default::default() };
    let declares_proxy = declares_proxy(&kubeconfig, selection.context.as_deref());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| format!("the kubeconfig is of no use: {}", problem(&error)))?;
    if !declares_proxy && !environment_proxies(&config.cluster_url) {
        config.proxy_url = None;
    }
    Ok(config)
}

fn has_default_kubeconfig() -> bool {
    env::var_os("KUBECONFIG").is_some_and(|paths| !paths.is_empty())
        || env::home_dir().is_some_and(|home| home.join(".kube/config").is_file())
}

/// Whether the kubeconfig itself names a proxy for the cluster: that one is used whatever the
/// environment says, as kubectl does.
fn declares_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> bool {
    let wanted = context.or(kubeconfig.current_context.as_deref());
    let contexts = kubeconfig.contexts.iter().filter(|it| Some(it.name.as_str()) == wanted);
    let mut clusters = contexts.filter_map(|it| it.context.as_ref().map(|it| &it.cluster));
    let Some(wanted) = clusters.next() else { return false };
    let mut clusters = kubeconfig.clusters.iter().filter(|it| it.name == *wanted);
    let cluster = clusters.find_map(|it| it.cluster.as_ref());
    cluster.and_then(|it| it.proxy_url.as_ref()).is_some_and(|proxy| !proxy.is_empty())
}

/// Whether the environment sends requests to this URL through its proxy. The library would take
/// `HTTPS_PROXY` for plain HTTP too, and compares `NO_PROXY` with the proxy's own host.
fn environment_proxies(url: &hyper::Uri) -> bool {
    url.scheme_str() == Some("https") && Matcher::from_env().intercept(url).is_some()
}

/// What is wrong with a kubeconfig. Of a mistake in its YAML the place alone is told: the lines
/// around it hold credentials.
fn problem(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => {
            let place = error.location().map_or_else(String::new, |location| {
                format!(", line {}, column {}", location.line(), location.column())
            });
            format!("it is no YAML of a kubeconfig{place}")
        }
        // They hold a user and a password, or look so.
        KubeconfigError::ParseClusterUrl(_) => "the cluster's server is no URL".to_owned(),
        KubeconfigError::ParseProxyUrl(_) => "the proxy's URL is none".to_owned(),
        error => words::chain(error),
    }
}

/// The secrets of a kubeconfig's user that a server is sent.
fn secrets(user: &AuthInfo) -> Vec<String> {
    let inline = [&user.token, &user.password].into_iter().flatten();
    let inline = inline.map(|secret| secret.expose_secret().to_owned());
    let file = user.token_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    let provider =
        user.auth_provider.iter().flat_map(|provider| provider_secrets(&provider.config));
    let all = inline.chain(file).chain(provider);
    all.map(|secret| secret.trim().to_owned())
        .filter(|secret| secret.len() >= SHORTEST_SECRET)
        .collect()
}

fn provider_secrets(config: &HashMap<String, String>) -> impl Iterator<Item = String> {
    let secret = |(key, value): (&String, &String)| {
        (key.contains("token") || key.contains("secret")).then(|| value.clone())
    };
    config.iter().filter_map(secret)
}

fn masked(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(server: &str, more: &str) -> Kubeconfig {
        let text = format!(
            "current-context: lab\nclusters:\n- name: lab\n  cluster:\n    server: {server}\n{more}\
             users:\n- name: admin\n  user: {{token: a-secret-token, password: another-secret}}\n\
             contexts:\n- name: lab\n  context: {{cluster: lab, user: admin}}\n"
        );
        Kubeconfig::from_yaml(&text).expect("a kubeconfig")
    }

    #[tokio::test]
    async fn credentials_that_stay_here() {
        for (server, sent) in [
            ("https://192.0.2.1:6443", true),
            ("http://127.0.0.1:8001", true),
            ("http://192.0.2.1:8001", false),
            ("http://api.example.org", false),
        ] {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig(server, ""), &options).await;
            let mut config = config.expect("a configuration");
            let url = shown(&config.cluster_url).expect("a URL");
            keep_to_ourselves(&mut config, &url);
            let left = secrets(&config.auth_info);
            let expected: &[&str] = if sent { &["a-secret-token", "another-secret"] } else { &[] };
            assert_eq!(left, expected, "{server}");
        }
    }

    #[test]
    fn passwords_of_urls_are_not_shown() {
        let url = "https://admin:hunter2@api.example.org:6443".parse().expect("a URL");
        assert_eq!(shown(&url).expect("a URL").as_str(), "https://api.example.org:6443/");
    }

    #[test]
    fn proxies_of_the_kubeconfig() {
        let with = kubeconfig("https://a.example", "    proxy-url: http://proxy.example\n");
        for (what, kubeconfig, context, expected) in [
            ("none", &kubeconfig("https://a.example", ""), None, false),
            ("one", &with, None, true),
            ("one, by its context", &with, Some("lab"), true),
            ("that of another context", &with, Some("prod"), false),
        ] {
            assert_eq!(declares_proxy(kubeconfig, context), expected, "{what}");
        }
    }
}
