//! Who may do what: the accounts' rights, the containers', and whose reports are taken.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rollcall_daemon::http::client_builder;
use rollcall_tests::cluster::deployment::{
    self, ADMIN, Deployment, INTAKE, NAMESPACE, Pod, Settings,
};
use rollcall_tests::cluster::{Cluster, text};
use serde_json::{Value, json};
use url::Url;

use super::host::probe_in_pod;

const ACCOUNTS: [&str; 2] = ["rollcall-agent", "rollcall-aggregator"];

/// A right: group, resource, name of the object (empty: any), verb.
type Right = (String, String, String, String);

pub(crate) fn rights_are_as_documented(cluster: &Cluster) {
    let rollcall = Deployment::start(cluster, &Settings::default());
    for account in ACCOUNTS {
        for namespace in [NAMESPACE, "default", "kube-system"] {
            assert_eq!(
                rights(cluster, account, namespace),
                documented(account, namespace, "agents stamp"),
                "{account} in {namespace}, against docs/kubernetes.md"
            );
        }
    }
    for pod in rollcall.pods("agent").iter().chain(&rollcall.pods("aggregator")) {
        container_is_confined(cluster, pod);
        let mounted = secrets(cluster, pod);
        assert!(mounted.contains("kubernetes.io/serviceaccount/token"), "{pod:?}: {mounted}");
    }
    reports_are_of_ones_own_node(cluster, &rollcall);
}

/// With `stamping: aggregator`: agents have no rights beyond everybody's, and no token to use any.
pub(crate) fn agents_have_none(cluster: &Cluster, rollcall: &Deployment<'_>) {
    for account in ACCOUNTS {
        for namespace in [NAMESPACE, "default"] {
            assert_eq!(
                rights(cluster, account, namespace),
                documented(account, namespace, "the aggregator stamps"),
                "{account} in {namespace}, against docs/kubernetes.md"
            );
        }
    }
    assert_eq!(rights(cluster, "rollcall-agent", NAMESPACE), BTreeSet::new(), "of agents");
    for pod in rollcall.pods("agent") {
        container_is_confined(cluster, &pod);
        let mounted = secrets(cluster, &pod);
        assert!(mounted.contains("rollcall/token"), "{pod:?}: {mounted}");
        assert!(!mounted.contains("kubernetes.io"), "{pod:?} has a token of the API's: {mounted}");
    }
}

/// What `kubectl auth can-i --list` lists for an account, less what it lists for an account that
/// was given nothing.
fn rights(cluster: &Cluster, account: &str, namespace: &str) -> BTreeSet<Right> {
    let all = |account: &str| -> BTreeSet<Right> {
        // What kubectl asks for its table.
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        });
        let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
        let arguments = ["create", "--as", &user, "--filename", "-", "--output", "json"];
        let answer = cluster.try_kubectl(&arguments, &review.to_string()).expect("a review");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_ne!(answer["status"]["incomplete"], json!(true), "{answer}");
        let rules = answer["status"]["resourceRules"].as_array().expect("rules");
        rules.iter().flat_map(spelled_out).collect()
    };
    let everybodys = all("default");
    all(account).difference(&everybodys).cloned().collect()
}

fn spelled_out(rule: &Value) -> Vec<Right> {
    let list = |key: &str| -> Vec<String> {
        let list = rule[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (groups, resources, verbs) = (list("apiGroups"), list("resources"), list("verbs"));
    let mut names = list("resourceNames");
    if names.is_empty() {
        names.push(String::new());
    }
    let mut rights = Vec::new();
    for group in &groups {
        for resource in &resources {
            for name in &names {
                rights.extend(
                    verbs
                        .iter()
                        .map(|verb| (group.clone(), resource.clone(), name.clone(), verb.clone())),
                );
            }
        }
    }
    rights
}

/// The rows of docs/kubernetes.md's table of rights that hold for an account in a namespace, with
/// the store `kubernetes`. `stamps` is who stamps, as the table says it.
fn documented(account: &str, namespace: &str, stamps: &str) -> BTreeSet<Right> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md");
    let document = fs::read_to_string(document).expect("docs/kubernetes.md");
    let rows = document.lines().skip_while(|line| !line.starts_with("| account | where |"));
    let rows: Vec<_> = rows.skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "the table of rights is not found: {rows:?}");
    let mut rights = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [whose, place, group, resource, verbs, when, _why] = cells[..] else {
            panic!("seven cells are expected: {row}")
        };
        let plain = |cell: &str| cell.replace('`', "");
        let holds = match when {
            "always" | "store `kubernetes`" => true,
            "agents stamp" | "the aggregator stamps" => when == stamps,
            other => panic!("not known when this is: {other}"),
        };
        let is_there = place == "the cluster" || plain(place) == namespace;
        if plain(whose) != account || !holds || !is_there {
            continue;
        }
        let group = if group == "core" { String::new() } else { plain(group) };
        let resource = plain(resource);
        let (resource, name) = resource.split_once(" named ").unwrap_or((&resource, ""));
        rights.extend(
            verbs
                .split(", ")
                .map(|verb| (group.clone(), resource.to_owned(), name.to_owned(), verb.to_owned())),
        );
    }
    rights
}

/// The number of the container's first process on its node.
fn process(cluster: &Cluster, pod: &Pod) -> String {
    let told = cluster.get(&["pod", &pod.name, "--namespace", NAMESPACE]);
    let container = text(&told, "/status/containerStatuses/0/containerID");
    let (_, id) = container.rsplit_once('/').unwrap_or_else(|| panic!("{pod:?}: {container:?}"));
    // All processes of the container are in a control group of its name.
    let find = r#"grep --files-with-matches --no-messages "$1" /proc/[0-9]*/cgroup | sort --version-sort | head -n 1"#;
    let found = cluster.run_on(&pod.node, &["bash", "-c", find, "find", id]);
    let process = found.trim().trim_start_matches("/proc/").trim_end_matches("/cgroup");
    assert!(process.parse::<u32>().is_ok(), "{pod:?}: no process is in {id}: {found:?}");
    process.to_owned()
}

/// As the kernel tells it, not as the manifest does.
fn container_is_confined(cluster: &Cluster, pod: &Pod) {
    let process = process(cluster, pod);
    let status = cluster.run_on(&pod.node, &["cat", &format!("/proc/{process}/status")]);
    let field = |name: &str| -> Vec<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().collect()
    };
    let (nobody, nothing) = (vec!["65532"; 4], vec!["0000000000000000"]);
    for (name, expected) in [
        ("Uid", nobody.clone()),
        ("Gid", nobody),
        ("CapInh", nothing.clone()),
        ("CapPrm", nothing.clone()),
        ("CapEff", nothing.clone()),
        ("CapBnd", nothing.clone()),
        ("CapAmb", nothing),
        ("NoNewPrivs", vec!["1"]),
        // A filter of system calls.
        ("Seccomp", vec!["2"]),
    ] {
        assert_eq!(field(name), expected, "{name} of {pod:?}: {status}");
    }
    let mounts = cluster.run_on(&pod.node, &["cat", &format!("/proc/{process}/mountinfo")]);
    let mut has_host = Vec::new();
    for mount in mounts.lines() {
        // See proc(5): the fifth is the mount point, the sixth its options.
        let fields: Vec<_> = mount.split(' ').collect();
        let (point, options) = (fields[4], fields[5]);
        if ["/", "/host/proc", "/host/sys"].contains(&point) {
            let is_read_only = options.split(',').any(|option| option == "ro");
            assert!(is_read_only, "{point} of {pod:?} can be written to: {mount}");
            has_host.push(point);
        }
    }
    let expected = if pod.name.contains("agent") { 3 } else { 1 };
    assert_eq!(has_host.len(), expected, "{pod:?}: {mounts}");
    // The namespaces are not the node's.
    for namespace in ["net", "pid", "ipc", "mnt"] {
        let read = |process: &str| {
            cluster.run_on(&pod.node, &["readlink", &format!("/proc/{process}/ns/{namespace}")])
        };
        assert_ne!(read(&process), read("1"), "{namespace} of {pod:?} is the node's");
    }
}

/// What is in the container under /var/run/secrets, by path.
fn secrets(cluster: &Cluster, pod: &Pod) -> String {
    let folder = format!("/proc/{}/root/var/run/secrets", process(cluster, pod));
    // An aggregator's may have none.
    let list = r#"! [ -d "$1" ] || find "$1"/ -name token"#;
    cluster.run_on(&pod.node, &["bash", "-c", list, "list", &folder])
}

/// Which tokens the intake takes, for which node.
fn reports_are_of_ones_own_node(cluster: &Cluster, rollcall: &Deployment<'_>) {
    let agents = rollcall.pods("agent");
    let [own, other, ..] = &agents[..] else { panic!("two agents are expected: {agents:?}") };
    let path = format!("/proc/{}/root/var/run/secrets/rollcall/token", process(cluster, own));
    let stolen = cluster.run_on(&own.node, &["cat", &path]).trim().to_owned();
    let with_token = ["--token", &stolen, "get", "nodes"];
    let refused =
        try_as_token(cluster, &with_token).expect_err("the API server takes no such token");
    assert!(refused.contains("Unauthorized") || refused.contains("logged in"), "{refused}");

    let token = |account: &str, more: &[&str]| -> String {
        let arguments = [&["create", "token", account, "--namespace", NAMESPACE], more].concat();
        cluster.kubectl(&arguments).trim().to_owned()
    };
    let ours = ["--audience", "rollcall"];
    let bound = |pod: &str| -> Vec<String> {
        let words =
            ["--audience", "rollcall", "--bound-object-kind", "Pod", "--bound-object-name", pod];
        words.map(str::to_owned).to_vec()
    };
    let of_pod = |account: &str, pod: &str| {
        let more = bound(pod);
        token(account, &more.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // The pod goes after the token was made, and before it is used.
    let gone = of_pod("rollcall-agent", &other.name);
    cluster.kubectl(&["delete", "pod", &other.name, "--namespace", NAMESPACE]);
    rollcall.wait_until_ready();

    let before = rollcall.document();
    let counted = Counts::of(rollcall);
    let mut forged = probe_in_pod(cluster, rollcall, &other.node);
    forged["inventory"]["cpu"]["known"]["online"] = json!(4096);
    let own_report = probe_in_pod(cluster, rollcall, &own.node);
    let account = "rollcall-agent";
    let intake = Intake::of(rollcall);
    for (what, token, report, status, code) in [
        ("its own node", Some(stolen.clone()), &own_report, 200, None),
        ("another node", Some(stolen), &forged, 403, Some("forbidden")),
        ("no token", None, &forged, 401, Some("credentials-missing")),
        ("no token at all", Some("nonsense".to_owned()), &forged, 401, Some("credentials-wrong")),
        ("a deleted pod's", Some(gone), &forged, 401, Some("credentials-wrong")),
        (
            "of the API's audience",
            Some(token(account, &[])),
            &forged,
            401,
            Some("credentials-wrong"),
        ),
        ("of no pod", Some(token(account, &ours)), &forged, 401, Some("credentials-wrong")),
        (
            "of another account",
            Some(token("rollcall-aggregator", &ours)),
            &forged,
            403,
            Some("forbidden"),
        ),
    ] {
        let (got, body) = intake.report(token.as_deref(), report);
        assert_eq!(got, status, "{what}: {body}");
        assert_eq!(body.get("code").and_then(Value::as_str), code, "{what}: {body}");
    }
    let after = Counts::of(rollcall);
    assert_eq!(after.forbidden - counted.forbidden, 2, "403s are counted");
    assert_eq!(after.wrong - counted.wrong, 4, "tokens that are not good are counted");
    assert_eq!(after.missing - counted.missing, 1, "missing tokens are counted");
    assert_eq!(rollcall.document(), before, "nothing of it is in the document");
}

/// How many reports were refused, and why.
#[derive(Debug)]
struct Counts {
    forbidden: u64,
    wrong: u64,
    missing: u64,
}

impl Counts {
    fn of(rollcall: &Deployment<'_>) -> Self {
        let metrics = rollcall.metrics(&rollcall.aggregator(), ADMIN);
        let count = |outcome: &str| {
            let name = format!("rollcall_aggregator_reports_total{{outcome=\"{outcome}\"}}");
            deployment::count_of(&metrics, &name)
        };
        Self {
            forbidden: count("forbidden"),
            wrong: count("credentials-wrong"),
            missing: count("credentials-missing"),
        }
    }
}

/// The aggregator's intake, with the name that its certificate is for.
struct Intake {
    url: Url,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    _forward: deployment::Forward,
}

impl Intake {
    fn of(rollcall: &Deployment<'_>) -> Self {
        let forward = rollcall.forward(&rollcall.aggregator(), INTAKE);
        let host = format!("rollcall-aggregator.{NAMESPACE}.svc");
        let url = format!("https://{host}:{}/v1/reports", forward.address.port());
        let url: Url = url.parse().expect("a URL");
        let builder = client_builder(&url, Some(&rollcall.authority())).expect("a client");
        let client = builder.no_proxy().resolve(&host, forward.address).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self {
            url,
            client: client.expect("a client"),
            runtime: runtime.expect("a runtime"),
            _forward: forward,
        }
    }

    fn report(&self, token: Option<&str>, report: &Value) -> (u16, Value) {
        let request = self.client.post(self.url.clone()).body(report.to_string());
        let request = request.header("content-type", "application/json");
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        self.runtime.block_on(async {
            let answer = request.send().await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.text().await.expect("a body");
            (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
        })
    }
}

/// As somebody who has this token and no certificate.
fn try_as_token(cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
    let server = cluster.kubectl(&[
        "config",
        "view",
        "--minify",
        "--output",
        "jsonpath={.clusters[0].cluster.server}",
    ]);
    // Without a certificate of the administrator's, which would count before the token.
    let bare =
        ["--kubeconfig", "/dev/null", "--insecure-skip-tls-verify", "--server", server.trim()];
    cluster.try_kubectl(&[arguments, &bare].concat(), "")
}
