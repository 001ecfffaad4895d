//! The cluster itself: what the other tests build upon.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rollcall_tests::bed::get;
use rollcall_tests::cluster::{Cluster, Namespace, SOON, text, wait_until};
use serde_json::{Value, json};

use super::condition;

pub(crate) fn every_node_is_ready(cluster: &Cluster) {
    let nodes = cluster.get(&["nodes"]);
    let nodes = nodes["items"].as_array().expect("a list");
    assert!(nodes.len() >= 2, "there are fewer than two nodes: {nodes:?}");
    for node in nodes {
        assert_eq!(condition(node, "Ready"), "True", "{node}");
    }
    // Each is a machine of its own.
    for identity in ["/status/nodeInfo/machineID", "/status/nodeInfo/bootID"] {
        let distinct: BTreeSet<_> = nodes.iter().map(|node| text(node, identity)).collect();
        assert_eq!(distinct.len(), nodes.len(), "{identity}: {distinct:?}");
    }
}

pub(crate) fn a_token_of_a_pod_is_reviewed(cluster: &Cluster) {
    let pods = Pods::on_every_node(cluster, "token");
    for (pod, node) in &pods.running {
        let token = pods.run(pod, "cat /var/run/rollcall/token");
        let review = review(cluster, &token, "rollcall");
        assert_eq!(review["status"]["authenticated"], json!(true), "of {pod} on {node}: {review}");
        assert_eq!(review["status"]["audiences"], json!(["rollcall"]), "{review}");
        let extra = &review["status"]["user"]["extra"];
        assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!([pod]), "{review}");
        let account = format!("system:serviceaccount:{}:default", pods.namespace.name());
        assert_eq!(text(&review, "/status/user/username"), account);

        let elsewhere = self::review(cluster, &token, "another-audience");
        assert_ne!(elsewhere["status"]["authenticated"], json!(true), "{elsewhere}");
    }
}

pub(crate) fn pods_reach_services_by_name(cluster: &Cluster) {
    let pods = Pods::on_every_node(cluster, "names");
    pods.reach_one_another();
}

pub(crate) fn pods_and_this_machine(cluster: &Cluster) {
    let pods = Pods::on_every_node(cluster, "host");
    let listener =
        TcpListener::bind((cluster.address_of_this_machine(), 0)).expect("an address of ours");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    for (pod, node) in &pods.running {
        let answering = thread::spawn({
            let listener = listener.try_clone().expect("a listener");
            move || {
                let (mut stream, from) = listener.accept().expect("a connection");
                let mut request = [0; 1024];
                let _length = stream.read(&mut request).expect("a request");
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").expect("an answer");
                from.ip()
            }
        });
        let busybox = cluster.busybox().program;
        let answer = pods.run(pod, &format!("{busybox} timeout 10 {busybox} wget -q -O - {url}"));
        assert_eq!(answer, "hello", "{pod} on {node} asked {url}");
        let status = cluster.get(&["pod", pod, "--namespace", pods.namespace.name()]);
        let from = answering.join().expect("the answer is given").to_string();
        assert_eq!(from, text(&status, "/status/podIP"), "{pod} came from another address");

        for (kind, address, port) in
            [("pod", "/status/podIP", 8080), ("service", "/spec/clusterIP", 80)]
        {
            let object = cluster.get(&[kind, pod, "--namespace", pods.namespace.name()]);
            let address: IpAddr = text(&object, address).parse().expect("an address");
            let address = SocketAddr::new(address, port);
            // Rules follow a Service's creation.
            wait_until(&format!("{kind} {pod} to be reached at {address}"), SOON, || {
                TcpStream::connect_timeout(&address, SOON)
            });
            let answer = get(address, "/", "");
            assert_eq!(answer.body.trim(), node, "{kind} {pod} at {address}: {answer:?}");
        }
    }
}

pub(crate) fn images(cluster: &Cluster) {
    let namespace = cluster.namespace("images");
    let version = env!("CARGO_PKG_VERSION");
    for name in ["rollcall-agent", "rollcall-aggregator"] {
        let image = format!("rollcall.dev/{name}:{version}");
        let start = |pod: &str, command: Value| {
            let mut container = json!({
                "name": "program",
                "image": image,
                "imagePullPolicy": "Never",
                "args": ["--version"],
                "securityContext": {
                    "runAsNonRoot": true,
                    "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            });
            if !command.is_null() {
                container["command"] = command;
            }
            cluster.apply(
                &json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": pod, "namespace": namespace.name()},
                    "spec": {"restartPolicy": "Never", "containers": [container]},
                })
                .to_string(),
            );
            wait_until(&format!("the end of {pod}"), SOON, || {
                let pod = cluster.get(&["pod", pod, "--namespace", namespace.name()]);
                let ended = pod.pointer("/status/containerStatuses/0/state/terminated");
                ended.cloned().ok_or_else(|| pod["status"].clone())
            })
        };
        let ended = start(name, Value::Null);
        assert_eq!(ended["exitCode"], json!(0), "{image}: {ended}");
        let said = cluster.kubectl(&["logs", name, "--namespace", namespace.name()]);
        assert_eq!(said.trim(), format!("{name} {version}"), "{image}");

        let shell = start(&format!("{name}-shell"), json!(["/bin/sh"]));
        assert_eq!(text(&shell, "/reason"), "StartError", "{image} has a shell: {shell}");
        assert!(text(&shell, "/message").contains("no such file"), "{image}: {shell}");
    }
}

pub(crate) fn pods_outlast_the_api_server(cluster: &Cluster) {
    let pods = Pods::on_every_node(cluster, "outage");
    // While nobody can be asked to enter a pod, they ask one another in a loop.
    let count = |pod: &str| -> u32 {
        pods.run(pod, "wc -l </tmp/asked").trim().parse().expect("a number of lines")
    };
    let (asking, node) = pods.running.first().expect("a pod");
    let (_, other) = pods.running.last().expect("a pod");
    let ask =
        format!("(while :; do {} >>/tmp/asked; sleep 1; done) >/dev/null 2>&1 &", pods.ask(other));
    pods.run(asking, &ask);
    wait_until("an answer", SOON, || match count(asking) {
        0 => Err("none yet"),
        _ => Ok(()),
    });
    let before = count(asking);
    cluster.stop_api_server();
    assert!(cluster.try_get(&["nodes"]).is_err(), "the API server answers though it was stopped");
    thread::sleep(Duration::from_secs(5));
    cluster.start_api_server();
    let during = count(asking) - before;
    assert!(during >= 3, "{during} answers from {other} to {node} without the API server");
}

pub(crate) fn a_node_goes_and_comes(cluster: &Cluster) {
    const NODE: &str = "node-c";
    cluster.start_node(NODE);
    let started = cluster.get(&["node", NODE]);
    assert_eq!(condition(&started, "Ready"), "True", "{started}");
    cluster.stop_node(NODE);
    cluster.kubectl(&["delete", "node", NODE]);
    cluster.start_node(NODE);
    let anew = cluster.get(&["node", NODE]);
    let uid = |node: &Value| text(node, "/metadata/uid").to_owned();
    assert_ne!(uid(&anew), uid(&started), "the same Node object");
    let machine = "/status/nodeInfo/machineID";
    assert_eq!(text(&anew, machine), text(&started, machine), "another machine");
    cluster.stop_node(NODE);
    cluster.kubectl(&["delete", "node", NODE]);
}

/// A pod with a Service on every node, in a namespace of its own. Each serves its node's name.
struct Pods<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
    /// Pods and their nodes.
    running: Vec<(String, String)>,
}

impl<'a> Pods<'a> {
    fn on_every_node(cluster: &'a Cluster, purpose: &str) -> Self {
        let namespace = cluster.namespace(purpose);
        let nodes = cluster.names(&["nodes"]);
        let busybox = cluster.busybox();
        let running: Vec<_> = nodes.into_iter().map(|node| (format!("on-{node}"), node)).collect();
        let serve = format!(
            "cd /tmp && echo $NODE_NAME >index.html && exec {} httpd -f -p 8080",
            busybox.program
        );
        let manifests: Vec<Value> = running
            .iter()
            .flat_map(|(pod, node)| {
                let metadata = json!({
                    "name": pod,
                    "namespace": namespace.name(),
                    "labels": {"pod": pod},
                });
                let pod = json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": metadata,
                    "spec": {
                        "nodeName": node,
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{
                            "name": "busybox",
                            "image": busybox.image,
                            "imagePullPolicy": busybox.pull_policy,
                            "command": [busybox.program, "sh", "-c", serve],
                            "env": [{
                                "name": "NODE_NAME",
                                "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
                            }],
                            "volumeMounts": [
                                {"name": "token", "mountPath": "/var/run/rollcall"},
                                {"name": "tmp", "mountPath": "/tmp"},
                            ],
                        }],
                        "volumes": [
                            {"name": "tmp", "emptyDir": {}},
                            {"name": "token", "projected": {"sources": [{
                                "serviceAccountToken": {
                                    "path": "token",
                                    "audience": "rollcall",
                                    "expirationSeconds": 600,
                                },
                            }]}},
                        ],
                    },
                });
                let service = json!({
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": metadata,
                    "spec": {"selector": metadata["labels"], "ports": [
                        {"port": 80, "targetPort": 8080},
                    ]},
                });
                [pod, service]
            })
            .collect();
        cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": manifests}).to_string());
        for (pod, node) in &running {
            wait_until(&format!("{pod} on {node} to be ready"), SOON, || {
                let pod = cluster.get(&["pod", pod, "--namespace", namespace.name()]);
                if condition(&pod, "Ready") == "True" { Ok(()) } else { Err(pod["status"].clone()) }
            });
        }
        Self { cluster, namespace, running }
    }

    /// Runs a line of shell in a pod.
    fn run(&self, pod: &str, line: &str) -> String {
        self.try_run(pod, line).expect("the pod does as it is told")
    }

    fn try_run(&self, pod: &str, line: &str) -> Result<String, String> {
        let busybox = self.cluster.busybox().program;
        self.cluster.try_exec(self.namespace.name(), pod, &[busybox, "sh", "-c", line])
    }

    /// The line of shell that asks the Service of a node's pod, by its name as manifests write it:
    /// the rest is the resolver's.
    fn ask(&self, node: &str) -> String {
        let busybox = self.cluster.busybox().program;
        // Not wget's own limit, at which a static busybox crashes.
        let namespace = self.namespace.name();
        format!("{busybox} timeout 5 {busybox} wget -q -O - http://on-{node}.{namespace}.svc")
    }

    /// Every pod asks every pod's Service, its own too.
    fn reach_one_another(&self) {
        for (pod, _) in &self.running {
            for (_, node) in &self.running {
                let ask = self.ask(node);
                // Names and rules follow a Service's creation.
                let answer =
                    wait_until(&format!("{pod} to reach the Service on {node}"), SOON, || {
                        self.try_run(pod, &ask)
                    });
                assert_eq!(answer.trim(), node, "{pod}: {ask}");
            }
        }
    }
}

/// What the server says of a token for an audience.
fn review(cluster: &Cluster, token: &str, audience: &str) -> Value {
    cluster.create(&json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }))
}
