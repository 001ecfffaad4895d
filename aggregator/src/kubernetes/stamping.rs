//! Stamps Nodes with their accepted ids where agents do not (`stamping: aggregator`): for API servers
//! that cannot confine an agent to its own Node. The leader does it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use rollcall_daemon::kubernetes::words;
use rollcall_report::{NODE_CLASS_LABEL, NODE_ID_LABEL, NodeId, NodeName};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::nodes::Node;
use crate::aggregator::Aggregator;
use crate::class::NodeClassId;
use crate::roll::Entry;

/// Whose the labels are to the API server: the agents', so that either may go on where the other has
/// stamped before.
const FIELD_MANAGER: &str = "rollcall-agent";
/// What changes together is stamped together.
const GATHERING: Duration = Duration::from_millis(500);
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(15);
/// A Node is stamped so often within a minute, and then waits: no war with whoever takes the label away.
const MOST_STAMPS: usize = 5;
const WINDOW: Duration = Duration::from_mins(1);
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A label to be put on a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    node: NodeName,
    /// A Node that was made anew meanwhile is another one.
    uid: String,
    id: NodeId,
    /// Its class, where it has one; one that was stamped and is left out would be taken away.
    class: Option<NodeClassId>,
    /// Whether the operator lets it replace another label.
    force: bool,
}

/// What a Node lacks; nothing where its labels are right, or somebody else's: such an id is adopted with
/// the node's next report, and such a class where nodes are given theirs.
fn lacking(entry: &Entry, node: &Node, has_classes: bool) -> Option<Stamp> {
    let is_this_node = entry.node_uid.as_ref() == Some(&node.uid);
    // An empty one keeps the node away from the network, and is a person's.
    let label = node.labels.get(NODE_CLASS_LABEL);
    let former = entry.former_class.map(|class| class.to_string());
    let is_free = label.is_none_or(|label| Some(label) == former.as_ref());
    let is_right = |class: &NodeClassId| label.is_some_and(|label| *label == class.to_string());
    let class = entry.node_class.filter(|class| has_classes && (is_free || is_right(class)));
    let lacks_class = class.is_some_and(|class| !is_right(&class));
    let force = match &node.node_id {
        Some(label) if *label == entry.node_id && !lacks_class => return None,
        Some(label) if *label == entry.node_id => false,
        Some(_) if !entry.overwrites_label => return None,
        Some(_) => true,
        None => false,
    };
    let (name, uid, id) = (entry.name.clone(), node.uid.clone(), entry.node_id.clone());
    // Force settles the id alone; the class follows without.
    let class = class.filter(|class| !force || is_right(class));
    is_this_node.then_some(Stamp { node: name, uid, id, class, force })
}

/// Stamps whatever Node lacks its label, for as long as this aggregator leads.
pub async fn stamp(client: Client, aggregator: Arc<Aggregator>) -> Infallible {
    let nodes: Api<core::Node> = Api::all(client);
    let mut changes = aggregator.watch();
    let mut troubles = BTreeMap::new();
    let mut stamped: BTreeMap<NodeName, Vec<Instant>> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        stamped.retain(|_, times| {
            times.retain(|at| at.elapsed() < WINDOW);
            !times.is_empty()
        });
        let is_early =
            |it: &Stamp| stamped.get(&it.node).is_some_and(|times| times.len() >= MOST_STAMPS);
        let (early, stamps): (Vec<_>, Vec<_>) = stamps(&aggregator).into_iter().partition(is_early);
        troubles.retain(|node, _| stamps.iter().any(|stamp| stamp.node == *node));
        for stamp in &stamps {
            match put(&nodes, stamp).await {
                Ok(false) => {}
                Ok(true) => {
                    troubles.remove(&stamp.node);
                    stamped.entry(stamp.node.clone()).or_default().push(Instant::now());
                    log::info!(node = stamp.node.as_str(), node_id = stamp.id.as_str();
                        "the Node is stamped");
                }
                Err(words) => {
                    if troubles.get(&stamp.node) != Some(&words) {
                        let (node, id) = (&stamp.node, &stamp.id);
                        log::warn!(node = node.as_str(), node_id = id.as_str(), error = words.as_str();
                            "the Node cannot be stamped, trying again");
                        let told = format!("the label {NODE_ID_LABEL}={id} cannot be set: {words}");
                        aggregator.events.complain(node, "NodeNotStamped", &told);
                    }
                    troubles.insert(stamp.node.clone(), words);
                }
            }
        }
        let retry = async {
            if troubles.is_empty() && early.is_empty() {
                std::future::pending::<()>().await;
            }
            sleep(RETRY).await;
        };
        tokio::select! {
            // The sender lives as long as the aggregator, which this holds.
            _ = changes.changed() => sleep(GATHERING).await,
            () = retry => {}
        }
    }
}

fn stamps(aggregator: &Aggregator) -> Vec<Stamp> {
    let Some(nodes) = aggregator.nodes.all() else { return Vec::new() };
    let roll = aggregator.roll();
    let entries = roll.entries().into_iter();
    let has_classes = aggregator.file.region().is_some();
    entries.filter_map(|entry| lacking(entry, nodes.get(&entry.name)?, has_classes)).collect()
}

/// `false`: the Node went meanwhile, which its watch tells.
async fn put(nodes: &Api<core::Node>, stamp: &Stamp) -> Result<bool, String> {
    let mut labels = json!({ NODE_ID_LABEL: stamp.id });
    if let (Some(class), Some(labels)) = (stamp.class, labels.as_object_mut()) {
        labels.insert(NODE_CLASS_LABEL.to_owned(), class.to_string().into());
    }
    let patch = Patch::Apply(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "uid": stamp.uid, "labels": labels },
    }));
    let params = PatchParams { force: stamp.force, ..PatchParams::apply(FIELD_MANAGER) };
    match timeout(REQUEST_TIMEOUT, nodes.patch_metadata(stamp.node.as_str(), &params, &patch)).await
    {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(Error::Api(status))) if status.code == 404 => Ok(false),
        Ok(Err(error)) => Err(words::of(&error)),
        Err(_elapsed) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use jiff::Timestamp;
    use kube::api::ObjectMeta;

    use super::*;
    use crate::digest::Digest;
    use crate::intake::parse::parse;
    use crate::roll::Roll;
    use crate::roll::identity::Voucher;

    fn entry(id: &str, overwrites_label: bool) -> Entry {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
        let mut report = parse(&fs::read(path).expect("the sample")).expect("a report");
        report.node.proposed_id = id.parse().expect("an id");
        let voucher = Voucher { node_uid: "u1".to_owned(), label: None, is_proven: true };
        let change = Roll::default().admit(
            report,
            Digest::of(&[b"x"]),
            Some(&voucher),
            Timestamp::UNIX_EPOCH,
        );
        Entry { overwrites_label, ..change.expect("no conflict").entry.into_inner() }
    }

    fn node(uid: &str, label: Option<&str>) -> Node {
        let label = label.map(|label| (NODE_ID_LABEL.to_owned(), label.to_owned()));
        let metadata = ObjectMeta {
            name: Some("node-1".into()),
            uid: Some(uid.into()),
            labels: Some(label.into_iter().collect()),
            ..ObjectMeta::default()
        };
        let node = core::Node { metadata, ..core::Node::default() };
        Node::of(node, &BTreeSet::new()).expect("a Node")
    }

    #[test]
    fn what_a_node_lacks() {
        for (what, entry, node, expected) in [
            ("no label", entry("x", false), node("u1", None), Some(false)),
            ("an empty one", entry("x", false), node("u1", Some("")), Some(false)),
            ("the right one", entry("x", false), node("u1", Some("x")), None),
            ("another's", entry("x", false), node("u1", Some("y")), None),
            ("another's that may go", entry("x", true), node("u1", Some("y")), Some(true)),
            ("none, and another's might go", entry("x", true), node("u1", None), Some(false)),
            ("a Node made anew", entry("x", false), node("u2", None), None),
        ] {
            let lacking = lacking(&entry, &node, true);
            assert_eq!(lacking.as_ref().map(|stamp| stamp.force), expected, "{what}");
            assert!(lacking.is_none_or(|stamp| stamp.id.as_str() == "x" && stamp.uid == "u1"));
        }
    }

    #[test]
    fn which_class_a_node_lacks() {
        let [class, former, other] = [(); 3].map(|()| NodeClassId::allocate());
        let labelled = |id: Option<&str>, label: Option<String>| {
            let mut node = node("u1", id);
            node.labels.extend(label.map(|label| (NODE_CLASS_LABEL.to_owned(), label)));
            node
        };
        let classed = |overwrites_label| Entry {
            node_class: Some(class),
            former_class: Some(former),
            ..entry("x", overwrites_label)
        };
        let with_class = Some((Some(class), false));
        for (what, entry, node, has_classes, expected) in [
            ("none", classed(false), labelled(Some("x"), None), true, with_class),
            ("both", classed(false), labelled(None, None), true, with_class),
            ("nothing", classed(false), labelled(Some("x"), Some(class.to_string())), true, None),
            (
                "another machine's",
                classed(false),
                labelled(Some("x"), Some(former.to_string())),
                true,
                with_class,
            ),
            (
                "a person's",
                classed(false),
                labelled(Some("x"), Some(other.to_string())),
                true,
                None,
            ),
            ("kept away", classed(false), labelled(Some("x"), Some(String::new())), true, None),
            ("no region", classed(false), labelled(Some("x"), None), false, None),
            ("no class yet", entry("x", false), labelled(Some("x"), None), true, None),
            // Force settles the id alone; the class that is there must not go by it.
            ("by force, none", classed(true), labelled(Some("y"), None), true, Some((None, true))),
            (
                "by force, its own",
                classed(true),
                labelled(Some("y"), Some(class.to_string())),
                true,
                Some((Some(class), true)),
            ),
            (
                "by force, a person's",
                classed(true),
                labelled(Some("y"), Some(other.to_string())),
                true,
                Some((None, true)),
            ),
        ] {
            let lacking = lacking(&entry, &node, has_classes);
            let found = lacking.map(|stamp| (stamp.class, stamp.force));
            assert_eq!(found, expected, "{what}");
        }
    }
}
