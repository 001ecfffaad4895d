//! The intake's certificate and the CA of its clients' ones: loaded from files, and again when they
//! change, since whoever issues certificates renews them while the aggregator runs.

pub mod handshake;
mod tickets;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use jiff::Timestamp;
use rollcall_daemon::certificate::{
    Certificate, CertificateError, Standing, from_pem, to_the_second,
};
use rollcall_daemon::secret::warn_if_exposed;
use rollcall_daemon::trouble::Trouble;
use rollcall_report::error_chain;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::time::sleep;

use crate::metrics::Metrics;
use tickets::Tickets;

/// What is agreed on where the client can, whatever it likes best: most ask for SHA-384 first, for which
/// most CPUs have no instructions, and which makes a handshake dearer by a tenth.
const PREFERRED: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long a certificate and its key may take to be written one after the other.
const SETTLING: Duration = Duration::from_secs(1);

const CERT_FLAG: &str = "--tls-cert";
const KEY_FLAG: &str = "--tls-key";
const CLIENT_CA_FLAG: &str = "--client-ca-file";

/// The files of a certificate chain and its key, and of the CA of clients; PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// Whose certificates are taken; none are asked for without.
    pub clients: Option<Clients>,
}

/// Whose certificates are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// Their CA's certificates, one or more.
    pub ca: PathBuf,
    /// Whether there is no way in without one.
    pub are_required: bool,
}

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{flag} {} cannot be read", path.display())]
    Unreadable {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no certificates.
    #[error("{flag} {} cannot be used", path.display())]
    Certificates {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The key cannot be read.
    #[error("{KEY_FLAG} {} cannot be used", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate and its key do not go together.
    #[error("the certificate {} cannot be served with the key {}", cert.display(), key.display())]
    Pair {
        /// The certificate chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The clients' certificates cannot be checked.
    #[error("{CLIENT_CA_FLAG} {} cannot be used: {said}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        said: String,
    },
    /// The TLS library cannot serve at all.
    #[error("TLS cannot be served")]
    Library {
        /// What it said.
        source: rustls::Error,
    },
}

/// What is served.
#[derive(Debug, Clone)]
pub struct Served {
    config: RustlsConfig,
    pair: Pair,
    clients: Option<ClientCa>,
}

impl Served {
    /// What connections are taken with; it changes as the files do.
    pub fn config(&self) -> RustlsConfig {
        self.config.clone()
    }
}

/// The server's own certificate and its key.
#[derive(Debug, Clone)]
struct Pair {
    leaf: Certificate,
    /// The same and its key, with the certificates between it and its CA.
    key: Arc<CertifiedKey>,
}

/// Whom clients' certificates may come from.
#[derive(Debug, Clone)]
struct ClientCa {
    certificates: Vec<Certificate>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Files {
    /// Loads the certificate.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or the certificate and its key do not go together, and that is so a
    /// moment later, too.
    pub async fn load(&self) -> Result<Served, TlsError> {
        warn_if_exposed(&self.key);
        let pair = settled(|| self.read_pair()).await?;
        let clients = settled(|| self.read_clients()).await?;
        let config = RustlsConfig::from_config(config(&pair, clients.as_ref())?);
        Ok(Served { config, pair, clients })
    }

    /// Serves what the files hold from now on, whenever that changes: the certificate and its key, and
    /// the CA of clients, each by itself. What cannot be served is said once, and what was before goes
    /// on. Whoever has a certificate that is valid is not given one that is not: it is taken up when it
    /// is valid, or when the one before is not any more.
    pub async fn follow(self, mut served: Served, metrics: Metrics) -> Infallible {
        let (mut intake, mut authority) = (Watched::default(), Watched::default());
        let (mut pair_trouble, mut clients_trouble) = (Trouble::default(), Trouble::default());
        loop {
            let now = Timestamp::now();
            metrics.certificate_expires("intake", served.pair.leaf.not_after);
            intake.tell(&served.pair.leaf, now, &INTAKE, &self.cert);
            let first = served.clients.as_ref().and_then(|it| first_to_end(&it.certificates));
            if let (Some(first), Some(files)) = (first, &self.clients) {
                metrics.certificate_expires("client-ca", first.not_after);
                authority.tell(first, now, &CLIENT_CA, &files.ca);
            }
            sleep(LOOK).await;
            self.look_at_pair(&mut served, &mut pair_trouble).await;
            self.look_at_clients(&mut served, &mut clients_trouble).await;
        }
    }

    async fn look_at_pair(&self, served: &mut Served, trouble: &mut Trouble) {
        let found = settled(|| self.read_pair()).await;
        let (words, message) = match found.and_then(|found| self.take_up_pair(found, served)) {
            Ok(Taken::New) => {
                trouble.ends();
                return;
            }
            Ok(Taken::Known) => {
                if trouble.ends() {
                    log::info!(file:% = self.cert.display(), certificate = served.pair.leaf.subject.as_str();
                        "the intake's certificate can be loaded again; it is the one that is served");
                }
                return;
            }
            Ok(Taken::NotValid(words)) => {
                (words, "the intake's new certificate is not valid; the one before is served still")
            }
            Err(error) => (
                error_chain(&error),
                "the intake's certificate cannot be loaded again; the one before is served still",
            ),
        };
        if trouble.is_news(&words) {
            log::error!(error = words.as_str(); "{message}");
        }
    }

    async fn look_at_clients(&self, served: &mut Served, trouble: &mut Trouble) {
        let Some(clients) = &self.clients else { return };
        let found = settled(|| self.read_clients()).await;
        match found.and_then(|found| take_up_clients(found, served)) {
            Ok(true) => {
                trouble.ends();
                let count = served.clients.as_ref().map_or(0, |it| it.certificates.len());
                log::info!(file:% = clients.ca.display(), certificates = count;
                    "the CA of clients' certificates is renewed");
            }
            Ok(false) => {
                if trouble.ends() {
                    log::info!(file:% = clients.ca.display();
                        "the CA of clients' certificates can be loaded again; it is the one that is trusted");
                }
            }
            Err(error) => {
                let words = error_chain(&error);
                if trouble.is_news(&words) {
                    log::error!(error = words.as_str();
                        "the CA of clients' certificates cannot be loaded again; the one before is trusted still");
                }
            }
        }
    }

    /// Serves a pair, as far as it is another.
    fn take_up_pair(&self, found: Pair, served: &mut Served) -> Result<Taken, TlsError> {
        if found.key.cert == served.pair.key.cert {
            return Ok(Taken::Known);
        }
        let now = Timestamp::now();
        if let (Err(words), true) =
            (found.leaf.is_in_time(now), served.pair.leaf.standing(now).is_valid())
        {
            return Ok(Taken::NotValid(words));
        }
        served.config.reload_from_config(config(&found, served.clients.as_ref())?);
        served.pair = found;
        warn_if_exposed(&self.key);
        let leaf = &served.pair.leaf;
        log::info!(file:% = self.cert.display(), certificate = leaf.subject.as_str(), until:% = leaf.not_after;
            "the intake's certificate is renewed");
        Ok(Taken::New)
    }

    fn read_pair(&self) -> Result<Pair, TlsError> {
        let chain = certificates(CERT_FLAG, &self.cert)?;
        let ders: Vec<CertificateDer<'static>> = chain.iter().map(|it| it.der.clone()).collect();
        let Some(leaf) = chain.into_iter().next() else {
            let path = self.cert.clone();
            let source = CertificateError::Empty;
            return Err(TlsError::Certificates { flag: CERT_FLAG, path, source });
        };
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| TlsError::Key { path: self.key.clone(), source })?;
        let key = CertifiedKey::from_der(ders, key, &default_provider()).map_err(|source| {
            let (cert, key) = (self.cert.clone(), self.key.clone());
            TlsError::Pair { cert, key, source }
        })?;
        Ok(Pair { leaf, key: Arc::new(key) })
    }

    /// Reads the CA of clients, all or nothing: whoever leaves one out of it unseen locks nodes out.
    fn read_clients(&self) -> Result<Option<ClientCa>, TlsError> {
        let Some(clients) = &self.clients else { return Ok(None) };
        let certificates = certificates(CLIENT_CA_FLAG, &clients.ca)?;
        let unusable = |said| TlsError::ClientCa { path: clients.ca.clone(), said };
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.der.clone())
                .map_err(|error| unusable(format!("{}: {error}", certificate.subject)))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(default_provider()),
        );
        let verifier =
            if clients.are_required { verifier } else { verifier.allow_unauthenticated() };
        let verifier = verifier.build().map_err(|error| unusable(error.to_string()))?;
        Ok(Some(ClientCa { certificates, verifier }))
    }
}

/// What became of a pair that was read.
enum Taken {
    /// It is served from now on.
    New,
    /// It is the one that is served.
    Known,
    /// It is not served, since it is not valid now, as the words say.
    NotValid(String),
}

/// Takes clients with certificates of these CAs, as far as they are others. Whether they are.
fn take_up_clients(found: Option<ClientCa>, served: &mut Served) -> Result<bool, TlsError> {
    let certificates = |it: &Option<ClientCa>| it.as_ref().map(|it| it.certificates.clone());
    if certificates(&found) == certificates(&served.clients) {
        return Ok(false);
    }
    served.config.reload_from_config(config(&served.pair, found.as_ref())?);
    served.clients = found;
    Ok(true)
}

fn config(pair: &Pair, clients: Option<&ClientCa>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut provider = default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != PREFERRED);
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|source| TlsError::Library { source })?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(Arc::clone(&clients.verifier)),
    };
    let mut config =
        builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&pair.key))));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if clients.is_some() {
        // A session that is taken up again brings its certificate along unchecked, whether or not
        // that has expired since.
        config.send_tls13_tickets = 0;
    } else {
        let tickets = Tickets::until(pair.leaf.not_after);
        config.ticketer = Arc::new(tickets.map_err(|source| TlsError::Library { source })?);
        // An agent has one connection at a time.
        config.send_tls13_tickets = 1;
    }
    Ok(Arc::new(config))
}

/// Reads files; once more where they make no sense, since they are written one after the other.
async fn settled<T>(read: impl Fn() -> Result<T, TlsError>) -> Result<T, TlsError> {
    if let Ok(read) = read() {
        return Ok(read);
    }
    sleep(SETTLING).await;
    read()
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<Certificate>, TlsError> {
    let path = path.to_owned();
    match fs::read(&path) {
        Ok(pem) => from_pem(&pem).map_err(|source| TlsError::Certificates { flag, path, source }),
        Err(source) => Err(TlsError::Unreadable { flag, path, source }),
    }
}

fn first_to_end(certificates: &[Certificate]) -> Option<&Certificate> {
    certificates.iter().min_by_key(|it| it.not_after)
}

/// What is said of a certificate that does not stand well.
struct Words {
    ends_soon: &'static str,
    expired: &'static str,
    not_yet_valid: &'static str,
    good: &'static str,
}

const INTAKE: Words = Words {
    ends_soon: "the intake's certificate expires soon: put another and its key in their files",
    expired: "the intake's certificate has expired, so that agents do not accept it: put another and its key in their files",
    not_yet_valid: "the intake's certificate is not valid yet, so that agents do not accept it: is this machine's clock right?",
    good: "the intake's certificate is valid",
};

// The TLS library looks at a CA's name and key and not at its time, as it does for agents.
const CLIENT_CA: Words = Words {
    ends_soon: "a CA of clients' certificates expires soon: put its successor beside it in the file",
    expired: "a CA of clients' certificates has expired, and what it has signed is taken still: take it out of the file",
    not_yet_valid: "a CA of clients' certificates is not valid yet, and what it has signed is taken already: is this machine's clock right?",
    good: "all CAs of clients' certificates are valid",
};

/// A certificate as it was last told of.
#[derive(Debug, Default)]
struct Watched {
    last: Option<(Certificate, Standing)>,
}

impl Watched {
    /// Says how a certificate stands, once, where that is not good, or is good again.
    fn tell(&mut self, certificate: &Certificate, now: Timestamp, words: &Words, file: &Path) {
        let standing = certificate.standing(now);
        let last = self.last.replace((certificate.clone(), standing));
        let was = last.as_ref().filter(|(last, _)| last == certificate).map(|(_, was)| *was);
        // Of another one it was said that it is new.
        if was == Some(standing) || (standing == Standing::Good && was.is_none()) {
            return;
        }
        let (level, words) = match standing {
            Standing::Good => (log::Level::Info, words.good),
            Standing::EndsSoon => (log::Level::Warn, words.ends_soon),
            Standing::Expired => (log::Level::Error, words.expired),
            Standing::NotYetValid => (log::Level::Error, words.not_yet_valid),
        };
        log::log!(level, file:% = file.display(), certificate = certificate.subject.as_str(),
            from:% = certificate.not_before, until:% = certificate.not_after, now:% = to_the_second(now); "{words}");
    }
}
