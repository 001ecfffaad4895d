//! Node classes and the Region, with real agents on machines made of files, for Nodes that are objects and
//! nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};

use rollcall_tests::bed::{Aggregator, Bed, said};
use rollcall_tests::cluster::replicas::Kinds;
use rollcall_tests::cluster::{Cluster, Namespace, SOON, text, wait_until};
use rollcall_tests::machine::{Function, Machine, driver, h100};
use rollcall_tests::process::{Daemon, nvml_standin, program};
use serde_json::{Value, json};

const CLASS: &str = "kubernetes.region.unikorn-cloud.org/node-class";
const PURPOSE: &str = "rollcall.test/purpose";
/// The class that the owner has declared, for machines of eight CPUs.
const BRATWURST: &str = "4be04a2e-87e6-4ff2-b34b-2994ee1600ba";
const GPUS: [&str; 2] = ["0000:18:00.0", "0000:2a:00.0"];

/// Who runs the checks.
const CHECKER: &str = "rollcall-unikorn-checker";

/// A shape of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Small,
    Large,
    Gpus,
}

/// Three shapes over ten nodes.
const SHAPES: [Shape; 10] = [
    Shape::Small,
    Shape::Large,
    Shape::Gpus,
    Shape::Small,
    Shape::Large,
    Shape::Gpus,
    Shape::Small,
    Shape::Large,
    Shape::Gpus,
    Shape::Small,
];

/// Nodes, their machines, their agents, and aggregators.
struct World<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
    bed: Bed,
    machines: Vec<Machine>,
    agents: Vec<Daemon>,
    aggregators: BTreeMap<String, Aggregator>,
}

impl<'a> World<'a> {
    fn new(cluster: &'a Cluster, purpose: &str) -> Self {
        let namespace = cluster.namespace(purpose);
        let mut world = Self {
            cluster,
            namespace,
            bed: Bed::new(""),
            machines: Vec::new(),
            agents: Vec::new(),
            aggregators: BTreeMap::new(),
        };
        world.declare("");
        cluster.apply(&checkers_rights().to_string());
        for (number, shape) in SHAPES.into_iter().enumerate() {
            world.add_machine(number, shape);
        }
        world
    }

    /// The cluster file, with more classes.
    fn declare(&self, classes: &str) {
        self.declare_for(&self.cluster.kubeconfig().display().to_string(), "unikorn.yaml", classes);
        self.bed.write("checker", &self.cluster.kubeconfig_as(CHECKER));
        let checker = self.bed.path("checker").display().to_string();
        self.declare_for(&checker, "checked.yaml", classes);
    }

    fn declare_for(&self, kubeconfig: &str, file: &str, classes: &str) {
        let namespace = self.namespace.name();
        let common = self.bed.cluster_file();
        let text = format!(
            "{common}targets:
  - name: unikorn
    type: unikorn
    nodes: {{selector: {{{PURPOSE}: {namespace}}}}}
    region:
      name: west
      namespace: {namespace}
      labels: {{unikorn-cloud.org/name: west-0}}
      management: {{kubeconfigFile: {kubeconfig}}}
      classes:
        - {{id: {BRATWURST}, name: bratwurst, fits: {{vcpus: 8}}}}
{classes}"
        );
        self.bed.write(file, &text);
    }

    /// Makes a Node, and its machine: a little different from the others of its shape, as real ones are.
    fn add_machine(&mut self, number: usize, shape: Shape) {
        let node = self.node(number);
        self.cluster.apply(
            &json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node, "labels": {PURPOSE: self.namespace.name()}},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "capacity": {"ephemeral-storage": "104857600Ki"},
                },
            })
            .to_string(),
        );
        let machine = Machine::new();
        let (cpus, memory_kib) = match shape {
            Shape::Large => ("0-7", 131_072_000),
            Shape::Small | Shape::Gpus => ("0-3", 65_536_000),
        };
        let memory_kib = memory_kib - 3 * 1024 * number;
        machine.write("proc/meminfo", &format!("MemTotal:       {memory_kib} kB\n"));
        machine.write("sys/devices/system/cpu/online", &format!("{cpus}\n"));
        if shape == Shape::Gpus {
            for address in GPUS {
                machine.add(Function::h100(address));
            }
            machine.nvml(&driver(&GPUS.map(|address| gpu(address, number))));
        }
        self.machines.push(machine);
    }

    fn node(&self, number: usize) -> String {
        format!("{}-{number}", self.namespace.name())
    }

    fn start_aggregator(&mut self, name: &str) {
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        let arguments = [
            "--kubeconfig",
            &kubeconfig,
            "--namespace",
            self.namespace.name(),
            "--replica-name",
            name,
            "--interval",
            "1s",
        ];
        let aggregator = self.bed.aggregator_on_kubernetes("unikorn.yaml", &arguments);
        self.aggregators.insert(name.to_owned(), aggregator);
    }

    /// Agents that report to this aggregator; those that ran are gone, with all that they knew.
    fn start_agents(&mut self, aggregator: &str) {
        self.agents.clear();
        let url = self.aggregators[aggregator].intake_url();
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        for (number, machine) in self.machines.iter().enumerate() {
            let node = self.node(number);
            let arguments = [
                "--node-name",
                &node,
                "--interval",
                "1s",
                "--stamp-labels",
                "--kubeconfig",
                &kubeconfig,
            ];
            let agent = self.bed.agent_with(&url, &arguments, |command| {
                machine.prepare(command, &nvml_standin());
            });
            self.agents.push(agent);
        }
    }

    /// The class label of each Node.
    fn labels(&self) -> Vec<Option<String>> {
        let selector = format!("{PURPOSE}={}", self.namespace.name());
        let nodes = self.cluster.get(&["nodes", "--selector", &selector]);
        let nodes = nodes["items"].as_array().expect("a list").clone();
        let of = |number| {
            let name = self.node(number);
            let node = nodes.iter().find(|node| text(node, "/metadata/name") == name);
            let label = node.expect("the Node")["metadata"]["labels"][CLASS].as_str();
            label.map(str::to_owned)
        };
        (0..self.machines.len()).map(of).collect()
    }

    /// The class labels, once every Node has one.
    fn all_labels(&self) -> Vec<String> {
        wait_until("every Node to have a class", SOON, || {
            let labels = self.labels();
            labels.iter().cloned().collect::<Option<Vec<String>>>().ok_or(labels)
        })
    }

    /// Runs one of the operator's commands with the cluster file and an aggregator.
    fn run(&self, aggregator: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("rollcall-aggregator"));
        command
            .args(arguments)
            .arg("--cluster")
            .arg(self.bed.path("unikorn.yaml"))
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("ROLLCALL_SERVER", format!("http://{}", self.aggregators[aggregator].admin));
        command.output().expect("the program runs")
    }

    fn done(&self, aggregator: &str, arguments: &[&str]) -> String {
        let output = self.run(aggregator, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn region(&self, aggregator: &str) -> Value {
        let printed = self.done(aggregator, &["document", "unikorn", "--output", "json"]);
        serde_json::from_str(&printed).expect("JSON")
    }

    /// The Region as the management cluster has it.
    fn live(&self) -> Value {
        self.cluster.get(&["region", "west", "--namespace", self.namespace.name()])
    }

    /// How each check came out, and what was seen.
    fn check(&self, aggregator: &str) -> BTreeMap<String, (String, String)> {
        let mut command = Command::new(program("rollcall-aggregator"));
        command
            .args(["check", "unikorn", "--output", "json", "--cluster"])
            .arg(self.bed.path("checked.yaml"))
            .arg("--kubeconfig")
            .arg(self.bed.path("checker"))
            .env("ROLLCALL_SERVER", format!("http://{}", self.aggregators[aggregator].admin));
        let output = command.output().expect("the program runs");
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        let groups = report["groups"].as_array().expect("groups").iter();
        let checks = groups.flat_map(|group| group["checks"].as_array().expect("checks"));
        let of = |check: &Value| {
            let key = |key: &str| text(check, key).to_owned();
            (key("/name"), (key("/outcome"), key("/seen")))
        };
        checks.map(of).collect()
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.agents.clear();
        self.aggregators.clear();
        let selector = format!("{PURPOSE}={}", self.namespace.name());
        let _gone = self.cluster.try_kubectl(&["delete", "node", "--selector", &selector], "");
        for number in 0..self.machines.len() {
            let name = self.node(number);
            let delete = ["delete", "nodeinventory", &name, "--ignore-not-found", "--wait=false"];
            let _gone = self.cluster.try_kubectl(&delete, "");
        }
        for object in [
            "clusterrolebinding/rollcall-unikorn-unikorn-region",
            "clusterrolebinding/rollcall-unikorn-checker",
            "clusterrole/rollcall-unikorn-checker",
            "namespace/rollcall-unikorn",
            "customresourcedefinition/regions.region.unikorn-cloud.org",
        ] {
            let _gone = self.cluster.try_kubectl(&["delete", object, "--ignore-not-found"], "");
        }
    }
}

/// The rights that docs/targets/unikorn.md tells `check` to need.
fn checkers_rights() -> Value {
    let rbac = "rbac.authorization.k8s.io";
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": CHECKER},
            "rules": [
                rule("", &["nodes"], &["list"]),
                rule("apps", &["deployments", "daemonsets"], &["list"]),
                rule("networking.k8s.io", &["ingressclasses"], &["list"]),
                rule("", &["secrets", "services"], &["get"]),
                rule("region.unikorn-cloud.org", &["regions"], &["get", "create", "patch"]),
            ],
        },
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": CHECKER},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": CHECKER},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": CHECKER}],
        },
    ]})
}

/// Error correction and drivers take a little of a GPU's memory, not everywhere the same.
fn gpu(address: &str, number: usize) -> Value {
    let mut gpu = h100(address);
    gpu["memoryBytes"] = json!(85_520_809_984_u64 - ((number as u64) << 20));
    gpu
}

/// Which classes the nodes of each shape have.
fn by_shape(labels: &[String]) -> BTreeMap<Shape, BTreeSet<&str>> {
    let mut classes: BTreeMap<Shape, BTreeSet<&str>> = BTreeMap::new();
    for (shape, label) in SHAPES.into_iter().zip(labels) {
        classes.entry(shape).or_default().insert(label);
    }
    classes
}

/// The entries of a Region by their ids.
fn entries(region: &Value) -> BTreeMap<String, Value> {
    let nodes = region["spec"]["kubernetes"]["nodes"].as_array().expect("nodes").iter();
    nodes.map(|node| (text(node, "/id").to_owned(), node.clone())).collect()
}

pub(super) fn classes_are_for_ever(cluster: &Cluster) {
    let _kinds = Kinds::declare(cluster);
    let mut world = World::new(cluster, "classes");
    world.start_aggregator("r1");
    world.start_aggregator("r2");
    world.start_agents("r2");

    // Three shapes, three classes; some MiB more or less make no other.
    let labels = world.all_labels();
    let classes = by_shape(&labels);
    assert!(classes.values().all(|classes| classes.len() == 1), "{classes:#?}");
    let all: BTreeSet<&String> = labels.iter().collect();
    assert_eq!(all.len(), 3, "{labels:?}");
    for label in &all {
        let id: uuid::Uuid = label.parse().expect("a UUID");
        assert_eq!((id.get_version_num(), &id.to_string()), (4, *label));
    }
    assert!(classes[&Shape::Large].contains(BRATWURST), "the declared one: {classes:#?}");

    // A GPU is lost: told, and nothing is relabelled.
    let broken = SHAPES.iter().position(|shape| *shape == Shape::Gpus).expect("one with GPUs");
    world.machines[broken].nvml(&driver(&[gpu(GPUS[0], broken)]));
    let node = world.node(broken);
    wait_until("the mismatch to be told", SOON, || {
        let shown = world.aggregators["r1"].operate(&["nodes"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let line = format!("! node {node}, its class: 1 of its 2 GPUs do not answer");
        if shown.lines().any(|it| it == line) { Ok(()) } else { Err(shown) }
    });
    let metrics = rollcall_tests::bed::get(world.aggregators["r1"].admin, "/metrics", "").body;
    let line = format!("rollcall_node_class_mismatches{{node=\"{node}\"}}");
    wait_until("the metric", SOON, || {
        let metrics = rollcall_tests::bed::get(world.aggregators["r1"].admin, "/metrics", "").body;
        if metrics.lines().any(|it| it == format!("{line} 1")) { Ok(()) } else { Err("none") }
    });
    drop(metrics);
    assert_eq!(world.all_labels(), labels, "a broken GPU is no other class");
    let (outcome, seen) = world.check("r1")["nodes of one class have one shape"].clone();
    assert_eq!(
        (outcome.as_str(), seen),
        ("fail", format!("{node}: 1 of its 2 GPUs do not answer"))
    );
    world.machines[broken].nvml(&driver(&GPUS.map(|address| gpu(address, broken))));

    // Everybody is killed and forgets all; a replica that was never there takes over.
    for (_, mut aggregator) in std::mem::take(&mut world.aggregators) {
        aggregator.daemon.kill_9();
    }
    world.agents.clear();
    let name = world.node(0);
    world.cluster.kubectl(&["label", "node", &name, &format!("{CLASS}-")]);
    world.start_aggregator("r3");
    world.start_agents("r3");
    assert_eq!(world.all_labels(), labels, "after a restart, with new agents and a new replica");

    // A machine that comes has the class of its shape.
    world.add_machine(SHAPES.len(), Shape::Small);
    world.start_agents("r3");
    let more = world.all_labels();
    assert_eq!(more[..SHAPES.len()], labels, "those that were there");
    assert_eq!(more[SHAPES.len()], labels[0], "that of its shape");

    // All of it deleted by hand: written again from what is known.
    let namespace = world.namespace.name().to_owned();
    let before = cluster.get(&["ledger", "classes", "--namespace", &namespace])["spec"].clone();
    let delete = ["delete", "ledger", "classes", "--namespace", &namespace];
    cluster.kubectl(&delete);
    wait_until("the classes to be written again", SOON, || {
        let now = cluster.try_get(&["ledger", "classes", "--namespace", &namespace])?;
        if now["spec"] == before { Ok::<_, String>(()) } else { Err(now.to_string()) }
    });

    // The same while nobody is there to see it: the nodes tell which classes there are.
    for (_, mut aggregator) in std::mem::take(&mut world.aggregators) {
        aggregator.daemon.kill_9();
    }
    cluster.kubectl(&delete);
    world.start_aggregator("r4");
    world.add_machine(SHAPES.len() + 1, Shape::Gpus);
    world.start_agents("r4");
    let last = world.all_labels();
    assert_eq!(last[..more.len()], more, "those that were there");
    assert_eq!(last[more.len()], labels[broken], "that of its shape");
}

/// What is sent, number by number.
fn what_is_sent(world: &World<'_>, labels: &[String]) -> BTreeMap<String, Value> {
    let namespace = world.namespace.name();
    let region = wait_until("all classes to be offered", SOON, || {
        let region = world.region("r1");
        if entries(&region).len() == 3 { Ok(region) } else { Err(region.to_string()) }
    });
    let gib = |kib: usize| format!("{}Gi", kib / 1024 / 1024);
    let declared = entries(&region);
    let smallest = |shape| SHAPES.iter().rposition(|it| *it == shape).expect("one of it");
    let kib = |total: usize, shape| total - 3 * 1024 * smallest(shape);
    assert_eq!(
        declared[BRATWURST],
        json!({
            "id": BRATWURST, "name": "bratwurst",
            "cpu": {"count": 8, "architecture": "x86_64"},
            "memory": gib(kib(131_072_000, Shape::Large)), "disk": "100Gi",
        })
    );
    let gpus = &declared[&labels[smallest(Shape::Gpus)]];
    assert_eq!(
        gpus["gpu"],
        json!({
            "vendor": "NVIDIA", "model": "NVIDIA H100 80GB HBM3", "memory": "79Gi",
            "physicalCount": 2, "logicalCount": 2,
        })
    );
    assert_eq!(gpus["memory"], gib(kib(65_536_000, Shape::Gpus)));
    assert_eq!(region["metadata"]["labels"], json!({"unikorn-cloud.org/name": "west-0"}));
    assert_eq!(
        region["spec"]["kubernetes"]["kubeConfigSecret"],
        json!({"namespace": namespace, "name": "west-kubeconfig"})
    );
    declared
}

/// The kubeconfig, twice: the second time nothing changes.
fn handed_over(world: &World<'_>) {
    let namespace = world.namespace.name();
    let printed = world.done("r1", &["prepare", "unikorn"]);
    assert!(printed.contains("name: cluster-admin") && !printed.contains("token:"), "{printed}");
    let first = world.done("r1", &["prepare", "unikorn", "--apply"]);
    assert!(first.contains("Namespace rollcall-unikorn created"), "{first}");
    let secret_line = format!("in the management cluster: Secret {namespace}/west-kubeconfig");
    assert!(first.contains(&format!("{secret_line} created")), "{first}");
    let second = world.done("r1", &["prepare", "unikorn", "--apply"]);
    assert!(second.lines().all(|line| line.ends_with(" unchanged")), "{second}");
}

/// Of all that was checked nothing was written: the server was asked what it would do, and for reviews.
fn nothing_was_written(cluster: &Cluster) {
    let account = "system:serviceaccount:rollcall-unikorn:unikorn-region";
    let (tried, asked) = wait_until("the audit log", SOON, || {
        let events = cluster.writes();
        let of = |pointer: &str, who: &str| -> Vec<Value> {
            events.iter().filter(|event| text(event, pointer) == who).cloned().collect()
        };
        let tried = of("/impersonatedUser/username", CHECKER);
        let asked = of("/user/username", account);
        if tried.is_empty() || asked.is_empty() { Err("nothing yet") } else { Ok((tried, asked)) }
    });
    for event in &tried {
        assert!(text(event, "/requestURI").contains("dryRun=All"), "{event}");
    }
    for event in &asked {
        assert_eq!(text(event, "/objectRef/resource"), "selfsubjectaccessreviews", "{event}");
    }
}

pub(super) fn the_region_is_declared(cluster: &Cluster) {
    let _kinds = Kinds::declare(cluster);
    let mut world = World::new(cluster, "region");
    cluster.apply(include_str!("region-crd.yaml"));
    let crd = "customresourcedefinition/regions.region.unikorn-cloud.org";
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", crd]);
    world.start_aggregator("r1");
    world.start_agents("r1");
    let labels = world.all_labels();
    let namespace = world.namespace.name().to_owned();

    let declared = what_is_sent(&world, &labels);
    handed_over(&world);
    // Tried first; then for good; then there is nothing to do.
    let dry = world.done("r1", &["submit", "unikorn", "--dry-run"]);
    assert_eq!(dry, format!("Region {namespace}/west would be created: 3 classes\n"));
    let (outcome, _) = &world.check("r1")["the Region would be accepted"];
    assert_eq!(outcome, "warn");
    assert!(cluster.try_get(&["region", "west", "--namespace", &namespace]).is_err());
    for expected in ["created", "unchanged"] {
        let done = world.done("r1", &["submit", "unikorn"]);
        assert_eq!(done, format!("Region {namespace}/west {expected}: 3 classes\n"));
    }
    assert_eq!(entries(&world.live()), declared);

    // What others declare stays theirs.
    let theirs = json!({
        "apiVersion": "region.unikorn-cloud.org/v1alpha1", "kind": "Region",
        "metadata": {"name": "west", "namespace": namespace},
        "spec": {"provider": "kubernetes", "kubernetes": {
            "kubeConfigSecret": {"namespace": namespace, "name": "west-kubeconfig"},
            "nodes": [{"id": "fe4ecbe4-421d-4f25-8b11-69593adfef5d", "name": "theirs",
                       "cpu": {"count": 2}, "memory": "4Gi", "disk": "40Gi"}],
        }},
    });
    let apply = ["apply", "--server-side", "--field-manager=them", "--filename", "-"];
    cluster.try_kubectl(&apply, &theirs.to_string()).expect("applied");
    assert_eq!(entries(&world.live()).len(), 4);

    // A check sees both ways: theirs has no node, and so has a class that is declared and empty.
    let checks = world.check("r1");
    for (name, expected) in [
        ("the management cluster answers", "pass"),
        ("the Region would be accepted", "pass"),
        ("the kubeconfig's Secret is there and whole", "pass"),
        ("the kubeconfig lets the network in", "pass"),
        ("every node has a class", "pass"),
        ("every class label is a version 4 UUID", "pass"),
        ("every class on a node is declared in the Region", "pass"),
        ("nodes of one class have one shape", "pass"),
        ("every declared class has a node", "fail"),
        ("ingress-nginx passes TLS through", "fail"),
        ("external-dns has a provider and a domain filter", "fail"),
        ("Prometheus' kinds are served", "fail"),
    ] {
        assert_eq!(checks[name].0, expected, "{name}: {}", checks[name].1);
    }
    let (_, seen) = &checks["every declared class has a node"];
    assert!(seen.contains("fe4ecbe4-421d-4f25-8b11-69593adfef5d"), "{seen}");

    nothing_was_written(cluster);

    // A node that somebody labels by hand, with a class that nobody has declared yet.
    let node = world.node(1);
    let other = "9d2b8c1e-0f5a-4c3b-8e7d-6a5b4c3d2e1f";
    cluster.kubectl(&["label", "node", &node, &format!("{CLASS}={other}"), "--overwrite"]);
    wait_until("the class that is set by hand to be known", SOON, || {
        let (outcome, seen) =
            world.check("r1")["every class on a node is declared in the Region"].clone();
        if outcome == "fail" && seen.contains(other) { Ok(()) } else { Err(seen) }
    });
    wait_until("the Region with it to be applied", SOON, || {
        let done = world.done("r1", &["submit", "unikorn"]);
        let live = entries(&world.live());
        if live.contains_key(other) { Ok(()) } else { Err(done) }
    });
    let live = entries(&world.live());
    assert_eq!(live.len(), 5, "theirs is there still: {live:#?}");
    assert_eq!(live["fe4ecbe4-421d-4f25-8b11-69593adfef5d"]["name"], "theirs");

    // A declared class without a node is not offered, and its check says so.
    drop(world.aggregators.remove("r1"));
    let empty = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
    world.declare(&format!("        - {{id: {empty}, name: empty, fits: {{vcpus: 999}}}}\n"));
    world.start_aggregator("r1");
    wait_until("the aggregator to have the Nodes", SOON, || {
        let region = world.region("r1");
        if entries(&region).len() == 4 { Ok(()) } else { Err(region.to_string()) }
    });
    assert!(!entries(&world.region("r1")).contains_key(empty));
    let (outcome, seen) = &world.check("r1")["every declared class has a node"];
    assert!(outcome == "fail" && seen.contains(empty), "{outcome}: {seen}");
}
