//! Client certificates at the intake: who may report for whom.

use std::fs;
use std::path::Path;
use std::process::Command;

use rollcall_tests::host::authority::{Authority, Pair, Role, Validity};
use rollcall_tests::host::site::{operate, reporting, wait_for_report};
use rollcall_tests::host::{AGENT, AGGREGATOR, Machine, SOON, messages};
use serde_json::{Value, json};

use super::Stage;
use super::intake::post;

pub(crate) fn nobody_reports_for_another(stage: &Stage) {
    stage.on_site(|head, node, site| {
        let certificate = site.client("node", Validity::Now);
        let before = entry(head, "head");
        let (status, answer) = post(head, site, Some(&certificate), "head").expect("an answer");
        println!("node's certificate for head: {status} {answer}");
        assert_eq!(status, 403, "node's certificate, and a report of head: {answer}");
        assert_eq!(entry(head, "head"), before, "nothing of head's has changed");

        // The same from the agent itself: it says whose certificate it has, and nothing is taken.
        let place = node.now();
        site.give_client(node, &site.client("head", Validity::Now));
        let line = node.wait_for_message(AGENT, &place, "not accepted", SOON);
        assert!(line.message().contains("certificate"), "{}", line.message());
        println!("the agent with another's certificate says: {}", line.message());
        site.give_client(node, &certificate);
        wait_for_report(head, node, SOON);

        let refused = post(head, site, None, "node").expect_err("no certificate, no answer");
        println!("without a certificate: {refused}");
        assert!(refused.contains("CertificateRequired"), "refused in the handshake: {refused}");
        let stranger = Authority::new("a stranger");
        let stranger = stranger.issue(
            Role::Node,
            "node",
            Validity::Now,
        );
        let refused = post(head, site, Some(&stranger), "node").expect_err("no answer");
        println!("with a stranger's certificate: {refused}");

        // Operators and Prometheus are no clients of the intake.
        let metrics = "exec 3<>/dev/tcp/127.0.0.1/7657; printf 'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3";
        let metrics = head.run(&["bash", "-c", metrics]);
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert_eq!(reporting(head), ["head", "node"], "and the roll is as it was");
    });
}

pub(crate) fn a_kubelets_certificate_is_taken(stage: &Stage) {
    stage.on_site(|head, node, site| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (ca, kubelet) = kubeadm(folder.path(), "node");
        let both = format!("{}{ca}", site.authority.pem());
        head.write("/etc/rollcall/client-ca.pem", "root:root", "0644", &both);
        let process = head.property(AGGREGATOR, "MainPID");
        let own = site.client("node", Validity::Now);
        // As the kubelet keeps it: certificate and key in one file.
        let one = format!("{}{}", kubelet.certificate, kubelet.key);
        site.give_client(node, &Pair { certificate: one.clone(), key: one });
        node.run(&["systemctl", "restart", AGENT]);
        wait_for_report(head, node, SOON * 3);
        assert_eq!(head.property(AGGREGATOR, "MainPID"), process, "the CA is followed");
        let (status, answer) = post(head, site, Some(&kubelet), "head").expect("an answer");
        assert_eq!(status, 403, "a kubelet's certificate is for its own node: {answer}");

        site.give_client(node, &own);
        head.write("/etc/rollcall/client-ca.pem", "root:root", "0644", &site.authority.pem());
        wait_for_report(head, node, SOON * 3);
    });
}

/// A cluster's CA and a kubelet's certificate as `kubeadm` makes them.
fn kubeadm(folder: &Path, node: &str) -> (String, Pair) {
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -sha256 -days 3650 -subj /CN=kubernetes -keyout ca.key -out ca.crt \
         -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign -addext subjectAltName=DNS:kubernetes",
    );
    let ca = fs::read_to_string(folder.join("ca.crt")).expect("what openssl has written");
    (ca, kubelet(folder, node))
}

/// A kubelet's certificate as `kubeadm` makes it, RSA and with a subject alone, of the CA whose ca.crt
/// and ca.key are in a folder.
pub(crate) fn kubelet(folder: &Path, node: &str) -> Pair {
    fs::write(
        folder.join("client.ext"),
        "keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth\nbasicConstraints=critical,CA:FALSE\n",
    )
    .expect("written");
    let subject = format!("/O=system:nodes/CN=system:node:{node}");
    for words in [
        &format!(
            "req -newkey rsa:2048 -nodes -sha256 -subj {subject} -keyout kubelet.key -out kubelet.csr"
        ),
        "x509 -req -in kubelet.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -sha256 \
         -extfile client.ext -out kubelet.crt",
    ] {
        openssl(folder, words);
    }
    let read =
        |name: &str| fs::read_to_string(folder.join(name)).expect("what openssl has written");
    Pair { certificate: read("kubelet.crt"), key: read("kubelet.key") }
}

fn openssl(folder: &Path, words: &str) {
    let mut openssl = Command::new("openssl");
    let output = openssl.args(words.split_whitespace()).current_dir(folder).output();
    let output = output.expect("openssl is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {words}: {said}");
}

/// The CA of a site becomes another, of `rollcall-aggregator ca`: first both are trusted, then all get
/// certificates of the new one, then that alone is trusted. Nothing is restarted, no report is lost.
pub(crate) fn made_by_the_aggregator(stage: &Stage) {
    stage.on_site(|head, node, site| {
        let machines = [head, node];
        let before = machines.map(|machine| machine.property(AGENT, "MainPID"));
        let places = machines.map(Machine::now);
        head.shell(
            "cd /root
             rollcall-aggregator ca new authority
             rollcall-aggregator ca server --ca authority --to aggregator head
             rollcall-aggregator ca node --ca authority --to nodes head node",
        );
        let modes = head.shell("cd /root; stat --format %a authority authority/ca.key aggregator/tls.key nodes/node.key");
        assert_eq!(modes, "700\n600\n600\n600\n", "keys are private");
        let (old, new) = (site.authority.pem(), head.read("/root/authority/ca.pem"));
        let pair = |name: &str| Pair {
            certificate: head.read(&format!("/root/{name}.crt")),
            key: head.read(&format!("/root/{name}.key")),
        };
        let place = &places[0];
        trust(machines, &format!("{old}{new}"));
        // From then on certificates of both are taken.
        head.wait_for_message(AGGREGATOR, place, "certificates=2", SOON);
        site.give_server(head, &pair("aggregator/tls"));
        for machine in machines {
            site.give_client(machine, &pair(&format!("nodes/{}", machine.name())));
        }
        head.wait_for_message(AGGREGATOR, place, "the intake's certificate is renewed", SOON);
        trust(machines, &new);
        head.wait_for_message(AGGREGATOR, place, "certificates=1", SOON);
        for machine in machines {
            wait_for_report(head, machine, SOON);
        }
        let old_one = post(head, site, Some(&site.client("node", Validity::Now)), "node");
        old_one.expect_err("the CA of before is not trusted any more");
        for (machine, place) in machines.iter().zip(&places) {
            let said = machine.told(AGENT, place);
            let bad = said.iter().any(|entry| matches!(entry.field("PRIORITY"), "3" | "4"));
            assert!(!bad, "{} was never refused: {}", machine.name(), messages(&said));
        }
        let after = machines.map(|machine| machine.property(AGENT, "MainPID"));
        assert_eq!(after, before, "nothing was restarted");

        trust(machines, &old);
        site.give_server(head, &site.server(Validity::Now));
        for machine in machines {
            site.give_client(machine, &site.client(machine.name(), Validity::Now));
        }
        head.run(&["rm", "-r", "/root/authority", "/root/aggregator", "/root/nodes"]);
        for machine in machines {
            wait_for_report(head, machine, SOON * 2);
        }
    });
}

/// All programs trust these CAs, on both sides.
fn trust([head, node]: [Machine<'_>; 2], pem: &str) {
    head.write("/etc/rollcall/client-ca.pem", "root:root", "0644", pem);
    for machine in [head, node] {
        machine.write("/etc/rollcall/ca.pem", "root:root", "0644", pem);
    }
}

/// A node's entry in the roll, but for when it reported last.
fn entry(head: Machine<'_>, name: &str) -> Value {
    let roll = operate(head, "nodes --output json");
    let nodes = roll["nodes"].as_array().expect("a list of nodes");
    let found = nodes.iter().find(|node| node["name"] == json!(name)).cloned();
    let mut found = found.unwrap_or_else(|| panic!("{name} is on the roll: {roll}"));
    found["lastSeen"] = Value::Null;
    found
}
