//! What is taken from a Node object. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rollcall_report::{NODE_ID_LABEL, NodeId, NodeName};

/// A Node, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// The object's UID: another one when the Node was deleted and made anew.
    pub uid: String,
    /// Those of its labels that somebody looks at.
    pub labels: BTreeMap<String, String>,
    /// Its label `nodeID`, where that is one.
    pub node_id: Option<NodeId>,
    /// Why no agent can run on it, if so.
    pub stranger: Option<Stranger>,
    /// Its part in the control plane, if it has one.
    pub control_plane: Option<ControlPlane>,
    /// Whether it is cordoned (`kubectl cordon`, drained).
    pub cordoned: bool,
    /// Whether its kubelet says that it is ready, and is heard.
    pub ready: bool,
    /// The GPUs that Kubernetes can allocate on it.
    pub gpus: AllocatableGpus,
    /// What its kubelet has for pods' ephemeral storage, in bytes.
    pub ephemeral_bytes: Option<u64>,
}

/// Why no agent can run on a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// It is no machine: a virtual kubelet hands its pods on to somebody else.
    VirtualKubelet,
    /// It is a pod's own machine, which takes no other pod (AWS Fargate).
    Fargate,
    /// It runs this other system than Linux.
    OperatingSystem(String),
}

/// A Node's part in the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlPlane {
    /// Whether a taint of that role keeps work away.
    pub tainted: bool,
}

/// The GPUs that Kubernetes can allocate on a Node: what device plugins offer and its kubelet holds for
/// healthy. A resource that nobody offers, or whose number is none, is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllocatableGpus {
    /// `nvidia.com/gpu`.
    pub nvidia: Option<u64>,
    /// `nvidia.com/gpu.shared`: parts in time of GPUs that are shared.
    pub nvidia_shared: Option<u64>,
    /// `nvidia.com/mig-*` by what stands for the asterisk, such as `1g.10gb`.
    pub mig: BTreeMap<String, u64>,
    /// `amd.com/gpu`.
    pub amd: Option<u64>,
    /// Whether NVIDIA's GPUs are offered several times over (time slicing, MPS), as gpu-feature-discovery
    /// says; `None`: it says nothing.
    pub is_shared: Option<bool>,
    /// How instances of divided GPUs are offered, as gpu-feature-discovery says.
    pub mig_strategy: Option<MigStrategy>,
}

/// How instances of divided GPUs (MIG) are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigStrategy {
    /// Not at all: a GPU is a GPU.
    None,
    /// All alike, as `nvidia.com/gpu`.
    Single,
    /// Each kind as a resource of its own.
    Mixed,
}

/// Roles of the control plane: kubeadm's, the one that it had before, and RKE's.
const CONTROL_PLANE_ROLES: [&str; 3] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/controlplane",
];

/// Taints that keep work off a control plane: those of the roles, RKE's of etcd, and the one that k3s
/// and RKE2 ask for on their servers.
const CONTROL_PLANE_TAINTS: [&str; 5] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/controlplane",
    "node-role.kubernetes.io/etcd",
    "CriticalAddonsOnly",
];

/// How virtual kubelets are known: labels with their values, any for `None`. The first is the
/// virtual-kubelet project's own, then its taint, which some set as a label, too; then interLink's and
/// Liqo's.
const VIRTUAL_LABELS: [(&str, Option<&str>); 4] = [
    ("type", Some("virtual-kubelet")),
    ("virtual-kubelet.io/provider", None),
    ("virtual-node.interlink/type", Some("virtual-kubelet")),
    ("liqo.io/type", Some("virtual-node")),
];

const VIRTUAL_TAINTS: [&str; 3] = [
    "virtual-kubelet.io/provider",
    "virtual-node.interlink/no-schedule",
    "virtual-node.liqo.io/not-allowed",
];

/// What the virtual-kubelet project's providers have in their kubelets' versions: `v1.25.0-vk-azure-aci-1.4.8`.
const VIRTUAL_VERSION: &str = "-vk-";

const FARGATE: &str = "eks.amazonaws.com/compute-type";

impl Node {
    /// What a Node object tells; of its labels `kept` and `nodeID` are kept. `None`: it has no name, or no
    /// UID, which no API server leaves out.
    pub fn of(object: core::Node, kept: &BTreeSet<String>) -> Option<Self> {
        let core::Node { metadata, spec, status } = object;
        let name = NodeName::try_from(metadata.name?).ok()?;
        let uid = metadata.uid?;
        let labels = metadata.labels.unwrap_or_default();
        let spec = spec.unwrap_or_default();
        let status = status.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        let info = status.node_info;
        let version = info.as_ref().map_or("", |info| info.kubelet_version.as_str());
        let system = info.as_ref().map(|info| info.operating_system.as_str());
        Some(Self {
            name,
            uid,
            stranger: stranger(&labels, &taints, version, system),
            control_plane: control_plane(&labels, &taints),
            cordoned: spec.unschedulable.unwrap_or(false),
            ready: status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            gpus: allocatable(&status.allocatable.unwrap_or_default(), &labels),
            ephemeral_bytes: status
                .capacity
                .as_ref()
                .and_then(|capacity| capacity.get("ephemeral-storage"))
                .and_then(whole),
            node_id: labels.get(NODE_ID_LABEL).and_then(|id| id.parse().ok()),
            labels: labels
                .into_iter()
                .filter(|(key, _)| key == NODE_ID_LABEL || kept.contains(key))
                .collect(),
        })
    }
}

fn stranger(
    labels: &BTreeMap<String, String>,
    taints: &[core::Taint],
    kubelet_version: &str,
    system: Option<&str>,
) -> Option<Stranger> {
    let has_label = |(key, value): (&str, Option<&str>)| {
        labels.get(key).is_some_and(|it| value.is_none_or(|value| it == value))
    };
    let has_taint = |key: &str| taints.iter().any(|taint| taint.key == key);
    if VIRTUAL_LABELS.into_iter().any(has_label)
        || VIRTUAL_TAINTS.into_iter().any(has_taint)
        || kubelet_version.contains(VIRTUAL_VERSION)
    {
        return Some(Stranger::VirtualKubelet);
    }
    let is_fargate =
        |taint: &core::Taint| taint.key == FARGATE && taint.value.as_deref() == Some("fargate");
    if has_label((FARGATE, Some("fargate"))) || taints.iter().any(is_fargate) {
        return Some(Stranger::Fargate);
    }
    // The label is what a DaemonSet's selector goes by.
    let label = labels.get("kubernetes.io/os").map(String::as_str);
    let system = label.or(system).filter(|system| !system.is_empty())?;
    (system != "linux").then(|| Stranger::OperatingSystem(system.to_owned()))
}

fn control_plane(
    labels: &BTreeMap<String, String>,
    taints: &[core::Taint],
) -> Option<ControlPlane> {
    let keeps_work_away = |taint: &core::Taint| {
        CONTROL_PLANE_TAINTS.contains(&taint.key.as_str())
            && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
    };
    CONTROL_PLANE_ROLES
        .iter()
        .any(|role| labels.contains_key(*role))
        .then(|| ControlPlane { tainted: taints.iter().any(keeps_work_away) })
}

fn allocatable(
    resources: &BTreeMap<String, Quantity>,
    labels: &BTreeMap<String, String>,
) -> AllocatableGpus {
    let number = |resource: &str| resources.get(resource).and_then(whole);
    let label = |name: &str| labels.get(name).map(String::as_str);
    let mig = resources.iter().filter_map(|(resource, quantity)| {
        Some((resource.strip_prefix("nvidia.com/mig-")?.to_owned(), whole(quantity)?))
    });
    let by_strategy = match label("nvidia.com/gpu.sharing-strategy") {
        Some("none") => Some(false),
        Some("time-slicing" | "mps") => Some(true),
        _ => None,
    };
    let by_replicas = || match label("nvidia.com/gpu.replicas")?.parse::<u64>().ok()? {
        // A GPU that is not shared, or one that cannot be offered at all.
        0 | 1 => Some(false),
        _ => Some(true),
    };
    AllocatableGpus {
        nvidia: number("nvidia.com/gpu"),
        nvidia_shared: number("nvidia.com/gpu.shared"),
        mig: mig.collect(),
        amd: number("amd.com/gpu"),
        is_shared: by_strategy.or_else(by_replicas),
        mig_strategy: match label("nvidia.com/mig.strategy") {
            Some("none") => Some(MigStrategy::None),
            Some("single") => Some(MigStrategy::Single),
            Some("mixed") => Some(MigStrategy::Mixed),
            _ => None,
        },
    }
}

/// A quantity that is a whole number; `None`: it is none, or none that fits.
///
/// Extended resources and bytes are whole numbers, which the API server writes in their shortest form: `8`,
/// and `2k` for 2000. Source: Kubernetes documentation, "Quantity".
fn whole(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.as_str();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at_checked(digits)?;
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "T" => 1_000_000_000_000,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(mut metadata: Value, spec: Value, status: Value) -> Node {
        let named = metadata.as_object_mut().expect("a mapping");
        named.extend([("name".to_owned(), json!("n1")), ("uid".to_owned(), json!("u1"))]);
        let object = [("metadata", metadata), ("spec", spec), ("status", status)];
        let object: Value =
            object.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let object: core::Node = serde_json::from_value(object).expect("a Node");
        Node::of(object, &BTreeSet::from(["zone".to_owned()])).expect("a Node with name and UID")
    }

    fn bare() -> Node {
        Node {
            name: "n1".parse().expect("a name"),
            uid: "u1".into(),
            labels: BTreeMap::new(),
            node_id: None,
            stranger: None,
            control_plane: None,
            cordoned: false,
            ready: false,
            gpus: AllocatableGpus::default(),
            ephemeral_bytes: None,
        }
    }

    #[test]
    fn nothing_is_made_up() {
        assert_eq!(node(json!({}), json!({}), json!({})), bare());
        for object in [json!({"metadata": {"name": "n1"}}), json!({"metadata": {"uid": "u1"}})] {
            let object = serde_json::from_value(object).expect("a Node");
            assert_eq!(Node::of(object, &BTreeSet::new()), None);
        }
    }

    #[test]
    fn what_a_usual_node_tells() {
        let got = node(
            json!({"labels": {"nodeID": "gpu-1", "zone": "a", "kubernetes.io/os": "linux", "big": "x"}}),
            json!({"unschedulable": true}),
            json!({
                "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": "True"},
                ],
                "nodeInfo": node_info("linux", "v1.33.1"),
                "allocatable": {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "8"},
            }),
        );
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = Node {
            labels: BTreeMap::from([label("nodeID", "gpu-1"), label("zone", "a")]),
            node_id: Some("gpu-1".parse().expect("an id")),
            cordoned: true,
            ready: true,
            gpus: AllocatableGpus { nvidia: Some(8), ..AllocatableGpus::default() },
            ..bare()
        };
        assert_eq!(got, expected);
    }

    fn node_info(system: &str, version: &str) -> Value {
        json!({
            "machineID": "0123", "operatingSystem": system, "kubeletVersion": version,
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "osImage": "", "systemUUID": "",
        })
    }

    #[test]
    fn readiness() {
        for (what, conditions, expected) in [
            ("ready", json!([{"type": "Ready", "status": "True"}]), true),
            ("not ready", json!([{"type": "Ready", "status": "False"}]), false),
            ("not heard", json!([{"type": "Ready", "status": "Unknown"}]), false),
            ("something else is true", json!([{"type": "DiskPressure", "status": "True"}]), false),
            ("nothing", json!([]), false),
        ] {
            let got = node(json!({}), json!({}), json!({"conditions": conditions}));
            assert_eq!(got.ready, expected, "{what}");
        }
    }

    #[test]
    fn who_can_run_no_agent() {
        use Stranger::{Fargate, OperatingSystem, VirtualKubelet};
        let taint = |key: &str| json!([{"key": key, "value": "fargate", "effect": "NoSchedule"}]);
        for (what, labels, taints, system, version, expected) in [
            ("Linux", json!({"kubernetes.io/os": "linux"}), json!([]), "linux", "v1.33.1", None),
            ("Linux without its label", json!({}), json!([]), "linux", "v1.33.1", None),
            ("nobody says", json!({}), json!([]), "", "", None),
            (
                "Windows",
                json!({"kubernetes.io/os": "windows"}),
                json!([]),
                "windows",
                "v1.33.1",
                Some(OperatingSystem("windows".into())),
            ),
            (
                "Windows without its label",
                json!({}),
                json!([]),
                "windows",
                "v1.33.1",
                Some(OperatingSystem("windows".into())),
            ),
            (
                "the project's own label",
                json!({"type": "virtual-kubelet", "kubernetes.io/os": "Linux"}),
                json!([]),
                "Linux",
                "v1.28.1",
                Some(VirtualKubelet),
            ),
            ("another type", json!({"type": "gpu"}), json!([]), "linux", "v1.33.1", None),
            (
                "its taint",
                json!({}),
                taint("virtual-kubelet.io/provider"),
                "linux",
                "v1.28.1",
                Some(VirtualKubelet),
            ),
            (
                "Azure's version",
                json!({}),
                json!([]),
                "linux",
                "v1.25.0-vk-azure-aci-1.4.8",
                Some(VirtualKubelet),
            ),
            (
                "interLink",
                json!({"virtual-node.interlink/type": "virtual-kubelet"}),
                json!([]),
                "linux",
                "",
                Some(VirtualKubelet),
            ),
            (
                "Liqo",
                json!({"liqo.io/type": "virtual-node"}),
                json!([]),
                "linux",
                "",
                Some(VirtualKubelet),
            ),
            (
                "Fargate",
                json!({"eks.amazonaws.com/compute-type": "fargate"}),
                json!([]),
                "linux",
                "v1.30.8-eks-2d5f260",
                Some(Fargate),
            ),
            ("Fargate by its taint", json!({}), taint(FARGATE), "linux", "v1.30.8", Some(Fargate)),
            (
                "EKS's own machines",
                json!({"eks.amazonaws.com/compute-type": "auto"}),
                json!([]),
                "linux",
                "v1.30.8",
                None,
            ),
        ] {
            let got = node(
                json!({"labels": labels}),
                json!({"taints": taints}),
                json!({"nodeInfo": node_info(system, version)}),
            );
            assert_eq!(got.stranger, expected, "{what}");
        }
    }

    #[test]
    fn control_planes() {
        let role = |role: &str| json!({format!("node-role.kubernetes.io/{role}"): ""});
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let plane = "node-role.kubernetes.io/control-plane";
        let master = "node-role.kubernetes.io/master";
        for (what, labels, taints, expected) in [
            ("a worker", json!({}), json!([]), None),
            ("a worker with such a taint", json!({}), taint(plane, "NoSchedule"), None),
            ("free", role("control-plane"), json!([]), Some(false)),
            ("kubeadm", role("control-plane"), taint(plane, "NoSchedule"), Some(true)),
            ("before 1.24", role("master"), taint(master, "NoSchedule"), Some(true)),
            (
                "RKE",
                role("controlplane"),
                taint("node-role.kubernetes.io/etcd", "NoExecute"),
                Some(true),
            ),
            ("k3s", role("control-plane"), taint("CriticalAddonsOnly", "NoExecute"), Some(true)),
            ("a wish", role("control-plane"), taint(plane, "PreferNoSchedule"), Some(false)),
            ("another taint", role("control-plane"), taint("gpu", "NoSchedule"), Some(false)),
        ] {
            let got = node(json!({"labels": labels}), json!({"taints": taints}), json!({}));
            assert_eq!(got.control_plane.map(|it| it.tainted), expected, "{what}");
        }
    }

    #[test]
    fn gpus_that_can_be_allocated() {
        let none = AllocatableGpus::default;
        for (what, resources, labels, expected) in [
            ("nothing", json!({"cpu": "8"}), json!({}), none()),
            (
                "none",
                json!({"nvidia.com/gpu": "0"}),
                json!({}),
                AllocatableGpus { nvidia: Some(0), ..none() },
            ),
            (
                "divided ones",
                json!({"nvidia.com/gpu": "6", "nvidia.com/mig-1g.10gb": "14", "nvidia.com/mig-3g.40gb.me": "1"}),
                json!({"nvidia.com/mig.strategy": "mixed"}),
                AllocatableGpus {
                    nvidia: Some(6),
                    mig: BTreeMap::from([("1g.10gb".into(), 14), ("3g.40gb.me".into(), 1)]),
                    mig_strategy: Some(MigStrategy::Mixed),
                    ..none()
                },
            ),
            (
                "shared ones",
                json!({"nvidia.com/gpu.shared": "32", "nvidia.com/gpu": "0"}),
                json!({"nvidia.com/gpu.sharing-strategy": "time-slicing", "nvidia.com/gpu.replicas": "4"}),
                AllocatableGpus {
                    nvidia: Some(0),
                    nvidia_shared: Some(32),
                    is_shared: Some(true),
                    ..none()
                },
            ),
            (
                "an older discovery",
                json!({"nvidia.com/gpu": "32"}),
                json!({"nvidia.com/gpu.replicas": "4"}),
                AllocatableGpus { nvidia: Some(32), is_shared: Some(true), ..none() },
            ),
            (
                "each once",
                json!({"nvidia.com/gpu": "8"}),
                json!({"nvidia.com/gpu.sharing-strategy": "none", "nvidia.com/gpu.replicas": "1"}),
                AllocatableGpus { nvidia: Some(8), is_shared: Some(false), ..none() },
            ),
            (
                "AMD",
                json!({"amd.com/gpu": "4"}),
                json!({}),
                AllocatableGpus { amd: Some(4), ..none() },
            ),
            ("no number", json!({"nvidia.com/gpu": "many"}), json!({}), none()),
        ] {
            let got = node(json!({"labels": labels}), json!({}), json!({"allocatable": resources}));
            assert_eq!(got.gpus, expected, "{what}");
        }
    }

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("0", Some(0)),
            ("8", Some(8)),
            ("2k", Some(2000)),
            ("1Ki", Some(1024)),
            ("8000m", None),
            ("1.5", None),
            ("1e3", None),
            ("-1", None),
            ("", None),
            ("k", None),
            ("99999999999999999999", None),
            ("18446744073709551615k", None),
        ] {
            assert_eq!(whole(&Quantity(text.to_owned())), expected, "{text:?}");
        }
    }
}
