//! Serves a stand-in on loopback, from a thread of its own, until it is dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use rollcall_daemon::http::install_crypto_provider;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::oneshot;

use crate::openssl::Issued;

/// A server that runs.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves on a free port; over TLS where there is a certificate.
    ///
    /// # Panics
    ///
    /// When it cannot listen, or the certificate is of no use.
    #[expect(clippy::expect_used, reason = "without its stand-in a test can only fail")]
    pub fn start(app: Router, certificate: Option<&Issued>) -> Self {
        let tls = certificate.map(|issued| {
            install_crypto_provider();
            let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("a PEM of certificates");
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a PEM of a key");
            let config = ServerConfig::builder().with_no_client_auth();
            let config = config.with_single_cert(chain, key).expect("a certificate and its key");
            RustlsConfig::from_config(Arc::new(config))
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener of ours");
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (stop, stopped) = oneshot::channel::<()>();
        let app = app.into_make_service();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let serving = async {
                    match tls {
                        Some(tls) => axum_server::from_tcp_rustls(listener, tls)?.serve(app).await,
                        None => axum_server::from_tcp(listener)?.serve(app).await,
                    }
                };
                tokio::select! {
                    // Resolves when the sender is dropped, which is the signal.
                    _ = stopped => {}
                    _ = serving => {}
                }
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed already.
            drop(thread.join());
        }
    }
}
