//! Whom the agent trusts, and what it is known by: the files of TLS, read anew as they change.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Client;
use rollcall_daemon::certificate::{Certificate, Standing, from_pem, to_the_second};
use rollcall_daemon::http::{ClientCertificate, ClientError, Connection, tls_error};
use rollcall_report::error_chain;
use rustls::{AlertDescription, CertificateError};
use thiserror::Error;
use tokio::time::Instant;
use url::Url;

/// How long a report may take, from the first byte sent to the last one received.
const REPORT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long what was sent may stay unacknowledged: an aggregator that is gone without a word, with the
/// connection that was kept, is not waited for.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// How long the system's CAs are kept, when the aggregator's certificate is signed by none of them.
const SYSTEM_CAS_KEPT: Duration = Duration::from_mins(5);

/// The files of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustFiles {
    /// The CA that the aggregator's certificate is checked against; else the system's.
    pub ca: Option<PathBuf>,
    /// This node's own certificate and its key.
    pub own: Option<OwnFiles>,
}

/// This node's own certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFiles {
    /// The certificate, and those between it and its CA.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TrustFiles {
    /// All of them, by path.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let own = self.own.iter().flat_map(|own| [&own.cert, &own.key]);
        self.ca.iter().chain(own).map(PathBuf::as_path)
    }
}

/// An HTTP client for the aggregator, made anew when its files change.
#[derive(Debug)]
pub struct Trust {
    source: Source,
    ready: Option<Ready>,
    /// Whether the system's CAs are to be read again.
    is_renewal_due: bool,
    /// Why the files could not be read again, as it was logged.
    trouble: Option<String>,
    /// The certificate whose end was told to be near.
    warned_of: Option<Certificate>,
}

/// What a client is made of. Reading it may take for ever, as any file may.
#[derive(Debug, Clone)]
struct Source {
    aggregator: Url,
    files: TrustFiles,
}

/// A client, and what it was made of.
#[derive(Debug, Clone)]
pub struct Ready {
    client: Client,
    /// This node's own certificate.
    own: Option<Certificate>,
    /// How the files were just before they were read.
    stamps: Vec<Option<Stamp>>,
    made_at: Instant,
}

impl Ready {
    /// Whether it can be used for another report.
    fn is_usable(&self, now: Timestamp) -> bool {
        self.own.as_ref().is_none_or(|own| own.standing(now).is_valid())
    }
}

/// What tells that a file is another one, or was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Why nothing can be sent at all.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The CA file is unusable.
    #[error("the aggregator's certificate could not be checked")]
    Ca {
        /// What is wrong with it.
        source: ClientError,
    },
    /// This node's own certificate is unusable.
    #[error("this node's client certificate cannot be used")]
    Own {
        /// What is wrong with it.
        source: ClientError,
    },
    /// The HTTP client cannot be built.
    #[error(
        "no HTTP client can be built: install the system's CA certificates (ca-certificates), or name the aggregator's CA with --ca-file"
    )]
    Client {
        /// What the HTTP library said.
        source: reqwest::Error,
    },
}

/// Says that a path leads to no regular file: reading from a pipe would wait for a writer.
///
/// # Errors
///
/// When it does, or cannot be looked at.
pub fn check_regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

impl Source {
    /// The client by the files as they are now: the one that was made before, where they are as they
    /// were then.
    fn read(&self, before: Option<Ready>) -> Result<Ready, TrustError> {
        let stamps: Vec<_> = self.files.paths().map(Stamp::of).collect();
        match before {
            Some(before) if before.stamps == stamps => Ok(before),
            _ => self.make(stamps),
        }
    }

    fn make(&self, stamps: Vec<Option<Stamp>>) -> Result<Ready, TrustError> {
        let unreadable = |path: &Path, source| {
            let path = path.to_owned();
            if self.files.ca.as_deref() == Some(&path) {
                TrustError::Ca { source: ClientError::CaUnreadable { path, source } }
            } else {
                let source = ClientError::ClientCertificateUnreadable { path, source };
                TrustError::Own { source }
            }
        };
        for path in self.files.paths() {
            check_regular(path).map_err(|source| unreadable(path, source))?;
        }
        let own = self.files.own.as_ref();
        let client_certificate =
            own.map(|own| ClientCertificate { cert_file: own.cert.as_path(), key_file: &own.key });
        let ca_file = self.files.ca.as_deref();
        let connection = Connection { ca_file, client_certificate, proxy: None };
        let client = connection
            .client_builder(&self.aggregator)
            .map_err(|source| match source {
                source if source.is_client_certificate() => TrustError::Own { source },
                source => TrustError::Ca { source },
            })?
            .timeout(REPORT_TIMEOUT)
            // Kept until the next report, which spares a handshake; the aggregator closes it. No idle timer,
            // which would wake the agent, and no probes of TCP, which would be more packets than reports.
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(None)
            .tcp_keepalive(None)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .build()
            .map_err(|source| TrustError::Client { source })?;
        // What our own parser cannot read may be good all the same; only its times are not known.
        let own = own.and_then(|own| from_pem(&fs::read(&own.cert).ok()?).ok()?.into_iter().next());
        Ok(Ready { client, own, stamps, made_at: Instant::now() })
    }
}

impl Trust {
    /// Nothing is read yet.
    pub const fn new(aggregator: Url, files: TrustFiles) -> Self {
        let source = Source { aggregator, files };
        Self { source, ready: None, is_renewal_due: false, trouble: None, warned_of: None }
    }

    /// The files.
    pub const fn files(&self) -> &TrustFiles {
        &self.source.files
    }

    /// Work that reads the files, for a thread on which it may hang. What comes of it is to be
    /// [taken up](Self::take_up).
    pub fn reading(&self) -> impl FnOnce() -> Result<Ready, TrustError> + Send + 'static {
        let source = self.source.clone();
        // What could not be read again may be as it was, and that is to be told.
        let is_good = !self.is_renewal_due && self.trouble.is_none();
        let before = self.ready.clone().filter(|_| is_good);
        move || source.read(before)
    }

    /// Whether files make no sense that did before: a certificate and its key are written one after
    /// the other.
    pub fn is_unsettled(&self, read: &Result<Ready, TrustError>) -> bool {
        matches!(read, Err(TrustError::Own { .. })) && self.ready.is_some()
    }

    /// The client to send with now, by what was read.
    ///
    /// # Errors
    ///
    /// When there is none: the files are of no use, and what was read before is not either.
    pub fn take_up(
        &mut self,
        read: Result<Ready, TrustError>,
        now: Timestamp,
    ) -> Result<Client, TrustError> {
        match read {
            Ok(ready) => {
                let file = self.source.files.own.as_ref().map(|files| files.cert.as_path());
                let new = ready.own.as_ref().zip(file);
                let fault = new.and_then(|(own, file)| out_of_time(own, file, now));
                if let (Some(fault), Some(client)) = (fault, self.usable(now)) {
                    self.keep(&fault, "this node's new client certificate is not valid; the one before is used still");
                    return Ok(client);
                }
                let client = ready.client.clone();
                self.renew(ready);
                Ok(client)
            }
            Err(error) => {
                let Some(client) = self.usable(now) else { return Err(error) };
                let words = error_chain(&error);
                self.keep(
                    &words,
                    "the files of TLS cannot be read again; what was read before is used still",
                );
                Ok(client)
            }
        }
    }

    /// The client that was made before, where its certificate is valid still.
    fn usable(&self, now: Timestamp) -> Option<Client> {
        self.ready.as_ref().filter(|ready| ready.is_usable(now)).map(|ready| ready.client.clone())
    }

    /// Says once why what was read before is used still.
    fn keep(&mut self, words: &str, message: &str) {
        // The machine's time is told along, which is another one each time.
        let about = words.split(", and it is ").next().unwrap_or_default().to_owned();
        if self.trouble.as_ref() != Some(&about) {
            log::warn!(error = words; "{message}");
        }
        self.trouble = Some(about);
    }

    fn renew(&mut self, ready: Ready) {
        self.is_renewal_due = false;
        let had_trouble = self.trouble.take().is_some();
        let before = self.ready.replace(ready);
        match (self.own(), &self.source.files.own) {
            (Some(own), Some(files))
                if before.is_some_and(|before| before.own.as_ref() != Some(own)) =>
            {
                log::info!(file:% = files.cert.display(), certificate = own.subject.as_str(), until:% = own.not_after;
                    "this node's client certificate is renewed");
            }
            _ if had_trouble => log::info!("the files of TLS can be read again"),
            _ => {}
        }
    }

    /// Notes that the two ends did not trust each other. Files are read anew when they change; of the
    /// system's CAs nothing tells that they have, so they are read anew now and then.
    pub fn was_refused(&mut self, now: Instant) {
        let age = self.ready.as_ref().map(|ready| now.duration_since(ready.made_at));
        let is_old = age.is_some_and(|age| age > SYSTEM_CAS_KEPT);
        self.is_renewal_due |= self.source.files.ca.is_none() && is_old;
    }

    /// Until when this node's own certificate is valid.
    pub fn expires(&self) -> Option<Timestamp> {
        self.own().map(|own| own.not_after)
    }

    fn own(&self) -> Option<&Certificate> {
        self.ready.as_ref()?.own.as_ref()
    }

    /// Says once when this node's own certificate has not much time left.
    pub fn warn_before_the_end(&mut self) {
        let (Some(own), Some(files)) = (self.own(), &self.source.files.own) else { return };
        let ends_soon = own.standing(Timestamp::now()) == Standing::EndsSoon;
        if ends_soon && self.warned_of.as_ref() != Some(own) {
            log::warn!(file:% = files.cert.display(), certificate = own.subject.as_str(), until:% = own.not_after;
                "this node's client certificate expires soon: put another and its key in their files");
            self.warned_of = Some(own.clone());
        }
    }

    /// What an error of TLS means, in words; nothing of what is none.
    pub fn explain(&self, error: &reqwest::Error, now: Timestamp) -> Option<Explained> {
        let own =
            self.own().zip(self.source.files.own.as_ref()).map(|(it, files)| (it, &*files.cert));
        if let Some(error) = tls_error(error) {
            let words = explain(error, own, self.source.files.ca.as_deref(), now)?;
            return Some(Explained { words, source: Box::new(error.clone()) });
        }
        // A refusal that is lost on its way: the connection just ends.
        let (own, path) = own?;
        let words = out_of_time(own, path, now)?;
        let is_lost = !error.is_connect() && !error.is_timeout();
        is_lost.then(|| Explained {
            words: format!("no answer came; {words}"),
            source: "the connection was closed".into(),
        })
    }
}

/// An error of TLS, explained.
#[derive(Debug)]
pub struct Explained {
    /// What happened, and what to do.
    pub words: String,
    /// What the TLS library said.
    pub source: Box<dyn StdError + Send + Sync>,
}

fn explain(
    error: &rustls::Error,
    own: Option<(&Certificate, &Path)>,
    ca_file: Option<&Path>,
    now: Timestamp,
) -> Option<String> {
    match error {
        rustls::Error::InvalidCertificate(error) => Some(refused_theirs(error, ca_file, now)),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => Some(match own {
            None => "the aggregator demands a client certificate: name this node's with --client-cert and --client-key".to_owned(),
            Some((_, path)) => format!("the aggregator demands a client certificate, and did not take {}", path.display()),
        }),
        rustls::Error::AlertReceived(alert) => {
            let (own, path) = own?;
            let why = refused_ours(*alert, own, path, now)?;
            Some(format!("the aggregator refused this node's certificate: {why}"))
        }
        _ => None,
    }
}

/// Why we do not accept the aggregator's certificate.
fn refused_theirs(error: &CertificateError, ca_file: Option<&Path>, now: Timestamp) -> String {
    let now = to_the_second(now);
    let shown = |time: rustls::pki_types::UnixTime| {
        let time = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(time).unwrap_or(Timestamp::MAX)
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the aggregator's certificate expired at {}, and it is {now} here: renew it there, unless this machine's clock is wrong",
            shown(*not_after)
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the aggregator's certificate is not valid before {}, and it is {now} here: is this machine's clock right?",
            shown(*not_before)
        ),
        CertificateError::UnknownIssuer => match ca_file {
            Some(path) => {
                format!("the aggregator's certificate was signed by no CA of --ca-file {}", path.display())
            }
            None => "the aggregator's certificate was signed by none of the system's CAs: name its CA with --ca-file".to_owned(),
        },
        CertificateError::NotValidForNameContext { expected, presented } => {
            // As DnsName("localhost").
            let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
            let names: Vec<String> = presented.iter().map(bare).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            let host = expected.to_str();
            format!("the aggregator's certificate is for {names}, not for {host}: --aggregator must have a name that it is for")
        }
        _ => "the aggregator's certificate is not accepted".to_owned(),
    }
}

/// Why the aggregator does not accept ours, by the alert that it sent.
fn refused_ours(
    alert: AlertDescription,
    own: &Certificate,
    path: &Path,
    now: Timestamp,
) -> Option<String> {
    let file = path.display();
    match alert {
        // Said of one that is not valid yet as well.
        AlertDescription::CertificateExpired => Some(out_of_time(own, path, now).unwrap_or_else(|| {
            format!(
                "{file} is valid here, from {} until {}, and it is {} here: compare the two machines' clocks",
                own.not_before, own.not_after, to_the_second(now)
            )
        })),
        AlertDescription::UnknownCA => {
            Some(format!("{file} was signed by {}, which is no CA of its --client-ca-file", own.issuer))
        }
        AlertDescription::UnsupportedCertificate => {
            Some(format!("{file} is not made for clients (extended key usage clientAuth)"))
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError
        | AlertDescription::AccessDenied => Some(format!("{file} is of no use to it")),
        _ => None,
    }
}

/// Why our own certificate is not valid now; nothing where it is.
fn out_of_time(own: &Certificate, path: &Path, now: Timestamp) -> Option<String> {
    let (file, now_here) = (path.display(), to_the_second(now));
    match own.standing(now) {
        Standing::Good | Standing::EndsSoon => None,
        Standing::Expired => Some(format!(
            "{file} expired at {}, and it is {now_here} here: put another and its key in their files",
            own.not_after
        )),
        Standing::NotYetValid => Some(format!(
            "{file} is not valid before {}, and it is {now_here} here: is this machine's clock right?",
            own.not_before
        )),
    }
}

#[cfg(test)]
mod tests {
    use rustls::Error;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn own(from: &str, until: &str) -> Certificate {
        Certificate {
            der: Vec::new().into(),
            subject: "CN=n1".to_owned(),
            common_names: vec!["n1".to_owned()],
            organizations: Vec::new(),
            issuer: "CN=our CA".to_owned(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            not_before: at(from),
            not_after: at(until),
            is_ca: false,
            for_servers: false,
            for_clients: true,
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn what_an_error_means() {
        let now = at("2026-06-01T12:00:00.5Z");
        let unix = |text| {
            UnixTime::since_unix_epoch(Duration::from_secs(at(text).as_second().unsigned_abs()))
        };
        let time = unix("2026-06-01T12:00:00Z");
        let good = own("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let late = own("2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
        let early = own("2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z");
        let (invalid, alert) = (Error::InvalidCertificate, Error::AlertReceived);
        let expired = AlertDescription::CertificateExpired;
        let for_name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.example").expect("a name"),
            presented: vec![
                "DnsName(\"b.example\")".to_owned(),
                "DnsName(\"c.example\")".to_owned(),
            ],
        };
        for (what, error, own, expected) in [
            (
                "ours, expired",
                alert(expired),
                Some(&late),
                "/crt expired at 2026-01-01T00:00:00Z, and it is 2026-06-01T12:00:00Z here",
            ),
            (
                "ours, early",
                alert(expired),
                Some(&early),
                "/crt is not valid before 2027-01-01T00:00:00Z, and it is",
            ),
            (
                "ours, by their clock",
                alert(expired),
                Some(&good),
                "compare the two machines' clocks",
            ),
            (
                "ours, unknown",
                alert(AlertDescription::UnknownCA),
                Some(&good),
                "was signed by CN=our CA, which is no CA of",
            ),
            (
                "ours, for servers",
                alert(AlertDescription::UnsupportedCertificate),
                Some(&good),
                "is not made for clients",
            ),
            (
                "ours, bad",
                alert(AlertDescription::BadCertificate),
                Some(&good),
                "/crt is of no use to it",
            ),
            (
                "none",
                alert(AlertDescription::CertificateRequired),
                None,
                "name this node's with --client-cert",
            ),
            (
                "one that is not taken",
                alert(AlertDescription::CertificateRequired),
                Some(&good),
                "did not take /crt",
            ),
            (
                "theirs, expired",
                invalid(CertificateError::ExpiredContext {
                    time,
                    not_after: unix("2026-05-01T00:00:00Z"),
                }),
                None,
                "the aggregator's certificate expired at 2026-05-01T00:00:00Z, and it is 2026-06-01T12:00:00Z here",
            ),
            (
                "theirs, early",
                invalid(CertificateError::NotValidYetContext {
                    time,
                    not_before: unix("2026-07-01T00:00:00Z"),
                }),
                None,
                "is not valid before 2026-07-01T00:00:00Z, and it is",
            ),
            (
                "theirs, unknown",
                invalid(CertificateError::UnknownIssuer),
                None,
                "by no CA of --ca-file /ca",
            ),
            (
                "theirs, another name",
                invalid(for_name),
                None,
                "is for b.example, c.example, not for a.example",
            ),
            ("theirs, bad", invalid(CertificateError::BadEncoding), None, "is not accepted"),
        ] {
            let own = own.map(|own| (own, Path::new("/crt")));
            let words = explain(&error, own, Some(Path::new("/ca")), now).expect(what);
            assert!(words.contains(expected), "{what}: {words}");
        }
        let without_ca = explain(&invalid(CertificateError::UnknownIssuer), None, None, now);
        assert!(without_ca.is_some_and(|words| words.contains("name its CA with --ca-file")));
        let no_word_of_ours = alert(AlertDescription::ProtocolVersion);
        assert_eq!(explain(&no_word_of_ours, Some((&good, Path::new("/crt"))), None, now), None);
    }

    fn trust(folder: &Path) -> Trust {
        let aggregator = Url::parse("https://a.example").expect("a URL");
        Trust::new(aggregator, TrustFiles { ca: Some(folder.join("ca.pem")), own: None })
    }

    fn ca() -> String {
        let authority = rcgen::generate_simple_self_signed(["a.example".to_owned()]);
        authority.expect("a certificate").cert.pem()
    }

    #[tokio::test]
    async fn files_are_waited_for_and_a_client_is_made_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, now) = (folder.path().join("ca.pem"), Timestamp::now());
        let mut trust = trust(folder.path());
        let read = |trust: &mut Trust| {
            let read = trust.reading()();
            let read = trust.take_up(read, now).map_err(|error| error_chain(&error));
            read.map(|_client| trust.ready.as_ref().expect("it is there").made_at)
        };
        let missing = read(&mut trust).expect_err("there is none");
        assert!(missing.contains("ca.pem cannot be read: No such file"), "{missing}");
        let good = ca();
        fs::write(&path, &good).expect("written");
        let first = read(&mut trust).expect("a CA");
        // Whatever becomes of reports, nothing is read again that has not changed.
        trust.was_refused(Instant::now() + SYSTEM_CAS_KEPT * 2);
        assert_eq!(read(&mut trust), Ok(first), "made once");
        fs::write(&path, "no certificate").expect("written");
        assert_eq!(read(&mut trust), Ok(first), "what was read before");
        assert!(trust.trouble.as_ref().is_some_and(|said| said.contains("ca.pem")));
        fs::write(&path, &good).expect("written");
        let second = read(&mut trust).expect("a CA");
        assert!(second > first, "made anew");
        assert_eq!(trust.trouble, None);
    }

    #[test]
    fn a_pipe_is_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let error = trust(folder.path()).reading()().expect_err("no file");
        let said = error_chain(&error);
        assert!(said.ends_with("ca.pem cannot be read: it is no regular file"), "{said}");
    }

    #[test]
    fn the_systems_cas_are_read_again_now_and_then() {
        let aggregator = Url::parse("http://127.0.0.1").expect("a URL");
        let mut trust = Trust::new(aggregator, TrustFiles::default());
        let mut made = Vec::new();
        for age in [0, 60, 301, 60] {
            let later = Instant::now() + Duration::from_secs(age);
            trust.was_refused(later);
            let read = trust.reading()();
            trust.take_up(read, Timestamp::now()).expect("a client");
            made.push(trust.ready.as_ref().expect("it is there").made_at);
        }
        let [first, kept, renewed, last] = made.as_slice() else { panic!("{made:?}") };
        assert_eq!(first, kept, "not at each try");
        assert!(renewed > kept, "later");
        assert_eq!(renewed, last);
    }
}
