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
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

use crate::admin::views::{
    DocumentView, HistoryView, NodesView, Noted, PlanView, StatusView, SubmitRequest, TargetView,
};
use crate::targets::unikorn::region::RegionView;

/// Longer than a look at a network may take that the aggregator is asked for.
const LOOK_TIMEOUT: Duration = Duration::from_mins(11);
/// How long the aggregator may say nothing when it is asked for what it has at hand: before its answer,
/// and in the midst of it.
const READ_PAUSE: Duration = Duration::from_secs(10);
/// Plenty for the whole answer: of the largest cluster, and over a slow link.
const READ_TIMEOUT: Duration = Duration::from_mins(5);
/// How often a target is asked how it stands.
const FOLLOW_PAUSE: Duration = Duration::from_millis(300);
const MAX_REPLY_BYTES: usize = 256 * 1024 * 1024;

/// Asks a running aggregator.
#[derive(Debug)]
pub struct Operator {
    /// For what takes its time.
    http: reqwest::Client,
    /// For what the aggregator has at hand.
    at_hand: reqwest::Client,
    /// How long that may say nothing.
    pause: Duration,
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
    /// No answer in time, though somebody listens there.
    #[error(
        "{request} got no answer within {}: the aggregator has this at hand, so it is overloaded or stuck, or something on the way to it is; look at its log and its /metrics, and try again",
        humantime::format_duration(*limit)
    )]
    OutOfTime {
        /// The request: method and URL.
        request: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The answer began, and did not come to its end in time.
    #[error(
        "{request} got an answer that was not whole after {}: the aggregator is overloaded or stuck, or something on the way to it is, or the way is slow; look at its log and its /metrics, and try again",
        humantime::format_duration(Duration::from_secs(waited.as_secs()))
    )]
    Stalled {
        /// The request: method and URL.
        request: String,
        /// How long it was waited for.
        waited: Duration,
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

impl OperatorError {
    /// The same, said in other words where time ran out. `limit`: how long the beginning of the answer was
    /// waited for; `waited`: how long it was waited for in all.
    fn timed(self, limit: Duration, waited: Duration) -> Self {
        match self {
            // Where nobody listens, that took its time, too.
            Self::NoAnswer { request, source } if source.is_timeout() && !source.is_connect() => {
                Self::OutOfTime { request, limit }
            }
            Self::Broken { request, source: BodyError::Broken { source } }
                if source
                    .downcast_ref::<reqwest::Error>()
                    .is_some_and(reqwest::Error::is_timeout) =>
            {
                Self::Stalled { request, waited }
            }
            other => other,
        }
    }
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
        Self::patient(server, token_file, ca_file, insecure_http, READ_PAUSE)
    }

    fn patient(
        server: Url,
        token_file: Option<&Path>,
        ca_file: Option<&Path>,
        insecure_http: bool,
        pause: Duration,
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
        let builder = || {
            client_builder(&server, ca_file)
                .map(|builder| builder.default_headers(headers.clone()))
                .map_err(|source| OperatorError::Ca { source })
        };
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|source| OperatorError::Http { source })
        };
        let http = built(builder()?.timeout(LOOK_TIMEOUT))?;
        let at_hand = built(builder()?.timeout(READ_TIMEOUT).read_timeout(pause))?;
        Ok(Self { http, at_hand, pause, server })
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
        self.read(&self.http, url, LOOK_TIMEOUT).await
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
        self.read(&self.at_hand, url, self.pause).await
    }

    /// Where a target stands, once what was asked of it is acted upon and `is_done` says so; what it
    /// was last seen to be if that does not come about within `limit`. Whatever it is seen to be meanwhile,
    /// `told` hears of it. An aggregator that is slow to answer meanwhile is asked again.
    ///
    /// # Errors
    ///
    /// When there is no answer, or a refusal, or no target of this name.
    pub async fn follow(
        &self,
        target: &str,
        limit: Duration,
        is_done: impl Fn(&TargetView) -> bool,
        mut told: impl FnMut(&TargetView),
    ) -> Result<Followed, OperatorError> {
        let end = Instant::now() + limit;
        let mut last: Option<Box<TargetView>> = None;
        loop {
            let answered = match last.take() {
                None => self.status().await,
                // What is known already is told in time.
                Some(view) => match timeout_at(end, self.status()).await {
                    Ok(answered) => {
                        last = Some(view);
                        answered
                    }
                    Err(_elapsed) => return Ok(Followed::TimedOut(view)),
                },
            };
            let status = match answered {
                Ok(status) => status,
                Err(error @ (OperatorError::OutOfTime { .. } | OperatorError::Stalled { .. })) => {
                    if Instant::now() + FOLLOW_PAUSE > end {
                        return last.map_or(Err(error), |view| Ok(Followed::TimedOut(view)));
                    }
                    sleep(FOLLOW_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let view = status.targets.into_iter().find(|view| view.name == target);
            let view = view.ok_or_else(|| OperatorError::NoTarget { target: target.to_owned() })?;
            if is_done(&view) {
                return Ok(Followed::Done(Box::new(view)));
            }
            told(&view);
            let view = last.insert(Box::new(view));
            if Instant::now() + FOLLOW_PAUSE > end {
                return Ok(Followed::TimedOut(view.clone()));
            }
            sleep(FOLLOW_PAUSE).await;
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
        self.read(&self.at_hand, self.url(segments, query), self.pause).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        http: &reqwest::Client,
        url: Url,
        limit: Duration,
    ) -> Result<T, OperatorError> {
        let request = format!("GET {url}");
        let started = Instant::now();
        let answered = self.answer(http.get(url), request.clone()).await;
        let body = answered.map_err(|error| error.timed(limit, started.elapsed()))?;
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers each of so many requests with an empty journal: first the head after a pause, then the body
    /// in two halves, each after a pause.
    fn serve(pauses: Vec<[u64; 3]>) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for [before, first, second] in pauses {
                let (mut stream, _) = listener.accept().expect("a request");
                let mut request = [0; 4096];
                let _head = stream.read(&mut request).expect("a head");
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close\r\n\r\n";
                for (pause, text) in [(before, head), (first, "{\"line"), (second, "s\":[]}")] {
                    thread::sleep(Duration::from_millis(pause));
                    // Whoever asked may have gone.
                    if stream.write_all(text.as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        format!("http://{address}").parse().expect("a URL")
    }

    #[tokio::test]
    async fn how_long_an_answer_may_take() {
        for (what, pauses, expected) in [
            ("at once", [0, 0, 0], "whole"),
            ("slow, and never silent for long", [300, 300, 300], "whole"),
            ("no beginning", [3000, 0, 0], "got no answer within 600ms"),
            ("it stands still", [0, 0, 3000], "got an answer that was not whole after"),
        ] {
            let server = serve(vec![pauses]);
            let pause = Duration::from_millis(600);
            let operator = Operator::patient(server, None, None, false, pause).expect("a client");
            let got = match operator.history(None, 1).await {
                Ok(_) => "whole".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(got.contains(expected), "{what}: {got}");
        }
    }
}
