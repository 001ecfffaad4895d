//! The admin listener: metrics and probes for everybody, the operator's API for operators.

pub mod access;
pub mod brief;
pub mod openapi;
pub mod pieces;
pub mod roll;
pub mod router;
mod targets;
pub mod views;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use rollcall_report::RefusalCode;
use tokio::sync::Mutex;

use crate::aggregator::Aggregator;
use crate::cluster_file::{AiosTarget, TargetName};
use crate::refusal::Refused;
use crate::store::WriteError;
use crate::targets::aios::Client;
use access::Access;

/// What the routes share.
#[derive(Debug)]
struct Admin {
    aggregator: Arc<Aggregator>,
    access: Access,
    clients: BTreeMap<TargetName, Client>,
    /// Looks at a network on an operator's behalf: one at a time.
    looking: Mutex<()>,
}

type Peer = ConnectInfo<SocketAddr>;

impl Admin {
    fn target(&self, name: &str) -> Result<&AiosTarget, Refused> {
        let targets = &self.aggregator.file.targets;
        let target = targets.iter().find(|target| target.name().as_str() == name);
        let target = target.ok_or_else(|| {
            let known: Vec<&str> = targets.iter().map(|target| target.name().as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Refused::new(
                RefusalCode::NotFound,
                format!("there is no target {name:?}; there are: {known}"),
            )
        })?;
        target.aios().ok_or_else(|| {
            let kind = target.kind();
            Refused::new(
                RefusalCode::Conflict,
                format!(
                    "target {name} is of type {kind}, for which the aggregator does nothing by itself: check, prepare and document do, and submit for a Unikorn region, with --cluster"
                ),
            )
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn not_stored(error: WriteError) -> Refused {
    Refused::new(RefusalCode::Unavailable, format!("{error}; nothing was changed, try again"))
}
