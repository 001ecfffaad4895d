//! Reports to an aggregator's intake on this machine, over a few connections that are kept.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use rollcall_daemon::http::client_builder;
use rollcall_daemon::secret::Secret;
use rollcall_report::{NodeReport, REPORTS_PATH};
use thiserror::Error;
use url::{ParseError, Url};

/// How long one report may take, on a slow and busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);

/// How long a connection is kept for the next report. An aggregator closes those that are idle for longer,
/// and a report on one that is being closed is lost.
const KEPT: Duration = Duration::from_secs(2);

/// How much of an answer an error shows, in characters.
const SHOWN_CHARS: usize = 500;

/// An aggregator's intake.
#[derive(Debug)]
pub struct Intake {
    client: reqwest::Client,
    address: SocketAddr,
    url: Url,
    token: Secret,
    connections: usize,
}

/// Why reports did not arrive.
#[derive(Debug, Error)]
pub enum IntakeError {
    /// The machines are made up, and are no business of anybody else's.
    #[error(
        "made-up machines are reported on this machine only, not to {address}: give an address of loopback"
    )]
    NotHere {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address makes no URL.
    #[error("{address} makes no URL")]
    Url {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: ParseError,
    },
    /// No client can be made.
    #[error("no HTTP client can be made for {address}")]
    Client {
        /// Where it was to go.
        address: SocketAddr,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A report cannot be encoded.
    #[error("the report of node {node} cannot be encoded")]
    Encode {
        /// Whose.
        node: String,
        /// Why.
        source: serde_json::Error,
    },
    /// There was no answer.
    #[error("reporting node {node} to {address}: no answer")]
    NoAnswer {
        /// Where it went.
        address: SocketAddr,
        /// Whose report it was.
        node: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A report was refused.
    #[error("reporting node {node} to {address}: {status}: {words}")]
    Refused {
        /// Where it went.
        address: SocketAddr,
        /// Whose report it was.
        node: String,
        /// The answer's status.
        status: StatusCode,
        /// What it said.
        words: String,
    },
}

impl Intake {
    /// The intake at an address of this machine, for the holder of a join token, over at most so many
    /// connections at a time.
    ///
    /// # Errors
    ///
    /// When the address is not of loopback.
    pub fn new(
        address: SocketAddr,
        token: Secret,
        connections: usize,
    ) -> Result<Self, IntakeError> {
        if !address.ip().is_loopback() {
            return Err(IntakeError::NotHere { address });
        }
        let url = Url::parse(&format!("http://{address}{REPORTS_PATH}"));
        let url = url.map_err(|source| IntakeError::Url { address, source })?;
        let connections = connections.max(1);
        let client = || -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
            let builder = client_builder(&url, None)?;
            Ok(builder
                .timeout(TIMEOUT)
                .pool_idle_timeout(KEPT)
                .pool_max_idle_per_host(connections)
                .build()?)
        };
        match client() {
            Ok(client) => Ok(Self { client, address, url, token, connections }),
            Err(source) => Err(IntakeError::Client { address, source }),
        }
    }

    /// Posts reports, those of one node in their order, and counts those that were taken.
    ///
    /// # Errors
    ///
    /// The first report that was not taken; those that were under way with it may have been.
    pub async fn report(
        &self,
        nodes: impl IntoIterator<Item = Vec<NodeReport>>,
    ) -> Result<usize, IntakeError> {
        let nodes = stream::iter(nodes).map(|reports| async move {
            for report in &reports {
                self.post(report).await?;
            }
            Ok(reports.len())
        });
        nodes
            .buffer_unordered(self.connections)
            .try_fold(0, async |sum, count| Ok(sum + count))
            .await
    }

    async fn post(&self, report: &NodeReport) -> Result<(), IntakeError> {
        let node = || report.node.name.to_string();
        let body = serde_json::to_vec(report);
        let body = body.map_err(|source| IntakeError::Encode { node: node(), source })?;
        let no_answer =
            |source| IntakeError::NoAnswer { address: self.address, node: node(), source };
        let request = self
            .client
            .post(self.url.clone())
            .header(AUTHORIZATION, format!("Bearer {}", self.token.expose()))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let answer = request.send().await.map_err(no_answer)?;
        let status = answer.status();
        // Read to its end either way: else the connection is not used again.
        let words = answer.text().await.map_err(no_answer)?;
        if status == StatusCode::OK {
            return Ok(());
        }
        let words = words.chars().take(SHOWN_CHARS).collect();
        Err(IntakeError::Refused { address: self.address, node: node(), status, words })
    }
}
