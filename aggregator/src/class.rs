//! Node classes: machines of one shape, known to a network by one id. Pure.
//!
//! A class is stored for ever, with the shape that its first machine had; a node is given its class
//! once. What changes on a machine afterwards is a mismatch to be told, and never another class: the
//! network's customers have bought that class.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use rollcall_report::{NodeName, Reading, Subject};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::cluster_file::unikorn::{DeclaredClass, Fits};
use crate::roll::{Entry, baseline};

/// Equal machines differ by so much in what their kernels have left of memory and disks. Memory and
/// disks are sold in steps that are larger.
const TOLERANCE_PERCENT: u64 = 2;

const GIB: u64 = 1024 * 1024 * 1024;
const GB: u64 = 1_000_000_000;

/// A node class's id: a version 4 UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NodeClassId(Uuid);

impl NodeClassId {
    /// An id that nobody has yet.
    pub fn allocate() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id in a text; `None`: it is no version 4 UUID in its usual form. The network compares it
    /// letter by letter.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Uuid::try_parse(text).ok().filter(|id| id.get_version_num() == 4)?;
        (id.as_hyphenated().to_string() == text).then_some(Self(id))
    }
}

impl fmt::Display for NodeClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.as_hyphenated().to_string())
    }
}

impl<'de> Deserialize<'de> for NodeClassId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            serde::de::Error::custom(format!(
                "{shown:?} is no version 4 UUID in lower case; make one with: uuidgen --random"
            ))
        })
    }
}

/// What a machine is to a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shape {
    /// As `uname -m` says: `x86_64`, `aarch64`.
    pub architecture: String,
    /// CPUs that are online.
    pub vcpus: u32,
    /// The processor's name, where it tells one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Installed memory in bytes, where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_bytes: Option<u64>,
    /// `MemTotal` in bytes; compared where the installed memory is not told.
    pub memory_bytes: u64,
    /// The local disks' capacity in bytes.
    pub disk_bytes: u64,
    /// GPUs, those that do not answer too; in the order of their models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuGroup>,
}

/// GPUs of one model in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuGroup {
    /// Who makes them.
    pub vendor: GpuVendor,
    /// Their model, as their driver tells it.
    pub model: String,
    /// How many.
    pub count: u32,
}

/// Who makes a GPU, in Unikorn's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuVendor {
    /// NVIDIA.
    #[serde(rename = "NVIDIA")]
    Nvidia,
    /// AMD.
    #[serde(rename = "AMD")]
    Amd,
}

impl Shape {
    /// The shape of a node by what is known of it.
    ///
    /// # Errors
    ///
    /// What is not known, in words: a class is for ever, and not made of guesses.
    pub fn of(entry: &Entry) -> Result<Self, String> {
        let inventory = &entry.inventory;
        let known = baseline::Shape::of(inventory, &entry.lost_gpus);
        let unknown = |subject: Subject| {
            let reason = entry.failing.get(&subject).map(|failing| format!(": {}", failing.reason));
            format!("its {subject} are not wholly known{}", reason.unwrap_or_default())
        };
        let machine = inventory.machine.known().ok_or_else(|| unknown(Subject::Machine))?;
        let amd = inventory.gpus.known().map(|gpus| &gpus.amd);
        let amd = amd.and_then(Reading::known).into_iter().flatten();
        let amd: Vec<&str> = amd.map(|gpu| gpu.model.as_str()).collect();
        let gpus = known.gpus.ok_or_else(|| unknown(Subject::Gpus))?;
        let gpus = gpus.iter().map(|(model, &count)| {
            let is_amd = amd.contains(&model.as_str());
            let vendor = if is_amd { GpuVendor::Amd } else { GpuVendor::Nvidia };
            GpuGroup { vendor, model: model.to_string(), count }
        });
        let disks = known.disks.ok_or_else(|| unknown(Subject::Disks))?;
        Ok(Self {
            architecture: machine.architecture.to_string(),
            vcpus: known.cpus.ok_or_else(|| unknown(Subject::Cpu))?,
            cpu_model: inventory.cpu.known().and_then(|cpu| cpu.model.clone()),
            installed_bytes: known.installed_bytes,
            memory_bytes: known.total_bytes.ok_or_else(|| unknown(Subject::Memory))?,
            disk_bytes: disks.iter().map(|(size, count)| size * u64::from(*count)).sum(),
            gpus: gpus.collect(),
        })
    }

    /// How a machine differs from this shape, a sentence each; nothing: it is of this shape. GPU
    /// memory is no part of it: drivers and error correction change it.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut note = |what: &str, wanted: &str, found: &str| {
            if wanted != found {
                differences.push(format!("its {what} is {found}, the class's {wanted}"));
            }
        };
        note("architecture", &self.architecture, &other.architecture);
        note("number of vCPUs", &self.vcpus.to_string(), &other.vcpus.to_string());
        if let (Some(wanted), Some(found)) = (&self.cpu_model, &other.cpu_model) {
            note("CPU", wanted, found);
        }
        note("set of GPUs", &gpu_words(&self.gpus), &gpu_words(&other.gpus));
        let (what, wanted, found) = match (self.installed_bytes, other.installed_bytes) {
            (Some(wanted), Some(found)) => ("installed memory", wanted, found),
            _ => ("memory", self.memory_bytes, other.memory_bytes),
        };
        if !is_about(wanted, found) {
            differences.push(format!("its {what} is {}, the class's {}", gib(found), gib(wanted)));
        }
        if !is_about(self.disk_bytes, other.disk_bytes) {
            let (wanted, found) = (self.disk_bytes / GB, other.disk_bytes / GB);
            differences.push(format!("its disks hold {found} GB, the class's {wanted} GB"));
        }
        differences
    }

    /// A name for people, of the letters that names of Kubernetes have: `x86-64c-512g-8xh100-80gb-hbm3`.
    pub fn name(&self) -> String {
        const MOST_CHARS: usize = 50;
        let architecture = match self.architecture.as_str() {
            "x86_64" => "x86",
            "aarch64" => "arm",
            other => other,
        };
        let memory = self.installed_bytes.unwrap_or(self.memory_bytes);
        let mut name =
            format!("{architecture}-{}c-{}g", self.vcpus, memory.saturating_add(GIB / 2) / GIB);
        for group in &self.gpus {
            let model = group.model.to_lowercase();
            let model = model.trim_start_matches("nvidia ").trim_start_matches("amd ");
            // Writing to a String cannot fail.
            let _ = write!(name, "-{}x{model}", group.count);
        }
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = name.chars().map(letter).take(MOST_CHARS).collect();
        let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
        parts.join("-")
    }
}

/// `8 NVIDIA H100 80GB HBM3`.
fn gpu_words(gpus: &[GpuGroup]) -> String {
    let words: Vec<String> =
        gpus.iter().map(|group| format!("{} {}", group.count, group.model)).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(" and ") }
}

fn gib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / GIB;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

fn is_about(wanted: u64, found: u64) -> bool {
    wanted.abs_diff(found).saturating_mul(100) <= wanted.saturating_mul(TOLERANCE_PERCENT)
}

/// A class as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClass {
    /// Its id, which is never another's.
    pub id: NodeClassId,
    /// Its name; a name in the cluster file comes before it.
    pub name: String,
    /// The shape that its first machine had.
    pub shape: Shape,
    /// Where its id comes from.
    pub origin: Origin,
    /// Since when it is known.
    pub since: Timestamp,
}

/// Where a class's id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// From the cluster file.
    Declared,
    /// From a Node, whose label somebody had set, or which had it before the classes were lost.
    Label,
    /// Made here.
    Allocated,
}

/// A node that is to have a class.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Its shape, or what is in the way of knowing it.
    pub shape: Result<Shape, String>,
    /// The class that it has.
    pub assigned: Option<NodeClassId>,
    /// The class of the machine that was there before it: a label of that one is no person's word.
    pub former: Option<NodeClassId>,
    /// The class label on its Node. An empty one keeps the node away from the network.
    pub label: Option<&'a str>,
    /// The Node's labels that the cluster file names.
    pub labels: &'a BTreeMap<String, String>,
}

/// What is to be done about a node's class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It has one.
    Keep,
    /// It belongs to a class that is stored.
    Assign(NodeClassId),
    /// It is the first of its class, which is to be stored before the node has it.
    Found(Box<NodeClass>),
    /// It has none yet, for this reason.
    Wait(String),
}

/// Decides on a node's class. `known` are the stored classes in the order in which they came.
///
/// A class that somebody has set on the Node by hand is the node's class: the network goes by that
/// label. Else a node keeps what it has; a new one gets the first declared class that it fits, else
/// the stored one of its shape, else a new one.
pub fn decide(
    candidate: &Candidate<'_>,
    declared: &[DeclaredClass],
    known: &[NodeClass],
    now: Timestamp,
) -> Decision {
    let labelled = match candidate.label.filter(|label| !label.is_empty()).map(NodeClassId::parse) {
        Some(None) => {
            return match candidate.assigned {
                Some(_) => Decision::Keep,
                None => Decision::Wait(
                    "its class label is no version 4 UUID; take the label away, or set the right one"
                        .to_owned(),
                ),
            };
        }
        Some(label) => label.filter(|label| candidate.former != Some(*label)),
        None => None,
    };
    let wanted = labelled.or(candidate.assigned);
    if let Some(id) = wanted.filter(|id| known.iter().any(|class| class.id == *id)) {
        return if candidate.assigned == Some(id) { Decision::Keep } else { Decision::Assign(id) };
    }
    let shape = match &candidate.shape {
        Ok(shape) => shape,
        Err(why) => return Decision::Wait(why.clone()),
    };
    let found = |id, name: String, origin| {
        Decision::Found(Box::new(NodeClass { id, name, shape: shape.clone(), origin, since: now }))
    };
    // Of a class that is not known any more its nodes tell: it must not be given to others anew.
    if let Some(id) = wanted {
        let declared = declared.iter().find(|class| class.id == id);
        let name = declared.map_or_else(|| unused_name(shape, known), |it| it.name.to_string());
        let origin = if declared.is_some() { Origin::Declared } else { Origin::Label };
        return found(id, name, origin);
    }
    let is_equal = |class: &&NodeClass| class.shape.differences(shape).is_empty();
    let fitting = declared.iter().filter(|class| {
        class.fits.as_ref().is_some_and(|fits| is_fitting(fits, shape, candidate.labels))
    });
    for class in fitting {
        match known.iter().find(|known| known.id == class.id) {
            Some(known) if is_equal(&known) => return Decision::Assign(class.id),
            // Another machine was first: a class has one shape.
            Some(_) => {}
            None => return found(class.id, class.name.to_string(), Origin::Declared),
        }
    }
    // What only its label, or a selector, makes a node a part of is not joined by shape.
    let is_open = |class: &&NodeClass| {
        let declared = declared.iter().find(|declared| declared.id == class.id);
        declared.is_none_or(|declared| {
            declared.fits.as_ref().is_some_and(|fits| is_fitting(fits, shape, candidate.labels))
        })
    };
    let distance = |class: &&NodeClass| class.shape.memory_bytes.abs_diff(shape.memory_bytes);
    // The first of several that are as near.
    let nearest = known.iter().filter(is_open).filter(is_equal).min_by_key(distance);
    match nearest {
        Some(class) => Decision::Assign(class.id),
        None => found(NodeClassId::allocate(), unused_name(shape, known), Origin::Allocated),
    }
}

fn is_fitting(fits: &Fits, shape: &Shape, labels: &BTreeMap<String, String>) -> bool {
    let Fits { selector, vcpus, gpus, gpu_model } = fits;
    let count: u32 = shape.gpus.iter().map(|group| group.count).sum();
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        && vcpus.is_none_or(|vcpus| vcpus == shape.vcpus)
        && gpus.is_none_or(|gpus| gpus == count)
        && gpu_model
            .as_ref()
            .is_none_or(|model| shape.gpus.iter().all(|group| group.model == *model) && count > 0)
}

fn unused_name(shape: &Shape, known: &[NodeClass]) -> String {
    let name = shape.name();
    let is_taken = |name: &str| known.iter().any(|class| class.name == name);
    if !is_taken(&name) {
        return name;
    }
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    numbered.into_iter().find(|name| !is_taken(name)).unwrap_or(name)
}

/// How a node is not as its class says, a sentence each. A GPU that does not answer is one: the shape
/// counts it still.
pub fn mismatches(entry: &Entry, class: &NodeClass) -> Vec<String> {
    let mut mismatches = Vec::new();
    for (subject, failing) in &entry.failing {
        if matches!(subject, Subject::Cpu | Subject::Memory | Subject::Disks | Subject::Gpus) {
            mismatches.push(format!("its {subject} cannot be read: {}", failing.reason));
        }
    }
    match Shape::of(entry) {
        Ok(shape) => mismatches.extend(class.shape.differences(&shape)),
        Err(why) if mismatches.is_empty() => mismatches.push(why),
        Err(_why) => {}
    }
    let lost = entry.lost_gpus.len();
    if lost > 0 {
        let all: u32 = class.shape.gpus.iter().map(|group| group.count).sum();
        mismatches.push(format!("{lost} of its {all} GPUs do not answer"));
    }
    mismatches
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::cluster_file::ClusterFile;

    type Change<'a> = &'a dyn Fn(&mut Shape);

    const ID: &str = "4be04a2e-87e6-4ff2-b34b-2994ee1600ba";
    const OTHER: &str = "fe4ecbe4-421d-4f25-8b11-69593adfef5d";

    fn shape() -> Shape {
        Shape {
            architecture: "x86_64".to_owned(),
            vcpus: 64,
            cpu_model: Some("Example CPU".to_owned()),
            installed_bytes: Some(512 * GIB),
            memory_bytes: 503 * GIB,
            disk_bytes: 3840 * GB,
            gpus: vec![GpuGroup {
                vendor: GpuVendor::Nvidia,
                model: "NVIDIA H100 80GB HBM3".to_owned(),
                count: 8,
            }],
        }
    }

    fn class(id: &str, shape: Shape) -> NodeClass {
        NodeClass {
            id: NodeClassId::parse(id).expect("an id"),
            name: "known".to_owned(),
            shape,
            origin: Origin::Allocated,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    fn declared(classes: &str) -> Vec<DeclaredClass> {
        let text = format!(
            "cluster: {{id: west, regionId: r}}\ntargets:\n  - {{name: u, type: unikorn, region: {{name: west, classes: {classes}}}}}\n"
        );
        let file = ClusterFile::parse(&text).expect("valid");
        file.region().expect("a region").region.classes.clone()
    }

    #[test]
    fn ids() {
        for (text, is_one) in [
            (ID, true),
            ("4BE04A2E-87E6-4FF2-B34B-2994EE1600BA", false),
            ("4be04a2e87e64ff2b34b2994ee1600ba", false),
            ("{4be04a2e-87e6-4ff2-b34b-2994ee1600ba}", false),
            ("4be04a2e-87e6-1ff2-b34b-2994ee1600ba", false),
            ("00000000-0000-0000-0000-000000000000", false),
            ("bratwurst", false),
            ("", false),
        ] {
            assert_eq!(NodeClassId::parse(text).is_some(), is_one, "{text}");
        }
        let one = NodeClassId::allocate();
        assert_eq!(NodeClassId::parse(&one.to_string()), Some(one));
        assert_ne!(one, NodeClassId::allocate());
    }

    #[test]
    fn what_splits_a_class_and_what_does_not() {
        let wanted = shape();
        let mib = 1024 * 1024;
        let not_told = |it: &mut Shape| it.installed_bytes = None;
        let cases: [(&str, Change<'_>, &str); 13] = [
            ("nothing", &|_| {}, ""),
            ("what the kernel keeps", &|it| it.memory_bytes -= 900 * mib, ""),
            ("a memory block", &|it| it.installed_bytes = Some(510 * GIB), ""),
            ("other disks of that size", &|it| it.disk_bytes += 40 * GB, ""),
            ("a CPU that tells no name", &|it| it.cpu_model = None, ""),
            ("memory that is not told", &not_told, ""),
            (
                "less memory",
                &|it| it.installed_bytes = Some(480 * GIB),
                "installed memory is 480.0 GiB, the class's 512.0 GiB",
            ),
            (
                "less memory by what is usable",
                &|it| {
                    it.installed_bytes = None;
                    it.memory_bytes = 470 * GIB;
                },
                "memory is 470.0 GiB, the class's 503.0 GiB",
            ),
            ("more disks", &|it| it.disk_bytes *= 2, "disks hold 7680 GB, the class's 3840 GB"),
            ("a CPU less", &|it| it.vcpus = 63, "number of vCPUs is 63, the class's 64"),
            ("another CPU", &|it| it.cpu_model = Some("New CPU".to_owned()), "CPU is New CPU"),
            ("another architecture", &|it| it.architecture = "aarch64".to_owned(), "architecture"),
            (
                "a GPU less",
                &|it| it.gpus.iter_mut().for_each(|group| group.count = 7),
                "set of GPUs is 7 NVIDIA H100 80GB HBM3, the class's 8 NVIDIA H100 80GB HBM3",
            ),
        ];
        for (what, change, expected) in cases {
            let mut found = shape();
            change(&mut found);
            let differences = wanted.differences(&found);
            assert_eq!(differences.is_empty(), expected.is_empty(), "{what}: {differences:?}");
            assert!(differences.join("; ").contains(expected), "{what}: {differences:?}");
        }
    }

    #[test]
    fn names_for_people() {
        let with = |model: &str, count| {
            let vendor = GpuVendor::Nvidia;
            Shape { gpus: vec![GpuGroup { vendor, model: model.to_owned(), count }], ..shape() }
        };
        for (shape, expected) in [
            (shape(), "x86-64c-512g-8xh100-80gb-hbm3"),
            (Shape { gpus: vec![], installed_bytes: None, ..shape() }, "x86-64c-503g"),
            (Shape { architecture: "aarch64".into(), gpus: vec![], ..shape() }, "arm-64c-512g"),
            (with("AMD Instinct MI300X", 1), "x86-64c-512g-1xinstinct-mi300x"),
            (with("Ünïcode / --", 2), "x86-64c-512g-2x-n-code"),
        ] {
            assert_eq!(shape.name(), expected, "{shape:?}");
        }
        assert!(with(&"x".repeat(200), 1).name().len() <= 50);
        let taken = [
            class(ID, shape()),
            NodeClass { name: "x86-64c-512g-8xh100-80gb-hbm3".into(), ..class(OTHER, shape()) },
        ];
        assert_eq!(unused_name(&shape(), &taken), "x86-64c-512g-8xh100-80gb-hbm3-2");
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn decisions() {
        let no_labels = BTreeMap::new();
        let labels = BTreeMap::from([("pool".to_owned(), "a".to_owned())]);
        let name: NodeName = "n1".parse().expect("a name");
        let candidate = |label: Option<&'static str>, assigned: Option<&str>| Candidate {
            name: &name,
            shape: Ok(shape()),
            assigned: assigned.map(|id| NodeClassId::parse(id).expect("an id")),
            former: None,
            label,
            labels: &no_labels,
        };
        let unknown =
            || Candidate { shape: Err("its gpus are not known".into()), ..candidate(None, None) };
        let of_former = |id: &'static str| Candidate {
            former: NodeClassId::parse(id),
            ..candidate(Some(id), None)
        };
        let in_pool = || Candidate { labels: &labels, ..candidate(None, None) };
        let small = || Shape { vcpus: 4, ..shape() };
        let none = "[]";
        let by_vcpus = format!("[{{id: {OTHER}, name: d, fits: {{vcpus: 64}}}}]");
        let by_label = format!("[{{id: {OTHER}, name: d}}]");
        let by_pool = format!("[{{id: {OTHER}, name: d, fits: {{selector: {{pool: a}}}}}}]");
        let by_gpus = format!(
            "[{{id: {OTHER}, name: d, fits: {{gpus: 8, gpuModel: NVIDIA H100 80GB HBM3}}}}]"
        );
        let too_many = format!("[{{id: {OTHER}, name: d, fits: {{gpus: 9}}}}]");
        let (keep, assign) = (|| "keep".to_owned(), |id: &str| format!("assign {id}"));
        let found = |id: &str, origin| format!("found {id} {origin:?}");
        let wait = |why: &str| format!("wait: {why}");
        for (what, candidate, classes, known, expected) in [
            (
                "the first of its shape",
                candidate(None, None),
                none,
                vec![],
                found("new", Origin::Allocated),
            ),
            ("the second", candidate(None, None), none, vec![class(ID, shape())], assign(ID)),
            (
                "another shape",
                candidate(None, None),
                none,
                vec![class(ID, small())],
                found("new", Origin::Allocated),
            ),
            (
                "one that has its class",
                candidate(None, Some(ID)),
                none,
                vec![class(ID, small())],
                keep(),
            ),
            (
                "the same, labelled",
                candidate(Some(ID), Some(ID)),
                none,
                vec![class(ID, small())],
                keep(),
            ),
            ("what is not known", unknown(), none, vec![], wait("its gpus are not known")),
            (
                "a label of a known class",
                candidate(Some(ID), None),
                none,
                vec![class(ID, small())],
                assign(ID),
            ),
            (
                "a label of a new class",
                candidate(Some(ID), None),
                none,
                vec![class(OTHER, shape())],
                found(ID, Origin::Label),
            ),
            (
                "a label of a declared class",
                candidate(Some(OTHER), None),
                &by_label,
                vec![],
                found(OTHER, Origin::Declared),
            ),
            (
                "a label that somebody changed",
                candidate(Some(OTHER), Some(ID)),
                none,
                vec![class(ID, shape()), class(OTHER, small())],
                assign(OTHER),
            ),
            (
                "a label of the machine before it",
                of_former(ID),
                none,
                vec![class(ID, small())],
                found("new", Origin::Allocated),
            ),
            ("that of an equal machine", of_former(ID), none, vec![class(ID, shape())], assign(ID)),
            (
                "one whose class was lost",
                candidate(None, Some(ID)),
                none,
                vec![],
                found(ID, Origin::Label),
            ),
            (
                "the same beside an equal one",
                candidate(None, Some(ID)),
                none,
                vec![class(OTHER, shape())],
                found(ID, Origin::Label),
            ),
            (
                "an empty label",
                candidate(Some(""), None),
                none,
                vec![class(ID, shape())],
                assign(ID),
            ),
            (
                "a label that is no id",
                candidate(Some("big"), None),
                none,
                vec![class(ID, shape())],
                wait("its class label is no version 4 UUID"),
            ),
            (
                "the same with a class",
                candidate(Some("big"), Some(ID)),
                none,
                vec![class(ID, shape())],
                keep(),
            ),
            (
                "a declared class that fits",
                candidate(None, None),
                &by_vcpus,
                vec![],
                found(OTHER, Origin::Declared),
            ),
            (
                "the second of it",
                candidate(None, None),
                &by_vcpus,
                vec![class(OTHER, shape())],
                assign(OTHER),
            ),
            (
                "one that fits, and is of another shape",
                candidate(None, None),
                &by_vcpus,
                vec![class(OTHER, Shape { disk_bytes: 0, ..shape() })],
                found("new", Origin::Allocated),
            ),
            (
                "a declared class before a stored one",
                candidate(None, None),
                &by_vcpus,
                vec![class(ID, shape())],
                found(OTHER, Origin::Declared),
            ),
            (
                "a class by its label alone",
                candidate(None, None),
                &by_label,
                vec![class(OTHER, shape())],
                found("new", Origin::Allocated),
            ),
            ("a pool that it is in", in_pool(), &by_pool, vec![], found(OTHER, Origin::Declared)),
            (
                "a pool that it is not in",
                candidate(None, None),
                &by_pool,
                vec![class(OTHER, shape())],
                found("new", Origin::Allocated),
            ),
            ("by GPUs", candidate(None, None), &by_gpus, vec![], found(OTHER, Origin::Declared)),
            (
                "by other GPUs",
                candidate(None, None),
                &too_many,
                vec![],
                found("new", Origin::Allocated),
            ),
        ] {
            let decision = decide(&candidate, &declared(classes), &known, Timestamp::UNIX_EPOCH);
            let is_new = |id: NodeClassId| id.to_string() != ID && id.to_string() != OTHER;
            let said = match decision {
                Decision::Keep => keep(),
                Decision::Assign(id) => assign(&id.to_string()),
                Decision::Found(class) if is_new(class.id) => found("new", class.origin),
                Decision::Found(class) => found(&class.id.to_string(), class.origin),
                Decision::Wait(why) => wait(&why),
            };
            assert!(said.starts_with(&expected), "{what}: {said}, not {expected}");
        }
    }

    #[test]
    fn the_nearest_of_several_that_are_equal_enough() {
        let at = |gib| Shape { installed_bytes: None, memory_bytes: gib * GIB, ..shape() };
        let known = [class(ID, at(500)), class(OTHER, at(506))];
        let (name, labels) = ("n1".parse().expect("a name"), BTreeMap::new());
        for (gib, expected) in [(499, ID), (502, ID), (505, OTHER), (510, OTHER)] {
            let candidate = Candidate {
                name: &name,
                shape: Ok(at(gib)),
                assigned: None,
                former: None,
                label: None,
                labels: &labels,
            };
            let decision = decide(&candidate, &[], &known, Timestamp::UNIX_EPOCH);
            let id = NodeClassId::parse(expected).expect("an id");
            assert_eq!(decision, Decision::Assign(id), "{gib} GiB");
        }
    }

    proptest! {
        /// However equal machines differ in what their kernels left them, and in whatever order they come,
        /// there is one class for each shape, and none twice.
        #[test]
        fn equal_machines_are_never_split(
            machines in vec((0..3_usize, 991..=1009_u64, 991..=1009_u64, any::<bool>()), 1..40),
        ) {
            let shapes = [
                shape(),
                Shape { gpus: vec![], ..shape() },
                Shape { installed_bytes: Some(1024 * GIB), memory_bytes: 1006 * GIB, ..shape() },
            ];
            let (name, labels) = ("n1".parse().expect("a name"), BTreeMap::new());
            let mut known: Vec<NodeClass> = Vec::new();
            let mut given: BTreeMap<usize, NodeClassId> = BTreeMap::new();
            for (kind, memory, disk, is_told) in machines {
                let nominal = shapes[kind].clone();
                let found = Shape {
                    memory_bytes: nominal.memory_bytes / 1000 * memory,
                    disk_bytes: nominal.disk_bytes / 1000 * disk,
                    installed_bytes: nominal.installed_bytes.filter(|_| is_told),
                    ..nominal
                };
                let candidate = Candidate {
                    name: &name,
                    shape: Ok(found),
                    assigned: None,
                    former: None,
                    label: None,
                    labels: &labels,
                };
                let id = match decide(&candidate, &[], &known, Timestamp::UNIX_EPOCH) {
                    Decision::Assign(id) => id,
                    Decision::Found(class) => {
                        let id = class.id;
                        known.push(*class);
                        id
                    }
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(*given.entry(kind).or_insert(id), id);
            }
            prop_assert_eq!(known.len(), given.len());
            let names: std::collections::BTreeSet<&str> =
                known.iter().map(|class| class.name.as_str()).collect();
            prop_assert_eq!(names.len(), known.len());
        }
    }
}
