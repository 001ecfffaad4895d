//! An agent outside Kubernetes stamps the labels of its Node, with what the kubelet has.

use std::fs;
use std::path::Path;
use std::process::Command;

use rollcall_tests::cluster::{Cluster, text};
use rollcall_tests::host::site::{set, unset, wait_for_report};
use rollcall_tests::host::{AGENT, Machine, SOON};
use rollcall_tests::process::wait_until;
use serde_json::json;

use super::Stage;
use super::mutual_tls::kubelet;

/// What the documentation tells to do.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bare-metal.md");

pub(crate) fn once_the_kubelet_joins(stage: &Stage) {
    let cluster = Cluster::find().expect("test.sh sets an API server up");
    let kubeconfig = cluster.kubeconfig();
    let pki = kubeconfig.parent().expect("it is in a folder").join("pki");
    stage.on_site(|head, node, site| {
        let own = site.authority.pem();
        let ca = fs::read_to_string(pki.join("ca.crt")).expect("the cluster's CA");
        head.write("/etc/rollcall/client-ca.pem", "root:root", "0644", &format!("{own}{ca}"));
        node.write("/etc/kubernetes/pki/ca.crt", "root:root", "0644", &ca);
        node.run(&["mkdir", "-p", "/var/lib/kubelet/pki"]);

        let settings = [documented("ROLLCALL_STAMP_LABELS=true"), documented("ROLLCALL_CLIENT_CERT=/run")];
        let settings: Vec<&str> = settings.iter().flat_map(|block| block.lines()).collect();
        set(node, AGENT, &settings);
        let commands = documented("rollcall-agent-kubelet.path");
        // The editor's work is done.
        let commands: Vec<&str> = commands.lines().filter(|line| !line.starts_with("vi ")).collect();
        node.shell(&commands.join("\n"));
        let server = cluster.kubectl(&[
            "config",
            "view",
            "--output",
            "jsonpath={.clusters[0].cluster.server}",
        ]);
        let edit = format!("s#https://CHANGE-ME:6443#{server}#");
        node.run(&["sed", "-i", &edit, "/etc/rollcall/agent.kubeconfig"]);
        let active = node.property(AGENT, "ActiveState");
        assert_eq!(active, "inactive", "there is nothing to lend yet: {}", node.tail(AGENT));

        // The kubelet joins: a certificate, and a link to it. Its Node comes later.
        let place = node.now();
        let pair = kubelet(&pki, "node");
        let both = format!("{}{}", pair.certificate, pair.key);
        node.write("/var/lib/kubelet/pki/kubelet-client-1.pem", "root:root", "0600", &both);
        let link = "ln -s kubelet-client-1.pem /var/lib/kubelet/pki/kubelet-client-current.pem";
        node.shell(link);
        node.wait_until_active(AGENT);
        wait_for_report(head, node, SOON);
        let waits = node.wait_for_message(AGENT, &place, "there is no such Node", SOON);
        println!("without a Node the agent says: {}", waits.message());

        create_node(&cluster, "node");
        create_node(&cluster, "another");
        wait_for_label(&cluster, node);
        let writes = cluster.writes();
        let by_agent: Vec<_> =
            writes.iter().filter(|write| text(write, "/user/username") == "system:node:node").collect();
        assert!(!by_agent.is_empty(), "it acts as the kubelet");
        for write in by_agent {
            assert_eq!(text(write, "/objectRef/name"), "node", "its own Node alone: {write}");
        }

        cluster.kubectl(&["delete", "node", "node", "another"]);
        node.shell(
            "systemctl disable --now rollcall-agent-kubelet.path
             rm -r /etc/systemd/system/rollcall-agent* /etc/kubernetes /var/lib/kubelet /etc/rollcall/agent.kubeconfig
             systemctl daemon-reload",
        );
        for name in ["ROLLCALL_STAMP_LABELS", "ROLLCALL_KUBECONFIG"] {
            unset(node, AGENT, name);
        }
        site.give_agent(node);
        node.run(&["systemctl", "restart", AGENT]);
        head.write("/etc/rollcall/client-ca.pem", "root:root", "0644", &own);
        wait_for_report(head, node, SOON);
    });
}

/// With a kubeconfig of the agent's own, made as the documentation says.
pub(crate) fn with_a_service_account(stage: &Stage) {
    let cluster = Cluster::find().expect("test.sh sets an API server up");
    stage.on_site(|head, node, _| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let commands = documented("create serviceaccount rollcall-agent-host");
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &commands])
            .env("KUBECONFIG", cluster.kubeconfig())
            .current_dir(folder.path())
            .output();
        let output = output.expect("bash runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}\n{said}");
        let kubeconfig = fs::read_to_string(folder.path().join("agent.kubeconfig"));
        let kubeconfig = kubeconfig.expect("what the commands have written");
        assert!(!kubeconfig.contains("client-key"), "nothing of the administrator's is in it");
        create_node(&cluster, "node");

        node.write("/etc/rollcall/agent.kubeconfig", "root:rollcall-agent", "0640", &kubeconfig);
        let variables =
            ["ROLLCALL_STAMP_LABELS=true", "ROLLCALL_KUBECONFIG=/etc/rollcall/agent.kubeconfig"];
        set(node, AGENT, &variables);
        node.run(&["systemctl", "restart", AGENT]);
        wait_for_label(&cluster, node);

        for name in ["ROLLCALL_STAMP_LABELS", "ROLLCALL_KUBECONFIG"] {
            unset(node, AGENT, name);
        }
        node.run(&["rm", "/etc/rollcall/agent.kubeconfig"]);
        node.run(&["systemctl", "restart", AGENT]);
        cluster.kubectl(&["delete", "node", "node"]);
        cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", "rollcall-agent-host"]);
        cluster.kubectl(&["delete", "namespace", "rollcall-system", "--wait=false"]);
        wait_for_report(head, node, SOON);
    });
}

fn create_node(cluster: &Cluster, name: &str) {
    cluster.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
}

fn wait_for_label(cluster: &Cluster, node: Machine<'_>) {
    wait_until("the label", SOON, || {
        let found = cluster.get(&["node", node.name()]);
        match text(&found, "/metadata/labels/nodeID") {
            label if label == node.name() => Ok(()),
            label => Err(format!("{label:?}\n{}", node.tail(AGENT))),
        }
    });
}

/// The commands of the documentation that hold these words.
fn documented(words: &str) -> String {
    let document = fs::read_to_string(Path::new(DOCUMENT)).expect("docs/bare-metal.md");
    // Every second part between fences is a block; its first line tells its language.
    let mut blocks = document.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.starts_with("sh\n") && block.contains(words));
    let block = block.unwrap_or_else(|| panic!("docs/bare-metal.md has no commands with {words}"));
    block.trim_start_matches("sh\n").to_owned()
}
