//! The requests to AIOS's parser and gateway.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use rollcall_daemon::http::{BodyError, ClientError, below, client_builder, read_bounded};
use rollcall_report::error_chain;
use thiserror::Error;
use url::Url;

use super::secrets::redact;
use super::{Submission, body, judge_create, judge_read};
use crate::cluster_file::{Envelope, Target};
use crate::targets::{Held, Verdict};

/// How long a request may take as a whole.
const TIMEOUT: Duration = Duration::from_secs(30);

/// More than any entry: a thousand nodes of eight GPUs have less than a megabyte.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// Talks to the parser and the gateway of one AIOS network.
#[derive(Debug, Clone)]
pub struct Client {
    parser: Service,
    gateway: Service,
    envelope: Envelope,
}

/// One of the network's services.
#[derive(Debug, Clone)]
struct Service {
    http: reqwest::Client,
    url: Url,
}

/// Why no client could be made.
#[derive(Debug, Error)]
pub enum SetUpError {
    /// The CA file is of no use.
    #[error("the target's caFile is of no use")]
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
}

impl Client {
    /// Makes a client; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// When the target's CA file is of no use.
    pub fn new(target: &Target) -> Result<Self, SetUpError> {
        let service = |url: &Url| {
            let http = client_builder(url, target.ca_file.as_deref())
                .map_err(|source| SetUpError::Ca { source })?
                .timeout(TIMEOUT)
                // Submissions are rare: a kept connection would only go stale.
                .pool_max_idle_per_host(0)
                .build()
                .map_err(|source| SetUpError::Http { source })?;
            Ok(Service { http, url: url.clone() })
        };
        Ok(Self {
            parser: service(&target.parser_url)?,
            gateway: service(&target.gateway_url)?,
            envelope: target.envelope,
        })
    }

    /// Sends the registration.
    pub async fn create(&self, submission: &Submission) -> Verdict {
        let document = &submission.document;
        let url = below(&self.parser.url, &["api", "createCluster"]);
        let sent = format!("POST {url}");
        let body = match body(document, self.envelope) {
            Ok(body) => body,
            Err(error) => {
                return Verdict::Refused {
                    words: format!("the document cannot be encoded: {error}"),
                };
            }
        };
        let mut request = Request::new(Method::POST, url);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        *request.body_mut() = Some(body.into());
        match self.parser.exchange(request).await {
            Ok((status, reply)) => {
                judge_create(&sent, status, &redact(reply, document), &document.id)
            }
            Err(error) => Verdict::Unanswered {
                words: format!("the parser did not answer ({sent}: {})", error_chain(&error)),
            },
        }
    }

    /// Looks at what the network holds under the document's id.
    pub async fn read(&self, submission: &Submission) -> Held {
        let document = &submission.document;
        let url = below(&self.gateway.url, &["clusters", "read", &document.id]);
        let sent = format!("GET {url}");
        match self.gateway.exchange(Request::new(Method::GET, url)).await {
            Ok((status, reply)) => {
                let reply = redact(reply, document);
                judge_read(&sent, status, &reply, document, &submission.installation)
            }
            Err(error) => Held::Unreadable {
                words: format!(
                    "the network's gateway did not answer ({sent}: {})",
                    error_chain(&error)
                ),
            },
        }
    }
}

impl Service {
    async fn exchange(&self, request: Request) -> Result<(u16, Vec<u8>), ExchangeError> {
        let response = self
            .http
            .execute(request)
            .await
            // The URL stands in the message that this becomes part of.
            .map_err(|source| ExchangeError::Http { source: source.without_url() })?;
        let status = response.status().as_u16();
        let body = read_bounded(response, MAX_REPLY_BYTES)
            .await
            .map_err(|source| ExchangeError::Body { status, source })?;
        Ok((status, body))
    }
}

#[derive(Debug, Error)]
enum ExchangeError {
    #[error("no reply")]
    Http { source: reqwest::Error },
    #[error("status {status}, but no whole reply")]
    Body { status: u16, source: BodyError },
}
