//! Posts a report to the aggregator and judges the reply.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, InvalidHeaderValue};
use reqwest::{Client, StatusCode};
use rollcall_daemon::http::{BodyError, ClientError, below, client_builder, read_bounded};
use rollcall_daemon::secret::{Secret, SecretError, read_token_file};
use rollcall_report::{Assignment, NodeReport, REPORTS_PATH, Refusal, clean_text, error_chain};
use thiserror::Error;
use url::Url;

use crate::metrics::Outcome;

/// How long a report may take, from the first byte sent to the last one received.
const REPORT_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest reply that is read.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// Sends reports to one aggregator.
#[derive(Debug, Clone)]
pub struct Sender {
    client: Client,
    aggregator: Url,
    url: Url,
    token_file: PathBuf,
    ca_file: Option<PathBuf>,
}

impl Sender {
    /// Prepares to report to an aggregator. Its certificate is checked against `ca_file`, or the
    /// system's CAs.
    ///
    /// # Errors
    ///
    /// When the CA file is unusable, or the HTTP client cannot be built.
    pub fn new(
        aggregator: &Url,
        token_file: &Path,
        ca_file: Option<&Path>,
    ) -> Result<Self, SenderError> {
        let client = client(aggregator, ca_file)?;
        let segments: Vec<&str> = REPORTS_PATH.split('/').skip(1).collect();
        let url = below(aggregator, &segments);
        let (token_file, ca_file) = (token_file.to_owned(), ca_file.map(Path::to_owned));
        Ok(Self { client, aggregator: aggregator.clone(), url, token_file, ca_file })
    }

    /// Reads the CA file again, after a report that did not get through: the CA may be another one by
    /// now. What is of no use leaves things as they are.
    pub fn renew_trust(&mut self) {
        if self.ca_file.is_none() {
            return;
        }
        match client(&self.aggregator, self.ca_file.as_deref()) {
            Ok(client) => self.client = client,
            Err(error) => {
                log::debug!(error = error_chain(&error); "the CA file cannot be read again");
            }
        }
    }

    /// Where reports are posted.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Posts a report with the token that is in the token file now: tokens are replaced while the
    /// agent runs.
    ///
    /// # Errors
    ///
    /// When the report was not taken, for whatever reason. All are worth another try: whoever can
    /// mend them does so without restarting every agent.
    pub async fn send(&self, report: &NodeReport) -> Result<Assignment, SendError> {
        let token =
            read_token_file(&self.token_file).map_err(|source| SendError::NoToken { source })?;
        let body = serde_json::to_vec(report).map_err(|source| SendError::Encode { source })?;
        let response = self
            .client
            .post(self.url.clone())
            .header(AUTHORIZATION, self.authorization(&token)?)
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await
            .map_err(|error| SendError::Unreachable {
                url: self.url.clone(),
                source: error.without_url(),
            })?;
        let status = response.status();
        let body = read_bounded(response, MAX_REPLY_BYTES)
            .await
            .map_err(|source| SendError::Reply { url: self.url.clone(), status, source })?;
        judge(&self.url, status, &body, &token)
    }

    fn authorization(&self, token: &Secret) -> Result<HeaderValue, SendError> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|source| SendError::TokenUnusable { path: self.token_file.clone(), source })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What a reply means.
fn judge(
    url: &Url,
    status: StatusCode,
    body: &[u8],
    token: &Secret,
) -> Result<Assignment, SendError> {
    let url = || url.clone();
    if status == StatusCode::OK {
        return serde_json::from_slice(body)
            .map_err(|source| SendError::NoAssignment { url: url(), source });
    }
    let words = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    // A proxy's error page may repeat the request's headers.
    let words = clean_text(&words.replace(token.expose(), "…"));
    if status.is_client_error() {
        Err(SendError::Refused { url: url(), status, words })
    } else {
        Err(SendError::Unexpected { url: url(), status, words })
    }
}

fn client(aggregator: &Url, ca_file: Option<&Path>) -> Result<Client, SenderError> {
    client_builder(aggregator, ca_file)
        .map_err(|source| SenderError::Trust { source })?
        .timeout(REPORT_TIMEOUT)
        // Thousands of nodes report a few bytes a minute each: idle connections would only fill the
        // aggregator's tables.
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|source| SenderError::Client { source })
}

/// Why nothing can be sent at all.
#[derive(Debug, Error)]
pub enum SenderError {
    /// The CA file is unusable.
    #[error("the aggregator's certificate could not be checked")]
    Trust {
        /// What is wrong with it.
        source: ClientError,
    },
    /// The HTTP client cannot be built.
    #[error(
        "no HTTP client can be built: install the system's CA certificates (ca-certificates), or name the aggregator's CA with --ca-file"
    )]
    Client {
        /// What the HTTP library said.
        source: reqwest::Error,
    },
}

/// Why a report was not taken.
#[derive(Debug, Error)]
pub enum SendError {
    /// There is no token to report with.
    #[error("there is no token to report with")]
    NoToken {
        /// What came of reading it.
        source: SecretError,
    },
    /// The token cannot stand in a header.
    #[error("the token in {} holds characters that no HTTP header can", path.display())]
    TokenUnusable {
        /// The token file.
        path: PathBuf,
        /// What the HTTP library said.
        source: InvalidHeaderValue,
    },
    /// The report cannot be written as JSON.
    #[error("the report cannot be written as JSON")]
    Encode {
        /// What the JSON library said.
        source: serde_json::Error,
    },
    /// No answer came.
    #[error(
        "{url} does not answer: is the aggregator running, can this node reach it, is it http or https there, too, and is its certificate's CA the one of --ca-file?"
    )]
    Unreachable {
        /// Where the report was posted.
        url: Url,
        /// What the HTTP library said.
        source: reqwest::Error,
    },
    /// The answer broke off, or is too long.
    #[error("{url} answered {status} with a reply that cannot be read")]
    Reply {
        /// Where the report was posted.
        url: Url,
        /// The reply's status.
        status: StatusCode,
        /// What came of reading it.
        source: BodyError,
    },
    /// The aggregator said no.
    #[error("{url} refused the report with {status}: {words}")]
    Refused {
        /// Where the report was posted.
        url: Url,
        /// The reply's status.
        status: StatusCode,
        /// The aggregator's own words.
        words: String,
    },
    /// Something answered that is no aggregator, or one in trouble.
    #[error("{url} answered {status} instead of taking the report: {words}")]
    Unexpected {
        /// Where the report was posted.
        url: Url,
        /// The reply's status.
        status: StatusCode,
        /// The reply's beginning.
        words: String,
    },
    /// A 200 without an assignment.
    #[error("{url} answered 200 without an assignment: is it an aggregator?")]
    NoAssignment {
        /// Where the report was posted.
        url: Url,
        /// What the JSON library said.
        source: serde_json::Error,
    },
}

impl SendError {
    /// How the failure is counted.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { .. } => Outcome::Refused,
            Self::NoToken { .. }
            | Self::TokenUnusable { .. }
            | Self::Encode { .. }
            | Self::Unreachable { .. }
            | Self::Reply { .. }
            | Self::Unexpected { .. }
            | Self::NoAssignment { .. } => Outcome::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> Result<Assignment, SendError> {
        let url = Url::parse("https://aggregator.example/v1/reports").expect("a URL");
        let status = StatusCode::from_u16(status).expect("a status");
        judge(&url, status, body.as_bytes(), &Secret::new("hunter2".into()))
    }

    #[test]
    fn an_assignment_is_the_only_success() {
        let assignment = r#"{"nodeId":"n1","intervalSeconds":30,"newer":true}"#;
        let taken = judged(200, assignment).expect("an assignment");
        assert_eq!((taken.node_id.as_str(), taken.interval_seconds), ("n1", 30));
        for (status, body, outcome, words) in [
            (200, "<html>", Outcome::Failed, "without an assignment"),
            (204, "", Outcome::Failed, "answered 204 No Content"),
            (302, "", Outcome::Failed, "answered 302 Found"),
            (
                409,
                r#"{"code":"identity-conflict","message":"n1 is another machine's"}"#,
                Outcome::Refused,
                "refused the report with 409 Conflict: n1 is another machine's",
            ),
            (
                401,
                r#"{"code":"from-the-future","message":"no"}"#,
                Outcome::Refused,
                "401 Unauthorized: no",
            ),
            (404, "page\nnot found", Outcome::Refused, "404 Not Found: page not found"),
            (
                503,
                r#"{"code":"unavailable","message":"the store is away"}"#,
                Outcome::Failed,
                "503 Service Unavailable instead of taking the report: the store is away",
            ),
        ] {
            let error = judged(status, body).expect_err(words);
            assert_eq!(error.outcome(), outcome, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_reply_never_brings_the_token_into_the_log() {
        let error = judged(400, "Authorization: Bearer hunter2").expect_err("refused").to_string();
        assert!(error.ends_with("Authorization: Bearer …"), "{error}");
    }

    #[test]
    fn long_words_are_cut() {
        let error = judged(500, &"a".repeat(60_000)).expect_err("broken").to_string();
        assert!(error.len() < 700, "{}", error.len());
    }

    #[test]
    fn reports_go_below_the_aggregators_path() {
        for (aggregator, url) in [
            ("https://a.example", "https://a.example/v1/reports"),
            ("https://a.example/", "https://a.example/v1/reports"),
            ("https://a.example/roll/", "https://a.example/roll/v1/reports"),
        ] {
            let aggregator = Url::parse(aggregator).expect("a URL");
            let sender = Sender::new(&aggregator, Path::new("/token"), None).expect("a sender");
            assert_eq!(sender.url().as_str(), url);
        }
    }
}
