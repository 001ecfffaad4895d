//! AIOS networks: where they are, and how much is done for them without a person.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::nodes::NodePolicy;
use super::target::{TargetName, http_url};
use super::transport::TransportSettings;

/// An AIOS network to register with. Its state is kept under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AiosTarget {
    /// The name that commands, metrics and the store know it by.
    pub name: TargetName,
    /// AIOS's parser, for example `http://parser.example.org:8000`.
    pub parser_url: Url,
    /// AIOS's cluster controller gateway, for example `http://gateway.example.org:5000`.
    pub gateway_url: Url,
    /// How the document is wrapped.
    pub envelope: Envelope,
    /// How much is done without a person.
    pub mode: Mode,
    /// How often the network's entry is looked at while nothing changes here. A difference is left for
    /// a sixth of it before it is put right, and two updates are half of it apart.
    pub look_every: Duration,
    /// Which of the cluster's Nodes it is offered.
    pub nodes: NodePolicy,
    /// The network's infrastructure on the cluster, if it is wanted.
    pub infrastructure: Option<Infrastructure>,
    /// How its services are reached.
    pub transport: TransportSettings,
}

/// How much is done for a target without a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything, but for taking away many nodes at once.
    #[default]
    Auto,
    /// Nothing is sent before a person has approved it.
    Approve,
    /// Nothing is sent at all; the entry is looked at.
    Observe,
}

/// What AIOS's infrastructure on the cluster is made with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrastructure {
    /// The kubeconfig that the network is given; read for each request.
    pub kubeconfig_file: PathBuf,
    /// AIOS's tasks' database, where the work is followed.
    #[serde(deserialize_with = "http_url")]
    pub tasks_url: Url,
}

/// How the document is wrapped for AIOS's parser.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Envelope {
    /// `{"header": …, "body": {"spec": {"values": DOCUMENT}}}`: what the parser takes.
    #[default]
    ParserV1,
    /// The bare document, as AIOS's documentation shows.
    Flat,
}

/// How often an entry is looked at, where the target does not say.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(30);

pub(super) fn look_every<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let pause = super::duration(deserializer)?;
    if (Duration::from_secs(1)..=Duration::from_hours(1)).contains(&pause) {
        Ok(Some(pause))
    } else {
        Err(D::Error::custom("must be from 1s to 1h"))
    }
}
