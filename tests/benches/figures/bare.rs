//! What the intake is compared with: a handler that reads the same body and answers as many bytes, in a
//! process of its own, on the same server, runtime and TLS library; it does nothing else.

use std::env;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, ExitCode};

use axum::body::Bytes;
use axum::routing::post;
use axum::{Json, Router};
use axum_server::tls_rustls::RustlsConfig;
use rollcall_daemon::http::install_crypto_provider;
use rollcall_report::{Assignment, MAX_REPORT_BYTES, NodeId, REPORTS_PATH};
use rollcall_tests::process::Daemon;

use crate::large::Certificate;

/// The argument by which this very program becomes the handler, with the files of TLS behind it.
const ASKED: &str = "--bare-handler";

/// A handler that runs.
#[derive(Debug)]
pub(crate) struct Bare {
    pub daemon: Daemon,
    pub address: SocketAddr,
}

impl Bare {
    pub(crate) fn start(certificate: Option<&Certificate>) -> Self {
        let program = env::current_exe().unwrap_or_else(|error| panic!("no program: {error}"));
        let mut command = Command::new(program);
        command.arg(ASKED);
        if let Some(certificate) = certificate {
            command.args([&certificate.cert, &certificate.key]);
        }
        let daemon = Daemon::spawn("bare handler", command);
        let address = daemon.listening_address("bare handler");
        Self { daemon, address }
    }
}

/// Serves, where this process was started for that.
pub(crate) fn asked_for() -> Option<ExitCode> {
    let mut arguments = env::args().skip(1);
    arguments.next().filter(|first| first == ASKED)?;
    let files = arguments.next().zip(arguments.next());
    Some(match serve(files) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

fn serve(files: Option<(String, String)>) -> Result<(), Box<dyn Error>> {
    let node_id: NodeId = "swarm-0000000000".parse()?;
    let app = Router::new().route(
        REPORTS_PATH,
        post(|body: Bytes| async move {
            // As bounded as the intake, whose answer this is.
            let interval_seconds = if body.len() > MAX_REPORT_BYTES { 0 } else { 60 };
            Json(Assignment { node_id, node_class: None, interval_seconds })
        }),
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    println!("bare handler listening address={}", listener.local_addr()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let app = app.into_make_service();
    runtime.block_on(async {
        match files {
            Some((cert, key)) => {
                install_crypto_provider();
                let tls = RustlsConfig::from_pem_file(cert, key).await?;
                Ok(axum_server::from_tcp_rustls(listener, tls)?.serve(app).await?)
            }
            None => Ok(axum_server::from_tcp(listener)?.serve(app).await?),
        }
    })
}
