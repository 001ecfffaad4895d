//! The way to the Kubernetes API: by a kubeconfig, or by the service account of this pod.

mod secrets;
pub mod words;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use kube::client::ClientBuilder;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::util::AndThenLayer;
use url::Url;

use crate::http::{install_crypto_provider, is_confidential};
use crate::secret::Secret;
use secrets::Secrets;

/// Silence after which a connection is given up: one that broke unnoticed must not hold a list or a
/// watch for ever. A server ends a watch after the 290 s that the library asks for; that it sends
/// something before is likely (bookmarks) but not promised.
const SILENCE: Duration = Duration::from_mins(5);

/// Where a pod finds the name of its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Whether this process runs in a pod of Kubernetes, whose service account it can use.
pub fn is_in_pod() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// The namespace of this pod, if it is one with a service account.
pub fn own_namespace() -> Option<String> {
    let text = fs::read_to_string(NAMESPACE_FILE).ok()?;
    Some(text.trim().to_owned()).filter(|namespace| !namespace.is_empty())
}

/// Which cluster is reached, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The kubeconfig; else that of `default_kubeconfig`, else the service account of this pod.
    pub kubeconfig: Option<PathBuf>,
    /// Whether `KUBECONFIG` or `~/.kube/config` is used, as kubectl does, where `kubeconfig` is
    /// left out.
    pub default_kubeconfig: bool,
    /// The kubeconfig's context; else its current one.
    pub context: Option<String>,
}

/// A way to the Kubernetes API.
#[derive(Clone)]
pub struct Access {
    /// Talks to it. Where the API, or a proxy before it, refuses a request and repeats a secret
    /// that it was sent, that is masked.
    pub client: Client,
    /// Where it is.
    pub url: Url,
    /// The CAs that its certificate may be of, each as DER; `None`: the system's.
    pub ca: Option<Vec<Vec<u8>>>,
    /// The proxy on the way, for messages.
    proxy: Option<Url>,
}

impl Access {
    /// Prepares to talk to the API. All files are read anew, and a credential plugin of the
    /// kubeconfig runs; nothing is connected to. The token of a service account is read again by
    /// the client itself, once a minute.
    ///
    /// # Errors
    ///
    /// In words, without secrets: what was tried, what is wrong with it, what to do.
    pub async fn open(selection: &Selection) -> Result<Self, String> {
        install_crypto_provider();
        Self::with(configure(selection).await?).await
    }

    /// The same as whoever has this token, and with nothing else of ours.
    ///
    /// # Errors
    ///
    /// In words, without secrets: what was tried, what is wrong with it, what to do.
    pub async fn open_as(selection: &Selection, token: &Secret) -> Result<Self, String> {
        install_crypto_provider();
        let mut config = configure(selection).await?;
        let token = Some(token.expose().to_owned().into());
        config.auth_info = AuthInfo { token, ..AuthInfo::default() };
        Self::with(config).await
    }

    /// By a kubeconfig that is held in memory, for whoever is given it.
    ///
    /// # Errors
    ///
    /// In words, without secrets: what is wrong with it.
    pub async fn open_text(kubeconfig: &Secret) -> Result<Self, String> {
        install_crypto_provider();
        let read = Kubeconfig::from_yaml(kubeconfig.expose());
        let read = read.map_err(|error| words::problem(&error))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        Self::with(config.map_err(|error| words::problem(&error))?).await
    }

    async fn with(mut config: Config) -> Result<Self, String> {
        let url = shown(&config.cluster_url).ok_or("the API server's address is no URL")?;
        keep_to_ourselves(&mut config, &url);
        // What fails is told; whoever asked knows whether and when to try again.
        config.default_retry = false;
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        let secrets = Arc::new(Secrets::of(&config));
        let ca = config.root_cert.clone();
        let proxy = config.proxy_url.as_ref().and_then(shown);
        // Credential plugins are waited for in the way.
        let made = tokio::task::spawn_blocking(move || ClientBuilder::try_from(config)).await;
        let builder = made
            .map_err(|error| format!("the Kubernetes client could not be set up: {error}"))?
            .map_err(|error| format!("no way to {url}: {}", secrets.masked(&words::of(&error))))?;
        let sift = AndThenLayer::new(move |answer| Arc::clone(&secrets).sifted(answer));
        let client = builder.with_layer(&sift).build();
        Ok(Self { client, url, ca, proxy })
    }

    /// Where the API is, and through which proxy, for messages.
    pub fn place(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("{} through the proxy {proxy}", self.url),
            None => self.url.to_string(),
        }
    }
}

/// A URL as it may be shown: without the user and password that it may hold.
fn shown(url: &impl ToString) -> Option<Url> {
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
    let (name, kubeconfig) = match &selection.kubeconfig {
        Some(path) => (format!("the kubeconfig {}", path.display()), Kubeconfig::read_from(path)),
        None if selection.default_kubeconfig && has_default_kubeconfig() => {
            ("the kubeconfig of KUBECONFIG or ~/.kube/config".to_owned(), Kubeconfig::read())
        }
        None => return configure_pod(selection),
    };
    let unusable = |error| format!("{name} cannot be used: {}", words::problem(&error));
    let kubeconfig = kubeconfig.map_err(unusable)?;
    let options = KubeConfigOptions { context: selection.context.clone(), ..Default::default() };
    let own_proxy = own_proxy(&kubeconfig, selection.context.as_deref());
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.map_err(unusable)?;
    let proxy = own_proxy.or_else(|| environment_proxy(&config));
    // The library has held NO_PROXY against the proxy's own host, and taken HTTPS_PROXY for plain
    // HTTP, too.
    config.proxy_url = match proxy.map(|proxy| proxy.parse()).transpose() {
        Ok(proxy) => proxy,
        // It holds a password, or looks so.
        Err(_invalid) => return Err(format!("{name} cannot be used: its proxy is no URL")),
    };
    Ok(config)
}

/// The configuration of this pod.
fn configure_pod(selection: &Selection) -> Result<Config, String> {
    if let Some(context) = &selection.context {
        return Err(format!(
            "there is no kubeconfig to take the context {context} from: name one with --kubeconfig"
        ));
    }
    Config::incluster().map_err(|error| {
        let error = words::chain(&error);
        if selection.default_kubeconfig {
            format!(
                "there is no kubeconfig (--kubeconfig, KUBECONFIG, ~/.kube/config), and no service account of a pod: {error}"
            )
        } else {
            format!("the pod's service account cannot be used: {error}")
        }
    })
}

fn has_default_kubeconfig() -> bool {
    env::var_os("KUBECONFIG").is_some_and(|paths| !paths.is_empty())
        || env::home_dir().is_some_and(|home| home.join(".kube/config").is_file())
}

/// The proxy that the kubeconfig itself names for the cluster: that one is used whatever the
/// environment says, as kubectl does.
fn own_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let wanted = context.or(kubeconfig.current_context.as_deref());
    let mut contexts = kubeconfig.contexts.iter().filter(|it| Some(it.name.as_str()) == wanted);
    let wanted = &contexts.next()?.context.as_ref()?.cluster;
    let mut clusters = kubeconfig.clusters.iter().filter(|it| it.name == *wanted);
    let proxy = clusters.next()?.cluster.as_ref()?.proxy_url.as_ref()?;
    Some(proxy.clone()).filter(|proxy| !proxy.is_empty())
}

/// The environment's proxy for the API: `HTTPS_PROXY`, unless `NO_PROXY` names the API server.
fn environment_proxy(config: &Config) -> Option<String> {
    let is_meant = config.cluster_url.scheme_str() == Some("https")
        && Matcher::from_env().intercept(&config.cluster_url).is_some();
    let mut values = ["HTTPS_PROXY", "https_proxy"].into_iter().filter_map(|it| env::var(it).ok());
    let proxy = values.find(|value| is_meant && !value.is_empty())?;
    Some(if proxy.contains("://") { proxy } else { format!("http://{proxy}") })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::Router;
    use axum::http::{HeaderMap, StatusCode, header};
    use kube::core::Status;

    use super::*;

    const SECRET: &str = "a-secret-token";

    fn kubeconfig(server: &str, user: &str) -> String {
        format!(
            "current-context: lab\nclusters:\n- name: lab\n  cluster:\n    server: {server}\n\
             users:\n- name: admin\n  user: {user}\n\
             contexts:\n- name: lab\n  context: {{cluster: lab, user: admin}}\n"
        )
    }

    async fn open(text: &str) -> Result<Access, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        fs::write(&path, text).expect("written");
        Access::open(&Selection { kubeconfig: Some(path), ..Selection::default() }).await
    }

    /// A server that refuses everything, and repeats the credentials that it was sent: as a proxy
    /// does, or as the API.
    async fn refuser(is_api: bool) -> String {
        let answer = move |headers: HeaderMap| async move {
            let sent = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
            let said = format!("not with {}\n{}", sent.unwrap_or("nothing"), "x".repeat(10_000));
            let status = Status::failure(&said, "Forbidden").with_code(403);
            let status = serde_json::to_string(&status).expect("JSON");
            (StatusCode::FORBIDDEN, if is_api { status } else { said })
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = axum::serve(listener, Router::new().fallback(answer));
        drop(tokio::spawn(server.into_future()));
        format!("http://{address}")
    }

    #[tokio::test]
    async fn credentials_stay_here_over_plain_http() {
        let user = format!("{{token: {SECRET}, password: another-secret}}");
        for (server, sent) in [
            ("https://192.0.2.1:6443", true),
            ("http://127.0.0.1:8001", true),
            ("http://192.0.2.1:8001", false),
            ("http://api.example.org", false),
        ] {
            let kubeconfig = Kubeconfig::from_yaml(&kubeconfig(server, &user)).expect("YAML");
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let mut config = config.expect("a configuration");
            let url = shown(&config.cluster_url).expect("a URL");
            keep_to_ourselves(&mut config, &url);
            assert_eq!(config.auth_info.token.is_some(), sent, "{server}");
            assert_eq!(config.auth_info.password.is_some(), sent, "{server}");
        }
    }

    #[tokio::test]
    async fn secrets_that_come_back_are_masked() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        let in_file = format!("{{tokenFile: {}}}", token.display());
        for user in [format!("{{token: {SECRET}}}"), in_file] {
            for is_api in [true, false] {
                let server = refuser(is_api).await;
                fs::write(&token, "the-first-token").expect("written");
                let access = open(&kubeconfig(&server, &user)).await.expect("a way");
                assert_eq!(access.place(), format!("{server}/"));
                let error = access.client.apiserver_version().await.expect_err("refused");
                let said = words::of(&error);
                let expected = "it answered 403: not with Bearer *** masked *** x";
                assert!(said.starts_with(expected), "api {is_api}, {user}: {said}");
                assert!(said.len() < 2000, "{}", said.len());
            }
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig() {
        for (text, words) in [
            ("users: [{token: a-secret-token", "it is no YAML of a kubeconfig"),
            (&kubeconfig("not a url a-secret-token", "{}"), "it names a server that is no URL"),
            ("current-context: elsewhere", "failed to load current context: elsewhere"),
            (
                &kubeconfig("https://192.0.2.1\n    proxy-url: 'a-secret-token at'", "{}"),
                "is no URL",
            ),
            (
                &kubeconfig("https://192.0.2.1\n    proxy-url: ftp://me:a-secret-token@a", "{}"),
                "its proxy is not one of http:// or https://",
            ),
            (
                &kubeconfig("https://192.0.2.1", "{tokenFile: /nonexistent/token}"),
                "/nonexistent/token",
            ),
        ] {
            let error = open(text).await.err().expect(words);
            assert!(error.contains(words), "{error}");
            assert!(!error.contains(SECRET), "{error}");
        }
        let path = Path::new("/nonexistent/kubeconfig");
        let missing = Selection { kubeconfig: Some(path.to_owned()), ..Selection::default() };
        let error = Access::open(&missing).await.err().expect("no file");
        assert!(error.starts_with("the kubeconfig /nonexistent/kubeconfig cannot"), "{error}");
    }

    #[tokio::test]
    async fn contexts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        let text = kubeconfig("https://192.0.2.1", "{}");
        fs::write(&path, format!("{text}- name: prod\n  context: {{cluster: lab}}\n"))
            .expect("written");
        for (context, kubeconfig, expected) in [
            (None, Some(&path), Ok("https://192.0.2.1/")),
            (Some("prod"), Some(&path), Ok("https://192.0.2.1/")),
            (Some("test"), Some(&path), Err("failed to load current context: test")),
            (Some("prod"), None, Err("there is no kubeconfig to take the context prod from")),
        ] {
            let selection = Selection {
                kubeconfig: kubeconfig.cloned(),
                default_kubeconfig: false,
                context: context.map(str::to_owned),
            };
            let opened = Access::open(&selection).await.map(|access| access.place());
            match (&opened, expected) {
                (Ok(place), Ok(expected)) => assert_eq!(place, expected, "{context:?}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                _ => panic!("{context:?}: {opened:?}"),
            }
        }
    }

    #[test]
    fn passwords_of_urls_are_not_shown() {
        for (url, expected) in [
            ("https://admin:hunter22@api.example.org:6443", "https://api.example.org:6443/"),
            ("https://api.example.org:6443", "https://api.example.org:6443/"),
        ] {
            assert_eq!(shown(&url).expect("a URL").as_str(), expected);
        }
    }

    #[test]
    fn proxies_of_the_kubeconfig() {
        const PROXY: &str = "http://proxy.example";
        let plain = kubeconfig("https://a.example", "{}");
        let empty = kubeconfig("https://a.example\n    proxy-url: ''", "{}");
        let with = kubeconfig(&format!("https://a.example\n    proxy-url: {PROXY}"), "{}");
        for (what, text, context, expected) in [
            ("none", &plain, None, None),
            ("an empty one", &empty, None, None),
            ("one", &with, None, Some(PROXY)),
            ("one, by its context", &with, Some("lab"), Some(PROXY)),
            ("that of another context", &with, Some("prod"), None),
        ] {
            let kubeconfig = Kubeconfig::from_yaml(text).expect("a kubeconfig");
            assert_eq!(own_proxy(&kubeconfig, context).as_deref(), expected, "{what}");
        }
    }
}
