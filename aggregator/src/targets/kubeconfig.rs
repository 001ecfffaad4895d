//! A kubeconfig that a network is given: an object of JSON, whole in itself, and secret.

use std::path::{Path, PathBuf};

use rollcall_daemon::secret::{Secret, SecretError, read_secret_file};
use serde_json::Value;
use thiserror::Error;

/// A kubeconfig as it is sent.
pub(super) struct Kubeconfig(Value);

/// Why a kubeconfig is of no use.
#[derive(Debug, Error)]
pub(super) enum KubeconfigError {
    #[error("the target's {key}")]
    Unreadable { key: &'static str, source: SecretError },
    /// What is wrong is not told: the lines around it hold secrets.
    #[error(
        "the target's {key}: {} is no kubeconfig: it must be YAML or JSON with clusters, users and contexts",
        path.display()
    )]
    Invalid { key: &'static str, path: PathBuf },
    #[error(
        "the target's {key}: {} names a file or a program ({reference}) that only this machine has: make a whole one with kubectl config view --raw --flatten --minify, with a token or a client certificate in the place of a program",
        path.display()
    )]
    NotWhole { key: &'static str, path: PathBuf, reference: &'static str },
}

/// Why a text is of no use as a kubeconfig for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Useless {
    /// It is none.
    Invalid,
    /// It names what only some machine has, with this key.
    Reference(&'static str),
}

impl Useless {
    /// What is wrong with it.
    pub(super) fn words(self) -> String {
        match self {
            Self::Invalid => {
                "is none: it must be YAML or JSON with clusters, users and contexts".to_owned()
            }
            Self::Reference(key) => {
                format!("names a file or a program ({key}) that the network has not")
            }
        }
    }
}

/// Keys whose values only this machine can follow.
const REFERENCES: [&str; 6] = [
    "certificate-authority",
    "client-certificate",
    "client-key",
    "tokenFile",
    "exec",
    "auth-provider",
];

/// Shorter values are no secrets.
const SHORTEST: usize = 8;

impl Kubeconfig {
    /// Reads it anew each time: it may be replaced. `key` is the cluster file's.
    pub(super) fn read(path: &Path, key: &'static str) -> Result<Self, KubeconfigError> {
        let text =
            read_secret_file(path).map_err(|source| KubeconfigError::Unreadable { key, source })?;
        Self::parse(text.expose()).map_err(|useless| match useless {
            Useless::Invalid => KubeconfigError::Invalid { key, path: path.to_owned() },
            Useless::Reference(reference) => {
                KubeconfigError::NotWhole { key, path: path.to_owned(), reference }
            }
        })
    }

    /// A kubeconfig's text, YAML or JSON.
    pub(super) fn parse(text: &str) -> Result<Self, Useless> {
        let content: Value =
            serde_saphyr::from_str(text).map_err(|_may_show_secrets| Useless::Invalid)?;
        let is_list = |key| content.get(key).is_some_and(Value::is_array);
        if !["clusters", "users", "contexts"].into_iter().all(is_list) {
            return Err(Useless::Invalid);
        }
        match reference(&content) {
            Some(key) => Err(Useless::Reference(key)),
            None => Ok(Self(content)),
        }
    }

    /// The object that is sent.
    pub(super) fn content(&self) -> &Value {
        &self.0
    }

    /// The API servers that it names.
    pub(super) fn servers(&self) -> Vec<String> {
        let clusters = self.0.get("clusters").and_then(Value::as_array).into_iter().flatten();
        let servers = clusters.filter_map(|cluster| cluster.pointer("/cluster/server")?.as_str());
        servers.map(str::to_owned).collect()
    }

    /// What must not be shown of a reply: all that is said of its users.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let mut found = Vec::new();
        for user in self.0.get("users").and_then(Value::as_array).into_iter().flatten() {
            texts(user.get("user").unwrap_or(&Value::Null), &mut found);
        }
        found
    }
}

fn texts(value: &Value, found: &mut Vec<Secret>) {
    match value {
        Value::String(text) if text.len() >= SHORTEST => found.push(Secret::new(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

fn reference(value: &Value) -> Option<&'static str> {
    match value {
        Value::Object(fields) => REFERENCES
            .into_iter()
            .find(|key| fields.get(*key).is_some_and(|value| !value.is_null() && value != ""))
            .or_else(|| fields.values().find_map(reference)),
        Value::Array(items) => items.iter().find_map(reference),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_taken_for_a_kubeconfig() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        let whole = "clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}]\ncontexts: []\nusers:\n- name: u\n  user: {token: hunter2-hunter2}\n";
        for (what, text, outcome) in [
            ("YAML", whole.to_owned(), ""),
            ("JSON", r#"{"clusters": [], "contexts": [], "users": []}"#.to_owned(), ""),
            ("another file", "hello: hunter2-hunter2\n".to_owned(), "is no kubeconfig"),
            ("no YAML", "users: [hunter2-hunter2\n".to_owned(), "is no kubeconfig"),
            ("empty", String::new(), "kubeconfigFile"),
            (
                "a key in a file",
                whole.replace("token: ", "client-key: "),
                "names a file or a program (client-key)",
            ),
            (
                "a program",
                whole.replace("{token: hunter2-hunter2}", "{exec: {command: aws}}"),
                "(exec)",
            ),
        ] {
            fs::write(&path, text).expect("written");
            let said = match Kubeconfig::read(&path, "infrastructure.kubeconfigFile") {
                Ok(_) => String::new(),
                Err(error) => rollcall_report::error_chain(&error),
            };
            assert_eq!(said.is_empty(), outcome.is_empty(), "{what}: {said}");
            assert!(said.contains(outcome), "{what}: {said}");
            assert!(!said.contains("hunter2"), "{what}: {said}");
        }
    }

    #[test]
    fn its_secrets_are_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        let text = "clusters: []\ncontexts: []\nusers: [{name: u, user: {token: tttttttt, client-key-data: kkkkkkkk, password: pppppppp}}]\n";
        fs::write(&path, text).expect("written");
        let kubeconfig =
            Kubeconfig::read(&path, "infrastructure.kubeconfigFile").expect("a kubeconfig");
        let secrets = kubeconfig.secrets();
        let found: Vec<&str> = secrets.iter().map(Secret::expose).collect();
        assert_eq!(found, ["tttttttt", "kkkkkkkk", "pppppppp"]);
    }
}
