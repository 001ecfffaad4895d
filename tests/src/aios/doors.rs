//! The ports that the stand-in listens on, and the connections that come in there. axum's own
//! `serve` can neither leave a request unanswered nor reset a connection; hyper can.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::fault::Break;

/// How long no connection is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a port is asked for that somebody else has for the moment.
const BIND_TRIES: usize = 100;

/// How many connections wait to be accepted, as std's listeners have it.
const BACKLOG: u32 = 128;

/// To refuse connections from now on, or to take them again.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) refuse: bool,
    /// Told when it is so.
    pub(super) done: mpsc::Sender<io::Result<()>>,
}

/// A port and what answers there.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    router: Router,
    /// `None`: connections are refused.
    listener: Option<TcpListener>,
    /// Keeps the port while connections are refused: bound, and not listening.
    kept: Option<TcpSocket>,
}

impl Door {
    /// To be called on a runtime.
    pub(super) fn open_at(
        address: SocketAddr,
        listener: StdListener,
        router: Router,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { address, router, listener: Some(listener), kept: None })
    }

    async fn close(&mut self) -> io::Result<()> {
        if self.listener.take().is_none() {
            return Ok(());
        }
        let address = self.address;
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // The connections that have just been closed hold the port for a while.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            // Or the system may give a port that nobody listens on to the next who asks for any.
            socket.set_reuseaddr(false)?;
            Ok(socket)
        };
        self.kept = Some(patiently(bind).await?);
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if let Some(socket) = self.kept.take() {
            socket.set_reuseaddr(true)?;
            self.listener = Some(socket.listen(BACKLOG)?);
        }
        Ok(())
    }
}

/// Between two owners the system may lend a port to a client's connection, for a moment.
async fn patiently<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..BIND_TRIES {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
    bind()
}

/// Serves until nobody can give orders any more.
pub(super) async fn serve(mut doors: Vec<Door>, mut orders: UnboundedReceiver<Order>) {
    // Dropped with this future, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { return };
                let carried_out = if order.refuse {
                    let mut closed = Ok(());
                    for door in &mut doors {
                        closed = closed.and(door.close().await);
                    }
                    connections.shutdown().await;
                    closed
                } else {
                    doors.iter_mut().try_for_each(Door::open)
                };
                // Who gave the order waits for this, unless it has panicked.
                drop(order.done.send(carried_out));
            }
            (router, accepted) = accept(&doors) => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, router.clone()));
                }
                Err(error) => {
                    // Out of file descriptors or the like, which passes.
                    log::warn!(error:% = error; "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
        while connections.try_join_next().is_some() {}
    }
}

/// The next connection at any of the doors that are open.
async fn accept(doors: &[Door]) -> (&Router, io::Result<(TcpStream, SocketAddr)>) {
    std::future::poll_fn(|context| {
        for door in doors {
            if let Some(listener) = &door.listener
                && let Poll::Ready(accepted) = listener.poll_accept(context)
            {
                return Poll::Ready((&door.router, accepted));
            }
        }
        Poll::Pending
    })
    .await
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let reset = Arc::new(AtomicBool::new(false));
    let to_reset = Arc::clone(&reset);
    let answer = service_fn(move |request| {
        let answered = service.call(request);
        let to_reset = Arc::clone(&to_reset);
        Box::pin(async move {
            let Ok(response) = answered.await;
            match response.extensions().get::<Break>() {
                Some(end @ Break::HangUp) => return Err(*end),
                Some(Break::Reset) => to_reset.store(true, Ordering::Relaxed),
                None => {}
            }
            Ok(response)
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let ended = std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await;
    // It fails when the client goes away and when we break it; both are what a test wants.
    drop(ended);
    let stream = connection.into_parts().io.into_inner();
    if reset.load(Ordering::Relaxed)
        && let Err(error) = stream.set_zero_linger()
    {
        log::warn!(error:% = error; "the connection is closed in order, it cannot be reset");
    }
}
