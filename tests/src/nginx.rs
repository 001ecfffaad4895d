//! A real NGINX with TLS for tests: on a free port, with a configuration of its own, as whoever runs
//! the test. And certificates for it.
//!
//! Everything here panics with a message for the person who runs the test.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;

use crate::process::{DEADLINE, Daemon};

/// Where packages put it; not every user has these in the PATH.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// A running NGINX; it ends with this.
#[derive(Debug)]
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    _daemon: Daemon,
    _folder: TempDir,
}

impl Nginx {
    /// Starts it with a configuration: `servers` is given the port and a folder with the files in
    /// `files`, and returns what stands within `http`.
    ///
    /// # Panics
    ///
    /// When it is not installed, or does not start.
    pub fn start(files: &[(&str, &str)], servers: impl Fn(u16, &Path) -> String) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST, files, servers)
    }

    /// The same where others reach it at another address of this machine.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub fn start_on(
        address: Ipv4Addr,
        files: &[(&str, &str)],
        servers: impl Fn(u16, &Path) -> String,
    ) -> Self {
        Self::start_with(address, files, |port, folder| {
            let at = folder.display();
            format!(
                "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\n\
                 access_log off;\nclient_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n\
                 fastcgi_temp_path {at}/fastcgi;\nuwsgi_temp_path {at}/uwsgi;\nscgi_temp_path {at}/scgi;\n{}\n}}\n",
                servers(port, folder)
            )
        })
    }

    /// The same with the whole configuration.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub fn start_with(
        address: Ipv4Addr,
        files: &[(&str, &str)],
        configuration: impl Fn(u16, &Path) -> String,
    ) -> Self {
        // Another program may take the port before it does.
        for _ in 0..5 {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let port = free_port(address);
            for (name, text) in files {
                fs::write(folder.path().join(name), text).expect("a file for NGINX");
            }
            let path = folder.path().join("nginx.conf");
            fs::write(&path, configuration(port, folder.path())).expect("its configuration");
            let mut command = Command::new(program());
            command.args(["-e", "stderr", "-p"]).arg(folder.path()).arg("-c").arg(&path);
            let daemon = Daemon::spawn("nginx", command);
            let address = SocketAddr::from((address, port));
            match wait_for(address, &daemon) {
                Ok(()) => return Self { address, _daemon: daemon, _folder: folder },
                Err(said) if said.contains("Address already in use") => {}
                Err(said) => panic!("NGINX does not listen on {address}:\n{said}"),
            }
        }
        panic!("NGINX finds no free port");
    }
}

/// The program.
///
/// # Panics
///
/// When it is not installed.
pub fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join("nginx")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("nginx is missing: install it (tests/install.sh nginx-light) and run again")
    })
}

/// A port that nobody has yet.
///
/// # Panics
///
/// When there is none.
pub fn free_port(address: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("a free port");
    listener.local_addr().expect("its number").port()
}

fn wait_for(address: SocketAddr, daemon: &Daemon) -> Result<(), String> {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        let said = daemon.tail();
        if said.contains("[emerg]") {
            return Err(said);
        }
        if TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(daemon.tail())
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key; PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Pair {
    /// The same, presented with more certificates.
    #[must_use]
    pub fn followed_by(self, others: &str) -> Self {
        Self { certificate: format!("{}{others}", self.certificate), ..self }
    }
}

/// A date: year, month, day.
pub type Date = (i32, u8, u8);

impl Authority {
    /// Makes one that lasts.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn new(name: &str) -> Self {
        Self::until(name, (2100, 1, 1))
    }

    /// Makes one that lasts until a date.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn until(name: &str, until: Date) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// Makes one that this one has signed, and that lasts.
    ///
    /// # Panics
    ///
    /// When that fails.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer);
        Self { issuer: issuer.expect("an authority") }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate for these names, until a date.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn sign(&self, subject: &str, names: &[SanType], until: Date) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, subject);
        params.subject_alt_names = names.to_vec();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A certificate for these names that has signed itself and is a CA, as `openssl req -x509` makes it.
///
/// # Panics
///
/// When that fails.
pub fn signed_by_itself(subject: &str, names: &[SanType], until: Date) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([]).expect("no names");
    params.distinguished_name.push(DnType::CommonName, subject);
    params.subject_alt_names = names.to_vec();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until.0, until.1, until.2);
    let certificate = params.self_signed(&key).expect("a certificate");
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// A DNS name in a certificate, whatever it looks like.
///
/// # Panics
///
/// When it is no ASCII.
pub fn dns_name(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}
