//! When to stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGTERM or SIGINT after this call.
///
/// # Errors
///
/// When the signal handlers cannot be installed.
pub fn signalled() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => log::info!("stopping on SIGTERM"),
            _ = interrupt.recv() => log::info!("stopping on SIGINT"),
        }
    })
}
