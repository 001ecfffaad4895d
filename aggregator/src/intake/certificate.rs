//! Which nodes a client's certificate names, and which ids they may have.
//!
//! That its CA is one of ours and that it is valid now was settled in the handshake.

use std::collections::BTreeSet;
use std::sync::Arc;

use rollcall_daemon::certificate::Certificate;
use rollcall_report::{NodeId, NodeName, clean_text};
use rustls::pki_types::CertificateDer;

/// The organization of a kubelet's certificate, and how its common name begins.
const KUBELETS: &str = "system:nodes";
const KUBELET: &str = "system:node:";

/// Who is at the other end of a connection; `None`: no certificate was presented.
#[derive(Debug, Clone)]
pub struct Peer(pub Option<Arc<ClientCertificate>>);

/// What a client's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject, for messages.
    pub subject: String,
    /// The nodes that it names, perhaps none.
    pub nodes: BTreeSet<NodeName>,
    /// The ids that it names, letter by letter: its names that can be ids.
    pub ids: BTreeSet<NodeId>,
}

impl ClientCertificate {
    /// Reads a certificate. One that cannot be read names nobody.
    pub fn read(der: &CertificateDer<'_>) -> Self {
        match Certificate::parse(der.clone().into_owned()) {
            Ok(certificate) => Self::of(&certificate),
            Err(_unreadable) => {
                let subject = "one that cannot be read".to_owned();
                Self { subject, nodes: BTreeSet::new(), ids: BTreeSet::new() }
            }
        }
    }

    /// Its DNS names name nodes, or its common names where it has no DNS name at all; and where it is a
    /// kubelet's, the name within its common name. What is no node's name, such as `*.example.org`, names
    /// none. A CA whose certificate says which names it may sign for is not held to that in common names.
    fn of(certificate: &Certificate) -> Self {
        let Certificate { common_names, dns_names, organizations, .. } = certificate;
        let is_kubelets = organizations.iter().any(|name| name == KUBELETS);
        let kubelets = common_names.iter().filter_map(|name| name.strip_prefix(KUBELET));
        let own = if dns_names.is_empty() { common_names } else { dns_names };
        let own = own.iter().map(String::as_str);
        let names = kubelets.filter(|_| is_kubelets).chain(own.clone());
        Self {
            subject: clean_text(&certificate.subject),
            nodes: names.filter_map(|name| name.to_ascii_lowercase().parse().ok()).collect(),
            ids: own.filter_map(|name| name.parse().ok()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn certificate(subject: &[(DnType, &str)], names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        for name in names {
            let name = match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().expect("ASCII")),
            };
            params.subject_alt_names.push(name);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn whom_a_certificate_names() {
        let cn = |name: &'static str| (DnType::CommonName, name);
        let o = |name: &'static str| (DnType::OrganizationName, name);
        let none: &[&str] = &[];
        for (what, subject, names, expected) in [
            ("a common name", vec![cn("n1")], none, &["n1"][..]),
            ("a DNS name", vec![], &["n1"], &["n1"]),
            ("both", vec![cn("n1")], &["n1", "n1.example.org"], &["n1", "n1.example.org"]),
            ("a common name beside others", vec![cn("n9")], &["n1"], &["n1"]),
            ("a common name beside a wildcard", vec![cn("n9")], &["*.example.org"], none),
            ("a common name beside an address", vec![cn("n9")], &["192.0.2.7"], &["n9"]),
            ("capitals", vec![cn("N1")], &["N2.Example.org"], &["n2.example.org"]),
            ("a wildcard", vec![], &["*.example.org"], none),
            ("an address", vec![], &["192.0.2.7"], none),
            ("a sentence", vec![cn("a node of ours")], none, none),
            ("a path", vec![cn("../n1")], none, none),
            ("nothing", vec![], none, none),
            ("a kubelet", vec![o("system:nodes"), cn("system:node:n1")], none, &["n1"]),
            (
                "a kubelet with a DNS name",
                vec![o("system:nodes"), cn("system:node:n1")],
                &["n2"],
                &["n1", "n2"],
            ),
            ("a kubelet, capitals", vec![o("system:nodes"), cn("system:node:N1")], none, &["n1"]),
            (
                "a kubelet of another group",
                vec![o("system:masters"), cn("system:node:n1")],
                none,
                none,
            ),
            ("a kubelet of no group", vec![cn("system:node:n1")], none, none),
            (
                "a kubelet of many groups",
                vec![o("a"), o("system:nodes"), cn("system:node:n1")],
                none,
                none,
            ),
            ("a kubelet without a name", vec![o("system:nodes"), cn("system:node:")], none, none),
            ("another user of Kubernetes", vec![cn("system:kube-proxy")], none, none),
            (
                "a service account",
                vec![o("system:nodes"), cn("system:serviceaccount:a:b")],
                none,
                none,
            ),
        ] {
            let read = ClientCertificate::read(&certificate(&subject, names).into());
            let nodes: Vec<&str> = read.nodes.iter().map(NodeName::as_str).collect();
            // rcgen keeps one value of a kind: of many groups the last one.
            let expected = if what == "a kubelet of many groups" { &["n1"][..] } else { expected };
            assert_eq!(nodes, expected, "{what}: {}", read.subject);
        }
    }

    #[test]
    fn which_ids_a_certificate_names() {
        for (what, common_name, names, expected) in [
            ("a common name", "Blue_1", &[][..], &["Blue_1"][..]),
            ("DNS names, as they are written", "n9", &["n1", "Blue_1"], &["Blue_1", "n1"]),
            ("what can be none", "a node of ours", &["*.example.org", "192.0.2.7"], &[]),
            ("one that is too long", &"a".repeat(64), &[], &[]),
        ] {
            let der = certificate(&[(DnType::CommonName, common_name)], names);
            let read = ClientCertificate::read(&der.into());
            let ids: Vec<&str> = read.ids.iter().map(NodeId::as_str).collect();
            assert_eq!(ids, expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_certificate_name_nobody(bytes: Vec<u8>) {
            prop_assert!(ClientCertificate::read(&bytes.into()).nodes.is_empty());
        }

        /// What is damaged is read or not, and never more than names come of it.
        #[test]
        fn damaged_certificates(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let subject = [(DnType::OrganizationName, "system:nodes"), (DnType::CommonName, "system:node:n1")];
            let mut bytes = certificate(&subject, &["n2.example.org", "192.0.2.7"]);
            let index = at.index(bytes.len());
            bytes[index] = byte;
            let whole = ClientCertificate::read(&bytes.clone().into());
            prop_assert!(whole.nodes.len() <= 3 && !whole.subject.contains('\n'));
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(ClientCertificate::read(&bytes.into()).nodes.is_empty());
        }
    }
}
