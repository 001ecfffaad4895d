//! The operator's side of the admin listener: what the operator's commands ask of a running
//! aggregator.

pub mod tables;

use std::path::Path;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use rollcall_daemon::http::{
    BodyError, ClientError, InvalidServiceUrl, below, check_service_url, client_builder,
    is_confidential, read_bounded,
};
use rollcall_daemon::secret::{SecretError, read_token_file};
use rollcall_report::{NodeName, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use url::Url;

use crate::admin::views::{
    DocumentView, HistoryView, NodesView, Noted, PlanView, StatusView, SubmitRequest, TargetView,
};
use crate::targets::unikorn::region::RegionView;

/// Longer than a look at a network may take that the aggregator is asked for.
const TIMEOUT: Duration = Duration::from_mins(11);
/// How often a target is asked how it stands.
const FOLLOW_PAUSE: Duration = Duration::from_millis(300);
const MAX_REPLY_BYTES: usize = 256 * 1024 * 1024;

/// Asks a running aggregator.
#[derive(Debug)]
pub struct Operator {
    http: reqwest::Client,
    server: Url,
}

/// How following a target ended.
#[derive(Debug)]
pub enum Followed {
    /// What was waited for has come about.
    Done(Box<TargetView>),
    /// It has not, in time.
    TimedOut(Box<TargetView>),
}

/// Why an operator's command failed.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The server's URL is none.
    #[error("--server")]
    Server {
        /// What is wrong with it.
        source: InvalidServiceUrl,
    },
    /// The operator's token cannot be read.
    #[error("no operator's token")]
    Token {
        /// What is wrong with the file.
        source: SecretError,
    },
    /// The token holds what no HTTP header can.
    #[error("the operator's token holds characters that cannot be sent")]
    TokenCharacters,
    /// The token would leave this machine unprotected.
    #[error(
        "the operator's token would go over plain HTTP to {server}: use https, or --insecure-http if the network is to be trusted"
    )]
    PlainHttp {
        /// Where it would go.
        server: Box<Url>,
    },
    /// The CA file is of no use.
    #[error("--ca-file is of no use")]
    Ca {
        /// What is wrong with it.
        source: ClientError,
    },
    /// The HTTP library refused.
    #[error("no HTTP client could be set up")]
    Http {
        /// What it said.
        source: reqwest::Error,
    },
    /// No answer.
    #[error(
        "{request} got no answer: is rollcall-aggregator serve running there? --server tells where to look"
    )]
    NoAnswer {
        /// The request: method and URL.
        request: String,
        /// What the HTTP library said.
        source: reqwest::Error,
    },
    /// The answer broke off.
    #[error("{request} got no whole answer")]
    Broken {
        /// The request: method and URL.
        request: String,
        /// What went wrong.
        source: BodyError,
    },
    /// The aggregator refused.
    #[error("{request} was refused ({status}): {message}")]
    Refused {
        /// The request: method and URL.
        request: String,
        /// The status.
        status: StatusCode,
        /// The aggregator's words.
        message: String,
    },
    /// The answer is not what an aggregator of this version says.
    #[error(
        "{request} answered something else than this version understands: is it a rollcall-aggregator of the same minor version?"
    )]
    Incomprehensible {
        /// The request: method and URL.
        request: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The aggregator has no target of this name.
    #[error("the aggregator has no target {target}: rollcall-aggregator status lists them")]
    NoTarget {
        /// The name.
        target: String,
    },
    /// A result cannot be encoded.
    #[error("the result cannot be encoded")]
    Encode {
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Operator {
    /// Prepares to ask; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// When a file is of no use, or the token would go over plain HTTP to another machine.
    pub fn new(
        server: Url,
        token_file: Option<&Path>,
        ca_file: Option<&Path>,
        insecure_http: bool,
    ) -> Result<Self, OperatorError> {
        check_service_url(&server).map_err(|source| OperatorError::Server { source })?;
        let mut headers = HeaderMap::new();
        if let Some(path) = token_file {
            if !is_confidential(&server) && !insecure_http {
                return Err(OperatorError::PlainHttp { server: Box::new(server) });
            }
            let token = read_token_file(path).map_err(|source| OperatorError::Token { source })?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_not_shown| OperatorError::TokenCharacters)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = client_builder(&server, ca_file)
            .map_err(|source| OperatorError::Ca { source })?
            .default_headers(headers)
            .timeout(TIMEOUT)
            .build()
            .map_err(|source| OperatorError::Http { source })?;
        Ok(Self { http, server })
    }

    /// The nodes on the roll.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn nodes(&self) -> Result<NodesView, OperatorError> {
        self.get(&["v1", "nodes"], None).await
    }

    /// Where the targets stand.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn status(&self) -> Result<StatusView, OperatorError> {
        self.get(&["v1", "status"], None).await
    }

    /// The document, as it would be sent to a target.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn document(&self, target: Option<&str>) -> Result<DocumentView, OperatorError> {
        self.get(&["v1", "document"], target.map(|target| ("target", target))).await
    }

    /// The Region that Unikorn is told.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn region(&self) -> Result<RegionView, OperatorError> {
        self.get(&["v1", "region"], None).await
    }

    /// Takes a node off the roll, by its name, or records the departure of one that only a network's
    /// entry holds, by its id.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn forget(&self, node: &str) -> Result<(), OperatorError> {
        let url = self.url(&["v1", "nodes", node], None);
        self.exchange(Method::DELETE, url).await.map(drop)
    }

    /// Lets a node's next report come from another machine.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn rebind(&self, node: &NodeName) -> Result<(), OperatorError> {
        let url = self.url(&["v1", "nodes", node.as_str(), "rebind"], None);
        self.exchange(Method::POST, url).await.map(drop)
    }

    /// What would be sent to a target now, after a look at its network.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn plan(
        &self,
        target: &str,
        order: SubmitRequest,
    ) -> Result<PlanView, OperatorError> {
        let mut url = self.url(&["v1", "targets", target, "plan"], None);
        url.query_pairs_mut()
            .append_pair("adopt", &order.adopt.to_string())
            .append_pair("partial", &order.partial.to_string());
        self.read(url).await
    }

    /// Asks something of a target: `submit`, `approve`, `offboard`, `infrastructure`.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn order(
        &self,
        target: &str,
        what: &str,
        order: &impl Serialize,
    ) -> Result<Noted, OperatorError> {
        let url = self.url(&["v1", "targets", target, what], None);
        let request = format!("POST {url}");
        let body = serde_json::to_vec(order).map_err(|source| OperatorError::Encode { source })?;
        let asked = self
            .http
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body);
        let answer = self.answer(asked, request.clone()).await?;
        serde_json::from_slice(&answer)
            .map_err(|source| OperatorError::Incomprehensible { request, source })
    }

    /// The newest lines of the journal.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal.
    pub async fn history(
        &self,
        target: Option<&str>,
        limit: u32,
    ) -> Result<HistoryView, OperatorError> {
        let mut url = self.url(&["v1", "history"], Some(("limit", &limit.to_string())));
        if let Some(target) = target {
            url.query_pairs_mut().append_pair("target", target);
        }
        self.read(url).await
    }

    /// Where a target stands, once what was asked of it is acted upon and `is_done` says so; what it
    /// was last seen to be if that does not come about within `limit`.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal, or no target of this name.
    pub async fn follow(
        &self,
        target: &str,
        limit: Duration,
        is_done: impl Fn(&TargetView) -> bool,
    ) -> Result<Followed, OperatorError> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let status = self.status().await?;
            let view = status.targets.into_iter().find(|view| view.name == target);
            let view = view.ok_or_else(|| OperatorError::NoTarget { target: target.to_owned() })?;
            if is_done(&view) {
                return Ok(Followed::Done(Box::new(view)));
            }
            if tokio::time::Instant::now() + FOLLOW_PAUSE > end {
                return Ok(Followed::TimedOut(Box::new(view)));
            }
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }

    fn url(&self, segments: &[&str], query: Option<(&str, &str)>) -> Url {
        let mut url = below(&self.server, segments);
        if let Some((key, value)) = query {
            url.query_pairs_mut().append_pair(key, value);
        }
        url
    }

    async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: Option<(&str, &str)>,
    ) -> Result<T, OperatorError> {
        self.read(self.url(segments, query)).await
    }

    async fn read<T: DeserializeOwned>(&self, url: Url) -> Result<T, OperatorError> {
        let request = format!("GET {url}");
        let body = self.exchange(Method::GET, url).await?;
        serde_json::from_slice(&body)
            .map_err(|source| OperatorError::Incomprehensible { request, source })
    }

    async fn exchange(&self, method: Method, url: Url) -> Result<Vec<u8>, OperatorError> {
        let request = format!("{method} {url}");
        self.answer(self.http.request(method, url), request).await
    }

    async fn answer(
        &self,
        asked: reqwest::RequestBuilder,
        request: String,
    ) -> Result<Vec<u8>, OperatorError> {
        let response = match asked.send().await {
            Ok(response) => response,
            // The URL stands in the message already.
            Err(source) => {
                return Err(OperatorError::NoAnswer { request, source: source.without_url() });
            }
        };
        let status = response.status();
        let body = match read_bounded(response, MAX_REPLY_BYTES).await {
            Ok(body) => body,
            Err(source) => return Err(OperatorError::Broken { request, source }),
        };
        if status.is_success() {
            return Ok(body);
        }
        let message = serde_json::from_slice::<Refusal>(&body).map_or_else(
            |_not_ours| rollcall_report::clean_text(&String::from_utf8_lossy(&body)),
            |refusal| refusal.message,
        );
        Err(OperatorError::Refused { request, status, message })
    }
}

/// A result as JSON for programs.
///
/// # Errors
///
/// When it cannot be encoded.
pub fn json(value: &impl Serialize) -> Result<String, OperatorError> {
    serde_json::to_string_pretty(value).map_err(|source| OperatorError::Encode { source })
}
