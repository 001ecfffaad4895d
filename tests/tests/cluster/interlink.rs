//! interLink's way to the Kubernetes API: what `prepare` makes runs in the cluster, and is checked as a
//! plugin outside sees it. cert-manager and the Ingress's controller are played by the test:
//! certificates from an authority of its own, and an NGINX that routes what the Ingress says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};

use rcgen::SanType;
use rollcall_tests::bed::Bed;
use rollcall_tests::cluster::{Cluster, Namespace, SOON, text, wait_until};
use rollcall_tests::nginx::{self, Authority, Date, Nginx, Pair, dns_name};
use rollcall_tests::process::{Daemon, program};
use serde_json::{Value, json};

/// The kinds of cert-manager that `prepare` makes objects of.
const KINDS: [(&str, &str); 2] = [("issuers", "Issuer"), ("certificates", "Certificate")];

/// NGINX of this machine.
const IMAGE: &str = "rollcall.test/nginx:1";

const LATER: Date = (2100, 1, 1);

/// What `prepare` makes, in its order.
const MADE: [&str; 12] = [
    "Namespace",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "Deployment",
    "Service",
    "Issuer",
    "Certificate",
    "Issuer",
    "Certificate",
    "Certificate",
    "Ingress",
];

/// What is wrong, how the way looks, another token, which checks fail, and a piece of what the first of
/// them says.
type Case<'a> = (&'a str, Front, Option<&'a str>, &'a [&'a str], &'a str);

pub(super) fn plugins_reach_the_api(cluster: &Cluster) {
    cluster.load_program(&nginx::program(), IMAGE);
    let world = World::new(cluster);
    world.prepare_twice();
    let authority = Authority::new("the inner CA");
    let proxy = world.proxy(&authority);
    let address = world.address;
    let right = || Front {
        certificate: authority.sign("the way", &[SanType::IpAddress(address.into())], LATER),
        ca: authority.pem(),
        routed: world.routed(),
        besides: Vec::new(),
    };

    let checked = world.check(&right(), &proxy, &authority, None);
    assert_eq!(checked.not_passed(), [], "{checked:#?}");
    for (name, words) in [
        ("/api is routed", "APIVersions"),
        ("/apis is routed", "APIGroupList"),
        ("rights can be asked for", "rules of resources"),
        ("a wrong token is refused", "401"),
        ("the virtual kubelet may make tokens", world.kubelet.as_str()),
        ("there is a token to try with", "rollcall-api-trial-token"),
    ] {
        assert!(checked.0[name].1.contains(words), "{name}: {checked:#?}");
    }
    world.plugin_asks(&right(), &proxy, &authority);
    world.plugin_works(&right(), &proxy, &authority);

    let other = Authority::new("another CA");
    let signed = |names: &[SanType], until| authority.sign("the way", names, until);
    let without = |path: &str| world.routed().into_iter().filter(|it| it != path).collect();
    let cases: Vec<Case<'_>> = vec![
        (
            "SAN without the IP",
            Front { certificate: signed(&[dns_name("k8s.example.org")], LATER), ..right() },
            None,
            &["the certificate is for the address"],
            "it is for k8s.example.org",
        ),
        (
            "expired",
            Front {
                certificate: signed(&[SanType::IpAddress(address.into())], (2021, 1, 1)),
                ..right()
            },
            None,
            &["the certificate has not expired"],
            "expired at 2021-01-01",
        ),
        (
            "wrong CA",
            Front { ca: other.pem(), ..right() },
            None,
            &["the CA vouches for the certificate"],
            "not by the CA (CN=another CA)",
        ),
        (
            "/apis not routed",
            Front { routed: without("/apis"), ..right() },
            None,
            &["/apis is routed"],
            "404",
        ),
        (
            "/version routed",
            Front { besides: vec!["/version"], ..right() },
            None,
            &["/version is not routed"],
            "the API server itself answered 401",
        ),
        (
            "token refused",
            right(),
            Some("a-token-of-nobody"),
            &["the token is accepted"],
            "401: Unauthorized",
        ),
    ];
    for (what, front, token, failed, words) in cases {
        let checked = world.check(&front, &proxy, &authority, token);
        let got: BTreeSet<&str> = checked.of_outcome("fail");
        assert_eq!(got, failed.iter().copied().collect(), "{what}: {checked:#?}");
        assert!(checked.0[failed[0]].1.contains(words), "{what}: {words}: {checked:#?}");
    }

    // What may be in a header is in no log.
    let namespace = ["--namespace", world.namespace.name()];
    let logs = ["logs", "--selector", "app.kubernetes.io/name=rollcall-api-proxy", "--tail", "-1"];
    let said = cluster.kubectl(&[&logs[..], &namespace].concat());
    for secret in [world.token(), "a-token-of-nobody".to_owned(), "Bearer".to_owned()] {
        assert!(!said.contains(&secret), "{said}");
    }
    world.nothing_was_written();
}

/// The cluster as it is before the way is made, and whoever checks it.
struct World<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
    files: Bed,
    address: Ipv4Addr,
    /// The name of a virtual node.
    kubelet: String,
    /// Objects that are in no namespace, to be deleted: kinds and names.
    others: Vec<(&'static str, String)>,
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for (kind, name) in &self.others {
            // A test that has failed says why; what stays is no news beside it.
            let _gone = self.cluster.try_kubectl(&["delete", kind, name, "--wait=false"], "");
        }
    }
}

impl<'a> World<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let namespace = cluster.namespace("interlink");
        let kubelet = namespace.name().to_owned();
        let address = cluster.address_of_this_machine();
        let files = Bed::new("");
        let mut world = Self { cluster, namespace, files, address, kubelet, others: Vec::new() };
        world.declare_kinds();
        world.make_checker();
        world.make_kubelet();
        world
    }

    /// Those of cert-manager, where it is not installed.
    fn declare_kinds(&mut self) {
        for (plural, kind) in KINDS {
            let name = format!("{plural}.cert-manager.io");
            if self.cluster.try_get(&["customresourcedefinition", &name]).is_ok() {
                continue;
            }
            let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            let definition = json!({
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": name},
                "spec": {
                    "group": "cert-manager.io",
                    "scope": "Namespaced",
                    "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
                    "versions": [{
                        "name": "v1",
                        "served": true,
                        "storage": true,
                        "schema": {"openAPIV3Schema": schema},
                    }],
                },
            });
            self.cluster.apply(&definition.to_string());
            self.others.push(("customresourcedefinition", name.clone()));
            wait_until(&name, SOON, || {
                self.cluster.try_get(&[&name, "--all-namespaces"]).map(drop)
            });
        }
    }

    /// Whoever checks has the rights that the documentation names, and no others.
    fn make_checker(&mut self) {
        let (name, namespace) = (self.name("checker"), self.namespace.name().to_owned());
        let rule = |group: &str, resources: &[&str], verb: &str| json!({"apiGroups": [group], "resources": resources, "verbs": [verb]});
        let rules = [
            rule("networking.k8s.io", &["ingresses"], "get"),
            rule("", &["secrets"], "get"),
            rule("", &["services", "pods", "nodes", "serviceaccounts"], "list"),
            rule("authorization.k8s.io", &["subjectaccessreviews"], "create"),
        ];
        self.account("checker", &namespace, &name, &json!(rules));
        let view = ["config", "view", "--raw", "--flatten", "--output", "json"];
        let config: Value =
            serde_json::from_str(&self.cluster.kubectl(&view)).expect("a kubeconfig");
        let create = ["create", "token", "checker", "--namespace", &namespace];
        let token = self.cluster.kubectl(&create);
        let own = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bed",
            "clusters": [{"name": "bed", "cluster": config["clusters"][0]["cluster"]}],
            "users": [{"name": "checker", "user": {"token": token.trim()}}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "checker"}}],
        });
        self.files.write("kubeconfig", &own.to_string());
    }

    /// A virtual node of interLink, with its account as interLink's chart has it.
    fn make_kubelet(&mut self) {
        let (name, namespace) = (self.kubelet.clone(), self.namespace.name().to_owned());
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {"virtual-node.interlink/type": "virtual-kubelet"},
            },
        });
        self.cluster.apply(&node.to_string());
        self.others.push(("node", name.clone()));
        let rules = json!([
            {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
        ]);
        self.account(&name.clone(), &namespace, &name, &rules);
    }

    fn account(&mut self, account: &str, namespace: &str, role: &str, rules: &Value) {
        let kind = "rbac.authorization.k8s.io/v1";
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": account, "namespace": namespace},
            },
            {"apiVersion": kind, "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules},
            {
                "apiVersion": kind,
                "kind": "ClusterRoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            },
        ]});
        self.cluster.apply(&list.to_string());
        self.others.push(("clusterrole", role.to_owned()));
        self.others.push(("clusterrolebinding", role.to_owned()));
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.namespace.name())
    }

    fn write_cluster_file(&self, port: u16, token: Option<&str>) {
        let token = token.map_or_else(String::new, |token| {
            self.files.write("token", token);
            format!(", tokenFile: {}", self.files.path("token").display())
        });
        let (address, namespace) = (self.address, self.namespace.name());
        self.files.write("cluster.yaml", &format!(
            "cluster: {{id: west, regionId: lab}}\ntargets:\n- name: interlink\n  type: interlink\n  \
             apiAccess: {{address: {address}, port: {port}, image: '{IMAGE}', ingress: {{namespace: {namespace}}}{token}}}\n"
        ));
    }

    fn run(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let mut command = Command::new(program("rollcall-aggregator"));
        command.args([*verb, "interlink", "--cluster"]).arg(self.files.path("cluster.yaml"));
        command.arg("--kubeconfig").arg(kubeconfig).args(rest);
        command.output().expect("the program runs")
    }

    fn prepare_twice(&self) {
        self.write_cluster_file(60443, None);
        let prepare = || {
            let output = self.run(self.cluster.kubeconfig(), &["prepare", "--apply"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            let printed = String::from_utf8(output.stdout).expect("UTF-8");
            // An address is used, and the controller must be told.
            let (printed, left) = printed.trim_end().rsplit_once('\n').expect("lines");
            let argument = format!(
                "start it with --default-ssl-certificate={}/web-ssl-kubernetes-api",
                self.namespace.name()
            );
            assert!(left.ends_with(&argument), "{left}");
            let lines = printed.lines().map(|line| {
                let (kind, change) = (line.split(' ').next(), line.rsplit(' ').next());
                (kind.unwrap_or_default().to_owned(), change.unwrap_or_default().to_owned())
            });
            lines.collect::<Vec<(String, String)>>()
        };
        let first = prepare();
        let kinds: Vec<&str> = first.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, MADE);
        // The test has made the namespace.
        assert!(first.iter().skip(1).all(|(_, change)| change == "created"), "{first:?}");
        // The cluster's own controllers come to rest: a token is made, pods wait for certificates.
        wait_until("the token", SOON, || {
            if self.token().is_empty() { Err("none yet") } else { Ok(()) }
        });
        wait_until("the proxy's pods", SOON, || {
            let proxy = ["deployment", "rollcall-api-proxy", "--namespace", self.namespace.name()];
            let deployment = self.cluster.get(&proxy);
            let made = deployment.pointer("/status/unavailableReplicas").and_then(Value::as_u64);
            if made == Some(2) { Ok(()) } else { Err(deployment["status"].clone()) }
        });
        let second = prepare();
        assert!(second.iter().all(|(_, change)| change == "unchanged"), "{second:?}");
        assert_eq!(second.len(), MADE.len());
    }

    /// The token that `prepare` has had made.
    fn token(&self) -> String {
        let secret = ["secret", "rollcall-api-trial-token", "--namespace", self.namespace.name()];
        let template = "go-template={{if .data}}{{.data.token | base64decode}}{{end}}";
        let get = [&["get", "--output", template], &secret[..]].concat();
        self.cluster.kubectl(&get).trim().to_owned()
    }

    /// The paths that the Ingress routes.
    fn routed(&self) -> Vec<String> {
        let ingress =
            self.cluster.get(&["ingress", "default", "--namespace", self.namespace.name()]);
        let paths = ingress["spec"]["rules"][0]["http"]["paths"].as_array().expect("paths");
        paths.iter().map(|path| text(path, "/path").to_owned()).collect()
    }

    /// Where the reverse proxy is reached inside, when its pods are ready: they wait for the
    /// certificate.
    fn proxy(&self, authority: &Authority) -> String {
        let inner = authority.sign("proxy", &[dns_name(&self.inner_name())], LATER);
        self.tls_secret("rollcall-api-proxy-tls", &inner, &authority.pem());
        let namespace = ["--namespace", self.namespace.name()];
        let get = |what: &[&str]| self.cluster.get(&[what, &namespace].concat());
        wait_until("the proxy's pods", SOON, || {
            let status = &get(&["deployment", "rollcall-api-proxy"])["status"];
            if status["readyReplicas"] == 2 { Ok(()) } else { Err(status.clone()) }
        });
        let spec = &get(&["service", "rollcall-api-proxy"])["spec"];
        format!("{}:{}", text(spec, "/clusterIP"), spec["ports"][0]["port"])
    }

    /// As cert-manager makes it.
    fn tls_secret(&self, name: &str, pair: &Pair, ca: &str) {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": self.namespace.name()},
            "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": ca},
        });
        self.cluster.apply(&secret.to_string());
    }

    fn inner_name(&self) -> String {
        format!("rollcall-api-proxy.{}.svc", self.namespace.name())
    }

    /// The Ingress's controller, as its annotations tell it to be.
    fn front(&self, front: &Front, proxy: &str, authority: &Authority) -> Nginx {
        let Pair { certificate, key } = &front.certificate;
        self.tls_secret("web-ssl-kubernetes-api", &front.certificate, &front.ca);
        let [first, second, ..] = self.address.octets();
        let files = [
            ("tls.crt", certificate.as_str()),
            ("tls.key", key),
            ("inner-ca.crt", &authority.pem()),
        ];
        Nginx::start_on(self.address, &files, |port, folder| {
            let at = folder.display();
            let address = self.address;
            let pass = format!(
                "{{ proxy_pass https://{proxy}; proxy_ssl_verify on; proxy_ssl_name {}; proxy_ssl_trusted_certificate {at}/inner-ca.crt; }}",
                self.inner_name()
            );
            // What `Prefix` means: whole segments.
            let routed = front.routed.iter().flat_map(|path| {
                [format!("location = {path} {pass}\n"), format!("location {path}/ {pass}\n")]
            });
            let besides = front.besides.iter().map(|path| {
                format!("location = {path} {{ proxy_pass https://{first}.{second}.0.1:6443; }}\n")
            });
            let locations: Vec<String> = routed.chain(besides).collect();
            let locations = locations.concat();
            // What the Ingress's annotations say: watches are passed on at once.
            format!(
                "proxy_buffering off;\nserver {{\nlisten {address}:{port} ssl;\nssl_certificate {at}/tls.crt;\nssl_certificate_key {at}/tls.key;\n{locations}location / {{ return 404; }}\n}}"
            )
        })
    }

    fn check(
        &self,
        front: &Front,
        proxy: &str,
        authority: &Authority,
        token: Option<&str>,
    ) -> Checked {
        let nginx = self.front(front, proxy, authority);
        self.write_cluster_file(nginx.address.port(), token);
        let output = self.run(&self.files.path("kubeconfig"), &["check", "--output", "json"]);
        let checked = Checked::of(&output);
        assert_eq!(
            output.status.code(),
            Some(if checked.of_outcome("fail").is_empty() { 0 } else { 3 }),
            "{checked:#?}"
        );
        checked
    }

    /// What interLink's guide tries the way with: kubectl in a container of the plugin's.
    fn plugin_asks(&self, front: &Front, proxy: &str, authority: &Authority) {
        let nginx = self.front(front, proxy, authority);
        self.files.write("ca.pem", &front.ca);
        let (server, token) = (format!("https://{}", nginx.address), self.token());
        let ca = self.files.path("ca.pem");
        let mut command = Command::new("kubectl");
        command.args(["auth", "can-i", "--list", "--kubeconfig", "/dev/null", "--server", &server]);
        command.arg("--certificate-authority").arg(ca).args(["--token", &token]);
        let output = command.output().expect("kubectl");
        let printed = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            printed.contains("selfsubjectrulesreviews.authorization.k8s.io"),
            "{printed}{said}"
        );

        self.write_cluster_file(nginx.address.port(), None);
        let output = self.run(&self.files.path("kubeconfig"), &["document", "--output", "json"]);
        let values: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let expected = json!({"interlink": {
            "kubernetesApiAddr": self.address,
            "kubernetesApiPort": nginx.address.port(),
            "kubernetesApiCaCrt": front.ca.replace("\r\n", "\n").trim_end(),
        }});
        assert_eq!(values, expected);
    }

    /// What a workflow engine does: it watches, and is told at once.
    fn plugin_works(&self, front: &Front, proxy: &str, authority: &Authority) {
        let nginx = self.front(front, proxy, authority);
        let namespace = self.namespace.name();
        let kind = "rbac.authorization.k8s.io/v1";
        let metadata = json!({"name": "engine", "namespace": namespace});
        let rule = json!({
            "apiGroups": [""],
            "resources": ["configmaps"],
            "verbs": ["list", "watch", "create"],
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
            {"apiVersion": kind, "kind": "Role", "metadata": metadata, "rules": [rule]},
            {
                "apiVersion": kind,
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "engine"},
                "subjects": [{"kind": "ServiceAccount", "name": "engine", "namespace": namespace}],
            },
        ]});
        self.cluster.apply(&list.to_string());
        let token = self.cluster.kubectl(&["create", "token", "engine", "--namespace", namespace]);
        let server = format!("https://{}", nginx.address);
        let ca = self.files.path("ca.pem");
        let through = |arguments: &[&str]| {
            let mut command = Command::new("kubectl");
            command.args([
                "--kubeconfig",
                "/dev/null",
                "--server",
                &server,
                "--token",
                token.trim(),
            ]);
            command.arg("--certificate-authority").arg(&ca).args(["--namespace", namespace]);
            command.args(arguments);
            command
        };
        let watch = through(&["get", "configmaps", "--watch", "--output", "name"]);
        let watch = Daemon::spawn("kubectl", watch);
        watch.wait_for_line(|line| line.ends_with("/kube-root-ca.crt"), SOON);
        let created = through(&["create", "configmap", "result"]).output().expect("kubectl");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        watch.wait_for_line(|line| line.ends_with("/result"), SOON);
    }

    /// Neither by whoever checks, nor through the way.
    fn nothing_was_written(&self) {
        let prefix = format!("system:serviceaccount:{}:", self.namespace.name());
        let writes = self.cluster.writes();
        let ours = writes.iter().filter(|event| text(event, "/user/username").starts_with(&prefix));
        let ours: Vec<(&str, &str, &str)> = ours
            .map(|event| {
                let user = text(event, "/user/username").trim_start_matches(&prefix);
                (user, text(event, "/verb"), text(event, "/objectRef/resource"))
            })
            .collect();
        let expected = BTreeSet::from([
            ("checker", "create", "subjectaccessreviews"),
            ("rollcall-api-trial", "create", "selfsubjectrulesreviews"),
            // The engine's own work.
            ("engine", "create", "configmaps"),
        ]);
        assert_eq!(ours.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

/// How the way looks from outside.
struct Front {
    certificate: Pair,
    /// The CA that is told.
    ca: String,
    /// The paths that lead to the proxy.
    routed: Vec<String>,
    /// The paths that lead past it.
    besides: Vec<&'static str>,
}

/// How each check came out, and what was seen.
#[derive(Debug)]
struct Checked(BTreeMap<String, (String, String)>);

impl Checked {
    fn of(output: &Output) -> Self {
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {said}"));
        let groups = report["groups"].as_array().expect("groups").iter();
        let checks = groups.flat_map(|group| group["checks"].as_array().expect("checks"));
        let entry = |check: &Value| {
            let verdict = (text(check, "/outcome").to_owned(), text(check, "/seen").to_owned());
            (text(check, "/name").to_owned(), verdict)
        };
        Self(checks.map(entry).collect())
    }

    fn of_outcome(&self, outcome: &str) -> BTreeSet<&str> {
        let all = self.0.iter().filter(|(_, (it, _))| it == outcome);
        all.map(|(name, _)| name.as_str()).collect()
    }

    fn not_passed(&self) -> Vec<(&str, &str)> {
        let all = self.0.iter().filter(|(_, (outcome, _))| outcome != "pass");
        all.map(|(name, (outcome, _))| (name.as_str(), outcome.as_str())).collect()
    }
}
