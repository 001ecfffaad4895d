//! `check`, `prepare` and `document` of an engine of `AIchor`, against stand-ins of the Kubernetes
//! API, with the real program. The real cluster's part is in `cluster/aichor.rs`.
#![expect(clippy::expect_used, clippy::panic, reason = "a helper fails the test that uses it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rollcall_aggregator::checks;
use rollcall_tests::bed::Bed;
use rollcall_tests::kubernetes::{Answers, KubernetesStandin};
use rollcall_tests::process::program;
use serde_json::{Value, json};

/// The token of the service account.
const TOKEN: &str = "the-token-of-the-service-account";

/// Stand-ins are on loopback, which is not outside.
const ALWAYS_FAILED: &str = "the API host is one for outside";

const DENIED: [&str; 4] = ["list nodes", "get pods/log", "watch deployments", "list services"];

/// A prepared cluster, as far as it is looked at, and the API host as `AIchor` reaches it.
struct World {
    kubernetes: KubernetesStandin,
    host: KubernetesStandin,
    bed: Bed,
}

impl World {
    fn new() -> Self {
        Self::with_host(&Authority::new(), &|_| {})
    }

    /// With a certificate of the API host that is another.
    fn with_host(authority: &Authority, change: &dyn Fn(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &authority.0).expect("a certificate");
        let host = KubernetesStandin::start_with_certificate(vec![certificate.der().clone()], &key);
        host.state().tokens.push(TOKEN.to_owned());
        let kubernetes = KubernetesStandin::start();
        let bed = Bed::new("");
        bed.write("kubeconfig", &kubernetes.kubeconfig());
        bed.write("ca.pem", &authority.0.pem());
        let world = Self { kubernetes, host, bed };
        world.configure("");
        world.prepare();
        world
    }

    /// What `prepare --apply` makes, as its output has it.
    fn prepare(&self) {
        let mut state = self.kubernetes.state();
        state.tokens.push(TOKEN.to_owned());
        state.denied = DENIED.map(str::to_owned).into();
        let namespaces = "/api/v1/namespaces";
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        drop(state);
        for manifest in self.manifests() {
            let (kind, name) = (text(&manifest, "/kind"), text(&manifest, "/metadata/name"));
            let path = match kind {
                "Namespace" => format!("{namespaces}/{name}"),
                "ServiceAccount" => format!("{namespaces}/aichor/serviceaccounts/{name}"),
                "Secret" => format!("{namespaces}/aichor/secrets/{name}"),
                "ClusterRole" => format!("{rbac}/clusterroles/{name}"),
                "ClusterRoleBinding" => format!("{rbac}/clusterrolebindings/{name}"),
                other => panic!("a {other} is prepared"),
            };
            self.put(&path, manifest.clone());
        }
        let token = json!({"token": "dGhlLXRva2VuLW9mLXRoZS1zZXJ2aWNlLWFjY291bnQ="});
        self.change("/api/v1/namespaces/aichor/secrets/dp-cluster-service-account-token", |it| {
            it["data"] = token;
        });
        let groups = [
            ("ray.instadeep.io", "rayclusters", "RayCluster"),
            ("argoproj.io", "workflows", "Workflow"),
            ("cert-manager.io", "certificates", "Certificate"),
        ];
        let group = |(name, _, _): &(&str, &str, &str)| {
            let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
            json!({"name": name, "versions": [version], "preferredVersion": version})
        };
        let all: Vec<Value> = groups.iter().map(group).collect();
        self.put("/apis", json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all}));
        for (group, plural, kind) in groups {
            let resource = json!({
                "name": plural, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["get"],
            });
            let list = json!({
                "kind": "APIResourceList", "groupVersion": format!("{group}/v1"), "resources": [resource],
            });
            self.put(&format!("/apis/{group}/v1"), list);
        }
        self.put(
            "/api/v1/namespaces/default/services/kubernetes",
            json!({"metadata": {"name": "kubernetes"}, "spec": {"clusterIP": "10.96.0.1"}}),
        );
        self.kubernetes.state().services = vec![balancer("ingress-nginx", "192.0.2.7")];
    }

    /// The manifests that `prepare` prints.
    fn manifests(&self) -> Vec<Value> {
        let printed = self.run(&["prepare", "aichor"]);
        assert_eq!(printed.code, 0, "{printed:?}");
        let documents = printed.stdout.split("---\n").filter(|it| !it.trim().is_empty());
        documents.map(|it| serde_saphyr::from_str(it).expect("YAML")).collect()
    }

    fn put(&self, path: &str, object: Value) {
        self.kubernetes.state().objects.insert(path.to_owned(), object);
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        change(self.kubernetes.state().objects.get_mut(path).expect(path));
    }

    /// Writes the cluster file, with further lines for the engine.
    fn configure(&self, more: &str) {
        let host = self.host.url();
        self.configure_alone(&format!(
            "      apiHostname: {host}\n      caFile: {}\n{more}",
            self.bed.path("ca.pem").display()
        ));
    }

    fn configure_alone(&self, lines: &str) {
        self.bed.write(
            "checked.yaml",
            &format!(
                "cluster: {{id: west, regionId: lab}}\ntargets:\n  - name: aichor\n    type: aichor\n    engine:\n      name: west\n{lines}"
            ),
        );
    }

    /// Runs the program; nothing that it says holds the token, unless it is asked to.
    fn run(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(program("rollcall-aggregator"));
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            command.env_remove(name);
        }
        command.args(["--log-level", "debug"]).args(arguments);
        command.arg("--cluster").arg(self.bed.path("checked.yaml"));
        command.arg("--kubeconfig").arg(self.bed.path("kubeconfig"));
        let output = command.output().expect("the program runs");
        let said = Said {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        };
        let is_shown = said.stdout.contains(TOKEN) || said.stderr.contains(TOKEN);
        let is_asked_for = arguments.contains(&"--show-secrets");
        assert_eq!(is_shown, is_asked_for, "{arguments:?}: {said:?}");
        said
    }

    fn check(&self, arguments: &[&str]) -> Outcomes {
        let said = self.run(&[&["check", "aichor", "--output", "json"], arguments].concat());
        let report: Value =
            serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let groups = report.get("groups").and_then(Value::as_array).expect("groups");
        let checks = groups
            .iter()
            .flat_map(|it| it.get("checks").and_then(Value::as_array).expect("checks"));
        let outcome = |check: &Value| {
            let (outcome, seen) = (text(check, "/outcome"), text(check, "/seen"));
            (text(check, "/name").to_owned(), (outcome.to_owned(), seen.to_owned()))
        };
        Outcomes(checks.map(outcome).collect())
    }
}

/// A CA.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }
}

#[derive(Debug)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

/// How each check came out, and what was seen, by its name.
#[derive(Debug)]
struct Outcomes(BTreeMap<String, (String, String)>);

impl Outcomes {
    fn of(&self, outcome: &str) -> BTreeSet<&str> {
        let all = self.0.iter().filter(|(_, (it, _))| it == outcome);
        all.map(|(name, _)| name.as_str()).collect()
    }

    /// What failed besides what always does.
    fn failed(&self) -> BTreeSet<&str> {
        let mut failed = self.of("fail");
        assert!(failed.remove(ALWAYS_FAILED), "{failed:?}");
        failed
    }

    fn seen(&self, name: &str) -> &str {
        &self.0.get(name).expect(name).1
    }
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An ingress controller's Service.
fn balancer(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": "controller", "namespace": name},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
    })
}

#[test]
fn everything_is_as_it_should_be() {
    let world = World::new();
    let outcomes = world.check(&[]);
    assert_eq!(outcomes.failed(), BTreeSet::new(), "{outcomes:?}");
    assert_eq!((outcomes.of("warn").len(), outcomes.of("skipped").len()), (0, 0), "{outcomes:?}");
    let asked = world.kubernetes.state().requests.clone();
    let writes: Vec<&String> = asked.iter().filter(|it| !it.starts_with("GET ")).collect();
    let is_review =
        |it: &&&String| it.starts_with("POST /apis/authorization.k8s.io/v1/selfsubject");
    assert_eq!((writes.len(), writes.iter().filter(is_review).count()), (72, 72), "{writes:?}");
}

#[test]
fn the_api_host_as_aichor_sees_it() {
    const FITS: &str = "API host, CA and token fit one another";
    const NAME: &str = "the certificate is for the API host";
    const TRUST: &str = "the certificate is of the CA in the form";
    const TIME: &str = "the certificate is valid now";
    let authority = Authority::new();
    let no_address = World::with_host(&authority, &|params| {
        *params = CertificateParams::new(["api.example.org".to_owned()]).expect("a name");
    });
    let expired = World::with_host(&authority, &|params| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let another_ca = World::with_host(&authority, &|_| {});
    another_ca.bed.write("ca.pem", &Authority::new().0.pem());
    let refused = World::with_host(&authority, &|_| {});
    refused.host.state().tokens.clear();
    let another = World::with_host(&authority, &|_| {});
    another.host.state().version = "v1.30.0".to_owned();
    for (what, world, failed, name, seen) in [
        ("no address in the certificate", no_address, &[NAME, FITS][..], NAME, "api.example.org"),
        ("expired", expired, &[TIME, FITS], TIME, "expired"),
        ("of another CA", another_ca, &[TRUST, FITS], TRUST, ""),
        ("the token is refused", refused, &[FITS], FITS, "it does not take the token"),
        ("another cluster", another, &[FITS], FITS, "it is v1.30.0, and the cluster is v1.33.1"),
    ] {
        let outcomes = world.check(&[]);
        assert_eq!(outcomes.failed(), failed.iter().copied().collect(), "{what}: {outcomes:?}");
        assert!(outcomes.seen(name).contains(seen), "{what}: {}", outcomes.seen(name));
    }
    let nobody = World::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    nobody.configure_alone(&format!("      apiHostname: https://{free}\n"));
    let outcomes = nobody.check(&[]);
    assert_eq!(outcomes.failed(), ["the API host answers"].into(), "{outcomes:?}");
    let skipped = outcomes.of("skipped");
    assert!([FITS, NAME, TRUST, TIME].iter().all(|it| skipped.contains(it)), "{skipped:?}");
}

/// What is made wrong.
type Change<'a> = &'a dyn Fn(&World);

#[test]
fn what_is_wrong_in_the_cluster() {
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/dp-sa-cluster-role";
    let secret = "/api/v1/namespaces/aichor/secrets/dp-cluster-service-account-token";
    let cases: [(&str, Change<'_>, &[&str]); 9] = [
        (
            "no namespace",
            &|world| drop(world.kubernetes.state().objects.remove("/api/v1/namespaces/aichor")),
            &["the namespace is there"],
        ),
        (
            "a rule less",
            &|world| {
                world.change(role, |it| drop(it["rules"].as_array_mut().expect("rules").pop()));
            },
            &["the role has AIchor's rules"],
        ),
        (
            "a right that is denied",
            &|world| world.kubernetes.state().denied.extend(["get pods/exec".to_owned()]),
            &["get pods/exec"],
        ),
        (
            "a right too many",
            &|world| world.kubernetes.state().denied.retain(|it| it != "list nodes"),
            &["cannot list nodes"],
        ),
        (
            "a token that is not taken",
            &|world| world.change(secret, |it| it["data"]["token"] = json!("bm90LXRha2Vu")),
            &["the token is accepted", "API host, CA and token fit one another"],
        ),
        (
            "a token that is not there yet",
            &|world| world.change(secret, |it| it["data"] = Value::Null),
            &["the token is in its Secret"],
        ),
        (
            "no rayclusters",
            &|world| world.change("/apis/ray.instadeep.io/v1", |it| it["resources"] = json!([])),
            &["rayclusters of ray.instadeep.io are known"],
        ),
        (
            "another load balancer",
            &|world| world.configure("      loadBalancerIp: 192.0.2.99\n"),
            &["the load balancer IP is the ingress controller's"],
        ),
        (
            "a user and a password",
            &|world| world.configure("      basicAuth: {user: a, passwordFile: p}\n"),
            &["the server knows the form's kind of credentials"],
        ),
    ];
    for (what, change, failed) in cases {
        let world = World::new();
        change(&world);
        let outcomes = world.check(&[]);
        assert_eq!(outcomes.failed(), failed.iter().copied().collect(), "{what}: {outcomes:?}");
    }
}

#[test]
fn a_server_that_does_not_answer() {
    let started = Instant::now();
    let world = World::new();
    world.kubernetes.state().answers = Answers::Never;
    let outcomes = world.check(&[]);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(outcomes.seen("the Kubernetes API answers"), "no answer within 10s");
    let out_of_reach = "not checked: the Kubernetes API cannot be reached";
    assert_eq!(outcomes.seen("get pods/exec"), out_of_reach);
    assert_eq!(outcomes.seen("the token is in its Secret"), out_of_reach);
    // The API host is another way, and answers.
    let passed = outcomes.of("pass");
    let expected = [
        "the API host answers",
        "the certificate is for the API host",
        "the certificate is of the CA in the form",
        "the certificate is valid now",
        "the cluster file is valid",
        "the server knows the form's kind of credentials",
    ];
    assert_eq!(passed, expected.into());

    let started = Instant::now();
    let world = World::new();
    world.kubernetes.state().answers = Answers::ReviewsNever;
    let outcomes = world.check(&["--timeout", "2s"]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let late = outcomes.0.values().filter(|(_, seen)| seen == "no answer within 2s").count();
    assert_eq!(late, 67 + 4 + 1, "each review says so: {outcomes:?}");
}

#[test]
fn the_form_is_filled_from_the_cluster() {
    let world = World::new();
    let form = |arguments: &[&str]| -> Value {
        let arguments = [&["document", "aichor", "--output", "json"], arguments].concat();
        let said = world.run(&arguments);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    };
    let masked = form(&[]);
    let open = form(&["--show-secrets"]);
    assert_eq!(text(&open, "/Bearer Token"), TOKEN);
    assert_eq!(text(&open, "/Load Balancer IP"), "192.0.2.7");
    assert_eq!(text(&open, "/API Hostname"), world.host.url());
    let ca = fs::read_to_string(world.bed.path("ca.pem")).expect("a file");
    let body = |pem: &str| pem.lines().filter(|it| !it.contains("----")).collect::<String>();
    assert_eq!(body(text(&open, "/CA Data")), body(&ca));
    let mut expected = open;
    expected["Bearer Token"] = masked["Bearer Token"].clone();
    assert_eq!(masked, expected, "only the token is masked");

    world.bed.write("password", "the-password\n");
    let basic = format!(
        "      basicAuth: {{user: aichor, passwordFile: {}}}\n",
        world.bed.path("password").display()
    );
    world.configure(&basic);
    let masked = world.run(&["document", "aichor"]);
    assert!(!masked.stdout.contains("the-password"), "{masked:?}");
    assert!(masked.stderr.contains("use the token (--variant bearer-token)"), "{masked:?}");
    let to = world.bed.path("form.json");
    let to = to.to_str().expect("UTF-8");
    let said = world.run(&["document", "aichor", "--output", "json", "--to", to]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
    let written: Value =
        serde_json::from_str(&fs::read_to_string(to).expect("a file")).expect("JSON");
    assert_eq!(text(&written, "/Basic Password"), "the-password");
    assert_eq!(written.get("Bearer Token"), None);
}

#[test]
fn a_form_that_cannot_be_filled_says_what_is_missing() {
    let world = World::new();
    world.kubernetes.state().services =
        vec![balancer("ingress-nginx", "192.0.2.7"), balancer("nginx-ingress", "192.0.2.8")];
    world
        .kubernetes
        .state()
        .objects
        .remove("/api/v1/namespaces/aichor/secrets/dp-cluster-service-account-token");
    let said = world.run(&["document", "aichor"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
    for words in [
        "Load Balancer IP: there are several addresses of ingress controllers: ingress-nginx/controller (192.0.2.7); nginx-ingress/controller (192.0.2.8): set engine.loadBalancerIp",
        "Bearer Token: there is none in Secret aichor/dp-cluster-service-account-token: run rollcall-aggregator prepare aichor --apply",
    ] {
        assert!(said.stderr.contains(words), "{words}: {said:?}");
    }
    let nothing = World::new();
    nothing.kubernetes.state().answers = Answers::Forbidden;
    let said = nothing.run(&["document", "aichor"]);
    assert!(said.code != 0 && said.stderr.contains("403"), "{said:?}");
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_check_has_its_page() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/targets/aichor.md");
    let docs = fs::read_to_string(path).expect("docs/targets/aichor.md");
    let headings = docs.lines().filter_map(|line| line.strip_prefix("### "));
    let anchors: BTreeSet<String> = headings.map(anchor).collect();
    let checks = checks::aichor::GROUPS.iter().flat_map(|group| group.checks);
    let pages: BTreeSet<String> = checks
        .map(|check| {
            let anchor = check.page.strip_prefix("docs/targets/aichor.md#").expect(check.page);
            anchor.to_owned()
        })
        .collect();
    assert_eq!(anchors, pages, "a heading for each check or kind of checks, and the other way");
    let names: BTreeSet<&str> =
        checks::aichor::GROUPS.iter().flat_map(|group| group.checks).map(|it| it.name).collect();
    let count = checks::aichor::GROUPS.iter().map(|group| group.checks.len()).sum::<usize>();
    assert_eq!(names.len(), count, "every name stands there once");
}
