//! The Inference Model Manager's prerequisites on a real cluster: Secrets, a ConfigMap, pods and
//! the rights of others as Kubernetes itself tells them. MinIO and Dex are stand-ins.

use std::collections::BTreeSet;
use std::process::Command;

use rollcall_tests::bed::Bed;
use rollcall_tests::cluster::{Cluster, Namespace, SOON, text, wait_until};
use rollcall_tests::kubernetes::secret;
use rollcall_tests::oidc::OidcStandin;
use rollcall_tests::openssl::Authority;
use rollcall_tests::process::program;
use rollcall_tests::s3::{ACCESS_KEY_ID, REGION, S3Standin, SECRET_KEY};
use serde_json::{Value, json};

const DOMAIN: &str = "grpc.example.org";

/// Who checks, in the management API's namespace.
const CHECKER: &str = "checker";

/// The bed's API server is no pod.
const UNSEEN: [(&str, &str); 8] = [
    ("the API servers' flags are seen", "warn"),
    ("--oidc-issuer-url is Dex", "skipped"),
    ("--oidc-client-id is Dex's client", "skipped"),
    ("--oidc-username-claim names the user", "skipped"),
    ("--oidc-username-prefix is as configured", "skipped"),
    ("--oidc-groups-claim names the groups", "skipped"),
    ("--oidc-groups-prefix is as configured", "skipped"),
    ("--oidc-ca-file is set where Dex needs it", "skipped"),
];

pub(crate) fn prerequisites_are_found(cluster: &Cluster) {
    let platform = Platform::on(cluster);
    let (management, controller) = (platform.management.name(), platform.controller.name());
    platform.fails(&[], "as it should be", "");

    // Somebody gets a right that everybody has from then on.
    let binding = role_binding(
        controller,
        "everybody",
        &json!([{
            "kind": "Group", "name": "system:authenticated", "apiGroup": "rbac.authorization.k8s.io",
        }]),
    );
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]);
    cluster.apply(&role(controller, "everybody", &rules).to_string());
    cluster.apply(&binding.to_string());
    let controllers = "ordinary users cannot read the controller's secrets";
    platform.fails(
        &[(controllers, "fail")],
        "group system:authenticated may list secrets (RBAC: allowed by RoleBinding \"everybody",
        controllers,
    );
    cluster.kubectl(&["delete", "rolebinding", "everybody", "--namespace", controller]);
    platform.fails(&[], "the right is taken away", "");

    // A right to one Secret, by its name.
    let mut rules = rules;
    rules[0]["verbs"] = json!(["get"]);
    rules[0]["resourceNames"] = json!(["tls-secret"]);
    cluster.apply(&role(management, "everybody", &rules).to_string());
    let mut binding = binding;
    binding["metadata"]["namespace"] = management.into();
    cluster.apply(&binding.to_string());
    let managements = "ordinary users cannot read the management API's secrets";
    platform.fails(
        &[(managements, "fail")],
        "group system:authenticated may get the secret tls-secret (RBAC: allowed by RoleBinding \"everybody",
        managements,
    );
    cluster.kubectl(&["delete", "rolebinding", "everybody", "--namespace", management]);
    platform.fails(&[], "that right is taken away", "");

    // The Secrets go, one after the other.
    cluster.kubectl(&["delete", "secret", "tls-secret", "--namespace", management]);
    let is_there = "the Secret tls-secret is there";
    let mut expected = vec![
        (is_there, "fail"),
        ("the certificate is for every endpoint", "skipped"),
        ("the certificate and its key belong together", "skipped"),
        ("the certificate has not expired", "skipped"),
    ];
    platform.fails(&expected, "there is no Secret tls-secret", is_there);
    cluster.kubectl(&["delete", "secret", "minio-access-info", "--namespace", management]);
    let whole = "the Secret minio-access-info is whole";
    expected.extend([
        (whole, "fail"),
        ("the Secret minio-access-info agrees with the endpoint", "skipped"),
        ("MinIO answers", "skipped"),
        ("MinIO takes the access key", "skipped"),
    ]);
    platform.fails(&expected, "there is no Secret minio-access-info", whole);

    platform.only_asked();
}

/// All that the checks look at.
struct Platform<'a> {
    cluster: &'a Cluster,
    management: Namespace<'a>,
    controller: Namespace<'a>,
    ingress: Namespace<'a>,
    bed: Bed,
    s3: S3Standin,
    dex: OidcStandin,
}

impl<'a> Platform<'a> {
    fn on(cluster: &'a Cluster) -> Self {
        let authority = Authority::new("dex-ca");
        let dex = OidcStandin::start(&authority.issue("dex", "DNS:localhost,IP:127.0.0.1", 30));
        let s3 = S3Standin::start(None);
        let bed = Bed::new("");
        bed.write("dex-ca.pem", &authority.certificate());
        let platform = Self {
            cluster,
            management: cluster.namespace("imm-management"),
            controller: cluster.namespace("imm-controller"),
            ingress: cluster.namespace("imm-ingress"),
            bed,
            s3,
            dex,
        };
        platform.fill(&authority);
        platform
    }

    fn fill(&self, authority: &Authority) {
        let (cluster, bed) = (self.cluster, &self.bed);
        let (management, ingress) = (self.management.name(), self.ingress.name());
        let template = "location / {\n  set $a \"{{ index $ing.Annotations \"allowed-values\" }}\";\n  if ($ssl_client_s_dn != $a) { return 403; }\n}\n";
        let endpoint = authority.issue("endpoints", &format!("DNS:*.{DOMAIN}"), 365);
        let host = self.s3.url().trim_start_matches("http://");
        let secrets = [
            secret(
                management,
                "tls-secret",
                "kubernetes.io/tls",
                &[("tls.crt", &endpoint.certificate), ("tls.key", &endpoint.key)],
            ),
            secret(
                management,
                "minio-access-info",
                "Opaque",
                &[
                    ("minio.access_key_id", ACCESS_KEY_ID),
                    ("minio.access_secret_key", SECRET_KEY),
                    ("minio.endpoint", host),
                    ("minio.endpoint_url", self.s3.url()),
                    ("minio.minio_region", REGION),
                    ("minio.signature_version", "s3v4"),
                ],
            ),
        ];
        for mut secret in secrets {
            secret["apiVersion"] = "v1".into();
            secret["kind"] = "Secret".into();
            cluster.apply(&secret.to_string());
        }
        let config_map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "nginx-template", "namespace": ingress},
            "data": {"nginx.tmpl": template},
        });
        cluster.apply(&config_map.to_string());
        self.start_controller();
        let platform = json!({
            "grpcDnsDomain": DOMAIN,
            "managementNamespace": management,
            "controllerNamespace": self.controller.name(),
            "ingressNamespace": ingress,
            "oidc": {
                "issuerUrl": self.dex.issuer(),
                "clientId": "infer-platform",
                "caFile": bed.path("dex-ca.pem"),
            },
        });
        let target =
            json!({"name": "models", "type": "inference-model-manager", "platform": platform});
        let file = json!({"cluster": {"id": "west", "regionId": "lab"}, "targets": [target]});
        bed.write("cluster.yaml", &file.to_string());
        self.let_checker_in();
    }

    /// A pod that looks like the ingress controller's.
    fn start_controller(&self) {
        let busybox = self.cluster.busybox();
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "nginx", "namespace": self.ingress.name()},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "controller",
                    "image": busybox.image,
                    "imagePullPolicy": busybox.pull_policy,
                    "command": [busybox.program, "sh", "-c", "sleep 3600", "/nginx-ingress-controller"],
                    "volumeMounts": [{"name": "template", "mountPath": "/etc/nginx/template"}],
                }],
                "volumes": [{"name": "template", "configMap": {"name": "nginx-template"}}],
            },
        });
        self.cluster.apply(&pod.to_string());
        wait_until("the ingress controller's pod", SOON, || {
            let pod = self.cluster.get(&["pod", "nginx", "--namespace", self.ingress.name()]);
            let is_ready = super::condition(&pod, "Ready") == "True";
            is_ready.then_some(()).ok_or_else(|| pod["status"].clone())
        });
    }

    /// Gives an account the rights that the documentation names, and no others; and a kubeconfig.
    fn let_checker_in(&self) {
        let (cluster, management) = (self.cluster, self.management.name());
        let (controller, ingress) = (self.controller.name(), self.ingress.name());
        cluster.kubectl(&["create", "serviceaccount", CHECKER, "--namespace", management]);
        let account = json!([{"kind": "ServiceAccount", "name": CHECKER, "namespace": management}]);
        let rule = |resources: &[&str], verb: &str| json!([{"apiGroups": [""], "resources": resources, "verbs": [verb]}]);
        for (namespace, rules) in [
            (ingress, rule(&["pods", "configmaps"], "list")),
            ("kube-system", rule(&["pods"], "list")),
            (management, rule(&["secrets"], "get")),
            (controller, rule(&["namespaces"], "get")),
        ] {
            cluster.apply(&role(namespace, &self.unique(), &rules).to_string());
            cluster.apply(&role_binding(namespace, &self.unique(), &account).to_string());
        }
        let reviews = json!([{
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["subjectaccessreviews"],
            "verbs": ["create"],
        }]);
        let mut cluster_role = role("", &self.unique(), &reviews);
        let mut binding = role_binding("", &self.unique(), &account);
        cluster_role["kind"] = "ClusterRole".into();
        binding["kind"] = "ClusterRoleBinding".into();
        binding["roleRef"]["kind"] = "ClusterRole".into();
        cluster.apply(&cluster_role.to_string());
        cluster.apply(&binding.to_string());

        let token = cluster.kubectl(&["create", "token", CHECKER, "--namespace", management]);
        let config = cluster.kubectl(&[
            "config",
            "view",
            "--raw",
            "--minify",
            "--flatten",
            "--output",
            "json",
        ]);
        let mut config: Value = serde_json::from_str(&config).expect("a kubeconfig");
        config["users"][0]["user"] = json!({"token": token.trim()});
        self.bed.write("kubeconfig", &config.to_string());
    }

    /// What objects outside of our namespaces are called.
    fn unique(&self) -> String {
        format!("{}-{CHECKER}", self.management.name())
    }

    /// Checks, and looks that exactly these do not pass besides the flags; one of them has seen
    /// something.
    fn fails(&self, expected: &[(&str, &str)], seen: &str, by: &str) {
        let mut command = Command::new(program("rollcall-aggregator"));
        command
            .args(["check", "models", "--output", "json", "--cluster"])
            .arg(self.bed.path("cluster.yaml"))
            .arg("--kubeconfig")
            .arg(self.bed.path("kubeconfig"));
        let output = command.output().expect("the program runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        for secret in [ACCESS_KEY_ID, SECRET_KEY, "PRIVATE KEY"] {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "{secret} is shown");
        }
        let report: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("{seen}: {error}: {stderr}"));
        let groups = report["groups"].as_array().expect("groups").iter();
        let checks = groups.flat_map(|group| group["checks"].as_array().expect("checks"));
        let checks: Vec<&Value> = checks.collect();
        let not_passed = checks.iter().filter(|check| check["outcome"] != "pass");
        let not_passed: BTreeSet<(&str, &str)> =
            not_passed.map(|check| (text(check, "/name"), text(check, "/outcome"))).collect();
        let expected: BTreeSet<(&str, &str)> = expected.iter().chain(&UNSEEN).copied().collect();
        assert_eq!(not_passed, expected, "{seen}: {report:#}");
        let told = checks.iter().find(|check| text(check, "/name") == by);
        let told = told.map(|check| text(check, "/seen")).unwrap_or_default();
        assert!(by.is_empty() || told.contains(seen), "{seen:?} is not in {told:?}");
    }

    /// Looks that the checker changed nothing: the API server's log has its reviews, and nothing else
    /// that writes.
    fn only_asked(&self) {
        let user = format!("system:serviceaccount:{}:{CHECKER}", self.management.name());
        let writes = self.cluster.writes();
        let mut asked = BTreeSet::new();
        let mut count = 0;
        for event in writes.iter().filter(|event| text(event, "/user/username") == user) {
            asked.insert((text(event, "/verb"), text(event, "/objectRef/resource")));
            count += 1;
        }
        assert_eq!(asked, BTreeSet::from([("create", "subjectaccessreviews")]));
        println!("the checker asked {count} reviews and wrote nothing");
    }
}

impl Drop for Platform<'_> {
    fn drop(&mut self) {
        // What is not in our namespaces goes by itself.
        let name = self.unique();
        for kind in ["role", "rolebinding"] {
            let _gone = self.cluster.try_kubectl(
                &["delete", kind, &name, "--namespace", "kube-system", "--ignore-not-found"],
                "",
            );
        }
        for kind in ["clusterrole", "clusterrolebinding"] {
            let _gone =
                self.cluster.try_kubectl(&["delete", kind, &name, "--ignore-not-found"], "");
        }
    }
}

fn role(namespace: &str, name: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": namespace},
        "rules": rules,
    })
}

fn role_binding(namespace: &str, name: &str, subjects: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": subjects,
    })
}
