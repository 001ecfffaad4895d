//! What is checked of the onboarding document.

use serde_json::Value;

use super::Facts;

use crate::checks::{Observed, Unseen, Verdict, handful};
use crate::cluster_file::ClusterFile;
use crate::document::ClusterDocument;
use crate::targets::aios::{REGISTRY_LIMIT_BYTES as LIMIT_BYTES, piece_sizes, python_len};

/// The name or address that the cluster is reached by, where the cluster file has one.
pub(super) fn public_hostname(file: &ClusterFile) -> Option<&str> {
    let name = file.cluster.config.get("publicHostname")?.as_str()?.trim();
    (!name.is_empty()).then_some(name)
}

/// Whether the name is there.
pub(super) fn has_public_hostname(facts: &Facts) -> Verdict {
    judge_public_hostname(&facts.file)
}

/// Whether the name is known to this machine's resolver.
pub(super) fn public_hostname_resolves(facts: &Facts) -> Verdict {
    let addresses = &facts.public_hostname;
    let verdict = addresses.judge(|addresses| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Verdict::pass(handful(addresses.iter().map(String::as_str)))
    });
    verdict.at_most_warn()
}

/// Whether the network's own gateway is left alone.
pub(super) fn use_gateway(facts: &Facts) -> Verdict {
    judge_use_gateway(facts.file.cluster.config.get("useGateway"))
}

/// Whether the document can be sent.
pub(super) fn size(facts: &Facts) -> Verdict {
    judge_size(&facts.document)
}

fn judge_public_hostname(file: &ClusterFile) -> Verdict {
    match (public_hostname(file), file.cluster.config.get("publicHostname")) {
        (Some(name), _) if name.contains(['/', ' ']) => {
            Verdict::fail(format!("{name:?} is no name of a host"))
                .mend("write the name alone, without http:// and path")
        }
        (Some(name), _) => Verdict::pass(name),
        (None, Some(_)) => Verdict::fail("config.publicHostname is no text, or empty"),
        (None, None) => Verdict::fail("config.publicHostname is not in the cluster file"),
    }
}

fn judge_use_gateway(value: Option<&Value>) -> Verdict {
    match value {
        Some(Value::Bool(true)) => Verdict::warn("config.useGateway is true"),
        Some(Value::Bool(false)) => Verdict::pass("it is false"),
        Some(other) => {
            Verdict::warn(format!("config.useGateway is {other}, neither true nor false"))
        }
        None => Verdict::warn("config.useGateway is not set, which AIOS takes for true"),
    }
}

fn judge_size(document: &Observed<ClusterDocument>) -> Verdict {
    if let Err(Unseen::Failed { .. } | Unseen::OutOfTime { .. }) = &document.result {
        return document.judge(|_| Verdict::pass("")).at_most_warn();
    }
    document.judge(|document| {
        let counted = python_len(document).and_then(|all| Ok((all, piece_sizes(document)?)));
        match counted {
            Ok((all, pieces)) if all <= LIMIT_BYTES && pieces.len() == 1 => {
                Verdict::pass(format!("{all} of {LIMIT_BYTES} bytes"))
            }
            Ok((all, pieces)) if pieces.iter().all(|piece| *piece <= LIMIT_BYTES) => {
                Verdict::pass(format!(
                    "{all} bytes, and the registry takes {LIMIT_BYTES} at once: it is sent in {} pieces",
                    pieces.len()
                ))
            }
            Ok((all, _)) => Verdict::warn(format!(
                "{all} bytes, over the registry's {LIMIT_BYTES}, and what stands beside the nodes, or one node, is too large by itself"
            )),
            Err(error) => Verdict::fail(format!("the document cannot be encoded: {error}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Warn};
    use crate::document::{NodeData, Source, assemble};

    #[test]
    fn public_hostnames() {
        for (config, outcome, seen) in [
            ("{publicHostname: west.example.org}", Pass, "west.example.org"),
            ("{publicHostname: 192.0.2.1}", Pass, "192.0.2.1"),
            ("{}", Fail, "config.publicHostname is not in the cluster file"),
            ("{publicHostname: ' '}", Fail, "config.publicHostname is no text, or empty"),
            ("{publicHostname: 7}", Fail, "config.publicHostname is no text, or empty"),
            (
                "{publicHostname: 'https://west.example.org/'}",
                Fail,
                "\"https://west.example.org/\" is no name of a host",
            ),
        ] {
            let text = format!("cluster:\n  id: west\n  regionId: lab\n  config: {config}\n");
            let file = ClusterFile::parse(&text).expect("valid");
            let verdict = judge_public_hostname(&file);
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen), "{config}");
        }
    }

    #[test]
    fn the_gateway_of_the_network() {
        for (value, outcome) in [
            (None, Warn),
            (Some(json!(false)), Pass),
            (Some(json!(true)), Warn),
            (Some(json!("true")), Warn),
        ] {
            assert_eq!(judge_use_gateway(value.as_ref()).outcome, outcome, "{value:?}");
        }
    }

    /// A document of nodes with eight GPUs each.
    fn document(nodes: u32) -> ClusterDocument {
        let text = "cluster:\n  id: west\n  regionId: lab\n";
        let file = ClusterFile::parse(text).expect("valid");
        let mut document = assemble::<Source<'_>>(&file.cluster, &file.overrides, []).document;
        let gpu = json!({"modelName": "NVIDIA H100 80GB HBM3", "memory": 81559});
        let node = |n: u32| {
            let node: NodeData = serde_json::from_value(json!({
                "id": format!("gpu-node-{n:04}.example.org"),
                "gpus": {
                    "count": 8, "memory": 652_472, "gpus": [gpu, gpu, gpu, gpu, gpu, gpu, gpu, gpu],
                    "features": ["fp16", "tensor_cores", "bf16", "fp8"],
                    "modelNames": ["NVIDIA H100 80GB HBM3"],
                },
                "vcpus": {"count": 192}, "memory": 2_063_923, "swap": 0,
                "storage": {"disks": 10, "size": 30_000_000},
                "network": {"interfaces": 10, "txBandwidth": 3_400_000, "rxBandwidth": 3_400_000},
            }))
            .expect("a node");
            node.into()
        };
        document.nodes.node_data = (0..nodes).map(node).collect();
        document.nodes.count = nodes.into();
        document
    }

    #[test]
    fn sizes() {
        for (nodes, outcome, words) in
            [(1, Pass, "bytes"), (100, Pass, "102400 bytes"), (130, Pass, "is sent in 2 pieces")]
        {
            let verdict = judge_size(&Observed::known(document(nodes)));
            assert_eq!(verdict.outcome, outcome, "{nodes}");
            assert!(verdict.seen.contains(words), "{nodes}: {}", verdict.seen);
        }
        let mut large = document(1);
        large.config.insert("note".to_owned(), "x".repeat(LIMIT_BYTES).into());
        let verdict = judge_size(&Observed::known(large));
        assert_eq!(verdict.outcome, Warn, "{}", verdict.seen);
    }
}
