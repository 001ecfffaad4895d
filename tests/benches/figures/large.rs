//! An aggregator with a large cluster on its roll, loaded once for several sections.

use std::process::Command;

use rollcall_tests::bed::{Aggregator, Bed};
use rollcall_tests::openssl::Authority;

use crate::process::{all_accepted, swarm};

/// How many connections a cluster is loaded over.
const CONNECTIONS: &str = "64";

/// An aggregator and what it needs.
#[derive(Debug)]
pub(crate) struct Large {
    pub bed: Bed,
    pub aggregator: Aggregator,
}

impl Large {
    /// Starts an aggregator that knows no node.
    pub(crate) fn empty(arguments: &[&str]) -> Self {
        Self::prepared(arguments, |_| {})
    }

    /// The same, with something done to its command.
    pub(crate) fn prepared(arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let bed = Bed::new("targets: []\n");
        let aggregator = bed.aggregator_with(arguments, prepare);
        Self { bed, aggregator }
    }

    /// Starts one that takes reports over TLS, and says what agents need for that.
    pub(crate) fn over_tls(certificate: &Certificate) -> Self {
        let [cert, key] = [&certificate.cert, &certificate.key];
        Self::empty(&["--tls-cert", cert, "--tls-key", key])
    }

    /// Starts one with so many nodes, each of which has reported once.
    pub(crate) fn of(nodes: u32) -> Self {
        let large = Self::empty(&[]);
        large.load(0, nodes);
        large
    }

    /// So many further nodes report, from a number on.
    pub(crate) fn load(&self, first: u32, nodes: u32) {
        let (first, nodes) = (first.to_string(), nodes.to_string());
        let told = self.swarm(&[
            &["--first", &first, "--agents", &nodes, "--rounds", "1"],
            &["--flat-out", CONNECTIONS, "--duration", "10m"][..],
        ]);
        all_accepted(&told);
    }

    /// Runs a swarm against it.
    pub(crate) fn swarm(&self, arguments: &[&[&str]]) -> serde_json::Value {
        let common = self.swarm_arguments();
        let common: Vec<&str> = common.iter().map(String::as_str).collect();
        swarm(&[&common[..], &arguments.concat()].concat())
    }

    /// What each swarm against it is told.
    pub(crate) fn swarm_arguments(&self) -> Vec<String> {
        let token = self.bed.path("token").display().to_string();
        ["--token-file", &token, "--intake", &self.aggregator.intake.to_string()]
            .map(str::to_owned)
            .to_vec()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.aggregator.daemon.id()
    }
}

/// The aggregator of the large cluster: the one that is there, or a new one.
pub(crate) fn loaded(large: &mut Option<Large>, nodes: u32) -> &mut Large {
    large.get_or_insert_with(|| Large::of(nodes))
}

/// A certificate for this machine, in files.
#[derive(Debug)]
pub(crate) struct Certificate {
    _folder: Bed,
    pub ca: String,
    pub cert: String,
    pub key: String,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let authority = Authority::new("bench-ca");
        let issued = authority.issue("127.0.0.1", "IP:127.0.0.1", 1);
        let folder = Bed::new("");
        let write = |name: &str, text: &str| {
            folder.write(name, text);
            folder.path(name).display().to_string()
        };
        let (ca, cert, key) = (
            write("ca.crt", &authority.certificate()),
            write("tls.crt", &issued.certificate),
            write("tls.key", &issued.key),
        );
        Self { _folder: folder, ca, cert, key }
    }
}
