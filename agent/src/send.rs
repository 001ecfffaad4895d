//! Posts a report to the aggregator and judges the reply.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, InvalidHeaderValue};
use rollcall_daemon::http::{BodyError, below, causes, read_bounded};
use rollcall_daemon::secret::{Secret, SecretError, read_token_file, warn_if_exposed};
use rollcall_report::{Assignment, NodeReport, REPORTS_PATH, Refusal, clean_text, error_chain};
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::bounded::{self, Bounded};
use crate::metrics::Outcome;
use crate::trust::{Explained, Ready, Trust, TrustError, TrustFiles, check_regular};

/// How long the files that a report is made with may take to be read: milliseconds, where no mount
/// is dead.
pub const FILES_DEADLINE: Duration = Duration::from_secs(10);

/// How long a certificate and its key may take to be written one after the other.
const SETTLING: Duration = Duration::from_secs(1);

/// The longest reply that is read.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// Sends reports to one aggregator.
#[derive(Debug)]
pub struct Sender {
    trust: Trust,
    url: Url,
    token_file: Option<PathBuf>,
    files: Bounded<Read>,
    /// Whether secrets were looked at that everybody can read.
    is_exposure_told: bool,
}

/// What the files say.
#[derive(Debug)]
struct Read {
    token: Result<Option<Secret>, SecretError>,
    trust: Result<Ready, TrustError>,
}

impl Sender {
    /// Prepares to report to an aggregator, with a token, a certificate or both. Nothing is read yet.
    pub fn new(aggregator: &Url, token_file: Option<PathBuf>, files: TrustFiles) -> Self {
        let segments: Vec<&str> = REPORTS_PATH.split('/').skip(1).collect();
        Self {
            trust: Trust::new(aggregator.clone(), files),
            url: below(aggregator, &segments),
            token_file,
            files: Bounded::new(),
            is_exposure_told: false,
        }
    }

    /// Notes that a report failed for want of trust between the two ends.
    pub fn was_refused(&mut self) {
        self.trust.was_refused(Instant::now());
    }

    /// Until when this node's own certificate is valid, where it has one.
    pub fn certificate_expires(&self) -> Option<Timestamp> {
        self.trust.expires()
    }

    /// Where reports are posted.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Posts a report with the token and the certificate that are in their files now: both are replaced
    /// while the agent runs.
    ///
    /// # Errors
    ///
    /// When the report was not taken, for whatever reason. All are worth another try: whoever can
    /// mend them does so without restarting every agent.
    pub async fn send(&mut self, report: &NodeReport) -> Result<Assignment, SendError> {
        let body = serde_json::to_vec(report).map_err(|source| SendError::Encode { source })?;
        let mut read = self.read().await?;
        if self.trust.is_unsettled(&read.trust) {
            sleep(SETTLING).await;
            read = self.read().await?;
        }
        let token = read.token.map_err(|source| SendError::NoToken { source })?;
        let client =
            self.trust.take_up(read.trust, Timestamp::now()).map_err(SendError::NoTrust)?;
        self.trust.warn_before_the_end();
        let mut request =
            client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(token) = &token {
            request = request.header(AUTHORIZATION, self.authorization(token)?);
        }
        let again = request.try_clone();
        // What TLS refuses once it refuses twice.
        let is_lost = |error: &reqwest::Error| {
            !error.is_connect()
                && (!error.is_timeout() || is_unacknowledged(error))
                && self.trust.explain(error, Timestamp::now()).is_none()
        };
        let sent = match (request.send().await, again) {
            // A connection that was kept may end just as a report goes out. One that was taken all the
            // same is unchanged the second time.
            (Err(error), Some(again)) if is_lost(&error) => {
                log::debug!(error:% = error_chain(&error.without_url()); "the connection was lost, reporting over another one");
                again.send().await
            }
            (sent, _) => sent,
        };
        let response = sent.map_err(|error| {
            let (url, source) = (self.url.clone(), error.without_url());
            match self.trust.explain(&source, Timestamp::now()) {
                Some(Explained { words, source }) => {
                    SendError::Tls { words: format!("{url}: {words}"), source }
                }
                None => SendError::Unreachable { url, source },
            }
        })?;
        let status = response.status();
        let body = read_bounded(response, MAX_REPLY_BYTES)
            .await
            .map_err(|source| SendError::Reply { url: self.url.clone(), status, source })?;
        judge(&self.url, status, &body, token.as_ref())
    }

    /// Reads the files, which may be on a mount that does not answer.
    async fn read(&mut self) -> Result<Read, SendError> {
        let (trust, token_file) = (self.trust.reading(), self.token_file.clone());
        let is_needed = self.trust.files().own.is_none();
        let first = !std::mem::replace(&mut self.is_exposure_told, true);
        let own = self.trust.files().own.as_ref().map(|own| own.key.clone());
        let work = move || {
            if first {
                token_file.iter().chain(&own).for_each(|path| warn_if_exposed(path));
            }
            let token = token_file.map(|path| read_token(&path, is_needed)).transpose();
            Read { token: token.map(Option::flatten), trust: trust() }
        };
        match self.files.run(FILES_DEADLINE, work).await {
            Ok(bounded::Outcome::Done(read)) => Ok(read),
            Ok(bounded::Outcome::Hangs) => {
                let files =
                    self.token_file.as_deref().into_iter().chain(self.trust.files().paths());
                let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
                Err(SendError::FileHangs { files: files.join(", ") })
            }
            Err(source) => Err(SendError::Broken { source }),
        }
    }

    fn authorization(&self, token: &Secret) -> Result<HeaderValue, SendError> {
        let mut value =
            HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|source| {
                let path = self.token_file.clone().unwrap_or_default();
                SendError::TokenUnusable { path, source }
            })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Whether the system has given a connection up, since nothing that was sent was acknowledged. Our own limit on
/// all of a report is another matter.
fn is_unacknowledged(error: &reqwest::Error) -> bool {
    let mut said = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    said.any(|error| error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_some())
}

/// The token of a file. One that is not there counts for nothing where it is not needed: its folder
/// may be filled later, or never.
fn read_token(path: &Path, is_needed: bool) -> Result<Option<Secret>, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    match check_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !is_needed => {
            log::debug!(file:% = path.display(); "there is no token, reporting with the certificate alone");
            Ok(None)
        }
        Err(error) => Err(unreadable(error)),
        Ok(()) => read_token_file(path).map(Some),
    }
}

/// What a reply means.
fn judge(
    url: &Url,
    status: StatusCode,
    body: &[u8],
    token: Option<&Secret>,
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
    let words = token.map_or(words.clone(), |token| words.replace(token.expose(), "…"));
    let words = clean_text(&words);
    if status.is_client_error() {
        Err(SendError::Refused { url: url(), status, words })
    } else {
        Err(SendError::Unexpected { url: url(), status, words })
    }
}

/// Why a report was not taken.
#[derive(Debug, Error)]
pub enum SendError {
    /// There is no token to report with.
    #[error("there is no token to report with: put it into the file that --token-file names")]
    NoToken {
        /// What came of reading it.
        source: SecretError,
    },
    /// A file does not answer.
    #[error("a file to report with does not answer, of {files}: is it on a mount that is dead?")]
    FileHangs {
        /// Those that are read.
        files: String,
    },
    /// Reading the files did not come to its end, which is a bug.
    #[error("reading the files to report with broke off: report this as a bug")]
    Broken {
        /// What the runtime said.
        source: JoinError,
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
    /// The files of TLS are of no use.
    #[error(transparent)]
    NoTrust(TrustError),
    /// The two ends do not trust each other.
    #[error("{words}")]
    Tls {
        /// Where the report was posted, who refused what, and what to do.
        words: String,
        /// What the TLS library said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// No answer came.
    #[error(
        "{url} does not answer: is the aggregator running, can this node reach it, and is it http or https there, too?"
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
            | Self::FileHangs { .. }
            | Self::Broken { .. }
            | Self::TokenUnusable { .. }
            | Self::Encode { .. }
            | Self::NoTrust(_)
            | Self::Tls { .. }
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
        judge(&url, status, body.as_bytes(), Some(&Secret::new("hunter2".into())))
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
            let sender = Sender::new(&aggregator, None, TrustFiles::default());
            assert_eq!(sender.url().as_str(), url);
        }
    }

    #[test]
    fn token_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let (token, none) = (folder.path().join("token"), folder.path().join("none"));
        std::fs::write(&token, "hunter2\n").expect("written");
        for (what, path, is_needed, expected) in [
            ("a token", &token, true, Ok(Some("hunter2"))),
            ("one beside a certificate", &token, false, Ok(Some("hunter2"))),
            ("none beside a certificate", &none, false, Ok(None)),
            ("none at all", &none, true, Err("No such file")),
            ("a folder", &folder.path().to_owned(), false, Err("no regular file")),
        ] {
            let read = read_token(path, is_needed);
            let read = read.map_err(|error| error_chain(&error));
            match (&read, expected) {
                (Ok(found), Ok(wanted)) => {
                    assert_eq!(found.as_ref().map(Secret::expose), wanted, "{what}");
                }
                (Err(said), Err(words)) => assert!(said.contains(words), "{what}: {said}"),
                _ => panic!("{what}: {read:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_does_not_answer_is_not_waited_for() {
        let url = Url::parse("http://127.0.0.1:1").expect("a URL");
        let mut sender = Sender::new(&url, Some("/token".into()), TrustFiles::default());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hanging = move || {
            // An error, too, ends it.
            let _released = held.recv();
            Read {
                token: Ok(None),
                trust: Err(TrustError::Ca {
                    source: rollcall_daemon::http::ClientError::CaEmpty { path: "/ca".into() },
                }),
            }
        };
        let begun = sender.files.run(Duration::ZERO, hanging).await.expect("no panic");
        assert!(matches!(begun, bounded::Outcome::Hangs));
        let error = sender.read().await.expect_err("it hangs");
        assert!(matches!(&error, SendError::FileHangs { files } if files == "/token"), "{error}");
        drop(release);
    }
}
