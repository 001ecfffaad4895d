//! A real Kubernetes for tests: the bed that `tests/cluster/bed.sh` sets up, or a cluster that its
//! owner gives for tests. It is talked to with kubectl, as its users do.
//!
//! What is not as a test needs it panics with a message that says so: a test that cannot be set up
//! has failed. Whether a test can run at all is asked beforehand, with [`Cluster::find`] and
//! [`Cluster::lacks`].
#![expect(clippy::panic, reason = "a harness fails the test that uses it")]

pub mod deployment;
pub mod replicas;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::output;
pub use crate::process::wait_until;

/// How long the cluster may take for what ought to be soon: to start a pod, to notice a change.
pub const SOON: Duration = Duration::from_mins(1);

/// The scripts of the bed.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster");

/// A cluster that tests may change.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
    bed: Option<Bed>,
}

/// What a test needs of a cluster beyond its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The API, and nothing else.
    Server,
    /// Nodes that run pods.
    Nodes,
    /// Nodes and a server that can be stopped and started.
    Bed,
}

/// The bed of `tests/cluster/bed.sh`.
#[derive(Debug, Clone)]
struct Bed {
    folder: PathBuf,
    /// The first two numbers of its addresses; none where it has no nodes.
    network: Option<[u8; 2]>,
}

/// An image that a test's pods run: a static busybox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busybox {
    /// Its name and tag.
    pub image: &'static str,
    /// Whether it is pulled.
    pub pull_policy: &'static str,
    /// The program in it.
    pub program: &'static str,
}

impl Cluster {
    /// The cluster that the environment names: `ROLLCALL_BED`, the folder of a bed that is up, or
    /// `ROLLCALL_TEST_KUBECONFIG`, the kubeconfig of a cluster that tests may change.
    ///
    /// # Errors
    ///
    /// Why there is none, for who asks why a test is not run.
    ///
    /// # Panics
    ///
    /// When what the environment names is not there: then somebody wanted the tests to run.
    pub fn find() -> Result<Self, String> {
        if let Some(folder) = std::env::var_os("ROLLCALL_BED") {
            let bed = Bed::open(PathBuf::from(folder));
            return Ok(Self { kubeconfig: bed.folder.join("kubeconfig"), bed: Some(bed) });
        }
        let Some(kubeconfig) = std::env::var_os("ROLLCALL_TEST_KUBECONFIG") else {
            let why = "there is no cluster: `make test-cluster` sets one up, or takes that of \
                       ROLLCALL_TEST_KUBECONFIG";
            return Err(why.to_owned());
        };
        let kubeconfig = PathBuf::from(kubeconfig);
        assert!(
            kubeconfig.is_file(),
            "ROLLCALL_TEST_KUBECONFIG names {}, which is no file",
            kubeconfig.display()
        );
        Ok(Self { kubeconfig, bed: None })
    }

    /// Why a test with this need cannot run here; none when it can.
    pub fn lacks(&self, need: Need) -> Option<&'static str> {
        let has_nodes = self.bed.as_ref().is_none_or(|bed| bed.network.is_some());
        match need {
            Need::Nodes | Need::Bed if !has_nodes => Some("KUBEBUILDER_ASSETS has no nodes"),
            Need::Bed if self.bed.is_none() => {
                Some("ROLLCALL_TEST_KUBECONFIG's cluster is not ours to stop")
            }
            Need::Server | Need::Nodes | Need::Bed => None,
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The kubeconfig of somebody whom the administrator acts for: what that one writes is told by the
    /// audit log from what all others write.
    ///
    /// # Panics
    ///
    /// When kubectl does not give the administrator's.
    #[expect(clippy::indexing_slicing, reason = "kubectl's own JSON has one user")]
    pub fn kubeconfig_as(&self, user: &str) -> String {
        let view = ["config", "view", "--raw", "--flatten", "--minify", "--output", "json"];
        let mut kubeconfig = json(&self.kubectl(&view));
        kubeconfig["users"][0]["user"]["as"] = user.into();
        kubeconfig.to_string()
    }

    /// Runs kubectl with some input and returns what it printed.
    ///
    /// # Errors
    ///
    /// What it said, with the command.
    ///
    /// # Panics
    ///
    /// When there is no kubectl.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        output(command, input).map_err(|said| format!("kubectl {}: {said}", arguments.join(" ")))
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails; with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, "").unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Applies manifests (YAML or JSON).
    ///
    /// # Panics
    ///
    /// When the server refuses them.
    pub fn apply(&self, manifests: &str) {
        self.try_kubectl(&["apply", "--filename", "-"], manifests)
            .unwrap_or_else(|problem| panic!("{problem}\nof\n{manifests}"));
    }

    /// Creates an object and returns it as the server answers: for reviews, which are questions.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub fn create(&self, object: &Value) -> Value {
        let arguments = ["create", "--filename", "-", "--output", "json"];
        let created = self.try_kubectl(&arguments, &object.to_string());
        json(&created.unwrap_or_else(|problem| panic!("{problem}")))
    }

    /// One object, or the list of all of a kind: `["pods", "--namespace", "default"]`.
    ///
    /// # Panics
    ///
    /// When the server does not give it.
    pub fn get(&self, what: &[&str]) -> Value {
        self.try_get(what).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// As [`Self::get`].
    ///
    /// # Errors
    ///
    /// What kubectl said: that there is none, or that the server does not answer.
    pub fn try_get(&self, what: &[&str]) -> Result<Value, String> {
        let arguments = [&["get", "--output", "json"], what].concat();
        self.try_kubectl(&arguments, "").map(|printed| json(&printed))
    }

    /// The names of all objects of a kind, in their order: `["nodes"]`.
    ///
    /// # Panics
    ///
    /// When the server does not give them.
    pub fn names(&self, what: &[&str]) -> Vec<String> {
        let list = self.get(what);
        let items = list.get("items").and_then(Value::as_array);
        let items = items.unwrap_or_else(|| panic!("{what:?} is no list: {list}"));
        items.iter().map(|item| text(item, "/metadata/name").to_owned()).collect()
    }

    /// Runs a command in a pod's only container and returns what it printed.
    ///
    /// # Errors
    ///
    /// What it, or kubectl, said.
    pub fn try_exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, String> {
        let arguments = [&["exec", "--namespace", namespace, pod, "--"], command].concat();
        self.try_kubectl(&arguments, "")
    }

    /// As [`Self::try_exec`].
    ///
    /// # Panics
    ///
    /// When the command fails.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> String {
        self.try_exec(namespace, pod, command).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// A namespace for a test, empty and deleted with what it returns.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub fn namespace(&self, purpose: &str) -> Namespace<'_> {
        // Another test's of the same purpose may still be going away.
        let name = format!("rollcall-{purpose}-{:x}", std::process::id());
        self.kubectl(&["create", "namespace", &name]);
        let namespace = Namespace { cluster: self, name };
        // Pods are refused until their namespace has its account. Without controllers it gets none.
        if self.lacks(Need::Nodes).is_some() {
            return namespace;
        }
        let name = namespace.name();
        wait_until(&format!("the service account of {name}"), SOON, || {
            self.try_get(&["serviceaccount", "default", "--namespace", name]).map(drop)
        });
        namespace
    }

    /// The image for pods of tests: the bed has its own, other clusters pull it.
    pub fn busybox(&self) -> Busybox {
        if self.bed.is_some() {
            Busybox {
                image: "rollcall.test/busybox:1",
                pull_policy: "Never",
                program: "/bin/busybox",
            }
        } else {
            Busybox {
                image: "busybox:stable",
                pull_policy: "IfNotPresent",
                program: "/bin/busybox",
            }
        }
    }

    /// This machine's address as pods of the bed reach it: stand-ins listen there.
    ///
    /// # Panics
    ///
    /// Where there is no bed with nodes; a test of [`Need::Bed`] has one.
    pub fn address_of_this_machine(&self) -> Ipv4Addr {
        let network = self.bed.as_ref().and_then(|bed| bed.network);
        let Some([first, second]) = network else { panic!("there is no bed with nodes") };
        Ipv4Addr::new(first, second, 0, 254)
    }

    /// Stops the API server; what the cluster runs goes on.
    ///
    /// # Panics
    ///
    /// When that fails, as all that follow: where there is no bed.
    pub fn stop_api_server(&self) {
        self.script("stop-apiserver", &[]);
    }

    /// Starts the API server again and waits until it is ready.
    ///
    /// # Panics
    ///
    /// As [`Self::stop_api_server`].
    pub fn start_api_server(&self) {
        self.script("start-apiserver", &[]);
    }

    /// Ends a node as a power failure would. Its Node object stays.
    ///
    /// # Panics
    ///
    /// As [`Self::stop_api_server`].
    pub fn stop_node(&self, node: &str) {
        self.script("stop-node", &[node]);
    }

    /// Starts a node again that was stopped, or a new one, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// As [`Self::stop_api_server`].
    pub fn start_node(&self, node: &str) {
        self.script("start-node", &[node]);
    }

    /// Runs a command on a node itself, or on `control-plane`, and returns what it printed.
    ///
    /// # Panics
    ///
    /// As [`Self::stop_api_server`], and when the command fails.
    pub fn run_on(&self, machine: &str, command: &[&str]) -> String {
        self.script("run", &[&[machine], command].concat())
    }

    /// Makes an image of a program of this machine and the libraries that it is linked to, and gives it
    /// to every node.
    ///
    /// # Panics
    ///
    /// As [`Self::stop_api_server`], and when the image cannot be made.
    pub fn load_program(&self, program: &Path, image: &str) {
        let folder = tempfile::tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let name = program.file_name().unwrap_or_default();
        let tar = folder.path().join(name).with_extension("tar");
        let mut script = Command::new("bash");
        script.arg(format!("{SCRIPTS}/image.sh")).arg(program).arg(image).arg(&tar);
        output(script, "").unwrap_or_else(|said| panic!("image.sh {image}: {said}"));
        self.script("load", &[&tar.to_string_lossy()]);
    }

    /// What was written to the API server since the bed is up, oldest first: audit events.
    ///
    /// # Panics
    ///
    /// Where there is no bed, or its log is not to be read.
    pub fn writes(&self) -> Vec<Value> {
        let bed = self.bed.as_ref().unwrap_or_else(|| panic!("there is no bed"));
        let path = bed.folder.join("log/audit.log");
        let log = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
        // The last line may be in the middle of being written.
        log.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(json).collect()
    }

    fn script(&self, command: &str, arguments: &[&str]) -> String {
        let bed = self.bed.as_ref();
        let bed = bed.unwrap_or_else(|| panic!("there is no bed that could {command}"));
        let mut script = Command::new("bash");
        script.arg(format!("{SCRIPTS}/bed.sh")).arg(command).arg(&bed.folder).args(arguments);
        output(script, "")
            .unwrap_or_else(|said| panic!("bed.sh {command} {}: {said}", arguments.join(" ")))
    }
}

impl Bed {
    fn open(folder: PathBuf) -> Self {
        let path = folder.join("settings");
        let settings = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("ROLLCALL_BED names no bed, {} cannot be read: {error}", path.display())
        });
        let setting = |name: &str| {
            settings.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let network = (setting("kind") == Some("nodes")).then(|| {
            let parts = setting("network").and_then(|network| network.split_once('.'));
            let parts = parts.and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
            parts.unwrap_or_else(|| panic!("{} tells no network", path.display()))
        });
        Self { folder, network }
    }
}

/// A namespace that goes, with all that is in it, when the test ends.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Namespace<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // A test that has failed says why; that its namespace stays is no news beside it.
        let _gone =
            self.cluster.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}

/// A text in a JSON document; empty where there is none.
pub fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn json(printed: &str) -> Value {
    serde_json::from_str(printed)
        .unwrap_or_else(|error| panic!("this is no JSON ({error}): {printed}"))
}
