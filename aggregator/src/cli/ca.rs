//! `ca`: a small certificate authority, for clusters that have none.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use rollcall_report::{NodeId, NodeName, error_chain};

use super::{Failure, print};
use crate::ca::{Authority, CaError, Purpose};

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Makes a CA: DIR/ca.pem, which the aggregator and the agents are given, and DIR/ca.key, which
    /// nobody is.
    New {
        /// The folder, which is made.
        dir: PathBuf,
        /// The CA's name.
        #[arg(long, default_value = "rollcall CA")]
        name: String,
        /// How many days it is valid.
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u16).range(1..=36500))]
        days: u16,
    },
    /// Makes the aggregator's certificate: tls.crt and tls.key.
    Server {
        #[command(flatten)]
        leaf: LeafArgs,
        /// The names and addresses that agents reach it at.
        #[arg(required = true, value_name = "NAME_OR_IP", value_parser = host)]
        names: Vec<String>,
    },
    /// Makes nodes' certificates: NODE.crt and NODE.key for each.
    Node {
        #[command(flatten)]
        leaf: LeafArgs,
        /// An id that the one node may have besides its name: what its agent is given as --node-id.
        #[arg(long, value_name = "ID")]
        node_id: Option<NodeId>,
        /// The names that the nodes report under.
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeName>,
    },
}

#[derive(Debug, Args)]
pub(super) struct LeafArgs {
    /// The CA's folder.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Where to write them; it is made if need be.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// How many days they are valid, at most as long as the CA.
    #[arg(long, default_value_t = 398, value_parser = clap::value_parser!(u16).range(1..=36500))]
    days: u16,
    /// Replaces what is there: so a certificate is renewed. Owner and mode stay.
    #[arg(long)]
    force: bool,
}

/// Runs one of them.
pub(super) fn ca(command: CaCommand) -> Result<(), Failure> {
    let now = Timestamp::now();
    match command {
        CaCommand::New { dir, name, days } => {
            let authority = Authority::create(&dir, &name, days, now).map_err(Failure::Ca)?;
            let dir = dir.display();
            print(&format!(
                "{dir}/ca.pem  valid until {}: for --client-ca-file and --ca-file\n{dir}/ca.key  keep it where nobody else reads it",
                authority.certificate().not_after
            ))
        }
        CaCommand::Server { leaf, names } => {
            let authority = Authority::open(&leaf.ca).map_err(Failure::Ca)?;
            let made = leaf.make(&authority, Purpose::Server, "tls", &names, now);
            print(&made.map_err(Failure::Ca)?)
        }
        CaCommand::Node { leaf, node_id, nodes } => {
            if node_id.is_some() && nodes.len() != 1 {
                let words = "--node-id is for one node: give exactly one NODE with it";
                return Err(Failure::Usage(words.to_owned()));
            }
            leaf.make_for_nodes(&nodes, node_id.as_ref(), now)
        }
    }
}

impl LeafArgs {
    /// Makes what can be made, and says at the end what could not.
    fn make_for_nodes(
        &self,
        nodes: &[NodeName],
        id: Option<&NodeId>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let authority = Authority::open(&self.ca).map_err(Failure::Ca)?;
        let mut failed = Vec::new();
        for node in nodes {
            let id = id.map(NodeId::as_str).filter(|id| *id != node.as_str());
            let names: Vec<String> =
                [node.as_str()].into_iter().chain(id).map(str::to_owned).collect();
            match self.make(&authority, Purpose::Client, node.as_str(), &names, now) {
                Ok(made) => print(&made)?,
                Err(error) => failed.push(error_chain(&error)),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let (count, all) = (failed.len(), nodes.len());
        let failed = failed.join("\n");
        Err(Failure::NotDone(format!("{count} of {all} certificates were not made:\n{failed}")))
    }

    /// Makes a certificate; what comes back says where it is.
    fn make(
        &self,
        authority: &Authority,
        purpose: Purpose,
        file: &str,
        names: &[String],
        now: Timestamp,
    ) -> Result<String, CaError> {
        let issued = authority.issue(purpose, names, self.days, now)?;
        let (certificate, key) = authority.hand_out(&issued, &self.to, file, self.force)?;
        let (certificate, key) = (certificate.display(), key.display());
        Ok(format!("{certificate}, {key}  {}, until {}", names.join(", "), issued.until))
    }
}

/// The longest part of a DNS name (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;
/// The longest DNS name, without the dot at its end.
const MAX_NAME: usize = 253;

/// A name or an address that a server can have.
fn host(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let neither = || Err("it is neither a DNS name nor an address".to_owned());
    if !text.is_ascii() {
        return match url::Host::parse(text) {
            Ok(url::Host::Domain(name)) => {
                Err(format!("a certificate has letters like these in another form: write {name}"))
            }
            _ => neither(),
        };
    }
    if text.ends_with('.') {
        return Err("leave the dot at its end out: clients compare without it".to_owned());
    }
    let name = text.to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let rest = name.strip_prefix("*.").unwrap_or(&name);
    // What ends in a number is an address that is none.
    let is_number =
        rest.rsplit('.').next().is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit()));
    if name.len() > MAX_NAME || is_number || !rest.split('.').all(is_label) {
        return neither();
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let long = format!("{}.example.org", "a".repeat(64));
        for (text, expected) in [
            ("localhost", Ok("localhost")),
            ("Aggregator.Example.ORG", Ok("aggregator.example.org")),
            ("*.example.org", Ok("*.example.org")),
            ("xn--bcher-kva.example", Ok("xn--bcher-kva.example")),
            ("192.0.2.7", Ok("192.0.2.7")),
            ("2001:db8::7", Ok("2001:db8::7")),
            ("example.org.", Err("the dot at its end")),
            ("bücher.example", Err("write xn--bcher-kva.example")),
            ("a*b(c", Err("neither")),
            ("a.*.example.org", Err("neither")),
            ("*", Err("neither")),
            ("*.", Err("the dot at its end")),
            ("", Err("neither")),
            ("a..b", Err("neither")),
            ("-a.example.org", Err("neither")),
            ("192.0.2.777", Err("neither")),
            ("https://example.org", Err("neither")),
            ("example.org:7655", Err("neither")),
            (&long, Err("neither")),
        ] {
            match (host(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(said), Err(words)) => assert!(said.contains(words), "{text}: {said}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
