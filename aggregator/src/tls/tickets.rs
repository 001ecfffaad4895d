//! Sessions that clients take up again: an agent that reports once a minute over a connection of its own is
//! spared the certificate and its signature.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::Error;
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;

/// Tickets that hold as long as the certificate with which they were given: whoever comes with one does not
/// look at it again. They are sealed with keys that only this process knows and that change.
#[derive(Debug)]
pub(super) struct Tickets {
    sealed: Arc<dyn ProducesTickets>,
    until: Timestamp,
}

impl Tickets {
    /// Tickets for a certificate that is valid until then.
    ///
    /// # Errors
    ///
    /// When the system gives no random numbers.
    pub(super) fn until(until: Timestamp) -> Result<Self, Error> {
        Ok(Self { sealed: Ticketer::new()?, until })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.sealed.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.sealed.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.sealed.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        if Timestamp::now() > self.until {
            return None;
        }
        self.sealed.decrypt(cipher)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rollcall_daemon::certificate::from_pem;
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig,
        ServerConnection,
    };

    use super::super::{ClientCa, Pair, config};
    use super::*;

    fn pair(until: Timestamp) -> Pair {
        let names = vec!["aggregator.example".to_owned()];
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names).expect("a certificate");
        let mut leaf = from_pem(cert.pem().as_bytes()).expect("PEM").remove(0);
        leaf.not_after = until;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let chain = vec![cert.der().clone()];
        let key = rustls::sign::CertifiedKey::from_der(chain, key, &default_provider());
        Pair { leaf, key: Arc::new(key.expect("they go together")) }
    }

    fn roots(pairs: &[&Pair]) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for pair in pairs {
            roots.add(pair.leaf.der.clone()).expect("a root");
        }
        roots
    }

    /// Shakes hands and reads what the server says then: how much was left out.
    fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> HandshakeKind {
        let name = "aggregator.example".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
        let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
        while client.wants_write() || server.wants_write() {
            let (mut sent, mut answered) = (Vec::new(), Vec::new());
            client.write_tls(&mut sent).expect("written");
            let mut sent = sent.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).expect("read");
                server.process_new_packets().expect("TLS");
            }
            server.write_tls(&mut answered).expect("written");
            let mut answered = answered.as_slice();
            while !answered.is_empty() {
                client.read_tls(&mut answered).expect("read");
                client.process_new_packets().expect("TLS");
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        server.handshake_kind().expect("hands were shaken")
    }

    #[test]
    fn who_is_spared_the_certificate() {
        let (past, future) = (SignedDuration::from_hours(-1), SignedDuration::from_hours(1));
        let [past, future] = [past, future].map(|it| Timestamp::now() + it);
        let [current, renewed, ended] = [future, future, past].map(pair);
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots(&[&current])),
            Arc::new(default_provider()),
        );
        let verifier = verifier.allow_unauthenticated().build().expect("a verifier");
        let clients = ClientCa { certificates: vec![current.leaf.clone()], verifier };
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots(&[&current, &renewed, &ended]))
            .with_no_client_auth();
        for (what, pair, clients, again) in [
            ("a certificate that holds", &current, None, HandshakeKind::Resumed),
            ("one that came since", &renewed, None, HandshakeKind::Resumed),
            ("one that has ended", &ended, None, HandshakeKind::Full),
            ("clients' certificates", &current, Some(&clients), HandshakeKind::Full),
        ] {
            let server = config(pair, clients).expect("a configuration");
            let client = Arc::new(client.clone());
            let kinds = [(); 3].map(|()| shake(&client, &server));
            assert_eq!(kinds, [HandshakeKind::Full, again, again], "{what}");
        }
    }
}
