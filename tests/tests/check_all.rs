//! `rollcall-aggregator check` of every kind of target at once, against a cluster, a network, and all other
//! services that take a connection and never answer.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use rollcall_tests::bed::{Bed, said};
use rollcall_tests::kubernetes::{Answers, KubernetesStandin};
use rollcall_tests::process::program;
use serde_json::Value;

/// What every run must end within.
const LIMIT: Duration = Duration::from_secs(30);

/// What is judged by the cluster file and the kubeconfig alone.
const NEEDS_NO_ANSWER: [&str; 13] = [
    "the API server is on port 6443",
    "the server knows the form's kind of credentials",
    "the API host is one for outside",
    "address and port are known",
    "the address can be reached from outside",
    "there is a token to try with",
    "the cluster file is valid",
    "secrets stay off plain HTTP",
    "the kubeconfig is whole",
    "the tasks' database answers",
    "config.publicHostname is set",
    "config.publicHostname resolves",
    "config.useGateway is off",
];

/// What passes against an API server that tells its version, and nothing else.
const BY_THE_VERSION: [&str; 3] =
    ["the Kubernetes API answers", "the management cluster answers", "a wrong token is refused"];

/// What is wrong with an outcome of a cluster that does not answer.
fn complaint(check: &Value, answers: Answers) -> Option<String> {
    let text = |key: &str| check.get(key).and_then(Value::as_str).unwrap_or_default();
    let (name, outcome, seen) = (text("name"), text("outcome"), text("seen"));
    let is_said = match outcome {
        _ if NEEDS_NO_ANSWER.contains(&name) => true,
        "pass" => answers == Answers::VersionAlone && BY_THE_VERSION.contains(&name),
        "fail" | "warn" => ["no answer within 10s", "did not answer", "timed out"]
            .iter()
            .any(|it| seen.contains(it)),
        "skipped" => seen.starts_with("not checked: "),
        _ => false,
    };
    (!is_said).then(|| format!("{outcome} {name}: {seen}"))
}

#[test]
fn nobody_answers() {
    // Connections come about, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    for answers in [Answers::Never, Answers::VersionAlone] {
        let kubernetes = KubernetesStandin::start();
        kubernetes.state().answers = answers;
        let bed = Bed::new("");
        bed.write("kubeconfig", &kubernetes.kubeconfig());
        bed.write("token", "a-token-that-is-long-enough-for-anybody");
        let kubeconfig = bed.path("kubeconfig");
        let common = bed.cluster_file();
        let text = format!(
            "{common}  config: {{publicHostname: 192.0.2.1, useGateway: false}}
targets:
  - name: network
    type: aios
    parserUrl: http://{address}
    gatewayUrl: http://{address}
  - name: region
    type: unikorn
    region: {{name: west, management: {{kubeconfigFile: {kubeconfig}}}}}
  - {{name: engine, type: aichor, engine: {{name: west, apiHostname: 'https://{address}'}}}}
  - name: access
    type: interlink
    apiAccess: {{address: 127.0.0.1, port: {port}, tokenFile: {token}}}
  - name: platform
    type: inference-model-manager
    platform:
      grpcDnsDomain: grpc.example.org
      managementNamespace: mgt-api
      controllerNamespace: crd
      minio: {{endpointUrl: 'http://{address}', accessKeyIdFile: {token}, secretKeyFile: {token}}}
      oidc: {{issuerUrl: 'https://{address}/dex', clientId: rollcall}}
",
            kubeconfig = kubeconfig.display(),
            port = address.port(),
            token = bed.path("token").display(),
        );
        bed.write("all.yaml", &text);
        let started = Instant::now();
        let output = Command::new(program("rollcall-aggregator"))
            .args(["check", "--output", "json", "--cluster"])
            .arg(bed.path("all.yaml"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--server")
            .arg(format!("http://{address}"))
            .output()
            .expect("the program runs");
        let took = started.elapsed();
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(took < LIMIT, "{answers:?}: {took:?}");
        let reports: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        let reports = reports.as_array().expect("a list of targets");
        let names: Vec<&str> =
            reports.iter().filter_map(|report| report.get("target")?.as_str()).collect();
        assert_eq!(names, ["network", "region", "engine", "access", "platform"]);
        let groups = reports.iter().filter_map(|report| report.get("groups")?.as_array()).flatten();
        let checks = groups.filter_map(|group| group.get("checks")?.as_array()).flatten();
        let complaints: Vec<String> =
            checks.filter_map(|check| complaint(check, answers)).collect();
        assert!(complaints.is_empty(), "{answers:?}: {complaints:#?}");
        println!("{answers:?}: {took:?}");
    }
}
