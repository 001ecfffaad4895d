//! An engine of `AIchor`: prepared, checked with its account's own token, and its form.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use rollcall_tests::cluster::{Cluster, SOON, text, wait_until};
use rollcall_tests::process::program;
use serde_json::{Value, json};
use tempfile::TempDir;

const NAMESPACE: &str = "aichor";
const ACCOUNT: &str = "dp-cluster-service-account";
const ROLE: &str = "dp-sa-cluster-role";
const BINDING: &str = "dp-sa-cluster-role-binding";
const TOKEN_SECRET: &str = "dp-cluster-service-account-token";

/// Who checks: somebody who may read what the checks look at, and nothing else.
const CHECKER: &str = "rollcall-test-aichor-checker";

/// Where the stand-in of an ingress controller's Service is.
const INGRESS: &str = "rollcall-test-aichor-ingress";

/// Its address.
const ADDRESS: &str = "192.0.2.77";

const ROLE_CHECK: &str = "the role has AIchor's rules";

pub(crate) fn its_token_can_what_it_must(cluster: &Cluster) {
    let engine = Engine::prepare(cluster);
    let names = engine.check().names("pass");
    let (allowed, denied) = (engine.of_group("what AIchor may do"), engine.denials());
    let expected: BTreeSet<String> = documented().iter().map(Right::check).collect();
    assert_eq!((allowed.len(), &allowed), (67, &expected));
    assert!(allowed.is_subset(&names) && denied.is_subset(&names), "{names:?}");
    assert_eq!(engine.check().failed(), BTreeSet::new());
    println!(
        "passed: {} rights, {} denials of {} checks",
        allowed.len(),
        denied.len(),
        names.len()
    );

    the_server_says_the_same(cluster);
    the_form_is_of_use(&engine);
}

pub(crate) fn preparing_twice_changes_nothing(cluster: &Cluster) {
    let engine = Engine::prepare(cluster);
    let versions = || -> Vec<(String, String)> {
        let objects = [
            vec!["namespace", NAMESPACE],
            vec!["serviceaccount", ACCOUNT, "--namespace", NAMESPACE],
            vec!["clusterrole", ROLE],
            vec!["clusterrolebinding", BINDING],
            vec!["secret", TOKEN_SECRET, "--namespace", NAMESPACE],
        ];
        let version = |what: &Vec<&str>| {
            let version = text(&cluster.get(what), "/metadata/resourceVersion").to_owned();
            (what.join(" "), version)
        };
        objects.iter().map(version).collect()
    };
    let before = versions();
    let said = engine.run(&["prepare", "aichor", "--apply"]);
    let unchanged = said.stdout.lines().filter(|line| line.ends_with(" unchanged")).count();
    assert_eq!((said.code, unchanged), (0, 5), "{said:?}");
    assert_eq!(versions(), before, "{said:?}");

    // What is printed is what is applied.
    let printed = engine.run(&["prepare", "aichor"]).stdout;
    let diff = cluster.try_kubectl(&["diff", "--server-side", "--filename", "-"], &printed);
    assert_eq!(diff, Ok(String::new()), "{printed}");

    // What somebody else has changed is not taken over silently.
    take(cluster, &documented()[..66]);
    let refused = engine.run(&["prepare", "aichor", "--apply"]);
    assert!(refused.code != 0 && refused.stdout.contains("--force-conflicts"), "{refused:?}");
    let taken = engine.run(&["prepare", "aichor", "--apply", "--force-conflicts"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    assert!(taken.stdout.contains("ClusterRole dp-sa-cluster-role changed"), "{taken:?}");
    engine.wait_for_failures(&BTreeSet::new(), "");
}

pub(crate) fn a_rule_that_is_missing_is_named(cluster: &Cluster) {
    let engine = Engine::prepare(cluster);
    engine.wait_for_failures(&BTreeSet::new(), "");
    for (position, rule) in rules().iter().enumerate() {
        let mut left = rules();
        left.remove(position);
        set_rules(cluster, &json!(left));
        let gone = rights_of(rule);
        let failed = gone.iter().map(Right::check).chain([ROLE_CHECK.to_owned()]).collect();
        let report = engine.wait_for_failures(&failed, &format!("without {rule}"));
        let seen = report.seen(ROLE_CHECK);
        assert!(seen.starts_with("missing: ") && !seen.contains("beyond"), "{rule}: {seen}");
    }
    let all = documented();
    for right in &all {
        let left: Vec<Right> = all.iter().filter(|it| *it != right).cloned().collect();
        take(cluster, &left);
        let failed = [right.check(), ROLE_CHECK.to_owned()].into();
        let report = engine.wait_for_failures(&failed, &format!("without {right:?}"));
        let dot = if right.group.is_empty() { "" } else { "." };
        let named = format!("{}{dot}{}", right.check(), right.group);
        assert_eq!(report.seen(ROLE_CHECK), format!("missing: {named}"));
        assert_eq!(report.seen(&right.check()), format!("{named} is not allowed"));
    }
    println!("{} rules and {} rights were missed, each by its own name", rules().len(), all.len());

    // And one too many.
    let beyond = [
        ("list nodes", right("", "nodes", "list")),
        ("get pods/log", right("", "pods/log", "get")),
        ("watch deployments", right("apps", "deployments", "watch")),
        ("list services", right("", "services", "list")),
    ];
    for (name, more) in beyond {
        take(cluster, &[all.clone(), vec![more]].concat());
        let failed = [format!("cannot {name}"), ROLE_CHECK.to_owned()].into();
        engine.wait_for_failures(&failed, &format!("with {name}"));
    }
}

pub(crate) fn checks_change_nothing(cluster: &Cluster) {
    let engine = Engine::prepare(cluster);
    let before = cluster.writes().len();
    assert_eq!(engine.check().failed(), BTreeSet::new());
    let account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    // The last of the log may still be on its way to the disk.
    let written = wait_until("the audit log", SOON, || {
        let events = cluster.writes();
        let new = events.into_iter().skip(before);
        let (mut checker, mut own) = (Vec::new(), Vec::new());
        for event in new {
            if text(&event, "/impersonatedUser/username") == CHECKER {
                checker.push(event);
            } else if text(&event, "/user/username") == account {
                own.push(event);
            }
        }
        if own.len() >= 72 { Ok((checker, own)) } else { Err(own.len()) }
    });
    let (checker, own) = written;
    assert_eq!(checker, Vec::<Value>::new(), "written by who checks");
    let asked = |resource: &str| {
        let is_of = |event: &&Value| {
            text(event, "/objectRef/resource") == resource && text(event, "/verb") == "create"
        };
        own.iter().filter(is_of).count()
    };
    // 67 rights, 4 denials, and what else there is.
    let reviews = (asked("selfsubjectaccessreviews"), asked("selfsubjectrulesreviews"));
    assert_eq!((reviews, own.len()), ((71, 1), 72), "{own:?}");
    println!("written: nothing; asked by the account: {} reviews", own.len());
}

pub(crate) fn what_is_wrong_is_named(cluster: &Cluster) {
    let engine = Engine::prepare(cluster);
    let server = server(cluster);
    let all = &|report: &Report| report.failed();
    // Another authority, which signed nothing here.
    let params = rcgen::CertificateParams::new([]).expect("no names");
    let key = rcgen::KeyPair::generate().expect("a key");
    let other = params.self_signed(&key).expect("an authority");
    engine.write("other-ca.pem", &other.pem());
    let ca = engine.path("other-ca.pem");
    let ca = ca.display();
    engine.configure(&format!("      caFile: {ca}\n"));
    assert_eq!(
        all(&engine.check()),
        names(&[
            "the certificate is of the CA in the form",
            "API host, CA and token fit one another",
        ])
    );
    // The same server by a name that its certificate is not for.
    let port = server.rsplit(':').next().expect("a port");
    engine.configure(&format!("      apiHostname: https://127.0.0.1:{port}\n"));
    let failed = all(&engine.check());
    assert!(failed.contains("the API host is one for outside"), "{failed:?}");
    engine.configure("      basicAuth: {user: aichor, passwordFile: /nonexistent}\n");
    assert_eq!(all(&engine.check()), names(&["the server knows the form's kind of credentials"]));
    engine.configure("");

    // Who checks has the rights that are documented, and no others.
    cluster.kubectl(&["delete", "clusterrolebinding", CHECKER]);
    wait_until("a checker without rights", SOON, || {
        let seen = engine.check().seen("the namespace is there");
        let is_refused = seen.contains("403") && seen.contains(CHECKER);
        if is_refused { Ok(()) } else { Err(seen) }
    });
    cluster.apply(&checkers_rights().to_string());
    engine.wait_for_failures(&BTreeSet::new(), "with its rights again");

    for (what, arguments, failed) in [
        (
            "no binding",
            &["delete", "clusterrolebinding", BINDING][..],
            Some("the role is bound to the account"),
        ),
        ("no Secret", &["delete", "secret", TOKEN_SECRET, "--namespace", NAMESPACE], None),
    ] {
        cluster.kubectl(arguments);
        wait_until(what, SOON, || {
            let report = engine.check();
            let is_named = match failed {
                Some(name) => {
                    report.failed().contains(name) && report.failed().contains("get pods")
                }
                None => report.failed() == names(&["the token is in its Secret"]),
            };
            // Without a token nothing was asked, and nothing has passed.
            let skipped = report.names("skipped");
            let is_skipped = failed.is_some() || skipped.contains("list rayclusters");
            if is_named && is_skipped { Ok(()) } else { Err(report.failed()) }
        });
        assert_eq!(engine.run(&["prepare", "aichor", "--apply"]).code, 0, "{what}");
        engine.wait_for_failures(&BTreeSet::new(), what);
    }
}

/// The engine's own kubectl: what the server itself answers with the token.
fn the_server_says_the_same(cluster: &Cluster) {
    let account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    for right in documented() {
        let (resource, subresource) =
            right.resource.split_once('/').unwrap_or((&right.resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": account,
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"],
                "resourceAttributes": {
                    "group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb,
                },
            },
        });
        let answer = cluster.create(&review);
        assert_eq!(answer["status"]["allowed"], json!(true), "{right:?}: {answer}");
    }
}

/// The form opens the cluster, and shows its token to nobody who does not ask for it.
fn the_form_is_of_use(engine: &Engine<'_>) {
    let token = engine.token();
    for output in ["table", "json", "yaml"] {
        let masked = engine.run(&["document", "aichor", "--output", output]);
        assert!(masked.code == 0 && masked.stdout.contains("masked"), "{output}: {masked:?}");
        let shown =
            engine.run_openly(&["document", "aichor", "--output", output, "--show-secrets"]);
        assert!(shown.stdout.contains(&token), "{output} does not show the token when asked");
    }
    let form = engine.path("form.json");
    let to = form.to_str().expect("UTF-8");
    let written = engine.run(&["document", "aichor", "--output", "json", "--to", to]);
    assert_eq!(written.code, 0, "{written:?}");
    let mode = fs::metadata(&form).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "of {to}");
    let form: Value =
        serde_json::from_str(&fs::read_to_string(&form).expect("a file")).expect("JSON");
    let fields: Vec<&String> = form.as_object().expect("fields").keys().collect();
    assert_eq!(
        fields,
        ["Engine Name", "Ecosystem", "API Hostname", "Load Balancer IP", "CA Data", "Bearer Token"]
    );
    assert_eq!(text(&form, "/Engine Name"), "west");
    assert_eq!(text(&form, "/Load Balancer IP"), ADDRESS);

    // As somebody who has the form and nothing else.
    engine.write("ca.pem", text(&form, "/CA Data"));
    let ca = engine.path("ca.pem");
    let host = text(&form, "/API Hostname");
    let with_form = ["--kubeconfig", "/dev/null", "--server", host, "--certificate-authority"];
    let with_form = [&with_form[..], &[ca.to_str().expect("UTF-8"), "--token", &token]].concat();
    let ask =
        |arguments: &[&str]| engine.cluster.try_kubectl(&[arguments, &with_form].concat(), "");
    ask(&["get", "pods", "--all-namespaces"]).expect("pods are listed");
    ask(&["get", "clusterrole", ROLE]).expect_err("roles are none of its rights");
    let refused = ask(&["get", "nodes"]).expect_err("nodes are none of its rights");
    assert!(refused.contains("Forbidden") || refused.contains("forbidden"), "{refused}");
}

/// A prepared engine, with all that its work is made of. It goes when the test ends.
struct Engine<'a> {
    cluster: &'a Cluster,
    folder: TempDir,
    /// What was defined for the test alone.
    defined: Vec<String>,
}

impl<'a> Engine<'a> {
    fn prepare(cluster: &'a Cluster) -> Self {
        // What another test has left is on its way out.
        for object in [
            vec!["namespace", NAMESPACE],
            vec!["namespace", INGRESS],
            vec!["clusterrole", ROLE],
            vec!["clusterrolebinding", BINDING],
        ] {
            wait_until("a cluster without AIchor", SOON, || match cluster.try_get(&object) {
                Ok(_) => {
                    Err(format!("{} is there: is this cluster one of AIchor's?", object.join(" ")))
                }
                Err(_) => Ok(()),
            });
        }
        let mut engine =
            Self { cluster, folder: tempfile::tempdir().expect("a folder"), defined: Vec::new() };
        engine.define();
        engine.configure("");
        engine.write("kubeconfig", &cluster.kubeconfig_as(CHECKER));
        cluster.apply(&checkers_rights().to_string());
        let prepared = engine.run(&["prepare", "aichor", "--apply"]);
        let made = prepared.stdout.lines().filter(|line| line.ends_with(" created")).count();
        assert_eq!((prepared.code, made), (0, 5), "{prepared:?}");
        assert!(!engine.token().is_empty(), "prepare ended before the token was there");
        engine.wait_for_failures(&BTreeSet::new(), "as prepared");
        engine
    }

    /// What others define on a cluster of `AIchor`'s: kinds, and an ingress controller.
    fn define(&mut self) {
        let kinds = [
            ("ray.instadeep.io", "rayclusters", "RayCluster"),
            ("argoproj.io", "workflows", "Workflow"),
            ("cert-manager.io", "certificates", "Certificate"),
        ];
        for (group, plural, kind) in kinds {
            let name = format!("{plural}.{group}");
            if self.cluster.try_get(&["crd", &name]).is_ok() {
                continue;
            }
            let singular = kind.to_lowercase();
            let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
            self.cluster.apply(
                &json!({
                    "apiVersion": "apiextensions.k8s.io/v1",
                    "kind": "CustomResourceDefinition",
                    "metadata": {"name": name},
                    "spec": {
                        "group": group,
                        "scope": "Namespaced",
                        "names": {"plural": plural, "singular": singular, "kind": kind},
                        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
                    },
                })
                .to_string(),
            );
            self.defined.push(name);
        }
        self.cluster.kubectl(&["create", "namespace", INGRESS]);
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "controller",
                "namespace": INGRESS,
                "labels": {"app.kubernetes.io/name": "ingress-nginx"},
            },
            "spec": {"type": "LoadBalancer", "ports": [{"port": 443}]},
        });
        let mut service = self.cluster.create(&service);
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": ADDRESS}]}});
        let path = format!("/api/v1/namespaces/{INGRESS}/services/controller/status");
        let replace = ["replace", "--raw", &path, "--filename", "-"];
        self.cluster.try_kubectl(&replace, &service.to_string()).expect("an address");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// Writes the cluster file, with further lines for the engine.
    fn configure(&self, more: &str) {
        self.write(
            "cluster.yaml",
            &format!(
                "cluster: {{id: west, regionId: lab}}\ntargets:\n  - name: aichor\n    type: aichor\n    engine:\n      name: west\n      loadBalancerIp: {ADDRESS}\n{more}"
            ),
        );
    }

    /// The account's token, as the administrator reads it; empty while there is none.
    fn token(&self) -> String {
        let template = "{{with .data}}{{with .token}}{{. | base64decode}}{{end}}{{end}}";
        let output = format!("go-template={template}");
        let arguments =
            ["get", "secret", TOKEN_SECRET, "--namespace", NAMESPACE, "--output", &output];
        self.cluster.try_kubectl(&arguments, "").unwrap_or_default()
    }

    /// Runs the program: checks as who may only read, all else as the administrator. Nothing that
    /// it says holds the token.
    fn run(&self, arguments: &[&str]) -> Said {
        let said = self.run_openly(arguments);
        let token = self.token();
        let is_shown = |text: &str| !token.is_empty() && text.contains(&token);
        assert!(
            !is_shown(&said.stdout) && !is_shown(&said.stderr),
            "{arguments:?} shows the token"
        );
        said
    }

    fn run_openly(&self, arguments: &[&str]) -> Said {
        let is_check = arguments.first() == Some(&"check");
        let own = self.path("kubeconfig");
        let kubeconfig = if is_check { own.as_path() } else { self.cluster.kubeconfig() };
        let mut command = Command::new(program("rollcall-aggregator"));
        command.args(["--log-level", "debug"]).args(arguments);
        command.arg("--cluster").arg(self.path("cluster.yaml"));
        command.arg("--kubeconfig").arg(kubeconfig);
        let output = command.output().expect("the program runs");
        Said {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    fn check(&self) -> Report {
        let said = self.run(&["check", "aichor", "--output", "json"]);
        let report = serde_json::from_str(&said.stdout);
        Report(report.unwrap_or_else(|error| panic!("{error}: {said:?}")))
    }

    fn of_group(&self, name: &str) -> BTreeSet<String> {
        let report = self.check();
        let group =
            report.0["groups"].as_array().into_iter().flatten().find(|it| it["name"] == name);
        let group = group.unwrap_or_else(|| panic!("there is no group {name}"));
        let checks = group["checks"].as_array().expect("checks");
        checks.iter().map(|check| text(check, "/name").to_owned()).collect()
    }

    fn denials(&self) -> BTreeSet<String> {
        let denials = self.of_group("what AIchor may not do");
        let expected = names(&[
            "cannot list nodes",
            "cannot get pods/log",
            "cannot watch deployments",
            "cannot list services",
            "has no other rights in its namespace",
        ]);
        assert_eq!(denials, expected);
        denials
    }

    /// Checks until exactly these fail: an API server takes a moment to know a changed role.
    fn wait_for_failures(&self, expected: &BTreeSet<String>, what: &str) -> Report {
        wait_until(what, SOON, || {
            let report = self.check();
            let failed = report.failed();
            if failed == *expected {
                return Ok(report);
            }
            let missing: Vec<_> = expected.difference(&failed).collect();
            let more: Vec<_> = failed.difference(expected).collect();
            Err(format!("not failed: {missing:?}; failed, too: {more:?}"))
        })
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let mut gone: Vec<Vec<&str>> = vec![
            vec!["clusterrole", ROLE, CHECKER],
            vec!["clusterrolebinding", BINDING, CHECKER],
            vec!["namespace", NAMESPACE, INGRESS],
        ];
        gone.extend(self.defined.iter().map(|name| vec!["crd", name.as_str()]));
        for objects in gone {
            let delete = [&["delete", "--ignore-not-found", "--wait=false"], &objects[..]].concat();
            // A test that has failed says why; that something stays is no news beside it.
            let _gone = self.cluster.try_kubectl(&delete, "");
        }
    }
}

/// What the program said, and how it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

/// How the checks came out.
struct Report(Value);

impl Report {
    fn checks(&self) -> impl Iterator<Item = &Value> {
        let groups = self.0["groups"].as_array().into_iter().flatten();
        groups.flat_map(|group| group["checks"].as_array().into_iter().flatten())
    }

    fn names(&self, outcome: &str) -> BTreeSet<String> {
        let checks = self.checks().filter(|check| check["outcome"] == outcome);
        checks.map(|check| text(check, "/name").to_owned()).collect()
    }

    fn failed(&self) -> BTreeSet<String> {
        self.names("fail")
    }

    fn seen(&self, name: &str) -> String {
        let check = self.checks().find(|check| check["name"] == name);
        text(check.unwrap_or_else(|| panic!("there is no check {name}")), "/seen").to_owned()
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The rights that docs/targets/aichor.md tells `check` to need.
fn checkers_rights() -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": CHECKER},
                "rules": [
                    rule("", &["namespaces", "serviceaccounts", "secrets"], &["get"]),
                    rule("", &["services"], &["get", "list"]),
                    rule("rbac.authorization.k8s.io", &["clusterroles", "clusterrolebindings"], &["get"]),
                ],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": CHECKER},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CHECKER,
                },
                "subjects": [
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": CHECKER},
                ],
            },
        ],
    })
}

/// The API server's URL in the administrator's kubeconfig.
fn server(cluster: &Cluster) -> String {
    let output = "jsonpath={.clusters[0].cluster.server}";
    cluster.kubectl(&["config", "view", "--minify", "--output", output]).trim().to_owned()
}

/// One right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    group: String,
    resource: String,
    verb: String,
}

impl Right {
    /// The name of its check.
    fn check(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }
}

fn right(group: &str, resource: &str, verb: &str) -> Right {
    Right { group: group.to_owned(), resource: resource.to_owned(), verb: verb.to_owned() }
}

/// The rules as `AIchor`'s documentation has them.
fn rules() -> Vec<Value> {
    let all = ["get", "list", "watch", "create", "update", "patch", "delete"];
    let core = [
        "pods",
        "pods/status",
        "pods/exec",
        "serviceaccounts",
        "configmaps",
        "namespaces",
        "secrets",
    ];
    vec![
        json!({"apiGroups": [""], "resources": core, "verbs": all}),
        json!({"apiGroups": ["networking.k8s.io"], "resources": ["ingresses"], "verbs": ["create", "get", "delete"]}),
        json!({"apiGroups": ["cert-manager.io"], "resources": ["certificates"], "verbs": ["create"]}),
        json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create", "get", "delete", "list"]}),
        json!({"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}),
        json!({"apiGroups": [""], "resources": ["services"], "verbs": ["create", "get", "delete"]}),
        json!({"apiGroups": ["ray.instadeep.io"], "resources": ["rayclusters"], "verbs": ["list", "create", "get", "delete"]}),
        json!({"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["get", "patch"]}),
    ]
}

fn rights_of(rule: &Value) -> Vec<Right> {
    let list = |key: &str| -> Vec<&str> {
        rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let mut rights = Vec::new();
    for group in list("apiGroups") {
        for resource in list("resources") {
            rights.extend(list("verbs").into_iter().map(|verb| right(group, resource, verb)));
        }
    }
    rights
}

/// All rights that the rules come to.
fn documented() -> Vec<Right> {
    rules().iter().flat_map(rights_of).collect()
}

/// Gives the role exactly these rights.
fn take(cluster: &Cluster, rights: &[Right]) {
    let rule = |right: &Right| json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]});
    set_rules(cluster, &rights.iter().map(rule).collect());
}

fn set_rules(cluster: &Cluster, rules: &Value) {
    let patch = json!({"rules": rules}).to_string();
    cluster.kubectl(&["patch", "clusterrole", ROLE, "--type", "merge", "--patch", &patch]);
}
