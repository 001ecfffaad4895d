//! The program as a person and a service manager meet it: arguments, environment, output, exit
//! codes, signals.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};

use rollcall_report::{IdSource, NodeReport};

/// The program, with nothing of this test's own environment.
fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-agent"));
    command.args(args).env_clear();
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn report(output: &Output) -> NodeReport {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("a report")
}

const PROBE: [&str; 5] = [
    "probe",
    "--host-root",
    "tests/hosts/gpu-without-driver/root",
    "--nvml-library",
    "/nonexistent/libnvidia-ml.so.1",
];

#[test]
fn probe_prints_the_report_and_warns_of_what_failed() {
    let output = output(&mut agent(&PROBE));
    let report = report(&output);
    assert_eq!(report.node.name.as_str(), "gpu-1", "the host's name");
    assert_eq!(report.inventory.cpu.known().map(|cpu| cpu.online), Some(2));
    assert!(stderr(&output).contains("probe failed subject=gpus"), "{}", stderr(&output));
}

#[test]
fn every_flag_has_a_variable_and_goes_before_it() {
    let by_flag = [&PROBE[..], &["--node-name", "flag", "--node-id", "blue"]].concat();
    let variables = [("ROLLCALL_NODE_NAME", "own"), ("NODE_NAME", "downward")];
    for (why, args, variables, expected) in [
        ("the downward API's", &PROBE[..], &variables[1..], "downward"),
        ("rollcall's own goes first", &PROBE[..], &variables[..], "own"),
        ("the flag goes first of all", &by_flag[..], &variables[..], "flag"),
    ] {
        let mut command = agent(args);
        command.envs(variables.iter().copied());
        assert_eq!(report(&output(&mut command)).node.name.as_str(), expected, "{why}");
    }
    let mut command = agent(&["probe"]);
    command.envs([
        ("ROLLCALL_HOST_ROOT", "tests/hosts/gpu-without-driver/root"),
        ("ROLLCALL_NVML_LIBRARY", "/nonexistent/libnvidia-ml.so.1"),
        ("ROLLCALL_NODE_ID", "blue"),
        ("ROLLCALL_COUNT_REMOVABLE", "1"),
        ("ROLLCALL_LOG_LEVEL", "off"),
    ]);
    let output = output(&mut command);
    let report = report(&output);
    assert_eq!(report.node.proposed_id.as_str(), "blue");
    assert_eq!(report.node.id_source, IdSource::Explicit);
    assert_eq!(report.inventory.cpu.known().map(|cpu| cpu.online), Some(2));
    assert_eq!(stderr(&output), "");
}

#[test]
fn removable_disks_count_on_request() {
    let names = |extra: &[&str]| -> Vec<String> {
        let root = ["probe", "--host-root", "tests/hosts/rich-server/root"];
        let report = report(&output(&mut agent(&[&root, extra].concat())));
        let disks = report.inventory.disks.known().expect("disks").clone();
        disks.into_iter().map(|disk| disk.name).collect()
    };
    let usual = names(&["--node-name", "n"]);
    let all = names(&["--node-name", "n", "--count-removable"]);
    let more: Vec<&String> = all.iter().filter(|name| !usual.contains(name)).collect();
    assert_eq!(more, ["sdf"], "the USB stick and not the optical drive");
}

#[test]
fn exit_codes_tell_wrong_usage_from_failure() {
    let run = ["run", "--token-file", "/nonexistent/token", "--listen", "127.0.0.1:0"];
    let with = |extra: &[&'static str]| [&run[..], extra].concat();
    for (why, args, code, words) in [
        ("help", vec!["--help"], 0, ""),
        ("no command", vec![], 2, "Usage"),
        ("an unknown flag", vec!["probe", "--nonsense"], 2, "--nonsense"),
        ("no aggregator", with(&[]), 2, "--aggregator"),
        (
            "plain HTTP to elsewhere",
            with(&["--aggregator", "http://aggregator.example"]),
            2,
            "--insecure-http",
        ),
        (
            "labels without Kubernetes",
            vec![
                "run",
                "--aggregator=http://127.0.0.1:1",
                "--listen=127.0.0.1:0",
                "--node-name=n",
                "--token-file=/dev/null",
                "--stamp-labels",
            ],
            2,
            "--kubeconfig",
        ),
        (
            "no host",
            vec!["probe", "--host-root", "/nonexistent"],
            1,
            "/nonexistent is no folder: give --host-root a host's root",
        ),
        (
            "an archive",
            vec!["explain", "--host-root", "Cargo.toml"],
            1,
            "or a capture that is unpacked",
        ),
    ] {
        let output = output(&mut agent(&args));
        assert_eq!(output.status.code(), Some(code), "{why}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{why}: {}", stderr(&output));
    }
}

/// Killed when the test is over, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn the_agent_exits_with_0_on_sigterm_whatever_it_waits_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (token, pipe, none) = (path("token"), path("pipe"), path("none"));
    std::fs::write(&token, "hunter2").expect("written");
    std::fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("a setting");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    let (http, https) = ("--aggregator=http://127.0.0.1:1", "--aggregator=https://127.0.0.1:1");
    for (what, aggregator, token, ca, words) in [
        ("an aggregator", http, &token, None, "does not answer"),
        ("a token", http, &none, None, "none cannot be read: No such file"),
        ("a pipe", http, &pipe, None, "pipe cannot be read: it is no regular file"),
        ("a CA", https, &token, Some(&none), "none cannot be read: No such file"),
        ("a CA's pipe", https, &token, Some(&pipe), "pipe cannot be read: it is no regular file"),
    ] {
        let mut command = agent(&["run", aggregator, "--listen=127.0.0.1:0", "--node-name=n"]);
        command.args(["--host-root=tests/hosts/bare-minimum/root", "--token-file", token]);
        command.args(ca.iter().flat_map(|path| ["--ca-file", path]));
        // Plain HTTP needs no CA certificates, and minimal systems have none.
        command.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/nonexistent");
        let child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let Running(child) = &mut Running(child);
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let first = log.next().expect("a line").expect("readable");
        assert!(first.contains("metrics=127.0.0.1:"), "{what}: {first}");
        let mut said = log.by_ref().map(|line| line.expect("readable"));
        let trouble = said.find(|line| line.contains("report not accepted"));
        let trouble = trouble.expect(what);
        assert!(trouble.contains(words), "{what}: {trouble}");
        let pid = child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status().expect("kill starts");
        assert!(killed.success());
        // The end of the log is the end of the program.
        let rest: Vec<String> = log.map(|line| line.expect("readable")).collect();
        let status = child.wait().expect("ended");
        assert_eq!(status.code(), Some(0), "{what}: {rest:#?}");
        assert!(rest.iter().any(|line| line.contains("stopping on SIGTERM")), "{what}: {rest:#?}");
        let all = rest.iter().chain([&first, &trouble]);
        assert!(!all.clone().any(|line| line.contains("hunter2")), "{what}: {rest:#?}");
    }
}

#[test]
fn a_host_that_is_called_localhost_does_not_run_and_can_be_probed() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("proc/sys/kernel");
    std::fs::create_dir_all(&kernel).expect("a folder");
    std::fs::create_dir(folder.path().join("sys")).expect("a folder");
    std::fs::write(kernel.join("hostname"), "localhost\n").expect("written");
    let root = folder.path().display().to_string();
    let run = ["run", "--aggregator=http://127.0.0.1:1", "--token-file=/t", "--listen=127.0.0.1:0"];
    for (mut command, code) in [(agent(&run), 1), (agent(&["probe"]), 0)] {
        let output = output(command.args(["--host-root", &root]));
        assert_eq!(output.status.code(), Some(code), "{command:?}: {}", stderr(&output));
        let words = "this host is called localhost, as any host without a name is";
        assert!(stderr(&output).contains(words), "{command:?}: {}", stderr(&output));
    }
}

#[test]
fn the_command_for_nvidias_library_is_the_agents_own() {
    let help = output(&mut agent(&["--help"]));
    assert!(!String::from_utf8_lossy(&help.stdout).contains("nvml"), "hidden");

    let ask = |parent: u32| {
        let parent = parent.to_string();
        output(&mut agent(&["nvml", "--library", "/nonexistent/nvml.so", "--parent", &parent]))
    };
    let answers = ask(std::process::id());
    assert_eq!(answers.status.code(), Some(0), "{}", stderr(&answers));
    let text = String::from_utf8_lossy(&answers.stdout);
    assert!(text.starts_with(r#"{"libraryMissing":{"detail":"/nonexistent/nvml.so"#), "{text}");
    // One whose agent is gone asks nobody.
    let orphan = ask(1);
    assert_eq!((orphan.status.code(), orphan.stdout.len()), (Some(0), 0));
}
