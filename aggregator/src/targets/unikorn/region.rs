//! The Region that a network is told: each class with what its machines hold. Pure.

use rollcall_report::{NodeName, Reading};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::class::{GpuGroup, NodeClass, Origin};
use crate::cluster_file::UnikornTarget;
use crate::cluster_file::unikorn::{MemoryKind, Region};
use crate::roll::Entry;

/// What the Region's objects are.
pub const API_VERSION: &str = "region.unikorn-cloud.org/v1alpha1";

const GIB: u64 = 1024 * 1024 * 1024;

/// A node that has a class.
#[derive(Debug)]
pub struct Member<'a> {
    /// What is known of it.
    pub entry: &'a Entry,
    /// Its class.
    pub class: &'a NodeClass,
    /// Whether the network may place work on it now: the Node is ready and not cordoned, carries the
    /// class's label and is within the target's policy. The network looks at none of it but the label.
    pub obstacle: Option<String>,
    /// Whether it is as its class says.
    pub is_as_said: bool,
    /// What its kubelet has for pods' ephemeral storage, in bytes.
    pub ephemeral_bytes: Option<u64>,
}

/// The Region, and what is to be known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionView {
    /// The object, as it is applied.
    pub region: Value,
    /// The classes, those without machines too.
    pub classes: Vec<ClassOffer>,
    /// What is in it with less certainty than it shows, a sentence each.
    pub warnings: Vec<String>,
}

/// A class, and whether it is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassOffer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where its id comes from.
    pub origin: Origin,
    /// Whether it stands in the cluster file.
    pub declared: bool,
    /// Its nodes.
    pub nodes: Vec<NodeName>,
    /// Why it is not in the Region, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_offered: Option<String>,
}

impl ClassOffer {
    /// Why somebody should look at it: it is not offered, though it has nodes or is declared. A class whose
    /// machines are all gone is kept for those that may come, and is nobody's business.
    pub fn trouble(&self) -> Option<&str> {
        let why = self.not_offered.as_deref()?;
        (self.declared || !self.nodes.is_empty()).then_some(why)
    }
}

/// Makes the Region of the nodes that have classes. Classes are in the order of the cluster file, then in
/// the order in which they came.
pub fn assemble(
    target: &UnikornTarget,
    classes: &[NodeClass],
    members: &[Member<'_>],
) -> RegionView {
    let region = &target.region;
    let mut warnings = Vec::new();
    let (mut offers, mut nodes) = (Vec::new(), Vec::new());
    let place = |class: &NodeClass| {
        let declared = region.classes.iter().position(|declared| declared.id == class.id);
        declared.unwrap_or(region.classes.len())
    };
    let mut ordered: Vec<&NodeClass> = classes.iter().collect();
    ordered.sort_by_key(|class| place(class));
    for class in ordered {
        let declared = region.classes.iter().find(|declared| declared.id == class.id);
        let name = match declared {
            Some(declared) => declared.name.to_string(),
            // A flavor's name is one flavor's.
            None if region.classes.iter().any(|it| it.name.as_str() == class.name) => {
                let id = class.id.to_string();
                format!("{}-{}", class.name, id.split('-').next().unwrap_or_default())
            }
            None => class.name.clone(),
        };
        let of_it: Vec<&Member<'_>> =
            members.iter().filter(|member| member.class.id == class.id).collect();
        let offered = offer(region, class, &name, &of_it, &mut warnings);
        let not_offered = match offered {
            Ok(node) => {
                nodes.push(node);
                None
            }
            Err(why) => Some(why),
        };
        offers.push(ClassOffer {
            id: class.id.to_string(),
            name,
            origin: class.origin,
            declared: declared.is_some(),
            nodes: of_it.iter().map(|member| member.entry.name.clone()).collect(),
            not_offered,
        });
    }
    for declared in &region.classes {
        if !classes.iter().any(|class| class.id == declared.id) {
            offers.push(ClassOffer {
                id: declared.id.to_string(),
                name: declared.name.to_string(),
                origin: Origin::Declared,
                declared: true,
                nodes: Vec::new(),
                not_offered: Some(NO_NODE.to_owned()),
            });
        }
    }
    RegionView { region: object(region, &nodes), classes: offers, warnings }
}

const NO_NODE: &str = "no node belongs to it";

fn object(region: &Region, nodes: &[Value]) -> Value {
    let mut metadata =
        json!({ "name": region.name.as_str(), "namespace": region.namespace.as_str() });
    if let (false, Some(metadata)) = (region.labels.is_empty(), metadata.as_object_mut()) {
        metadata.insert("labels".to_owned(), json!(region.labels));
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": "Region",
        "metadata": metadata,
        "spec": {
            "provider": "kubernetes",
            "kubernetes": {
                // The network reads the secret from the Region's own namespace.
                "kubeConfigSecret": {
                    "namespace": region.namespace.as_str(),
                    "name": region.kubeconfig_secret(),
                },
                "nodes": nodes,
            },
        },
    })
}

/// A class as the Region has it, or why it is not in it.
fn offer(
    region: &Region,
    class: &NodeClass,
    name: &str,
    members: &[&Member<'_>],
    warnings: &mut Vec<String>,
) -> Result<Value, String> {
    if members.is_empty() {
        return Err(NO_NODE.to_owned());
    }
    let mut told: Vec<&Member<'_>> = Vec::new();
    let mut obstacles = Vec::new();
    for member in members {
        let node = &member.entry.name;
        match &member.obstacle {
            Some(obstacle) => obstacles.push(format!("{node} {obstacle}")),
            // One that has lost something says nothing of the others.
            None if !member.is_as_said => {
                obstacles.push(format!("{node} is not as its class says"));
            }
            None => told.push(member),
        }
    }
    if told.is_empty() {
        return Err(format!("none of its nodes can do what it says: {}", first_of(obstacles)));
    }
    warnings.extend(obstacles.into_iter().map(|obstacle| {
        format!("class {name}: node {obstacle}, and the network may place work on it all the same")
    }));
    let least = |of: fn(&Member<'_>) -> Option<u64>| {
        told.iter().map(|member| of(member)).collect::<Option<Vec<u64>>>()?.into_iter().min()
    };
    let memory = match region.memory {
        MemoryKind::Usable => least(|it| Some(it.entry.inventory.memory.known()?.total_bytes)),
        MemoryKind::Installed => {
            least(|it| it.entry.inventory.memory.known()?.installed_bytes.known().copied())
        }
    };
    let Some(memory) = memory else {
        return Err("its memory is not known of each of its nodes".to_owned());
    };
    // What pods can have, by those whose kubelets tell it.
    let disk = told.iter().filter_map(|member| member.ephemeral_bytes).min();
    if disk.is_none() {
        warnings.push(format!(
            "class {name}: no kubelet tells its ephemeral storage, so that its local disks in all stand in for it"
        ));
    }
    let disk = disk.unwrap_or(class.shape.disk_bytes);
    let mut cpu = Map::new();
    cpu.insert("count".to_owned(), json!(class.shape.vcpus));
    if let Some(model) = &class.shape.cpu_model {
        cpu.insert("family".to_owned(), json!(model));
    }
    if region.cpu_architecture {
        match class.shape.architecture.as_str() {
            known @ ("x86_64" | "aarch64") => {
                cpu.insert("architecture".to_owned(), json!(known));
            }
            other => return Err(format!("the network knows no architecture {other}")),
        }
    }
    let mut node = json!({
        "id": class.id.to_string(),
        "name": name,
        "cpu": cpu,
        "memory": whole_gi(memory, "memory")?,
        "disk": whole_gi(disk, "disk")?,
    });
    match class.shape.gpus.as_slice() {
        [] => {}
        [group] => {
            let gpu = gpus(group, &told)?;
            if let Some(node) = node.as_object_mut() {
                node.insert("gpu".to_owned(), gpu);
            }
        }
        _ => return Err("its nodes have GPUs of several models, and a flavor has one".to_owned()),
    }
    Ok(node)
}

fn first_of(words: Vec<String>) -> String {
    let more = words.len().saturating_sub(1);
    let first = words.into_iter().next().unwrap_or_default();
    match more {
        0 => first,
        more => format!("{first}, and {more} more"),
    }
}

/// Whole Gi, rounded down: the network shows no part of one.
fn whole_gi(bytes: u64, what: &str) -> Result<String, String> {
    match bytes / GIB {
        0 => Err(format!("its {what} is less than 1 GiB, and the network counts whole ones")),
        gi => Ok(format!("{gi}Gi")),
    }
}

/// The GPUs of a class. The network's logical GPU is what a workload gets as one: a GPU, or an instance
/// of one that is divided. `memory` is that of one logical GPU.
fn gpus(group: &GpuGroup, members: &[&Member<'_>]) -> Result<Value, String> {
    let of_each: Vec<Vec<LogicalGpu>> = members
        .iter()
        .map(|member| logical(&member.entry.inventory.gpus, &group.model))
        .collect::<Result<_, _>>()?;
    // Divided in one way on all of them, or not at all.
    let per_gpu = of_each.iter().flatten().map(|gpu| gpu.parts).collect::<Vec<u32>>();
    let parts = match per_gpu.as_slice() {
        [] => return Err(format!("the memory of its {} is not known", group.model)),
        [first, rest @ ..] if rest.iter().all(|parts| parts == first) => *first,
        _ => {
            return Err(
                "its GPUs are divided (MIG) in different ways, and a flavor has one".to_owned()
            );
        }
    };
    let memory = of_each.iter().flatten().map(|gpu| gpu.bytes).min().unwrap_or_default();
    Ok(json!({
        "vendor": group.vendor,
        "model": group.model,
        "memory": whole_gi(memory, "GPUs' memory")?,
        "physicalCount": group.count,
        "logicalCount": group.count.saturating_mul(parts),
    }))
}

/// A GPU as workloads get it.
struct LogicalGpu {
    /// Into how many it is divided; 1 where it is not.
    parts: u32,
    /// The memory of the smallest of them, in bytes.
    bytes: u64,
}

/// The GPUs of a model that answer, as workloads get them.
fn logical(gpus: &Reading<rollcall_report::Gpus>, model: &str) -> Result<Vec<LogicalGpu>, String> {
    let Some(gpus) = gpus.known() else { return Ok(Vec::new()) };
    let unknown = || format!("the memory of its {model} is not known");
    let driver = gpus.nvidia_driver.known().map(|driver| driver.gpus.as_slice());
    let nvidia =
        driver.unwrap_or(&gpus.nvidia_unasked).iter().filter(|gpu| gpu.model.as_str() == model);
    let nvidia = nvidia.map(|gpu| {
        let Some(instances) = &gpu.mig else {
            let bytes = *gpu.memory_bytes.known().ok_or_else(unknown)?;
            return Ok(LogicalGpu { parts: 1, bytes });
        };
        if instances.is_empty() {
            return Err(format!("a {model} is divided (MIG) into no instances"));
        }
        let sizes: Option<Vec<u64>> =
            instances.iter().map(|it| it.memory_bytes.known().copied()).collect();
        let bytes = sizes.and_then(|sizes| sizes.into_iter().min()).ok_or_else(unknown)?;
        Ok(LogicalGpu { parts: u32::try_from(instances.len()).unwrap_or(u32::MAX), bytes })
    });
    let amd = gpus.amd.known().into_iter().flatten().filter(|gpu| gpu.model.as_str() == model);
    let amd = amd.map(|gpu| {
        let bytes = *gpu.memory_bytes.known().ok_or_else(unknown)?;
        Ok(LogicalGpu { parts: 1, bytes })
    });
    nvidia.chain(amd).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use jiff::Timestamp;

    use super::*;
    use crate::class::{NodeClassId, Shape};
    use crate::cluster_file::ClusterFile;
    use crate::digest::Digest;
    use crate::intake::parse::parse;
    use crate::roll::Roll;

    const ID: &str = "4be04a2e-87e6-4ff2-b34b-2994ee1600ba";

    fn target(keys: &str) -> UnikornTarget {
        let text = format!(
            "cluster: {{id: west, regionId: r}}\ntargets:\n  - {{name: u, type: unikorn, region: {{name: west{keys}}}}}\n"
        );
        ClusterFile::parse(&text).expect("valid").region().expect("a region").clone()
    }

    /// A node as the sample has it, with these GPUs of NVIDIA's and so much memory.
    fn entry(name: &str, memory: u64, gpus: &Value) -> Entry {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
        let text = fs::read_to_string(path).expect("the sample");
        let mut report: Value = serde_json::from_str(&text).expect("JSON");
        report["node"]["name"] = name.into();
        report["node"]["proposedId"] = name.into();
        report["inventory"]["memory"]["known"]["totalBytes"] = memory.into();
        let driver = &mut report["inventory"]["gpus"]["known"]["nvidiaDriver"];
        *driver = json!({"known": {"version": "580.1", "gpus": gpus}});
        let count = driver["known"]["gpus"].as_array().map(Vec::len);
        report["inventory"]["gpus"]["known"]["nvidiaPciDevices"] = json!({"known": count});
        let report = parse(report.to_string().as_bytes()).expect("a report");
        let digest = Digest::of(&[name.as_bytes()]);
        let change = Roll::default().admit(report, digest, None, Timestamp::UNIX_EPOCH);
        change.expect("no conflict").entry.into_inner()
    }

    fn gpu(index: u32, model: &str, memory: u64, mig: Option<&[u64]>) -> Value {
        let mut gpu = json!({"index": index, "model": model, "memoryBytes": {"known": memory}});
        if let Some(instances) = mig {
            let instance = |memory: &u64| json!({"model": "MIG", "memoryBytes": {"known": memory}});
            gpu["mig"] = instances.iter().map(instance).collect();
        }
        gpu
    }

    fn class(entry: &Entry) -> NodeClass {
        NodeClass {
            id: NodeClassId::parse(ID).expect("an id"),
            name: "big".to_owned(),
            shape: Shape::of(entry).expect("a shape"),
            origin: Origin::Allocated,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    /// What a Region says of one class with these nodes: each with its obstacle, whether it is as the
    /// class says, and its ephemeral storage.
    fn offered(
        keys: &str,
        nodes: &[(&Entry, Option<&str>, bool, Option<u64>)],
    ) -> Result<Value, String> {
        let class = class(nodes[0].0);
        let members: Vec<Member<'_>> = nodes
            .iter()
            .map(|&(entry, obstacle, is_as_said, ephemeral_bytes)| Member {
                entry,
                class: &class,
                obstacle: obstacle.map(str::to_owned),
                is_as_said,
                ephemeral_bytes,
            })
            .collect();
        let view = assemble(&target(keys), std::slice::from_ref(&class), &members);
        match &view.classes[0].not_offered {
            Some(why) => Err(why.clone()),
            None => Ok(view.region["spec"]["kubernetes"]["nodes"][0].clone()),
        }
    }

    #[test]
    fn what_the_smallest_has() {
        let (large, small) =
            (entry("a", 129 * GIB, &json!([])), entry("b", 128 * GIB - 1, &json!([])));
        for (what, nodes, memory, disk) in [
            ("one", vec![(&large, None, true, Some(100 * GIB))], "129Gi", "100Gi"),
            (
                "the smaller of two",
                vec![(&large, None, true, Some(100 * GIB)), (&small, None, true, Some(99 * GIB))],
                "127Gi",
                "99Gi",
            ),
            (
                "one that has lost memory says nothing of the others",
                vec![(&large, None, true, Some(100 * GIB)), (&small, None, false, Some(99 * GIB))],
                "129Gi",
                "100Gi",
            ),
            (
                "one that is cordoned neither",
                vec![
                    (&large, None, true, Some(100 * GIB)),
                    (&small, Some("is cordoned"), true, None),
                ],
                "129Gi",
                "100Gi",
            ),
            (
                "one kubelet does not tell",
                vec![(&large, None, true, None), (&large, None, true, Some(100 * GIB))],
                "129Gi",
                "100Gi",
            ),
            // The sample's two disks of 512 GiB.
            ("no kubelet tells", vec![(&large, None, true, None)], "129Gi", "1024Gi"),
        ] {
            let node = offered("", &nodes).expect(what);
            assert_eq!((&node["memory"], &node["disk"]), (&json!(memory), &json!(disk)), "{what}");
            assert_eq!(node["cpu"]["count"], 32, "{what}");
            assert_eq!(node["gpu"], Value::Null, "{what}");
        }
    }

    #[test]
    fn gpus_as_workloads_get_them() {
        const MODEL: &str = "NVIDIA H100 80GB HBM3";
        let whole = |memory| gpu(0, MODEL, memory, None);
        let divided = |parts: &[u64]| gpu(0, MODEL, 80 * GIB, Some(parts));
        for (what, gpus, expected) in [
            ("none", vec![], Ok((0, 0, ""))),
            ("one", vec![whole(80 * GIB - 1)], Ok((1, 1, "79Gi"))),
            ("the smaller of two", vec![whole(80 * GIB), whole(79 * GIB)], Ok((2, 2, "79Gi"))),
            ("divided", vec![divided(&[10 * GIB, 9 * GIB])], Ok((1, 2, "9Gi"))),
            (
                "two divided alike",
                vec![divided(&[10 * GIB; 7]), divided(&[10 * GIB; 7])],
                Ok((2, 14, "10Gi")),
            ),
            (
                "one of two divided",
                vec![divided(&[10 * GIB; 2]), whole(80 * GIB)],
                Err("divided (MIG) in different ways"),
            ),
            ("divided into nothing", vec![divided(&[])], Err("divided (MIG) into no instances")),
            (
                "two models",
                vec![whole(80 * GIB), gpu(1, "NVIDIA L4", 24 * GIB, None)],
                Err("GPUs of several models"),
            ),
            ("next to none", vec![whole(GIB - 1)], Err("less than 1 GiB")),
        ] {
            let entry = entry("a", 128 * GIB, &gpus.into());
            match (offered("", &[(&entry, None, true, Some(100 * GIB))]), expected) {
                (Ok(node), Ok((0, _, _))) => assert_eq!(node["gpu"], Value::Null, "{what}"),
                (Ok(node), Ok((physical, logical, memory))) => assert_eq!(
                    node["gpu"],
                    json!({"vendor": "NVIDIA", "model": MODEL, "memory": memory,
                           "physicalCount": physical, "logicalCount": logical}),
                    "{what}"
                ),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{what}: {why}"),
                (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_offered() {
        let node = entry("a", 128 * GIB, &json!([]));
        let disk = Some(100 * GIB);
        for (what, keys, nodes, expected) in [
            (
                "a cordoned one",
                "",
                vec![(&node, Some("is cordoned"), true, disk)],
                "none of its nodes can do what it says: a is cordoned",
            ),
            (
                "one that has lost something",
                "",
                vec![(&node, None, false, disk)],
                "none of its nodes can do what it says: a is not as its class says",
            ),
            (
                "installed memory that nobody tells",
                ", memory: installed",
                vec![(&node, None, true, disk)],
                "its memory is not known",
            ),
            ("no disk", "", vec![(&node, None, true, Some(1))], "its disk is less than 1 GiB"),
        ] {
            let why = offered(keys, &nodes).expect_err(what);
            assert!(why.contains(expected), "{what}: {why}");
        }
        let view =
            assemble(&target(&format!(", classes: [{{id: {ID}, name: declared}}]")), &[], &[]);
        assert_eq!(view.classes[0].not_offered.as_deref(), Some(NO_NODE));
        assert_eq!(view.region["spec"]["kubernetes"]["nodes"], json!([]));
    }

    #[test]
    fn an_architecture_that_older_servers_do_not_know() {
        let node = entry("a", 128 * GIB, &json!([]));
        let nodes = [(&node, None, true, None)];
        for (keys, expected) in [("", json!("x86_64")), (", cpuArchitecture: false", Value::Null)] {
            assert_eq!(offered(keys, &nodes).expect("offered")["cpu"]["architecture"], expected);
        }
    }
}
