//! The requests to AIOS's parser and gateway.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Request};
use rollcall_daemon::http::{BodyError, ClientError, client_builder, read_bounded};
use rollcall_report::error_chain;
use thiserror::Error;
use url::Url;

use super::{body, judge_create, judge_read};
use crate::cluster_file::{Envelope, Target};
use crate::document::ClusterDocument;
use crate::onboarding::plan::{Held, Verdict};

/// How long a request may take as a whole.
const TIMEOUT: Duration = Duration::from_secs(30);

/// More than any entry: a thousand nodes of eight GPUs have less than a megabyte.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// Talks to the parser and the gateway of one AIOS network.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    create: Url,
    gateway: Url,
    envelope: Envelope,
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
        let http = client_builder(target.ca_file.as_deref())
            .map_err(|source| SetUpError::Ca { source })?
            .timeout(TIMEOUT)
            // Submissions are rare: a kept connection would only go stale.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|source| SetUpError::Http { source })?;
        Ok(Self {
            http,
            create: below(&target.parser_url, &["api", "createCluster"]),
            gateway: target.gateway_url.clone(),
            envelope: target.envelope,
        })
    }

    /// Sends the registration.
    pub async fn create(&self, document: &ClusterDocument) -> Verdict {
        let sent = format!("POST {}", self.create);
        let body = match body(document, self.envelope) {
            Ok(body) => body,
            Err(error) => {
                return Verdict::Refused {
                    words: format!("the document cannot be encoded: {error}"),
                };
            }
        };
        let mut request = Request::new(Method::POST, self.create.clone());
        request
            .headers_mut()
            .insert(CONTENT_TYPE, reqwest::header::HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        match self.exchange(request).await {
            Ok((status, body)) => judge_create(&sent, status, &body, &document.id),
            Err(error) => Verdict::Unanswered {
                words: format!("the parser did not answer ({sent}: {})", error_chain(&error)),
            },
        }
    }

    /// Looks at what the network holds under the document's id.
    pub async fn read(&self, document: &ClusterDocument, installation: &str) -> Held {
        let url = below(&self.gateway, &["clusters", "read", &document.id]);
        let sent = format!("GET {url}");
        match self.exchange(Request::new(Method::GET, url)).await {
            Ok((status, body)) => judge_read(&sent, status, &body, document, installation),
            Err(error) => Held::Unreadable {
                words: format!(
                    "the network's gateway did not answer ({sent}: {})",
                    error_chain(&error)
                ),
            },
        }
    }

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

/// A path below a base URL, whether or not the base ends with a slash.
fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // Only a URL that cannot be a base has no segments; http and https URLs always can.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}
