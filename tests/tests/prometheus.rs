//! A real Prometheus scrapes a real agent and a real aggregator: what it then knows is what the programs'
//! own commands say, no series are made anew from scrape to scrape, a node that is forgotten vanishes, and
//! the alerts that are shipped see it all.
//!
//! Where Prometheus is not installed this is shown as ignored; it has not passed.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::{Aggregator, Bed, PATIENCE, exchange, get, report, run};
use rollcall_tests::nginx::free_port;
use rollcall_tests::process::{Daemon, wait_until};
use serde_json::Value;
use url::Url;

const MIB: f64 = 1024.0 * 1024.0;
const BYTES_PER_MEGABIT: f64 = 125_000.0;
/// The aggregator counts nodes every 15 s.
const COUNTED: Duration = Duration::from_secs(45);
/// Series settle, and then stay for ten scrapes.
const SETTLED: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = Trial::ignorable_test("what_prometheus_sees", || {
        for program in ["prometheus", "promtool"] {
            let version = Command::new(program).arg("--version").output();
            if !version.is_ok_and(|output| output.status.success()) {
                let why = format!("not run here: {program} is not installed");
                return Ok::<_, Failed>(Completion::ignored_with(why));
            }
        }
        what_prometheus_sees();
        Ok(Completion::Completed)
    });
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

/// A running Prometheus; it ends with this.
struct Prometheus {
    address: SocketAddr,
    _daemon: Daemon,
}

/// A series of an answer: its labels, and its value.
type Sample = (Value, f64);

impl Prometheus {
    /// Starts it in a bed, with the rules that are shipped.
    fn start(bed: &Bed, jobs: &[(&str, SocketAddr)]) -> Self {
        let rules = rule_files();
        let rules = rules.iter().map(|path| format!("  - {}\n", path.display()));
        let jobs = jobs.iter().map(|(name, address)| {
            format!("  - job_name: {name}\n    static_configs: [{{targets: ['{address}']}}]\n")
        });
        let configuration = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files:\n{}scrape_configs:\n{}",
            rules.collect::<String>(),
            jobs.collect::<String>()
        );
        bed.write("prometheus.yaml", &configuration);
        promtool(&["check", "config", &bed.path("prometheus.yaml").display().to_string()], "");
        // Another program may take the port before it does.
        for _ in 0..5 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST)));
            let mut command = Command::new("prometheus");
            command
                .arg(format!("--config.file={}", bed.path("prometheus.yaml").display()))
                .arg(format!("--storage.tsdb.path={}", bed.path("tsdb").display()))
                .arg(format!("--web.listen-address={address}"));
            let daemon = Daemon::spawn("prometheus", command);
            let told = daemon.wait_for_line(
                |line| line.contains("ready to receive") || line.contains("already in use"),
                PATIENCE,
            );
            if told.contains("ready to receive") {
                return Self { address, _daemon: daemon };
            }
        }
        panic!("Prometheus finds no port");
    }

    /// What its API answers.
    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut url = Url::parse(&format!("http://{}{path}", self.address)).expect("a URL");
        url.query_pairs_mut().extend_pairs(parameters);
        let query = url.query().unwrap_or_default();
        // Its answers to older clients come in one piece.
        let request = format!("GET {path}?{query} HTTP/1.0\r\n\r\n");
        let answer = exchange(self.address, request.as_bytes());
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(body["status"], "success", "{path} {parameters:?}: {body}");
        body["data"].clone()
    }

    fn query(&self, query: &str) -> Vec<Sample> {
        let data = self.ask("/api/v1/query", &[("query", query)]);
        let samples = data["result"].as_array().expect("a vector").iter().map(|sample| {
            let value = sample["value"][1].as_str().and_then(|value| value.parse().ok());
            (sample["metric"].clone(), value.expect("a number"))
        });
        samples.collect()
    }

    /// The value of a query that has one; `None`: it has none.
    fn value(&self, query: &str) -> Option<f64> {
        let samples = self.query(query);
        assert!(samples.len() <= 1, "{query}: {samples:?}");
        samples.first().map(|(_, value)| *value)
    }

    fn wait_for(&self, query: &str, deadline: Duration, wanted: impl Fn(&[Sample]) -> bool) {
        wait_until(query, deadline, || {
            let samples = self.query(query);
            if wanted(&samples) { Ok(()) } else { Err(samples) }
        });
    }

    /// The state of an alert; `None`: there is none.
    fn alert(&self, name: &str) -> Option<String> {
        let data = self.ask("/api/v1/alerts", &[]);
        let alerts = data["alerts"].as_array().expect("a list");
        let alert = alerts.iter().find(|alert| alert["labels"]["alertname"] == name)?;
        alert["state"].as_str().map(str::to_owned)
    }

    fn wait_for_alert(&self, name: &str, state: Option<&str>) {
        wait_until(name, COUNTED, || {
            let found = self.alert(name);
            if found.as_deref() == state { Ok(()) } else { Err(found) }
        });
    }
}

/// The rules that are shipped.
fn rule_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus");
    let files = fs::read_dir(&folder).expect("the folder of the rules").map(|file| {
        file.and_then(|file| fs::canonicalize(file.path())).expect("a file of the rules")
    });
    let is_rules = |path: &PathBuf| path.extension().is_some_and(|it| it == "yaml");
    let files: Vec<PathBuf> = files.filter(is_rules).collect();
    assert!(!files.is_empty(), "no rules in {}", folder.display());
    files
}

/// Runs promtool; it is to find nothing.
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool runs");
    let mut stdin = child.stdin.take().expect("it has an input");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "promtool {arguments:?}: {said}\n{input}");
}

fn number(value: &Value, pointer: &str) -> f64 {
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number at {pointer} of {value}"))
}

fn what_prometheus_sees() {
    let aios = AiosStandin::start();
    let targets = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "");
    let bed = Bed::new(&format!("{targets}expect: {{nodes: 2}}\n"));
    let aggregator = bed.aggregator(&[]);
    let agent = bed.agent(
        &aggregator.intake_url(),
        &["--interval", "1s", "--node-name", "this-node", "--node-id", "this-id"],
    );
    let line = agent.wait_for_line(|line| line.contains("metrics="), PATIENCE);
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("metrics="));
    let of_agent: SocketAddr = address.expect("an address").parse().expect("an address");
    aggregator.wait_for_log("a new node is on the roll");
    let jobs = [("agent", of_agent), ("aggregator", aggregator.admin)];
    let prometheus = Prometheus::start(&bed, &jobs);

    // One of two expected nodes has not come; then it has.
    prometheus.wait_for_alert("RollcallNodeMissing", Some("pending"));
    aggregator.accept(&report("node-b", 2));
    aggregator.wait_for_phase("registered");
    prometheus.wait_for_alert("RollcallNodeMissing", None);
    let agreed = "rollcall_aggregator_target_last_agreed_timestamp_seconds{target=\"aios\"} > 0";
    prometheus.wait_for(agreed, PATIENCE, |samples| samples.len() == 1);

    nodes_are_as_the_aggregator_says(&prometheus, &aggregator);
    the_machine_is_as_the_agent_says(&prometheus);
    what_goes_on_is_measured(&prometheus);

    // A node that is forgotten is gone, and those that stay are told of still.
    aggregator.do_act(&["forget", "node-b"]);
    prometheus.wait_for("{node=\"node-b\"}", COUNTED, <[Sample]>::is_empty);
    assert_eq!(prometheus.query("rollcall_node_info").len(), 1);

    all_is_sound(&prometheus, &jobs);
}

fn nodes_are_as_the_aggregator_says(prometheus: &Prometheus, aggregator: &Aggregator) {
    let of_aggregator: &[(&str, &str, f64)] = &[
        ("rollcall_node_cpus", "/vcpus/count", 1.0),
        ("rollcall_node_memory_bytes", "/memory", MIB),
        ("rollcall_node_swap_bytes", "/swap", MIB),
        ("rollcall_node_disks", "/storage/disks", 1.0),
        ("rollcall_node_disk_bytes", "/storage/size", MIB),
        ("rollcall_node_links", "/network/interfaces", 1.0),
        ("rollcall_node_link_bytes_per_second", "/network/txBandwidth", BYTES_PER_MEGABIT),
        ("rollcall_node_gpu_memory_bytes", "/gpus/memory", MIB),
    ];
    let view = aggregator.ask(&["nodes", "--output", "json"]);
    let nodes = view["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 2, "{view}");
    for node in nodes {
        let name = node["name"].as_str().expect("a name");
        for (metric, pointer, unit) in of_aggregator {
            let query = format!("{metric}{{node=\"{name}\"}}");
            let expected = number(&node["entry"], pointer) * unit;
            assert_eq!(prometheus.value(&query), Some(expected), "{query}");
        }
        let gpus = prometheus.value(&format!("sum(rollcall_node_gpu_models{{node=\"{name}\"}})"));
        let counted = number(&node["entry"], "/gpus/count");
        assert_eq!(gpus.or(Some(0.0)), Some(counted), "GPUs of {name}");
        for (metric, expected) in [("rollcall_node_complete", 1.0), ("rollcall_node_stale", 0.0)] {
            let query = format!("{metric}{{node=\"{name}\"}}");
            assert_eq!(prometheus.value(&query), Some(expected), "{query}");
        }
    }
}

fn the_machine_is_as_the_agent_says(prometheus: &Prometheus) {
    let probe = run("rollcall-agent", &["probe"], b"");
    let probe: Value = serde_json::from_slice(&probe.stdout).expect("JSON");
    for (metric, pointer) in [
        ("rollcall_agent_cpus", "/inventory/cpu/known/online"),
        ("rollcall_agent_memory_bytes", "/inventory/memory/known/totalBytes"),
        ("rollcall_agent_swap_bytes", "/inventory/swap/known/totalBytes"),
    ] {
        assert_eq!(prometheus.value(metric), Some(number(&probe, pointer)), "{metric}");
    }
    // The document rounds down.
    for (of_agent, of_node, most) in [
        ("rollcall_agent_cpus", "rollcall_node_cpus", 1.0),
        ("rollcall_agent_memory_bytes", "rollcall_node_memory_bytes", MIB),
        ("rollcall_agent_disks", "rollcall_node_disks", 1.0),
        ("rollcall_agent_disk_bytes", "rollcall_node_disk_bytes", MIB),
        ("rollcall_agent_links", "rollcall_node_links", 1.0),
        ("rollcall_agent_link_bytes_per_second", "rollcall_node_link_bytes_per_second", 1.0),
    ] {
        let query = format!("{of_agent} - on () {of_node}{{node=\"this-node\"}}");
        let differs = prometheus.value(&query).unwrap_or_else(|| panic!("{query}"));
        assert!((0.0..most).contains(&differs), "{query}: {differs}");
    }
    let same = "count(rollcall_agent_node_info * on (node, node_id) rollcall_node_info)";
    assert_eq!(prometheus.value(same), Some(1.0), "agent and aggregator agree who the node is");
}

fn what_goes_on_is_measured(prometheus: &Prometheus) {
    let fresh = "time() - rollcall_node_last_report_timestamp_seconds{node=\"this-node\"}";
    let age = prometheus.value(fresh).expect("it has reported");
    assert!((-1.0..30.0).contains(&age), "{fresh}: {age}");
    let request =
        "rollcall_aggregator_target_requests_total{request=\"create\",outcome=\"accepted\"}";
    assert_eq!(prometheus.value(request), Some(1.0));
    for histogram in [
        "rollcall_agent_report_duration_seconds",
        "rollcall_aggregator_store_write_duration_seconds",
        "rollcall_aggregator_document_assembly_duration_seconds",
        "rollcall_aggregator_target_request_duration_seconds{request=\"read\"}",
        "rollcall_aggregator_target_request_duration_seconds{request=\"create\"}",
    ] {
        let (name, labels) = histogram.split_once('{').unwrap_or((histogram, "}"));
        let count = prometheus.value(&format!("{name}_count{{{labels}"));
        assert!(count.is_some_and(|count| count > 0.0), "{histogram}: {count:?}");
        // What is measured lies within the buckets.
        let last = prometheus.value(&format!("{name}_bucket{{le=\"+Inf\",{labels}"));
        let beyond = format!("max(max by (le) ({name}_bucket{{le!=\"+Inf\",{labels}))");
        assert_eq!((last, prometheus.value(&beyond)), (count, count), "{histogram}");
    }
}

/// No series comes anew, no scrape has failed, and neither promtool nor a rule has anything to say.
fn all_is_sound(prometheus: &Prometheus, jobs: &[(&str, SocketAddr)]) {
    for (job, address) in jobs {
        let added = format!("max_over_time(scrape_series_added{{job=\"{job}\"}}[10s])");
        prometheus.wait_for(&added, SETTLED, |samples| samples.iter().all(|(_, it)| *it == 0.0));
        let up = prometheus.value(&format!("min_over_time(up{{job=\"{job}\"}}[1h])"));
        assert_eq!(up, Some(1.0), "{job} was always up");
        let text = get(*address, "/metrics", "");
        promtool(&["check", "metrics"], &text.body);
    }
    let targets = prometheus.ask("/api/v1/targets", &[]);
    let targets = targets["activeTargets"].as_array().expect("targets");
    assert_eq!(targets.len(), jobs.len());
    for target in targets {
        assert_eq!(
            (&target["health"], &target["lastError"]),
            (&"up".into(), &"".into()),
            "{target}"
        );
    }
    let rules = prometheus.ask("/api/v1/rules", &[]);
    let groups = rules["groups"].as_array().expect("groups");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    let unhealthy: Vec<&Value> = rules.clone().filter(|rule| rule["health"] != "ok").collect();
    assert!(rules.count() > 0 && unhealthy.is_empty(), "{unhealthy:?}");
}
