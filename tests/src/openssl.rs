//! Certificates as people make them: with the program openssl.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A certificate authority, in a folder of its own.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Panics
    ///
    /// When there is no openssl, or it fails.
    pub fn new(name: &str) -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        authority.openssl(&format!(
            "req -x509 {NEW_KEY} -days 30 -subj /CN={name} -keyout ca.key -out ca.crt"
        ));
        authority
    }

    /// Its certificate, as PEM.
    ///
    /// # Panics
    ///
    /// When the file has gone.
    pub fn certificate(&self) -> String {
        self.read("ca.crt")
    }

    /// Signs a certificate for so many days from now; fewer than none: it has expired. `names` is as
    /// openssl writes alternative names: `DNS:example.org,IP:127.0.0.1`; empty: there are none.
    ///
    /// # Panics
    ///
    /// When openssl fails.
    pub fn issue(&self, common_name: &str, names: &str, days: i32) -> Issued {
        self.issue_for(NEW_KEY, common_name, names, days)
    }

    /// The same, for a key as these options of `openssl req` make it.
    ///
    /// # Panics
    ///
    /// When openssl fails.
    pub fn issue_for(&self, new_key: &str, common_name: &str, names: &str, days: i32) -> Issued {
        let names =
            if names.is_empty() { String::new() } else { format!("subjectAltName={names}\n") };
        self.sign(new_key, &format!("/CN={common_name}"), &names, days)
    }

    /// A kubelet's certificate, as kubeadm makes it: the name is in the subject alone.
    ///
    /// # Panics
    ///
    /// When openssl fails.
    pub fn issue_for_kubelet(&self, node: &str) -> Issued {
        let subject = format!("/O=system:nodes/CN=system:node:{node}");
        let extensions = "keyUsage=critical,digitalSignature,keyEncipherment\n\
                          extendedKeyUsage=clientAuth\nauthorityKeyIdentifier=keyid\n";
        self.sign("-newkey rsa:2048 -nodes -sha256", &subject, extensions, 365)
    }

    fn sign(&self, new_key: &str, subject: &str, extensions: &str, days: i32) -> Issued {
        let extensions = format!("basicConstraints=critical,CA:FALSE\n{extensions}");
        fs::write(self.path("extensions"), extensions).expect("written");
        self.openssl(&format!("req {new_key} -subj {subject} -keyout key -out request"));
        self.openssl(&format!(
            "x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -sha256 \
             -extfile extensions -out certificate"
        ));
        Issued { certificate: self.read("certificate"), key: self.read("key") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("what openssl has written")
    }

    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        let command = command.args(words.split_whitespace()).current_dir(self.folder.path());
        let output = command.output().expect("openssl is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words}: {said}");
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256";
