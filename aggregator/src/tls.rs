//! The intake's certificate: loaded from files, and again when they change, since whoever issues
//! certificates renews them while the aggregator runs.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use rollcall_daemon::secret::warn_if_exposed;
use rollcall_report::error_chain;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use thiserror::Error;
use tokio::time::sleep;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The files of a certificate chain and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificate or its key cannot be read.
    #[error("{flag} {} cannot be used", path.display())]
    Pem {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate and its key do not go together.
    #[error("the certificate {} cannot be served with the key {}", cert.display(), key.display())]
    Certificate {
        /// The certificate chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
}

impl Files {
    /// Loads the certificate.
    ///
    /// # Errors
    ///
    /// When it or its key cannot be read, or they do not go together.
    pub fn load(&self) -> Result<RustlsConfig, TlsError> {
        warn_if_exposed(&self.key);
        let (_, config) = self.read()?;
        Ok(RustlsConfig::from_config(config))
    }

    /// Serves what the files hold from now on, whenever that changes. What cannot be served is said
    /// once, and the certificate before it goes on.
    pub async fn follow(self, served: RustlsConfig) -> Infallible {
        let mut known = self.read().map(|(chain, _)| chain).ok();
        let mut trouble = None;
        loop {
            sleep(LOOK).await;
            match self.read() {
                Ok((chain, config)) => {
                    if known.as_ref() != Some(&chain) {
                        served.reload_from_config(config);
                        known = Some(chain);
                        log::info!(file = self.cert.display().to_string(); "the intake's certificate is renewed");
                    }
                    trouble = None;
                }
                Err(error) => {
                    let words = error_chain(&error);
                    if trouble.as_ref() != Some(&words) {
                        log::error!(error = words.as_str();
                            "the intake's certificate cannot be loaded again; the one before is served still");
                    }
                    trouble = Some(words);
                }
            }
        }
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, Arc<ServerConfig>), TlsError> {
        let unusable = |flag, path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Pem { flag, path, source }
        };
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(unusable("--tls-cert", &self.cert))?;
        if chain.is_empty() {
            return Err(unusable("--tls-cert", &self.cert)(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(unusable("--tls-key", &self.key))?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key)
            .map_err(|source| {
                let (cert, key) = (self.cert.clone(), self.key.clone());
                TlsError::Certificate { cert, key, source }
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((chain, Arc::new(config)))
    }
}
