//! `assemble`: the document from saved reports, without a server.

use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use rollcall_report::MAX_REPORT_BYTES;
use thiserror::Error;

use crate::cluster_file::{ClusterFile, ClusterFileError};
use crate::digest::Digest;
use crate::document::assemble as assemble_document;
use crate::intake::parse::parse;
use crate::roll::{Conflict, Roll};
use crate::targets::aios;

#[derive(Debug, Args)]
pub(super) struct AssembleArgs {
    /// The cluster file.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLUSTER")]
    cluster: PathBuf,
    /// Prints the document without the nodes whose numbers are not complete.
    #[arg(long)]
    leave_out_incomplete: bool,
    /// Prints secrets instead of masking them.
    #[arg(long)]
    show_secrets: bool,
    /// Reports as `rollcall-agent probe` prints them, one a file; `-` is standard input. Nodes keep
    /// this order.
    #[arg(required = true, value_name = "REPORT")]
    reports: Vec<PathBuf>,
}

/// Why there is no document.
#[derive(Debug, Error)]
pub(super) enum AssembleError {
    #[error("no document without its cluster file")]
    ClusterFile { source: ClusterFileError },
    #[error("report {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("report {}: {message}", path.display())]
    Refused { path: PathBuf, message: String },
    #[error("report {} does not go with those before it", path.display())]
    Conflict { path: PathBuf, source: Conflict },
    #[error("{nodes}; mend it, or print the document without them: --leave-out-incomplete")]
    Incomplete { nodes: String },
    #[error("the document cannot be encoded")]
    Encode { source: serde_json::Error },
}

pub(super) fn assemble(args: &AssembleArgs) -> Result<String, AssembleError> {
    let file =
        ClusterFile::read(&args.cluster).map_err(|source| AssembleError::ClusterFile { source })?;
    let mut roll = Roll::default();
    for path in &args.reports {
        let body = read(path)?;
        let report = parse(&body).map_err(|refusal| AssembleError::Refused {
            path: path.clone(),
            message: refusal.message,
        })?;
        let name = report.node.name.clone();
        if roll.get(&name).is_some() {
            return Err(AssembleError::Refused {
                path: path.clone(),
                message: format!("node {name} stands in an earlier report already"),
            });
        }
        let change = roll
            .admit(report, Digest::of(&[&body]), None, Timestamp::UNIX_EPOCH)
            .map_err(|source| AssembleError::Conflict { path: path.clone(), source })?;
        roll.confirm(change);
    }
    let entries = roll.entries();
    let nodes = entries.iter().map(|entry| (&entry.node_id, &entry.inventory));
    let mut assembly = assemble_document(&file.cluster, &file.overrides, nodes);
    for warning in &assembly.warnings {
        log::warn!("{warning}");
    }
    if !assembly.incomplete.is_empty() {
        let nodes: Vec<String> = assembly.incomplete.iter().map(ToString::to_string).collect();
        let nodes = nodes.join("; ");
        if !args.leave_out_incomplete {
            return Err(AssembleError::Incomplete { nodes });
        }
        log::warn!("{nodes}");
    }
    if !args.show_secrets && aios::mask(&mut assembly.document) {
        log::warn!("a secret in this document is masked; print it with --show-secrets");
    }
    serde_json::to_string_pretty(&assembly.document)
        .map_err(|source| AssembleError::Encode { source })
}

fn read(path: &PathBuf) -> Result<Vec<u8>, AssembleError> {
    let unreadable = |source| AssembleError::Unreadable { path: path.clone(), source };
    let limit = u64::try_from(MAX_REPORT_BYTES).unwrap_or(u64::MAX);
    let mut body = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().lock().take(limit + 1).read_to_end(&mut body).map_err(unreadable)?;
    } else {
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(limit + 1).read_to_end(&mut body).map_err(unreadable)?;
    }
    if body.len() > MAX_REPORT_BYTES {
        let message = format!("a report has at most {MAX_REPORT_BYTES} bytes");
        return Err(AssembleError::Refused { path: path.clone(), message });
    }
    Ok(body)
}
