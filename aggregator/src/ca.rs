//! A small certificate authority in a folder, for clusters that have none: `ca.pem` and `ca.key`, and
//! certificates for the aggregator and the nodes.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rollcall_daemon::certificate::{Certificate, CertificateError, from_pem};
use thiserror::Error;

use crate::certificates::{KeyFault, key_matches};

/// The longest common name (RFC 5280, ub-common-name).
const MAX_COMMON_NAME: usize = 64;
/// How far the clocks of two machines may differ: a new certificate is valid at once on both.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(10);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A server: the aggregator.
    Server,
    /// A client: a node's agent.
    Client,
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    folder: PathBuf,
}

/// A certificate and its key, PEM.
pub struct Issued {
    certificate: String,
    key: String,
    purpose: Purpose,
    /// The first of its names.
    name: String,
    /// Until when it is valid.
    pub until: Timestamp,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file or folder cannot be read or written.
    #[error("{} cannot be {what}", path.display())]
    File {
        /// What was tried: `read` or `written`.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there already.
    #[error("{} is there already: {hint}", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// What is to be renewed is another certificate.
    #[error("{} is the certificate of {subject} for {names}, and not {whom}: give another folder with --to, or take it and its key away first", path.display())]
    Another {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        subject: String,
        /// Its names.
        names: String,
        /// Whose is to be written, and as what.
        whom: String,
    },
    /// The CA's certificate cannot be read.
    #[error("{} is no CA's certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// It is one that may not sign.
    #[error("{} holds the certificate of {subject}, which is no CA", path.display())]
    NoCa {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        subject: String,
    },
    /// Certificate and key of the CA are of two kinds.
    #[error("{} is not the key of the CA beside it: {said}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        said: String,
    },
    /// The CA signs no more.
    #[error("{}: {said}: make a new CA with: rollcall-aggregator ca new", path.display())]
    OutOfTime {
        /// The CA's file.
        path: PathBuf,
        /// Since when or until when.
        said: String,
    },
    /// The files would lie beside the CA's key.
    #[error("{} is the CA's own folder: give another with --to, for what lies there is handed on", path.display())]
    OwnFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The library says no.
    #[error("no certificate can be made for {whom}")]
    Library {
        /// For whom.
        whom: String,
        /// What it said.
        source: rcgen::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl Authority {
    /// Makes an authority in a folder, which is made if need be, for nobody else to read.
    ///
    /// # Errors
    ///
    /// When there is one in it already, or the files cannot be written.
    pub fn create(folder: &Path, name: &str, days: u16, now: Timestamp) -> Result<Self, CaError> {
        let library = |source| CaError::Library { whom: name.to_owned(), source };
        let (certificate_file, key_file) = files(folder);
        if certificate_file.exists() {
            let hint = "what it has signed depends on it; name another folder";
            return Err(CaError::Exists { path: certificate_file, hint });
        }
        let key = KeyPair::generate().map_err(library)?;
        let mut params = params(name, (now - CLOCKS_DIFFER, now + DAY * i32::from(days)))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).map_err(library)?.pem();
        make_folder(folder)?;
        // The key is the one that two who do this at once contend for; the certificate comes last.
        write_new(&key_file, &key.serialize_pem())?;
        let put = write(certificate_file, &pem, 0o644).and_then(Written::put);
        if let Err(error) = put {
            // Nothing was signed with it.
            drop(fs::remove_file(&key_file));
            return Err(error);
        }
        Self::open(folder)
    }

    /// Opens the authority in a folder.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn open(folder: &Path) -> Result<Self, CaError> {
        let (path, key_path) = files(folder);
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|source| CaError::File {
                what: "read",
                path: path.clone(),
                source,
            })
        };
        let (pem, key_pem) = (read(&path)?, read(&key_path)?);
        let certificate = from_pem(pem.as_bytes())
            .and_then(|all| all.into_iter().next().ok_or(CertificateError::Empty))
            .map_err(|source| CaError::NoCertificate { path: path.clone(), source })?;
        if !certificate.is_ca {
            return Err(CaError::NoCa { path, subject: certificate.subject });
        }
        key_matches(&certificate, key_pem.as_bytes()).map_err(|fault| {
            let said = match fault {
                KeyFault::Wrong(said) => said,
                KeyFault::UnknownKind => "keys of its kind are not known here".to_owned(),
            };
            CaError::Key { path: key_path, said }
        })?;
        let library = |source| CaError::Library { whom: certificate.subject.clone(), source };
        let key = KeyPair::from_pem(&key_pem).map_err(library)?;
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key).map_err(library)?;
        Ok(Self { issuer, certificate, folder: folder.to_owned() })
    }

    /// Its own certificate.
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Signs a certificate for these names, the first of which is its common name if it is short enough.
    /// It does not outlive the CA.
    ///
    /// # Errors
    ///
    /// When a name is none, or the CA is not valid now.
    pub fn issue(
        &self,
        purpose: Purpose,
        names: &[String],
        days: u16,
        now: Timestamp,
    ) -> Result<Issued, CaError> {
        let library = |source| CaError::Library { whom: names.join(", "), source };
        self.certificate.is_in_time(now).map_err(|said| {
            let (path, _) = files(&self.folder);
            CaError::OutOfTime { path, said }
        })?;
        let from = (now - CLOCKS_DIFFER).max(self.certificate.not_before);
        let until = (now + DAY * i32::from(days)).min(self.certificate.not_after);
        let common_name = names.first().map(String::as_str).unwrap_or_default();
        let mut params = params(common_name, (from, until))?;
        params.subject_alt_names = match purpose {
            Purpose::Server => {
                CertificateParams::new(names.to_vec()).map(|it| it.subject_alt_names)
            }
            // A node may be called like an address, and still is none.
            Purpose::Client => {
                names.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?))).collect()
            }
        }
        .map_err(library)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(library)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(library)?.pem();
        let (key, name) = (key.serialize_pem(), common_name.to_owned());
        Ok(Issued { certificate, key, purpose, name, until })
    }

    /// Writes a certificate and its key as `NAME.crt` and `NAME.key`. With `force` they may take the
    /// place of others, whose owner and mode they get: whoever reads them now must still be able to. What
    /// is a link stays one, and what it leads to is replaced.
    ///
    /// # Errors
    ///
    /// When a file is there, without `force`, or the certificate of another; or cannot be written. Then nothing has changed, or the key
    /// alone has.
    pub fn hand_out(
        &self,
        issued: &Issued,
        folder: &Path,
        name: &str,
        force: bool,
    ) -> Result<(PathBuf, PathBuf), CaError> {
        make_folder(folder)?;
        let canonical = |path: &Path| fs::canonicalize(path).ok();
        if canonical(folder) == canonical(&self.folder) {
            return Err(CaError::OwnFolder { path: folder.to_owned() });
        }
        let (certificate, key) =
            (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        let certificate_file = self.place(&certificate, force)?;
        let key_file = self.place(&key, force)?;
        issued.check_renews(&certificate_file)?;
        let new_key = write(key_file, &issued.key, 0o600)?;
        let new_certificate = write(certificate_file, &issued.certificate, 0o644)?;
        // One after the other at once: who reads them meanwhile finds that they do not go together, and
        // reads them again.
        new_key.put()?;
        new_certificate.put()?;
        Ok((certificate, key))
    }

    /// The file to write to get one at a path: where a link leads.
    fn place(&self, path: &Path, force: bool) -> Result<PathBuf, CaError> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(path.to_owned());
        }
        if !force {
            let hint = "say --force to replace it";
            return Err(CaError::Exists { path: path.to_owned(), hint });
        }
        let unreadable = |source| CaError::File { what: "read", path: path.to_owned(), source };
        let target = fs::canonicalize(path).map_err(unreadable)?;
        let own = fs::canonicalize(&self.folder).ok();
        match target.parent() {
            Some(folder) if own.as_deref() == Some(folder) => {
                Err(CaError::OwnFolder { path: folder.to_owned() })
            }
            _ => Ok(target),
        }
    }
}

impl Issued {
    /// Whether a certificate that is there, if one can be read, is one of the same kind for the same.
    fn check_renews(&self, path: &Path) -> Result<(), CaError> {
        let old = fs::read(path).ok().and_then(|pem| from_pem(&pem).ok());
        let Some(old) = old.and_then(|all| all.into_iter().next()) else { return Ok(()) };
        let (is_for_it, role) = match self.purpose {
            Purpose::Server => (old.for_servers, "as a server"),
            Purpose::Client => (old.for_clients, "as a node"),
        };
        let is_its_own = old.common_names.contains(&self.name)
            || old.dns_names.contains(&self.name)
            || old.addresses.iter().any(|address| address.to_string() == self.name);
        if is_for_it && is_its_own {
            return Ok(());
        }
        let (names, subject) = (old.names(), old.subject);
        let whom = format!("that of {} {role}", self.name);
        Err(CaError::Another { path: path.to_owned(), subject, names, whom })
    }
}

/// The CA's certificate and its key.
fn files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("ca.pem"), folder.join("ca.key"))
}

fn params(name: &str, (from, until): (Timestamp, Timestamp)) -> Result<CertificateParams, CaError> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_says_nothing| CaError::Random)?;
    // Positive, and of the same length always.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    (params.not_before, params.not_after) = (at(from), at(until));
    params.distinguished_name = DistinguishedName::new();
    if name.len() <= MAX_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    Ok(params)
}

fn make_folder(path: &Path) -> Result<(), CaError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| CaError::File { what: "written", path: path.to_owned(), source })
}

/// Writes a key where there is none. Of two who do so at once, one does.
fn write_new(path: &Path, key: &str) -> Result<(), CaError> {
    let unwritten =
        |source: io::Error| CaError::File { what: "written", path: path.to_owned(), source };
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return unwritten(error);
        }
        let hint = "no certificate lies beside it: if nobody else makes a CA here right now, one was broken off; nothing was signed with this key, so remove it, unless it is yours";
        CaError::Exists { path: path.to_owned(), hint }
    })?;
    file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        drop(fs::remove_file(path));
        unwritten(error)
    })
}

/// A file that waits to take its place; it is gone if it does not.
struct Written {
    waiting: PathBuf,
    path: PathBuf,
}

/// Writes a file beside its place, with the owner and mode of the one that is there.
fn write(path: PathBuf, text: &str, mode: u32) -> Result<Written, CaError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let written = Written { waiting: path.with_file_name(name), path };
    let path = &written.path;
    let fill = || -> io::Result<()> {
        match fs::remove_file(&written.waiting) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&written.waiting)?;
        if let Ok(old) = fs::metadata(path) {
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    match fill() {
        Ok(()) => Ok(written),
        Err(source) => Err(CaError::File { what: "written", path: path.clone(), source }),
    }
}

impl Written {
    fn put(self) -> Result<(), CaError> {
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        let put = fs::rename(&self.waiting, &self.path)
            .and_then(|()| File::open(folder.unwrap_or(Path::new(".")))?.sync_all());
        let path = self.path.clone();
        put.map_err(|source| CaError::File { what: "written", path, source })
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // Gone already where it has taken its place.
        drop(fs::remove_file(&self.waiting));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_ca_and_what_it_signs() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ca, to) = (folder.path().join("ca"), folder.path().join("to"));
        let now = Timestamp::now();
        let authority = Authority::create(&ca, "our CA", 10, now).expect("a CA");
        assert_eq!([mode(&ca), mode(&ca.join("ca.key"))], [0o700, 0o600]);
        let again = Authority::create(&ca, "our CA", 10, now).expect_err("there is one");
        assert!(matches!(again, CaError::Exists { .. }), "{again}");

        let names = vec!["n1".to_owned()];
        let issue = |days, now| authority.issue(Purpose::Client, &names, days, now);
        let first = issue(398, now).expect("a certificate");
        assert_eq!(first.until, authority.certificate().not_after, "not longer than the CA");
        let (certificate, key) = authority.hand_out(&first, &to, "n1", false).expect("written");
        assert_eq!([mode(&to), mode(&key), mode(&certificate)], [0o700, 0o600, 0o644]);
        let pem = fs::read(&certificate).expect("written");
        let [read] = from_pem(&pem).expect("PEM").try_into().expect("one");
        assert_eq!((read.dns_names, read.common_names), (names.clone(), names.clone()));
        assert!(read.not_before < now && !read.is_ca);

        let second = issue(1, now).expect("a certificate");
        let refused = authority.hand_out(&second, &to, "n1", false).expect_err("it is there");
        assert!(refused.to_string().contains("--force"), "{refused}");
        fs::set_permissions(&key, Permissions::from_mode(0o640)).expect("a mode");
        authority.hand_out(&second, &to, "n1", true).expect("replaced");
        assert_eq!(mode(&key), 0o640, "who read it before still can");
        let files = fs::read_dir(&to).expect("a folder").count();
        assert_eq!(files, 2, "nothing is left behind");

        // What is linked to is replaced, and the link stays.
        let linked = folder.path().join("linked");
        fs::create_dir(&linked).expect("a folder");
        for name in ["n1.crt", "n1.key"] {
            std::os::unix::fs::symlink(to.join(name), linked.join(name)).expect("a link");
        }
        let third = issue(1, now).expect("a certificate");
        authority.hand_out(&third, &linked, "n1", true).expect("replaced");
        assert!(linked.join("n1.key").is_symlink() && linked.join("n1.crt").is_symlink());
        assert_eq!(fs::read_to_string(&key).expect("there"), third.key);
        assert_eq!(fs::read_to_string(&certificate).expect("there"), third.certificate);
        fs::remove_file(linked.join("n1.key")).expect("removed");
        std::os::unix::fs::symlink(ca.join("ca.key"), linked.join("n1.key")).expect("a link");
        let into_ca = authority.hand_out(&third, &linked, "n1", true).expect_err("the CA's key");
        assert!(matches!(into_ca, CaError::OwnFolder { .. }), "{into_ca}");

        // Not in the place of another's certificate, or of one for something else.
        for (what, purpose, names) in
            [("a server's", Purpose::Server, ["n1"]), ("another node's", Purpose::Client, ["n2"])]
        {
            let names = names.map(str::to_owned);
            let other = authority.issue(purpose, &names, 1, now).expect("a certificate");
            let refused = authority.hand_out(&other, &to, "n1", true).expect_err(what);
            assert!(matches!(refused, CaError::Another { .. }), "{what}: {refused}");
        }
        assert_eq!(fs::read_to_string(&key).expect("there"), third.key, "and its key neither");

        let own = authority.hand_out(&second, &ca, "ca", true).expect_err("over its own key");
        assert!(matches!(own, CaError::OwnFolder { .. }), "{own}");
        let late = issue(1, now + DAY * 11).map(|it| it.until).expect_err("it has expired");
        assert!(late.to_string().contains("expired at"), "{late}");
        let bad = authority.issue(Purpose::Server, &["ü".to_owned()], 1, now).map(|it| it.until);
        assert!(bad.is_err(), "no DNS name");
        fs::write(ca.join("ca.key"), &second.key).expect("written");
        let other = Authority::open(&ca).expect_err("another's key");
        assert!(other.to_string().contains("the key of another certificate"), "{other}");
    }
    #[test]
    fn one_ca_in_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::now();
        let at_once = folder.path().join("at-once");
        let made = std::thread::scope(|scope| {
            let make = || Authority::create(&at_once, "our CA", 10, now).is_ok();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            all.into_iter().filter_map(|it| it.join().ok()).filter(|made| *made).count()
        });
        assert_eq!(made, 1, "of those who do it at once");
        Authority::open(&at_once).expect("the key is that of the certificate");
        assert_eq!(fs::read_dir(&at_once).expect("a folder").count(), 2);

        let half = folder.path().join("half");
        fs::create_dir(&half).expect("a folder");
        fs::write(half.join("ca.key"), "a key").expect("written");
        let error = Authority::create(&half, "our CA", 10, now).expect_err("half a CA");
        assert!(error.to_string().contains("remove it"), "{error}");
        assert_eq!(fs::read_to_string(half.join("ca.key")).expect("there"), "a key");
    }

    #[test]
    fn a_node_that_is_called_like_an_address() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::now();
        let authority =
            Authority::create(&folder.path().join("ca"), "our CA", 10, now).expect("a CA");
        let names = ["192.0.2.7", "Blue_1"].map(str::to_owned);
        let issued = authority.issue(Purpose::Client, &names, 1, now).expect("a certificate");
        let [read] = from_pem(issued.certificate.as_bytes()).expect("PEM").try_into().expect("one");
        assert_eq!((read.dns_names.as_slice(), read.addresses.len()), (names.as_slice(), 0));
        assert!(read.for_clients && !read.for_servers);
    }
}
