//! The server's side of handshakes: who is at the other end, and why it came to nothing.
//!
//! axum-server has an acceptor of its own, which drops what went wrong, and the connection with it
//! before the client has read why.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::middleware::AddExtension;
use axum_server::accept::Accept;
use axum_server::tls_rustls::RustlsConfig;
use jiff::Timestamp;
use rollcall_report::clean_text;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Layer as _;

use crate::intake::certificate::{ClientCertificate, Peer};
use crate::metrics::Metrics;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client that was refused may take to read why.
const PARTING: Duration = Duration::from_secs(2);
/// How much of what it still sends is read meanwhile: a report may be on its way.
const PARTING_BYTES: u64 = 512 * 1024;
/// How long the same is not told again of one address.
const TOLD_FOR: Duration = Duration::from_hours(1);
/// How many are told within that time.
const MOST_TOLD: usize = 100;

/// Why a handshake came to nothing, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No certificate, where one is required.
    NoCertificate,
    /// The client's certificate has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It was signed by a CA that is not among ours.
    UnknownCa,
    /// It is not made for clients.
    NotForClients,
    /// Anything else is wrong with it.
    BadCertificate,
    /// The client does not accept our certificate.
    RefusedByClient,
    /// The two have no version or cipher in common, or one of them does not keep to the protocol.
    Protocol,
    /// What came is not TLS.
    NotTls,
    /// The client went away.
    BrokenOff,
    /// The client took too long.
    TimedOut,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NoCertificate,
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownCa,
        Self::NotForClients,
        Self::BadCertificate,
        Self::RefusedByClient,
        Self::Protocol,
        Self::NotTls,
        Self::BrokenOff,
        Self::TimedOut,
    ];

    /// The metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::UnknownCa => "unknown-ca",
            Self::NotForClients => "not-for-clients",
            Self::BadCertificate => "bad-certificate",
            Self::RefusedByClient => "refused-by-client",
            Self::Protocol => "protocol",
            Self::NotTls => "not-tls",
            Self::BrokenOff => "broken-off",
            Self::TimedOut => "timed-out",
        }
    }

    /// Whether a person is told: not of what anybody causes who tries ports.
    const fn is_told(self) -> bool {
        !matches!(self, Self::Protocol | Self::NotTls | Self::BrokenOff | Self::TimedOut)
    }

    fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            None if error.kind() == io::ErrorKind::TimedOut => Self::TimedOut,
            None => Self::BrokenOff,
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(error)) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::UnknownIssuer => Self::UnknownCa,
                CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. } => Self::NotForClients,
                _ => Self::BadCertificate,
            },
            Some(Error::AlertReceived(alert)) => match alert {
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::DecryptError => Self::RefusedByClient,
                AlertDescription::CloseNotify | AlertDescription::UserCanceled => Self::BrokenOff,
                _ => Self::Protocol,
            },
            Some(Error::InvalidMessage(_)) => Self::NotTls,
            Some(_) => Self::Protocol,
        }
    }
}

/// What went wrong, for people: with times that they can read, and no longer than they would. A
/// certificate that is wrong is told of by whoever sends it.
fn words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::NoCertificatesPresented) => {
            "the client presents no certificate: give its agent --client-cert and --client-key"
                .to_owned()
        }
        Some(Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
            let (not_after, now) = (shown(*not_after), shown(*time));
            format!("the client's certificate expired at {not_after}; it is {now} here")
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidYetContext {
            time,
            not_before,
        })) => {
            let (not_before, now) = (shown(*not_before), shown(*time));
            format!("the client's certificate is not valid before {not_before}; it is {now} here")
        }
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the client's certificate was signed by no CA of --client-ca-file".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!(
            "the client does not accept the intake's certificate ({alert:?}): compare its agent's --ca-file, and the name in its --aggregator"
        ),
        _ => clean_text(&error.to_string()),
    }
}

fn shown(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or("another age".to_owned(), |time| time.to_string())
}

/// Counts handshakes that come to nothing, and tells of those that a person can mend.
#[derive(Debug)]
pub struct Failures {
    metrics: Metrics,
    told: Mutex<Told>,
}

/// Who was told of lately.
#[derive(Debug, Default)]
struct Told {
    when: HashMap<(IpAddr, Reason), Instant>,
    /// Whether it was said that no more is told.
    is_enough: bool,
}

/// What to log of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// All of it.
    This,
    /// That no more is told for a while.
    NoMore,
    /// Nothing.
    Nothing,
}

impl Told {
    /// The same of one address is told once an hour, and of all together a hundred.
    fn next(&mut self, peer: IpAddr, reason: Reason, now: Instant) -> Telling {
        self.when.retain(|_, at| now.saturating_duration_since(*at) < TOLD_FOR);
        if self.when.contains_key(&(peer, reason)) {
            return Telling::Nothing;
        }
        if self.when.is_empty() {
            self.is_enough = false;
        }
        if self.when.len() < MOST_TOLD {
            self.when.insert((peer, reason), now);
            return Telling::This;
        }
        if std::mem::replace(&mut self.is_enough, true) {
            Telling::Nothing
        } else {
            Telling::NoMore
        }
    }
}

impl Failures {
    /// Counts in these metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, told: Mutex::default() }
    }

    fn note(&self, peer: Option<SocketAddr>, error: &io::Error) {
        let reason = Reason::of(error);
        self.metrics.handshake_failed(reason);
        // A client that is gone already has no address any more.
        let Some(peer) = peer.map(|peer| peer.ip().to_canonical()) else { return };
        let telling = if reason.is_told() {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.next(peer, reason, Instant::now())
        } else {
            Telling::Nothing
        };
        match telling {
            Telling::This => {
                log::warn!(peer:% = peer, reason = reason.as_str(), error = words(error).as_str();
                    "a client was not let in: the TLS handshake failed");
            }
            Telling::NoMore => {
                log::warn!(
                    "more TLS handshakes fail, which are only counted now: rollcall_aggregator_tls_handshakes_failed_total"
                );
            }
            Telling::Nothing => {
                log::debug!(peer:% = peer, reason = reason.as_str(), error = words(error).as_str(); "a TLS handshake failed");
            }
        }
    }
}

/// Takes TLS connections.
#[derive(Debug, Clone)]
pub struct Acceptor {
    config: RustlsConfig,
    failures: Arc<Failures>,
}

impl Acceptor {
    /// Takes connections with what `config` holds at the time.
    pub fn new(config: RustlsConfig, failures: Failures) -> Self {
        Self { config, failures: Arc::new(failures) }
    }
}

type Accepted<S> = (TlsStream<TcpStream>, AddExtension<S, Peer>);

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = TlsStream<TcpStream>;
    type Service = AddExtension<S, Peer>;
    type Future = Pin<Box<dyn Future<Output = io::Result<Accepted<S>>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let peer = stream.peer_addr().ok();
        let acceptor = TlsAcceptor::from(self.config.get_inner());
        let failures = Arc::clone(&self.failures);
        Box::pin(async move {
            let shaken = timeout(HANDSHAKE, acceptor.accept(stream).into_fallible()).await;
            let error = match shaken {
                Ok(Ok(stream)) => {
                    let presented = stream.get_ref().1.peer_certificates();
                    let certificate = presented.and_then(|chain| chain.first());
                    let certificate = certificate.map(ClientCertificate::read).map(Arc::new);
                    return Ok((stream, Extension(Peer(certificate)).layer(service)));
                }
                Ok(Err((error, stream))) => {
                    failures.note(peer, &error);
                    // A client that is gone hears nothing.
                    let _gone = timeout(PARTING, part(stream)).await;
                    error
                }
                Err(elapsed) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, elapsed);
                    failures.note(peer, &error);
                    error
                }
            };
            Err(error)
        })
    }
}

/// Closes a connection so that the client can read what it was told last, which is why it was refused:
/// with bytes unread it would be reset, and that might be lost. With TLS 1.3 a client sends its request
/// before it knows.
async fn part(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(PARTING_BYTES);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scanner_does_not_fill_the_log() {
        let mut told = Told::default();
        let start = Instant::now();
        let peer = |number: u32| IpAddr::from(number.to_be_bytes());
        assert_eq!(told.next(peer(1), Reason::Expired, start), Telling::This);
        assert_eq!(told.next(peer(1), Reason::Expired, start), Telling::Nothing, "the same");
        assert_eq!(told.next(peer(1), Reason::UnknownCa, start), Telling::This, "another reason");
        let (mut lines, mut last) = (0, 0);
        for number in 2..10_000 {
            match told.next(peer(number), Reason::NoCertificate, start) {
                Telling::This => lines += 1,
                Telling::NoMore => last += 1,
                Telling::Nothing => assert_eq!(lines, MOST_TOLD - 2, "{number}"),
            }
        }
        assert_eq!((told.when.len(), last), (MOST_TOLD, 1), "and that no more is told, once");
        let later = start + TOLD_FOR;
        assert_eq!(told.next(peer(1), Reason::Expired, later), Telling::This, "an hour later");
        assert_eq!(told.when.len(), 1, "what is old is forgotten");
    }

    #[test]
    fn reasons() {
        let tls = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let (time, second) =
            (|at| UnixTime::since_unix_epoch(Duration::from_secs(at)), 1_700_000_000);
        let invalid = |error| tls(Error::InvalidCertificate(error));
        let expired =
            CertificateError::ExpiredContext { time: time(second), not_after: time(second - 60) };
        let early = CertificateError::NotValidYetContext {
            time: time(second),
            not_before: time(second + 60),
        };
        for (error, reason, said) in [
            (tls(Error::NoCertificatesPresented), Reason::NoCertificate, "presents no certificate"),
            (
                invalid(expired),
                Reason::Expired,
                "expired at 2023-11-14T22:12:20Z; it is 2023-11-14T22:13:20Z here",
            ),
            (invalid(early), Reason::NotYetValid, "not valid before 2023-11-14T22:14:20Z"),
            (
                invalid(CertificateError::UnknownIssuer),
                Reason::UnknownCa,
                "no CA of --client-ca-file",
            ),
            (invalid(CertificateError::InvalidPurpose), Reason::NotForClients, "certificate"),
            (invalid(CertificateError::BadEncoding), Reason::BadCertificate, "certificate"),
            (
                tls(Error::AlertReceived(AlertDescription::UnknownCA)),
                Reason::RefusedByClient,
                "UnknownCA",
            ),
            (tls(Error::AlertReceived(AlertDescription::ProtocolVersion)), Reason::Protocol, ""),
            (
                tls(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)),
                Reason::NotTls,
                "",
            ),
            (
                invalid(CertificateError::ApplicationVerificationFailure),
                Reason::BadCertificate,
                "certificate",
            ),
            (tls(Error::General("\u{1b}[31m".repeat(5000))), Reason::Protocol, "unexpected error"),
            (io::ErrorKind::UnexpectedEof.into(), Reason::BrokenOff, ""),
            (io::ErrorKind::TimedOut.into(), Reason::TimedOut, ""),
        ] {
            assert_eq!(Reason::of(&error), reason, "{error}");
            let words = words(&error);
            assert!(words.contains(said), "{reason:?}: {words}");
            let is_clean = !words.contains(char::is_control) && words.chars().count() <= 512;
            assert!(is_clean, "{reason:?}: {words}");
        }
    }
}
