//! `check`, `document` and `prepare` for the Inference Model Manager, with the real program, against
//! stand-ins of the Kubernetes API, of an S3 service and of Dex, with certificates made by openssl.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper fails the test that uses it; JSON documents answer an unknown index with null"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use rollcall_aggregator::checks;
use rollcall_tests::bed::Bed;
use rollcall_tests::kubernetes::{
    Answers, KUBERNETES_TOKEN, KubernetesStandin, KubernetesState, ReaderOfSecrets, secret,
};
use rollcall_tests::oidc::{OidcStandin, OidcState};
use rollcall_tests::openssl::{Authority, Issued};
use rollcall_tests::process::program;
use rollcall_tests::s3::{ACCESS_KEY_ID, REGION, S3Standin, S3State, SECRET_KEY};
use serde_json::{Value, json};

const DOMAIN: &str = "grpc.example.org";
const MANAGEMENT: &str = "mgt-api";
const CLIENT_SECRET: &str = "the-secret-of-dexs-client";
const TLS: &str = "kubernetes.io/tls";

/// The part of nginx's template that the platform adds.
const CHANGED: &str = "location {{ $path }} {\n    \
    set $annotation_allowed \"{{ index $ing.Annotations \"allowed-values\" }}\";\n    \
    if ($ssl_client_s_dn != $annotation_allowed) {\n        return 403;\n    }\n}\n";

/// All that a check looks at, as the platform wants it.
struct World {
    kubernetes: KubernetesStandin,
    s3: S3Standin,
    dex: OidcStandin,
    authority: Authority,
    bed: Bed,
}

/// What can be wrong, taken out of the world to be changed and put back in.
struct Scene {
    kubernetes: KubernetesState,
    s3: S3State,
    dex: OidcState,
    /// The keys of the target's `platform`.
    platform: Value,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("dex-ca");
        let dex = OidcStandin::start(&authority.issue("dex", "DNS:localhost,IP:127.0.0.1", 30));
        let (s3, kubernetes) = (S3Standin::start(None), KubernetesStandin::start());
        let bed = Bed::new("");
        bed.write("kubeconfig", &kubernetes.kubeconfig());
        bed.write("dex-ca.pem", &authority.certificate());
        let world = Self { kubernetes, s3, dex, authority, bed };
        let endpoint = world.authority.issue("endpoints", &format!("DNS:*.{DOMAIN}"), 365);
        {
            let mut state = world.kubernetes.state();
            state.namespaces = [MANAGEMENT, "crd", "ingress-nginx"].map(str::to_owned).to_vec();
            state.pods = vec![
                controller("nginx-1"),
                controller("nginx-2"),
                api_server("a", &world.flags()),
                api_server("b", &world.flags()),
            ];
            state.config_maps = vec![config_map("nginx-template", "nginx.tmpl", CHANGED)];
            state.secrets = vec![
                world.access_info(&[]),
                tls_secret(TLS, &endpoint),
                secret(MANAGEMENT, "dex", "Opaque", &[("staticClient.secret", CLIENT_SECRET)]),
            ];
        }
        world
    }

    /// The flags of an API server that takes Dex's tokens.
    fn flags(&self) -> Vec<(&'static str, String)> {
        vec![
            ("--oidc-issuer-url", self.dex.issuer().to_owned()),
            ("--oidc-client-id", "infer-platform".to_owned()),
            ("--oidc-username-claim", "email".to_owned()),
            ("--oidc-groups-claim", "groups".to_owned()),
            ("--oidc-ca-file", "/etc/kubernetes/pki/ca-ing-dex.crt".to_owned()),
        ]
    }

    /// The Secret with MinIO's keys, with some of its values changed.
    fn access_info(&self, changed: &[(&str, &str)]) -> Value {
        let endpoint = self.s3.url().trim_start_matches("http://");
        let mut values = BTreeMap::from([
            ("minio.access_key_id", ACCESS_KEY_ID),
            ("minio.access_secret_key", SECRET_KEY),
            ("minio.endpoint", endpoint),
            ("minio.endpoint_url", self.s3.url()),
            ("minio.minio_region", REGION),
            ("minio.signature_version", "s3v4"),
        ]);
        values.extend(changed.iter().copied());
        let values: Vec<(&str, &str)> = values.into_iter().collect();
        secret(MANAGEMENT, "minio-access-info", "Opaque", &values)
    }

    /// What the cluster file says, and no more than it must.
    fn platform(&self) -> Value {
        json!({
            "grpcDnsDomain": DOMAIN,
            "oidc": {
                "issuerUrl": self.dex.issuer(),
                "clientId": "infer-platform",
                "caFile": self.bed.path("dex-ca.pem"),
            },
        })
    }

    fn scene(&self) -> Scene {
        Scene {
            kubernetes: self.kubernetes.state().clone(),
            s3: self.s3.state().clone(),
            dex: self.dex.state().clone(),
            platform: self.platform(),
        }
    }

    fn set(&self, scene: Scene) {
        *self.kubernetes.state() = scene.kubernetes;
        *self.s3.state() = scene.s3;
        *self.dex.state() = scene.dex;
        self.write_platform(&scene.platform);
    }

    fn write_platform(&self, platform: &Value) {
        let target =
            json!({"name": "models", "type": "inference-model-manager", "platform": platform});
        let file = json!({"cluster": {"id": "west", "regionId": "lab"}, "targets": [target]});
        // JSON is YAML.
        self.bed.write("cluster.yaml", &file.to_string());
    }

    /// Runs one of the commands as an operator does, and looks that nothing secret is in what it says.
    fn run(&self, words: &[&str], environment: &[(&str, &Path)]) -> Output {
        let mut command = Command::new(program("rollcall-aggregator"));
        for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy"] {
            command.env_remove(name);
        }
        command
            .env("HOME", self.bed.path(""))
            .envs(environment.iter().copied())
            .args(words)
            .args(["--log-level", "trace"])
            .arg("--cluster")
            .arg(self.bed.path("cluster.yaml"))
            .arg("--kubeconfig")
            .arg(self.bed.path("kubeconfig"));
        let output = command.output().expect("the program runs");
        for stream in [&output.stdout, &output.stderr] {
            if !words.contains(&"--show-secrets") {
                no_secret_in(&String::from_utf8_lossy(stream));
            }
        }
        output
    }

    fn outcomes(&self) -> (i32, Outcomes) {
        let output = self.run(&["check", "models", "--output", "json"], &[]);
        (output.status.code().expect("an exit code"), Outcomes::of(&output))
    }
}

fn no_secret_in(text: &str) {
    for secret in [
        ACCESS_KEY_ID,
        SECRET_KEY,
        CLIENT_SECRET,
        KUBERNETES_TOKEN,
        "PRIVATE KEY",
        "X-Amz-Signature",
    ] {
        assert!(!text.contains(secret), "{secret} is shown: {text}");
    }
}

fn controller(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ingress-nginx"},
        "spec": {
            "containers": [{
                "name": "controller",
                "image": "registry.example.org/ingress-nginx/controller:v1.9.4",
                "args": ["/nginx-ingress-controller", "--configmap=ingress-nginx/settings"],
                "volumeMounts": [{"name": "template", "mountPath": "/etc/nginx/template"}],
            }],
            "volumes": [{"name": "template", "configMap": {"name": "nginx-template"}}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The static pod of an API server, as its mirror in the API shows it.
fn api_server(node: &str, flags: &[(&str, String)]) -> Value {
    let mut command = vec!["kube-apiserver".to_owned(), "--v=2".to_owned()];
    command.extend(flags.iter().map(|(flag, value)| format!("{flag}={value}")));
    json!({
        "metadata": {
            "name": format!("kube-apiserver-{node}"),
            "namespace": "kube-system",
            "annotations": {"kubernetes.io/config.source": "file", "kubernetes.io/config.mirror": "x"},
        },
        "spec": {"containers": [{"name": "kube-apiserver", "command": command}]},
        "status": {"phase": "Running"},
    })
}

fn config_map(name: &str, key: &str, text: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ingress-nginx"}, "data": {key: text}})
}

fn tls_secret(kind: &str, issued: &Issued) -> Value {
    let values = [("tls.crt", issued.certificate.as_str()), ("tls.key", issued.key.as_str())];
    secret(MANAGEMENT, "tls-secret", kind, &values)
}

impl Scene {
    /// Puts another Secret in the place of the one of its name.
    fn put(&mut self, secret: Value) {
        let name = secret["metadata"]["name"].clone();
        self.kubernetes.secrets.retain(|it| it["metadata"]["name"] != name);
        self.kubernetes.secrets.push(secret);
    }

    fn take(&mut self, name: &str) {
        self.kubernetes.secrets.retain(|it| it["metadata"]["name"] != name);
    }

    /// The pods of the API servers, with other flags.
    fn api_servers(&mut self, servers: &[(&str, &[(&str, String)])]) {
        self.kubernetes.pods.retain(|it| it["metadata"]["namespace"] != "kube-system");
        let servers = servers.iter().map(|(node, flags)| api_server(node, flags));
        self.kubernetes.pods.extend(servers);
    }

    fn discovery(&mut self, key: &str, value: &str) {
        self.dex.discovery.as_mut().expect("a document")[key] = value.into();
    }
}

/// How each check came out, by its name: outcome, what was seen, how to mend it.
#[derive(Debug)]
struct Outcomes(BTreeMap<String, (String, String, String)>);

impl Outcomes {
    fn of(output: &Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {stderr}"));
        let groups = report["groups"].as_array().expect("groups");
        let checks = groups.iter().flat_map(|group| group["checks"].as_array().expect("checks"));
        let text = |check: &Value, key: &str| check[key].as_str().expect("a text").to_owned();
        let outcomes = checks.map(|check| {
            let outcome = text(check, "outcome");
            (text(check, "name"), (outcome, text(check, "seen"), text(check, "mend")))
        });
        Self(outcomes.collect())
    }

    fn get(&self, name: &str) -> (&str, &str, &str) {
        let (outcome, seen, mend) =
            self.0.get(name).unwrap_or_else(|| panic!("no check {name:?}: {self:#?}"));
        (outcome, seen, mend)
    }

    fn not_passed(&self) -> BTreeSet<(&str, &str)> {
        let all = self.0.iter().map(|(name, (outcome, ..))| (name.as_str(), outcome.as_str()));
        all.filter(|(_, outcome)| *outcome != "pass").collect()
    }
}

#[test]
fn all_is_well_and_nothing_is_changed() {
    let world = World::new();
    world.write_platform(&world.platform());
    let (code, outcomes) = world.outcomes();
    assert_eq!((outcomes.not_passed(), code), (BTreeSet::new(), 0), "{outcomes:#?}");
    for (name, seen) in [
        ("the Kubernetes API answers", "v1.33.1 at http://127.0.0.1:"),
        ("an nginx ingress controller runs", "2 of 2 pods in ingress-nginx are ready"),
        ("the platform's nginx template is in a ConfigMap", "nginx.tmpl of nginx-template"),
        ("the Secret minio-access-info agrees with the endpoint", "region us-east-1"),
        ("MinIO takes the access key", "it lists 2 buckets"),
        ("the certificate is for every endpoint", "*.grpc.example.org"),
        ("Dex's discovery document answers", "its certificate is signed by the CA given"),
        ("Dex's keys answer", "1 keys at https://localhost:"),
        ("the API servers' flags are seen", "kube-apiserver-a, kube-apiserver-b"),
        ("--oidc-client-id is Dex's client", "--oidc-client-id=infer-platform on 2 of 2"),
        ("ordinary users cannot read the controller's secrets", "system:authenticated"),
    ] {
        assert!(outcomes.get(name).1.contains(seen), "{name}: {outcomes:#?}");
    }

    let text = world.run(&["check", "models"], &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("\nMinIO\n-----\n√ the Secret minio-access-info is whole"), "{text}");
    assert!(text.contains(", 0 warned, 0 failed, 0 not checked)\n"), "{text}");

    // Reads, a list of buckets, and reviews of others' rights: nothing else.
    let review = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews";
    let asked = world.kubernetes.state().requests.clone();
    let (reviews, others): (Vec<&String>, Vec<&String>) =
        asked.iter().partition(|it| it.trim_end_matches('?') == review);
    // Twice: three verbs of three groups, in two namespaces, and for three Secrets by their names.
    assert_eq!(reviews.len(), 2 * 3 * 3 * (2 + 3), "{asked:?}");
    assert!(!others.is_empty() && others.iter().all(|it| it.starts_with("GET ")), "{asked:?}");
    assert_eq!(world.s3.state().requests, ["GET /", "GET /"]);
    let asked = world.dex.state().requests.clone();
    assert!(asked.len() >= 4 && asked.iter().all(|it| it.starts_with("GET /dex/")), "{asked:?}");
}

/// What is wrong; which checks say so and how; words in what they have seen; words of how to mend it.
struct Case<'a> {
    what: &'a str,
    change: Box<dyn Fn(&mut Scene) + 'a>,
    expected: Vec<(&'a str, &'a str)>,
    seen: &'a str,
    mend: &'a str,
}

fn case<'a>(
    what: &'a str,
    change: impl Fn(&mut Scene) + 'a,
    expected: &[(&'a str, &'a str)],
    seen: &'a str,
    mend: &'a str,
) -> Case<'a> {
    Case { what, change: Box::new(change), expected: expected.to_vec(), seen, mend }
}

/// Breaks one thing after the other: exactly the checks that are named must say so, in words that
/// name it.
fn each_is_found(world: &World, cases: Vec<Case<'_>>) {
    for Case { what, change, expected, seen, mend } in cases {
        let mut scene = world.scene();
        change(&mut scene);
        let well = world.scene();
        world.set(scene);
        let (code, outcomes) = world.outcomes();
        let expected: BTreeSet<(&str, &str)> = expected.into_iter().collect();
        assert_eq!(outcomes.not_passed(), expected, "{what}: {outcomes:#?}");
        let fails = expected.iter().any(|(_, outcome)| *outcome == "fail");
        assert_eq!(code, if fails { 3 } else { 0 }, "{what}");
        let named: Vec<_> = expected.iter().map(|(name, _)| outcomes.get(name)).collect();
        let is_told = |words: &str, part: fn(&(&str, &str, &str)) -> String| {
            words.is_empty() || named.iter().any(|it| part(it).contains(words))
        };
        assert!(is_told(seen, |it| it.1.to_owned()), "{what}: {seen:?} in {named:#?}");
        assert!(is_told(mend, |it| it.2.to_owned()), "{what}: {mend:?} in {named:#?}");
        world.set(well);
    }
}

#[test]
fn the_ingress_controller() {
    let runs = "an nginx ingress controller runs";
    let template = "the platform's nginx template is in a ConfigMap";
    let change = "the nginx template tells clients apart";
    let mounted = "the ingress controller mounts the template";
    let world = World::new();
    each_is_found(
        &world,
        vec![
            case(
                "no controller",
                |it| it.kubernetes.pods.retain(|it| it["metadata"]["namespace"] == "kube-system"),
                &[(runs, "fail"), (mounted, "skipped")],
                "no pod of an nginx ingress controller is in ingress-nginx",
                "ing-subchart",
            ),
            case(
                "a controller in another namespace",
                |it| it.platform["ingressNamespace"] = "web".into(),
                &[(runs, "fail"), (template, "fail"), (change, "skipped"), (mounted, "skipped")],
                "no ConfigMap in web has a key nginx.tmpl",
                "nginx-template",
            ),
            case(
                "a pod that is not ready",
                |it| it.kubernetes.pods[1]["status"]["conditions"] = json!([]),
                &[(runs, "warn")],
                "1 of 2 pods in ingress-nginx are ready, but not nginx-2",
                "kubectl describe pod --namespace ingress-nginx nginx-2",
            ),
            case(
                "no ConfigMap",
                |it| it.kubernetes.config_maps.clear(),
                &[(template, "fail"), (change, "skipped"), (mounted, "fail")],
                "2 of 2 pods do not mount it: nginx-1 mounts nginx.tmpl of nginx-template",
                "mount the ConfigMap at /etc/nginx/template",
            ),
            // As the chart of ingress-nginx makes it with a key of one's own.
            case(
                "a template by another name",
                |it| {
                    let map = config_map("nginx-template", "custom", CHANGED);
                    it.kubernetes.config_maps = vec![map];
                    for pod in it.kubernetes.pods.iter_mut().take(2) {
                        pod["spec"]["volumes"][0]["configMap"]["items"] =
                            json!([{"key": "custom", "path": "nginx.tmpl"}]);
                    }
                },
                &[],
                "",
                "",
            ),
            case(
                "a template whose change is a comment",
                |it| {
                    let text = format!("{{{{/*\n{CHANGED}*/}}}}\nlocation / {{}}");
                    it.kubernetes.config_maps =
                        vec![config_map("nginx-template", "nginx.tmpl", &text)];
                },
                &[(change, "fail")],
                "nginx.tmpl of nginx-template: it does not compare $ssl_client_s_dn",
                "allowed-values",
            ),
            case(
                "the controller's own template",
                |it| {
                    it.kubernetes.config_maps =
                        vec![config_map("nginx-template", "nginx.tmpl", "location / {}")];
                },
                &[(change, "fail")],
                "nginx.tmpl of nginx-template: it does not compare $ssl_client_s_dn",
                "allowed-values",
            ),
            case(
                "a template that one pod does not mount",
                |it| it.kubernetes.pods[0]["spec"]["volumes"] = json!([]),
                &[(mounted, "fail")],
                "1 of 2 pods do not mount it: nginx-1 has its image's own",
                "mount the ConfigMap",
            ),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn minio_and_its_secret() {
    let whole = "the Secret minio-access-info is whole";
    let agrees = "the Secret minio-access-info agrees with the endpoint";
    let answers = "MinIO answers";
    let takes = "MinIO takes the access key";
    let world = World::new();
    let info = |changed: &[(&str, &str)]| world.access_info(changed);
    let without = |key: &str| {
        let mut secret = info(&[]);
        secret["data"].as_object_mut().expect("data").remove(key);
        secret
    };
    world.bed.write("key-id", ACCESS_KEY_ID);
    world.bed.write("key", SECRET_KEY);
    world.bed.write("another-key", "another-key");
    let files = |key: &str| {
        json!({
            "endpointUrl": world.s3.url(),
            "accessKeyIdFile": world.bed.path("key-id"),
            "secretKeyFile": world.bed.path(key),
        })
    };
    let tls = S3Standin::start(Some(&world.authority.issue("s3", "IP:127.0.0.1", 30)));
    let expired = S3Standin::start(Some(&world.authority.issue("s3", "IP:127.0.0.1", -1)));
    let nameless = S3Standin::start(Some(&world.authority.issue("127.0.0.1", "", 30)));
    // The same service, as this machine reaches it.
    let at = |standin: &S3Standin, ca: bool| {
        let mut minio = json!({"probeUrl": standin.url()});
        if ca {
            minio["caFile"] = json!(world.bed.path("dex-ca.pem"));
        }
        minio
    };
    // As the platform reaches it by its name, and this machine through a tunnel.
    let named = S3Standin::start(Some(&world.authority.issue("s3", "DNS:minio.storage", 30)));
    let through = |it: &mut Scene, host: &str, standin: &S3Standin| {
        let url = "https://minio.storage:9000";
        it.put(info(&[("minio.endpoint", "minio.storage:9000"), ("minio.endpoint_url", url)]));
        it.platform["minio"] = at(standin, true);
        it.platform["minio"]["probeUrl"] = standin.url().replace("127.0.0.1", host).into();
    };
    let unreachable = [(answers, "fail"), (takes, "skipped")];
    each_is_found(
        &world,
        vec![
            case(
                "no Secret, and nothing in the cluster file",
                |it| it.take("minio-access-info"),
                &[(whole, "fail"), (agrees, "skipped"), (answers, "skipped"), (takes, "skipped")],
                "there is no Secret minio-access-info in mgt-api",
                "minio.accessKeyIdFile",
            ),
            case(
                "no Secret yet, and all in the cluster file",
                |it| {
                    it.take("minio-access-info");
                    it.platform["minio"] = files("key");
                },
                &[(whole, "warn"), (agrees, "skipped")],
                "there is no Secret minio-access-info in mgt-api yet",
                "minio.secretCreate",
            ),
            case(
                "a key is missing",
                |it| it.put(without("minio.endpoint")),
                &[(whole, "fail")],
                "minio.endpoint is missing",
                "make it anew",
            ),
            case(
                "the secret key is missing",
                |it| it.put(without("minio.access_secret_key")),
                &[(whole, "fail"), (agrees, "skipped"), (answers, "skipped"), (takes, "skipped")],
                "minio.access_secret_key is missing",
                "make it anew",
            ),
            case(
                "a line break at the end",
                |it| it.put(info(&[("minio.access_secret_key", &format!("{SECRET_KEY}\n"))])),
                &[(whole, "fail")],
                "minio.access_secret_key has a line break",
                "without line breaks",
            ),
            case(
                "host and port of another MinIO",
                |it| it.put(info(&[("minio.endpoint", "minio.elsewhere:9000")])),
                &[(agrees, "fail")],
                "minio.endpoint is minio.elsewhere:9000, and not 127.0.0.1:",
                "mend the Secret",
            ),
            case(
                "another URL than the cluster file's",
                |it| {
                    it.platform["minio"] = json!({
                        "endpointUrl": "http://minio.storage:9000", "probeUrl": world.s3.url(),
                    });
                },
                &[(agrees, "fail")],
                "endpointUrl http://minio.storage:9000/",
                "mend the Secret, or minio in the cluster file",
            ),
            case(
                "another secret key than the cluster file's",
                |it| it.platform["minio"] = files("another-key"),
                &[(agrees, "fail"), (takes, "fail")],
                "minio.access_secret_key is not what secretKeyFile holds",
                "minio.secretKeyFile",
            ),
            // That nothing secret is shown is looked at in each run.
            case(
                "the secret key in the place of the URL",
                |it| {
                    it.platform["minio"] = json!({"endpointUrl": world.s3.url()});
                    it.put(info(&[("minio.endpoint_url", SECRET_KEY)]));
                },
                &[(agrees, "fail")],
                "minio.endpoint_url is no URL",
                "mend the Secret",
            ),
            case(
                "the secret key in the place of host and port",
                |it| it.put(info(&[("minio.endpoint", SECRET_KEY)])),
                &[(agrees, "fail")],
                "minio.endpoint is no host and port, and not 127.0.0.1:",
                "mend the Secret",
            ),
            case(
                "the secret key in the place of the region",
                |it| it.put(info(&[("minio.minio_region", SECRET_KEY)])),
                &[(agrees, "fail"), (answers, "skipped"), (takes, "skipped")],
                "minio.minio_region of the Secret minio-access-info is one of its keys",
                "mend the Secret",
            ),
            case(
                "signatures of the old version",
                |it| it.put(info(&[("minio.signature_version", "s3")])),
                &[(agrees, "fail")],
                "minio.signature_version is s3, and not s3v4",
                "mend the Secret",
            ),
            case(
                "an access key that it does not know",
                |it| it.s3.access_key_id = "ANOTHER".to_owned(),
                &[(takes, "fail")],
                "it knows no such access key id (InvalidAccessKeyId)",
                "minio.access_key_id",
            ),
            case(
                "a wrong secret key",
                |it| it.s3.secret_key = "another".to_owned(),
                &[(takes, "fail")],
                "the secret key is not that of the access key id (SignatureDoesNotMatch)",
                "minio.access_secret_key",
            ),
            case(
                "a key that may list nothing",
                |it| it.s3.may_list = false,
                &[(takes, "fail")],
                "it knows the key, which may not list buckets",
                "s3:ListAllMyBuckets",
            ),
            case(
                "another region",
                |it| it.s3.region = "eu-1".to_owned(),
                &[(takes, "fail")],
                "it is in another region than us-east-1",
                "minio.minio_region",
            ),
            case(
                "a clock that is ahead",
                |it| it.s3.clock = SignedDuration::from_hours(1),
                &[(takes, "fail")],
                "its clock differs from this machine's",
                "clock",
            ),
            case(
                "a clock that is behind",
                |it| it.s3.clock = SignedDuration::from_hours(-1),
                &[(takes, "fail")],
                "its clock differs from this machine's",
                "clock",
            ),
            case(
                "the page for people",
                |it| it.s3.is_console = true,
                &unreachable,
                "and not as S3 does: is it MinIO's console",
                "port 9000 by default",
            ),
            case(
                "nobody there",
                |it| it.platform["minio"] = json!({"probeUrl": "http://127.0.0.1:9"}),
                &unreachable,
                "GET http://127.0.0.1:9/: no reply: ",
                "kubectl port-forward",
            ),
            case("TLS with the CA", |it| it.platform["minio"] = at(&tls, true), &[], "", ""),
            case("TLS by a tunnel", |it| through(it, "127.0.0.1", &named), &[], "", ""),
            case("TLS by a tunnel's name", |it| through(it, "localhost", &named), &[], "", ""),
            case(
                "a tunnel to another service",
                |it| through(it, "127.0.0.1", &tls),
                &unreachable,
                "certificate not valid for name \"minio.storage\"",
                "minio.caFile",
            ),
            case(
                "TLS without the CA",
                |it| it.platform["minio"] = at(&tls, false),
                &unreachable,
                "UnknownIssuer",
                "minio.caFile",
            ),
            case(
                "an expired certificate",
                |it| it.platform["minio"] = at(&expired, true),
                &unreachable,
                "Expired",
                "minio.caFile",
            ),
            case(
                "a certificate with a common name alone",
                |it| it.platform["minio"] = at(&nameless, true),
                &unreachable,
                "certificate not valid for name",
                "minio.caFile",
            ),
            case(
                "TLS where there is none",
                |it| {
                    let url = world.s3.url().replace("http://", "https://");
                    it.platform["minio"] = json!({"probeUrl": url});
                },
                &unreachable,
                "no reply: ",
                "",
            ),
            case(
                "a CA that is none",
                |it| {
                    it.platform["minio"] =
                        json!({"probeUrl": tls.url(), "caFile": world.bed.path("key-id")});
                },
                &unreachable,
                "it holds no certificate",
                "",
            ),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_endpoints_certificate() {
    let is_there = "the Secret tls-secret is there";
    let names = "the certificate is for every endpoint";
    let key = "the certificate and its key belong together";
    let time = "the certificate has not expired";
    let world = World::new();
    let star = format!("DNS:*.{DOMAIN}");
    let issue = |names: &str, days| world.authority.issue("endpoints", names, days);
    let good = issue(&star, 365);
    let mismatched = Issued { key: issue(&star, 365).key, ..good.clone() };
    // Others know them, but not our TLS library.
    let rare = |new_key: &str| world.authority.issue_for(new_key, "endpoints", &star, 365);
    let p521 = "-newkey ec -pkeyopt ec_paramgen_curve:secp521r1 -nodes";
    let common_name = world.authority.issue(&format!("*.{DOMAIN}"), "", 365);
    each_is_found(
        &world,
        vec![
            case(
                "no Secret",
                |it| it.take("tls-secret"),
                &[(is_there, "fail"), (names, "skipped"), (key, "skipped"), (time, "skipped")],
                "there is no Secret tls-secret in mgt-api",
                "kubectl create secret tls tls-secret --namespace mgt-api",
            ),
            case(
                "the Secret in another namespace",
                |it| it.platform["managementNamespace"] = "crd".into(),
                &[
                    (is_there, "fail"),
                    (names, "skipped"),
                    (key, "skipped"),
                    (time, "skipped"),
                    ("the Secret minio-access-info is whole", "fail"),
                    ("the Secret minio-access-info agrees with the endpoint", "skipped"),
                    ("MinIO answers", "skipped"),
                    ("MinIO takes the access key", "skipped"),
                ],
                "there is no Secret tls-secret in crd",
                "--namespace crd",
            ),
            case(
                "another type",
                |it| it.put(tls_secret("Opaque", &good)),
                &[(is_there, "fail")],
                "is of type \"Opaque\", and not kubernetes.io/tls",
                "kubectl create secret tls",
            ),
            case(
                "no certificate in it",
                |it| it.put(secret(MANAGEMENT, "tls-secret", TLS, &[("tls.key", &good.key)])),
                &[(is_there, "fail"), (names, "skipped"), (key, "skipped"), (time, "skipped")],
                "tls.crt is missing or empty",
                "",
            ),
            case(
                "a common name alone",
                |it| it.put(tls_secret(TLS, &common_name)),
                &[(names, "fail")],
                "*.grpc.example.org is its common name",
                "DNS:*.grpc.example.org",
            ),
            case(
                "a star one label too high",
                |it| it.put(tls_secret(TLS, &issue("DNS:*.example.org", 365))),
                &[(names, "fail")],
                "it is for *.example.org, not for *.grpc.example.org: a star stands for one label",
                "DNS:*.grpc.example.org",
            ),
            case(
                "the domain alone",
                |it| it.put(tls_secret(TLS, &issue(&format!("DNS:{DOMAIN}"), 365))),
                &[(names, "fail")],
                "it is for grpc.example.org, not for *.grpc.example.org",
                "DNS:*.grpc.example.org",
            ),
            case(
                "another domain in the cluster file",
                |it| it.platform["grpcDnsDomain"] = "models.example.org".into(),
                &[(names, "fail")],
                "not for *.models.example.org",
                "DNS:*.models.example.org",
            ),
            case(
                "the key of another certificate",
                |it| it.put(tls_secret(TLS, &mismatched)),
                &[(key, "fail")],
                "it is the key of another certificate",
                "make the Secret anew",
            ),
            case(
                "a key of P-521",
                |it| it.put(tls_secret(TLS, &rare(p521))),
                &[(key, "warn")],
                "tls.key: a key of this kind cannot be judged here",
                "openssl pkey -pubout",
            ),
            case(
                "a short RSA key",
                |it| it.put(tls_secret(TLS, &rare("-newkey rsa:1024 -nodes"))),
                &[(key, "warn")],
                "tls.key: a key of this kind cannot be judged here",
                "openssl pkey -pubout",
            ),
            case(
                "an RSA key",
                |it| it.put(tls_secret(TLS, &rare("-newkey rsa:2048 -nodes"))),
                &[],
                "",
                "",
            ),
            case(
                "expired",
                |it| it.put(tls_secret(TLS, &issue(&star, -1))),
                &[(time, "fail")],
                "expired at",
                "renew it",
            ),
            case(
                "expires soon",
                |it| it.put(tls_secret(TLS, &issue(&star, 10))),
                &[(time, "warn")],
                "it expires at",
                "renew it",
            ),
        ],
    );
}

#[test]
fn dex() {
    let answers = "Dex's discovery document answers";
    let issuer = "Dex is the issuer";
    let keys = "Dex's keys answer";
    let ca_flag = "--oidc-ca-file is set where Dex needs it";
    let issuer_flag = "--oidc-issuer-url is Dex";
    let world = World::new();
    let unseen = [(answers, "fail"), (issuer, "skipped"), (keys, "skipped"), (ca_flag, "skipped")];
    world.bed.write("another-ca.pem", &Authority::new("another-ca").certificate());
    let expired =
        OidcStandin::start(&world.authority.issue("dex", "DNS:localhost,IP:127.0.0.1", -1));
    let elsewhere = OidcStandin::start(&world.authority.issue("dex", "DNS:dex.example.org", 30));
    let mut unseen_elsewhere = unseen.to_vec();
    unseen_elsewhere.push((issuer_flag, "fail"));
    each_is_found(
        &world,
        vec![
            case(
                "another CA",
                |it| it.platform["oidc"]["caFile"] = json!(world.bed.path("another-ca.pem")),
                &unseen,
                "UnknownIssuer",
                "oidc.caFile",
            ),
            case(
                "no CA",
                |it| drop(it.platform["oidc"].as_object_mut().expect("keys").remove("caFile")),
                &unseen,
                "UnknownIssuer",
                "oidc.caFile",
            ),
            case(
                "an expired certificate",
                |it| it.platform["oidc"]["issuerUrl"] = expired.issuer().into(),
                &unseen_elsewhere,
                "xpired",
                "",
            ),
            case(
                "a certificate for another name",
                |it| it.platform["oidc"]["issuerUrl"] = elsewhere.issuer().into(),
                &unseen_elsewhere,
                "certificate not valid for name",
                "",
            ),
            case(
                "no such page",
                |it| it.dex.discovery = None,
                &unseen,
                "/dex/.well-known/openid-configuration: it answered 404",
                "oidc.issuerUrl",
            ),
            case(
                "no discovery document",
                |it| it.dex.discovery = Some(json!({"hello": "world"})),
                &unseen,
                "it names no issuer",
                "",
            ),
            case(
                "another issuer",
                |it| it.discovery("issuer", "https://login.example.org/dex"),
                &[(issuer, "fail")],
                "it calls itself https://login.example.org/dex, and oidc.issuerUrl is https://localhost:",
                "make issuer in Dex's configuration and oidc.issuerUrl",
            ),
            case(
                "a slash at the end",
                |it| it.discovery("issuer", &format!("{}/", world.dex.issuer())),
                &[(issuer, "fail")],
                "a slash at the end counts",
                "",
            ),
            case(
                "no keys",
                |it| it.dex.keys = None,
                &[(keys, "fail")],
                "/dex/keys: it answered 404",
                "jwks_uri",
            ),
            case(
                "keys for something else",
                |it| it.dex.keys = Some(json!({"keys": [{"use": "enc", "kty": "RSA"}]})),
                &[(keys, "fail")],
                "has no key for signatures",
                "",
            ),
            case(
                "keys over plain HTTP",
                |it| it.discovery("jwks_uri", "http://dex.example.org/keys"),
                &[(keys, "fail")],
                "does not begin with https://",
                "",
            ),
        ],
    );
}

#[test]
fn a_public_ca() {
    let ca_flag = "--oidc-ca-file is set where Dex needs it";
    let world = World::new();
    // A CA that this machine knows by itself: the API server needs none, and one is in its way.
    let ca = world.bed.path("dex-ca.pem");
    let public = [("SSL_CERT_FILE", ca.as_path())];
    let mut scene = world.scene();
    drop(scene.platform["oidc"].as_object_mut().expect("keys").remove("caFile"));
    for (without, outcome, words) in [
        (
            1,
            "pass",
            "--oidc-ca-file is not set, and Dex's certificate is believed with the CAs that",
        ),
        (0, "warn", "--oidc-ca-file is set on kube-apiserver-a, "),
    ] {
        let flags = world.flags();
        let flags = flags.get(..flags.len() - without).expect("flags");
        scene.api_servers(&[("a", flags)]);
        *world.kubernetes.state() = scene.kubernetes.clone();
        world.write_platform(&scene.platform);
        let output = world.run(&["check", "models", "--output", "json"], &public);
        let outcomes = Outcomes::of(&output);
        let (got, seen, _) = outcomes.get(ca_flag);
        assert_eq!(got, outcome, "{outcomes:#?}");
        assert!(seen.contains(words), "{seen}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_api_servers_flags() {
    const FLAGS: [(&str, &str); 7] = [
        ("--oidc-issuer-url", "--oidc-issuer-url is Dex"),
        ("--oidc-client-id", "--oidc-client-id is Dex's client"),
        ("--oidc-username-claim", "--oidc-username-claim names the user"),
        ("--oidc-username-prefix", "--oidc-username-prefix is as configured"),
        ("--oidc-groups-claim", "--oidc-groups-claim names the groups"),
        ("--oidc-groups-prefix", "--oidc-groups-prefix is as configured"),
        ("--oidc-ca-file", "--oidc-ca-file is set where Dex needs it"),
    ];
    let world = World::new();
    let prefixed = |it: &mut Scene| {
        it.platform["oidc"]["usernamePrefix"] = "infer:".into();
        it.platform["oidc"]["groupsPrefix"] = "infer:".into();
    };
    let mut all = world.flags();
    all.push(("--oidc-username-prefix", "infer:".to_owned()));
    all.push(("--oidc-groups-prefix", "infer:".to_owned()));
    let all = &all;
    let mut cases = vec![case(
        "prefixes on both sides",
        |it| {
            prefixed(it);
            it.api_servers(&[("a", all), ("b", all)]);
        },
        &[],
        "",
        "",
    )];
    for (flag, check) in FLAGS {
        let without: Vec<_> = all.iter().filter(|(name, _)| *name != flag).cloned().collect();
        let other =
            without.iter().cloned().chain([(flag, "another".to_owned())]).collect::<Vec<_>>();
        let one_without = without.clone();
        cases.push(case(
            "a flag is missing on all",
            move |it| {
                prefixed(it);
                it.api_servers(&[("a", &without), ("b", &without)]);
            },
            &[(check, "fail")],
            match flag {
                "--oidc-username-claim" => "is not set (that is sub) on kube-apiserver-a",
                _ => "is not set on kube-apiserver-a",
            },
            flag,
        ));
        cases.push(case(
            "a flag is missing on one",
            move |it| {
                prefixed(it);
                it.api_servers(&[("a", all), ("b", &one_without)]);
            },
            &[(check, "fail")],
            match flag {
                "--oidc-username-claim" => "is not set (that is sub) on kube-apiserver-b",
                _ => "is not set on kube-apiserver-b",
            },
            flag,
        ));
        // Which file the CA is in is not for rollcall to know.
        if flag != "--oidc-ca-file" {
            cases.push(case(
                "a flag says something else on one",
                move |it| {
                    prefixed(it);
                    it.api_servers(&[("a", all), ("b", &other)]);
                },
                &[(check, "fail")],
                "=another on kube-apiserver-b",
                flag,
            ));
        }
    }
    let unseen: Vec<(&str, &str)> = FLAGS.iter().map(|(_, check)| (*check, "skipped")).collect();
    let mut warned = unseen.clone();
    warned.push(("the API servers' flags are seen", "warn"));
    cases.push(case(
        "prefixes that nobody has told of",
        |it| it.api_servers(&[("a", all)]),
        &[(FLAGS[3].1, "fail"), (FLAGS[5].1, "fail")],
        "--oidc-username-prefix=infer: on kube-apiserver-a; the cluster file names none",
        "oidc.usernamePrefix",
    ));
    cases.push(case(
        "a claim that gets a prefix made up",
        |it| {
            it.platform["oidc"]["usernameClaim"] = "sub".into();
            let flags = world.flags().into_iter().map(|(flag, value)| {
                let is_it = flag == "--oidc-username-claim";
                (flag, if is_it { "sub".to_owned() } else { value })
            });
            it.api_servers(&[("a", &flags.collect::<Vec<_>>())]);
        },
        &[(FLAGS[3].1, "warn")],
        "# before every name",
        "oidc.usernamePrefix",
    ));
    // Without the flag the claim is sub, and - is no prefix.
    let by_sub = world.flags().into_iter().filter(|(flag, _)| *flag != "--oidc-username-claim");
    let mut by_sub: Vec<_> = by_sub.collect();
    by_sub.push(("--oidc-username-prefix", "-".to_owned()));
    cases.push(case(
        "the claim that counts without a flag, and no prefix",
        move |it| {
            it.platform["oidc"]["usernameClaim"] = "sub".into();
            it.api_servers(&[("a", &by_sub)]);
        },
        &[],
        "",
        "",
    ));
    cases.push(case(
        "a managed control plane",
        |it| it.api_servers(&[]),
        &warned,
        "a managed control plane does not show its flags",
        "auth whoami",
    ));
    cases.push(case(
        "flags in a file",
        |it| it.api_servers(&[("a", &[("--authentication-config", "/etc/auth.yaml".to_owned())])]),
        &warned,
        "--authentication-config is set on kube-apiserver-a",
        "names Dex's issuer",
    ));
    each_is_found(&world, cases);
}

#[test]
fn protected_namespaces() {
    let is_there = "the controller's namespace is there";
    let controllers = "ordinary users cannot read the controller's secrets";
    let managements = "ordinary users cannot read the management API's secrets";
    let reader = |who: &str, namespace: &str, verb: &str| ReaderOfSecrets {
        who: who.to_owned(),
        namespace: namespace.to_owned(),
        verb: verb.to_owned(),
        name: String::new(),
    };
    let world = World::new();
    let mut cases = vec![
        case(
            "no namespace",
            |it| it.kubernetes.namespaces.retain(|it| it != "crd"),
            &[(is_there, "fail"), (controllers, "skipped")],
            "there is no namespace crd",
            "kubectl create namespace crd",
        ),
        case(
            "a group reads everything",
            |it| {
                it.kubernetes.readers_of_secrets = ["get", "list", "watch"]
                    .map(|verb| reader("system:authenticated", "", verb))
                    .to_vec();
            },
            &[(controllers, "fail"), (managements, "fail")],
            "in crd: group system:authenticated may get, list, watch secrets (RBAC: allowed to",
            "take the right away",
        ),
        case(
            "a user reads the management API's",
            |it| {
                it.platform["ordinaryUsers"] = json!(["someone@example.org"]);
                it.kubernetes.readers_of_secrets =
                    vec![reader("someone@example.org", MANAGEMENT, "get")];
            },
            &[(managements, "fail")],
            "in mgt-api: user someone@example.org may get secrets",
            "take the right away",
        ),
        case(
            "a group reads one of the management API's by its name",
            |it| {
                let by_name = |verb: &str, name: &str| ReaderOfSecrets {
                    name: name.to_owned(),
                    ..reader("system:authenticated", MANAGEMENT, verb)
                };
                it.kubernetes.readers_of_secrets = vec![
                    by_name("get", "tls-secret"),
                    by_name("list", "tls-secret"),
                    by_name("get", "of-no-interest"),
                ];
            },
            &[(managements, "fail")],
            "in mgt-api: group system:authenticated may get, list the secret tls-secret (RBAC",
            "take the right away",
        ),
        case(
            "an administrator is nobody ordinary",
            |it| {
                it.kubernetes.readers_of_secrets = vec![reader("system:masters", "", "get")];
            },
            &[],
            "",
            "",
        ),
        case(
            "nobody is ordinary",
            |it| it.platform["ordinaryGroups"] = json!([]),
            &[(controllers, "skipped"), (managements, "skipped")],
            "ordinaryUsers and ordinaryGroups name nobody",
            "",
        ),
    ];
    for group in ["system:authenticated", "system:unauthenticated", "system:serviceaccounts"] {
        for verb in ["get", "list", "watch"] {
            cases.push(case(
                "one verb is enough",
                move |it| {
                    it.kubernetes.readers_of_secrets = vec![reader(group, "crd", verb)];
                },
                &[(controllers, "fail")],
                group,
                "take the right away",
            ));
        }
    }
    each_is_found(&world, cases);
}

#[test]
fn a_kubernetes_api_that_does_not_answer() {
    let world = World::new();
    world.write_platform(&world.platform());
    let dex = ["Dex's discovery document answers", "Dex is the issuer", "Dex's keys answer"];
    for (what, answers, words) in [
        ("never", Answers::Never, "no answer within 10s"),
        ("another service", Answers::AnotherService, "GET /version at "),
    ] {
        world.kubernetes.state().answers = answers;
        let started = Instant::now();
        let (code, outcomes) = world.outcomes();
        assert!(started.elapsed() < Duration::from_secs(30), "{what}: {:?}", started.elapsed());
        assert_eq!(code, 3, "{what}");
        for (name, (outcome, seen, _)) in &outcomes.0 {
            let expected = match name.as_str() {
                "the cluster file is valid" => ("pass", "cluster west"),
                "the Kubernetes API answers" => ("fail", words),
                name if dex.contains(&name) => ("pass", ""),
                "MinIO answers" | "MinIO takes the access key" => {
                    ("skipped", "the Secret minio-access-info was not seen")
                }
                _ => ("skipped", "not checked: the Kubernetes API cannot be reached"),
            };
            assert_eq!(outcome, expected.0, "{what}, {name}: {seen}");
            assert!(seen.contains(expected.1), "{what}, {name}: {seen}");
        }
    }
    // Who may not read is told so, and by whom.
    world.kubernetes.state().answers = Answers::Forbidden;
    let (code, outcomes) = world.outcomes();
    assert_eq!(code, 3);
    for name in [
        "an nginx ingress controller runs",
        "the Secret tls-secret is there",
        "the API servers' flags are seen",
        "ordinary users cannot read the controller's secrets",
    ] {
        let (outcome, seen, mend) = outcomes.get(name);
        assert_eq!(outcome, "fail", "{name}");
        assert!(seen.contains("it answered 403"), "{name}: {seen}");
        assert!(mend.starts_with("give whoever checks the rights"), "{name}: {mend}");
    }
}

#[test]
fn values_of_the_charts() {
    let world = World::new();
    let mut platform = world.platform();
    platform["managementHost"] = "mgt.example.org".into();
    world.write_platform(&platform);
    let document = |words: &[&str]| {
        world.run(&[&["document", "models", "--output", "json"], words].concat(), &[])
    };
    let values = |output: &Output| -> Value {
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
    };

    let controller = values(&document(&[]));
    let expected = json!({
        "namespace": "crd", "platformDomain": DOMAIN, "s3_use_https": 0, "s3_verify_ssl": 0,
    });
    assert_eq!(controller, expected, "the usual one");
    let masked = document(&["--variant", "management-api"]);
    let said = String::from_utf8_lossy(&masked.stderr).into_owned();
    assert!(said.contains("secrets are masked"), "{said}");
    let management = values(&masked);
    for (pointer, expected) in [
        ("/platformDomain", json!(DOMAIN)),
        ("/ingress/tls/hosts", json!("mgt.example.org")),
        ("/dexTokenPath", json!("/dex/token")),
        ("/dex/id", json!("infer-platform")),
        ("/dex/secret", json!("*** masked ***")),
        ("/minio/accessKey", json!("*** masked ***")),
        ("/minio/secretKey", json!("*** masked ***")),
        ("/minio/endpointUrl", json!(world.s3.url())),
        // Somebody has made the Secret, and the chart would fail to make another.
        ("/minio/secretCreate", json!(false)),
    ] {
        assert_eq!(management.pointer(pointer), Some(&expected), "{pointer}: {management:#}");
    }
    let shown = values(&document(&["--variant", "management-api", "--show-secrets"]));
    assert_eq!(shown.pointer("/minio/secretKey"), Some(&json!(SECRET_KEY)));
    assert_eq!(shown.pointer("/dex/secret"), Some(&json!(CLIENT_SECRET)));

    // To a file, as YAML for helm, that nobody else can read.
    let path = world.bed.path("values.yaml");
    let to = ["--variant", "dex", "--output", "yaml", "--to", path.to_str().expect("UTF-8")];
    let written = world.run(&[&["document", "models"], &to[..]].concat(), &[]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let text = fs::read_to_string(&path).expect("written");
    assert!(text.contains(&format!("secret: {CLIENT_SECRET}")), "{text}");
    assert!(text.starts_with(&format!("issuer: {}\n", world.dex.issuer())), "{text}");
    // Dex refuses a login that ends anywhere else.
    for uri in ["http://127.0.0.1:5555/callback", "urn:ietf:wg:oauth:2.0:oob"] {
        assert!(text.contains(&format!("- {uri}\n")), "{uri}: {text}");
    }
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Where the chart has made the Secret, it goes on to.
    let mut scene = world.scene();
    let mut info = world.access_info(&[]);
    info["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "Helm"});
    scene.put(info);
    *world.kubernetes.state() = scene.kubernetes;
    let management = values(&document(&["--variant", "management-api"]));
    assert_eq!(management.pointer("/minio/secretCreate"), Some(&json!(true)));

    // Without the cluster: what is not known is left out and named.
    world.kubernetes.state().answers = Answers::AnotherService;
    let output = document(&["--variant", "management-api"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for words in [
        "the Secret minio-access-info could not be read: the Kubernetes API cannot be reached",
        "minio is left out of the values: MinIO's URL is not known: set minio.endpointUrl",
        "the secret of Dex's client is left out",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let management = values(&output);
    assert_eq!(management.get("minio"), None, "{management:#}");
    assert_eq!(management.pointer("/dex"), Some(&json!({"id": "infer-platform"})));
}

#[test]
fn there_is_nothing_to_prepare() {
    let world = World::new();
    world.write_platform(&world.platform());
    for words in [&["prepare", "models"][..], &["prepare", "models", "--apply"]] {
        let output = world.run(words, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{words:?}: {said}");
        for part in ["the platform's own charts install it", "document models"] {
            assert!(said.contains(part), "{words:?}: {said}");
        }
    }
    let asked = world.kubernetes.state().requests.clone();
    assert!(asked.iter().all(|it| it.starts_with("GET ")), "{asked:?}");
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_check_has_its_page() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../docs/targets/inference-model-manager.md");
    let docs = fs::read_to_string(path).expect("docs/targets/inference-model-manager.md");
    let headings = docs.lines().filter_map(|line| line.strip_prefix("### "));
    let headings: BTreeSet<&str> = headings.collect();
    let checks = checks::inference_model_manager::GROUPS.iter().flat_map(|group| group.checks);
    let mut names = BTreeSet::new();
    for check in checks {
        let page = format!("docs/targets/inference-model-manager.md#{}", anchor(check.name));
        assert_eq!(check.page, page);
        names.insert(check.name);
    }
    assert_eq!(headings, names, "a heading for each check, and a check for each heading");
}
