//! A bed for whole-flow tests: a folder with all that the programs need, and the programs in it.
//!
//! What is not as a test needs it panics with a message that says so: a test that cannot be set up
//! has failed.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{DEADLINE, Daemon, program};

/// The join token of every bed.
pub const TOKEN: &str = "the-join-token-of-the-test-bed";

/// The operator's token of every bed.
pub const OPERATOR_TOKEN: &str = "the-operators-token-of-the-test-bed";

/// The cluster that every bed registers.
pub const CLUSTER_ID: &str = "test-cluster";

/// A folder with tokens, a store's place and a cluster file.
#[derive(Debug)]
pub struct Bed {
    folder: TempDir,
}

/// A running aggregator and where it listens.
#[derive(Debug)]
pub struct Aggregator {
    /// The process.
    pub daemon: Daemon,
    /// Where agents report.
    pub intake: SocketAddr,
    /// Where operators look.
    pub admin: SocketAddr,
    /// The file with the operator's token.
    operator_token: PathBuf,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body.
    pub body: String,
}

#[expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]
impl Bed {
    /// Makes a bed whose cluster file ends with `rest`: targets, expectations, overrides.
    ///
    /// # Panics
    ///
    /// When the folder cannot be made.
    pub fn new(rest: &str) -> Self {
        let bed = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        bed.write("token", TOKEN);
        bed.write("operator-token", OPERATOR_TOKEN);
        bed.write(
            "cluster.yaml",
            &format!("cluster:\n  id: {CLUSTER_ID}\n  regionId: lab\n{rest}"),
        );
        bed
    }

    /// The targets of a cluster file that names one AIOS network.
    pub fn aios_target(parser_url: &str, gateway_url: &str, more: &str) -> String {
        format!(
            "targets:\n  - name: aios\n    type: aios\n    parserUrl: {parser_url}\n    gatewayUrl: {gateway_url}\n{more}"
        )
    }

    /// A file of the bed.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the bed.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        // Nobody finds it empty, or half of it.
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).expect("a file of the bed can be written");
        let private = Permissions::from_mode(0o600);
        fs::set_permissions(&new, private).expect("a file of the bed has a mode");
        fs::rename(&new, self.path(name)).expect("a file of the bed has its name");
    }

    /// The cluster file as it stands.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn cluster_file(&self) -> String {
        fs::read_to_string(self.path("cluster.yaml")).expect("the cluster file can be read")
    }

    /// Gives the cluster further keys: lines of YAML that stand two blanks in.
    ///
    /// # Panics
    ///
    /// When the cluster file cannot be read or written.
    pub fn declare(&self, lines: &str) {
        let (first, last) =
            (format!("  id: {CLUSTER_ID}\n"), format!("  id: {CLUSTER_ID}\n{lines}"));
        self.write("cluster.yaml", &self.cluster_file().replacen(&first, &last, 1));
    }

    /// Starts an aggregator on free ports and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not come to that.
    pub fn aggregator(&self, arguments: &[&str]) -> Aggregator {
        self.aggregator_with(arguments, |_| {})
    }

    /// The same, with something done to its command before it starts: an environment.
    ///
    /// # Panics
    ///
    /// When it does not come to that.
    pub fn aggregator_with(
        &self,
        arguments: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Aggregator {
        let store = format!("sqlite:{}", self.path("rollcall.db").display());
        self.serve("cluster.yaml", &store, arguments, prepare)
    }

    /// Starts an aggregator that keeps its data in a Kubernetes cluster, with a cluster file of the
    /// bed, and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not come to that.
    pub fn aggregator_on_kubernetes(&self, cluster_file: &str, arguments: &[&str]) -> Aggregator {
        self.serve(cluster_file, "kubernetes", arguments, |_| {})
    }

    fn serve(
        &self,
        cluster_file: &str,
        store: &str,
        arguments: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Aggregator {
        let mut command = Command::new(program("rollcall-aggregator"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--store", store])
            .arg("--cluster")
            .arg(self.path(cluster_file))
            .arg("--token-file")
            .arg(self.path("token"))
            .arg("--operator-token-file")
            .arg(self.path("operator-token"))
            .args(arguments);
        prepare(&mut command);
        let daemon = Daemon::spawn("rollcall-aggregator", command);
        let intake = daemon.listening_address("intake");
        let admin = daemon.listening_address("admin");
        Aggregator { daemon, intake, admin, operator_token: self.path("operator-token") }
    }

    /// Starts an agent that reports to `url`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn agent(&self, url: &str, arguments: &[&str]) -> Daemon {
        self.agent_with(url, arguments, |_| {})
    }

    /// The same, with something done to its command before it starts: an environment.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn agent_with(
        &self,
        url: &str,
        arguments: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Daemon {
        let mut command = Command::new(program("rollcall-agent"));
        command
            .args(["run", "--listen", "127.0.0.1:0", "--aggregator", url])
            .arg("--token-file")
            .arg(self.path("token"))
            .args(arguments);
        prepare(&mut command);
        Daemon::spawn("rollcall-agent", command)
    }
}

impl Aggregator {
    /// The intake's URL.
    pub fn intake_url(&self) -> String {
        format!("http://{}", self.intake)
    }

    /// Posts a body to the intake with the join token.
    ///
    /// # Panics
    ///
    /// When there is no HTTP answer.
    pub fn post_report(&self, body: &[u8]) -> Answer {
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        post(self.intake, "/v1/reports", &token, body)
    }

    /// Runs one of the operator's commands against it.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub fn operate(&self, arguments: &[&str]) -> Output {
        let server = format!("http://{}", self.admin);
        let arguments = [arguments, &["--server", &server]].concat();
        run("rollcall-aggregator", &arguments, b"")
    }

    /// Runs one of the operator's commands against it, with the operator's token.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub fn act(&self, arguments: &[&str]) -> Output {
        let token = self.operator_token.display().to_string();
        self.operate(&[arguments, &["--operator-token-file", &token]].concat())
    }

    /// The same, for a command that is to succeed.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn do_act(&self, arguments: &[&str]) {
        let output = self.act(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }

    /// Posts a report that is to be accepted.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn accept(&self, report: &Value) {
        let answer = self.post_report(report.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Waits until the aggregator logs a line; logging comes after storing.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub fn wait_for_log(&self, words: &str) {
        self.daemon.wait_for_line(|line| line.contains(words), PATIENCE);
    }

    /// The target `aios` as `GET /v1/status` shows it.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[expect(clippy::panic, reason = "the test has failed")]
    pub fn target(&self) -> Value {
        let answer = get(self.admin, "/v1/status", "");
        let status: Option<Value> = serde_json::from_str(&answer.body).ok();
        let target = status.as_ref().and_then(|status| status.pointer("/targets/0"));
        target.cloned().unwrap_or_else(|| panic!("no target in {}: {}", answer.head, answer.body))
    }

    /// Waits until the target `aios` is as `condition` wants it, and returns it.
    ///
    /// # Panics
    ///
    /// When `patience` ends first; the message says what was waited for, and how the target stands
    /// instead.
    pub fn wait_for_target(
        &self,
        what: &str,
        patience: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let end = Instant::now() + patience;
        loop {
            let target = self.target();
            if condition(&target) {
                return target;
            }
            assert!(Instant::now() < end, "waited {patience:?} for {what}: {target}");
            // Longer would miss what stands for a moment, shorter would keep a small machine busy.
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the target `aios` is in a phase, and returns it.
    ///
    /// # Panics
    ///
    /// When it does not come to that in time.
    pub fn wait_for_phase(&self, phase: &str) -> Value {
        self.wait_for_target(phase, PATIENCE, |target| target["phase"] == phase)
    }

    /// What one of the operator's commands prints as JSON.
    ///
    /// # Panics
    ///
    /// When it fails or prints something else.
    #[expect(clippy::panic, reason = "the test has failed")]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.operate(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Where the target `aios` stands: phase and detail.
    ///
    /// # Panics
    ///
    /// When `status` does not tell.
    #[expect(clippy::panic, reason = "the test has failed")]
    pub fn target_state(&self) -> (String, String) {
        let status = self.ask(&["status", "--output", "json"]);
        let text = |key: &str| status.pointer(&format!("/targets/0/{key}")).and_then(Value::as_str);
        let Some(phase) = text("phase") else { panic!("no phase in {status}") };
        (phase.to_owned(), text("detail").unwrap_or_default().to_owned())
    }
}

/// A saved report for another node than the one that it was saved on.
///
/// # Panics
///
/// When the saved report cannot be read.
#[expect(clippy::expect_used, clippy::indexing_slicing, reason = "the report is part of the tree")]
pub fn report(name: &str, machine: u64) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aggregator/tests/sample/node-1.json");
    let text = fs::read_to_string(path).expect("the sample report");
    let mut report: Value = serde_json::from_str(&text).expect("the sample report is JSON");
    report["node"]["name"] = name.into();
    report["node"]["proposedId"] = name.into();
    report["node"]["machineHash"] = format!("{machine:032x}").into();
    report
}

/// A saved report for another node, with so many GPUs of one kind.
///
/// # Panics
///
/// When the saved report cannot be read.
#[expect(clippy::indexing_slicing, reason = "the report is part of the tree")]
pub fn report_with_gpus(name: &str, machine: u64, gpus: u64) -> Value {
    let mut report = report(name, machine);
    let nvidia = &mut report["inventory"]["gpus"]["known"];
    nvidia["nvidiaPciDevices"]["known"] = gpus.into();
    let listed = &mut nvidia["nvidiaDriver"]["known"]["gpus"];
    let one = listed[0].clone();
    *listed = (0..gpus)
        .map(|index| {
            let mut gpu = one.clone();
            gpu["index"] = index.into();
            gpu["model"] = "NVIDIA H100 80GB HBM3".into();
            gpu["uuid"] = format!("GPU-{machine}-{index}").into();
            gpu["pciAddress"] = format!("0000:{:02x}:00.0", 0x10 + index).into();
            gpu
        })
        .collect();
    report
}

/// What a program said, results first.
pub fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Runs a program to its end.
///
/// # Panics
///
/// When it cannot be run.
#[expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]
pub fn run(name: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program(name))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A program that ends without reading its input is no failure of the test's.
    let _closed = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

/// Posts a body, with further header lines, over a connection of its own.
///
/// # Panics
///
/// When there is no HTTP answer.
pub fn post(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    exchange(address, &[head.as_bytes(), body].concat())
}

/// Gets a path over a connection of its own.
///
/// # Panics
///
/// When there is no HTTP answer.
pub fn get(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    exchange(address, head.as_bytes())
}

/// Sends bytes as they are and reads the answer to its end.
///
/// # Panics
///
/// When there is no HTTP answer.
#[expect(clippy::panic, clippy::expect_used, reason = "the test has failed")]
pub fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
    // The server may answer and close before it has read all of what is too much.
    let _closed = stream.write_all(request);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        panic!("no HTTP answer: {answer:?}")
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head:?}"));
    let is_chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    let body = if is_chunked { whole(body) } else { body.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

/// A body that came in chunks. Source: RFC 9112, 7.1.
#[expect(clippy::panic, clippy::expect_used, reason = "the test has failed")]
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a size in hexadecimal digits");
        if size == 0 {
            return body;
        }
        let Some((chunk, rest)) = rest.split_at_checked(size) else {
            panic!("the answer ends within a chunk of {size} bytes: {rest:?}")
        };
        body.push_str(chunk);
        chunks = rest.strip_prefix("\r\n").expect("a chunk's end");
    }
}

/// How long to wait for what takes a few tries.
pub const PATIENCE: Duration = Duration::from_secs(30);
