//! The requests to AIOS's parser and gateway.

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use rollcall_daemon::http::below;
use rollcall_daemon::secret::Secret;
use rollcall_report::error_chain;

use super::secrets::redact;
use super::{Submission, body, judge_create, judge_read};
use crate::cluster_file::{Envelope, Target};
use crate::document::ClusterDocument;
use crate::targets::transport::{ExchangeError, Transport, TransportError};
use crate::targets::{Held, Verdict};

/// Talks to the parser and the gateway of one AIOS network.
#[derive(Debug, Clone)]
pub struct Client {
    parser: Transport,
    gateway: Transport,
    envelope: Envelope,
}

impl Client {
    /// Makes a client; connects to nothing yet. Warns of secret files that everybody can read.
    ///
    /// # Errors
    ///
    /// When a certificate, a key or the proxy of the target is of no use.
    pub fn new(target: &Target) -> Result<Self, TransportError> {
        let client = Self {
            parser: Transport::new(&target.transport, &target.parser_url)?,
            gateway: Transport::new(&target.transport, &target.gateway_url)?,
            envelope: target.envelope,
        };
        target.transport.warn_if_exposed();
        Ok(client)
    }

    /// Sends the registration.
    pub async fn create(&self, submission: &Submission) -> Verdict {
        let document = &submission.document;
        let url = below(self.parser.url(), &["api", "createCluster"]);
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
                judge_create(&sent, status, &self.redact(reply, document), &document.id)
            }
            Err(error) => Verdict::Unanswered { words: silence("the parser", &sent, &error) },
        }
    }

    /// Looks at what the network holds under the document's id.
    pub async fn read(&self, submission: &Submission) -> Held {
        let document = &submission.document;
        let url = below(self.gateway.url(), &["clusters", "read", &document.id]);
        let sent = format!("GET {url}");
        match self.gateway.exchange(Request::new(Method::GET, url)).await {
            Ok((status, reply)) => {
                let reply = self.redact(reply, document);
                judge_read(&sent, status, &reply, document, &submission.installation)
            }
            Err(error) => {
                Held::Unreadable { words: silence("the network's gateway", &sent, &error) }
            }
        }
    }

    /// Either service may repeat what the other was sent: they talk to each other.
    fn redact(&self, reply: Vec<u8>, document: &ClusterDocument) -> Vec<u8> {
        let secrets: Vec<Secret> =
            self.parser.secrets().into_iter().chain(self.gateway.secrets()).collect();
        redact(reply, document, &secrets)
    }
}

/// Why a service said nothing.
fn silence(service: &str, sent: &str, error: &ExchangeError) -> String {
    let words = if error.is_unsent() { "was not asked" } else { "did not answer" };
    format!("{service} {words} ({sent}: {})", error_chain(error))
}
