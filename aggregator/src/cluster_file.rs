//! The cluster file: what the owner says about the cluster, and where it is to be registered.
//!
//! YAML; every key is checked, and an error names the line and the key. The free-form parts
//! (`config`, `clusterMetadata`) go into the document as they are, in their order.

pub mod aichor;
mod aios;
pub mod inference_model_manager;
pub mod interlink;
mod nodes;
mod target;
mod transport;
pub mod unikorn;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use rollcall_report::{NODE_CLASS_LABEL, NodeId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use thiserror::Error;

pub use aios::{AiosTarget, Envelope, Infrastructure, Mode};
pub use nodes::{ControlPlanePolicy, Inclusion, NodePolicy};
pub use target::{Target, TargetKind, TargetName};
pub use transport::TransportSettings;
pub use unikorn::UnikornTarget;

/// More than any network's registry would take.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The whole cluster file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterFile {
    /// What the document says besides the nodes.
    pub cluster: Cluster,
    /// The networks to register with.
    #[serde(default, deserialize_with = "unique_targets")]
    pub targets: Vec<Target>,
    /// Which nodes must have reported before the first registration.
    #[serde(default)]
    pub expect: Option<Expect>,
    /// Values that the machines do not tell.
    #[serde(default)]
    pub overrides: Overrides,
    /// For how long the loss of a GPU must be confirmed before the GPU counts no more.
    #[serde(default = "gpu_loss_hold_down", deserialize_with = "duration")]
    pub gpu_loss_hold_down: Duration,
    /// When nodes that have left are taken out of a network's entry.
    #[serde(default)]
    pub departures: DepartureRules,
    /// Who labels the Nodes of a Kubernetes cluster.
    #[serde(default)]
    pub stamping: Stamping,
}

/// Who labels the Nodes of a Kubernetes cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stamping {
    /// Each agent its own Node.
    #[default]
    Agent,
    /// The aggregator all of them: agents then need no rights.
    Aggregator,
}

/// When nodes that have left are taken out of a network's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DepartureRules {
    /// For how long a node may come back as if nothing had been.
    #[serde(deserialize_with = "duration")]
    pub hold_down: Duration,
    /// Taking away more than this share of an entry's nodes at once waits for a person.
    #[serde(deserialize_with = "percent")]
    pub approve_above_percent: u8,
}

impl Default for DepartureRules {
    fn default() -> Self {
        Self { hold_down: Duration::from_mins(10), approve_above_percent: 20 }
    }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let percent = Value::deserialize(deserializer)?;
    let fits = percent.as_u64().filter(|percent| *percent <= 100);
    fits.and_then(|percent| u8::try_from(percent).ok())
        .ok_or_else(|| D::Error::custom("approveAbovePercent must be a whole number from 0 to 100"))
}

/// Long enough for a GPU's reset or a driver's upgrade.
fn gpu_loss_hold_down() -> Duration {
    Duration::from_mins(10)
}

/// What the onboarding document says besides the nodes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's id in the network's registry.
    pub id: ClusterId,
    /// The region, in the network's words.
    pub region_id: String,
    /// The status, in the network's words.
    #[serde(default = "live")]
    pub status: String,
    /// Free-form configuration: `publicHostname`, `useGateway`, policies.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Labels for searching.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Free-form description: name, owner, contact. `additionalInfo` in it is a mapping, for each
    /// target marks the entry there as this installation's.
    #[serde(default, deserialize_with = "cluster_metadata")]
    pub cluster_metadata: Map<String, Value>,
    /// The reputation to start with.
    #[serde(default)]
    pub reputation: i64,
}

fn live() -> String {
    "live".into()
}

fn cluster_metadata<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Map<String, Value>, D::Error> {
    let metadata = Map::deserialize(deserializer)?;
    let info = match metadata.get("additionalInfo") {
        None => return Ok(metadata),
        Some(Value::Object(info)) => info,
        Some(_) => return Err(D::Error::custom("additionalInfo must be a mapping")),
    };
    match info.get("joinCommand") {
        None | Some(Value::Null | Value::String(_)) => Ok(metadata),
        // It is a secret, and known as one by being a text at this place.
        Some(_) => Err(D::Error::custom("additionalInfo.joinCommand must be a text")),
    }
}

/// A cluster's id: AIOS names a Service `ID-controller-svc`, so it is a DNS label of at most 48
/// characters that begins with a letter: `[a-z]([-a-z0-9]*[a-z0-9])?`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ClusterId(String);

impl ClusterId {
    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const MAX_BYTES: usize = 48;
        let text = String::deserialize(deserializer)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let problem = if text.len() > MAX_BYTES {
            format!("has {} bytes, at most {MAX_BYTES} are allowed", text.len())
        } else if !text.starts_with(|c: char| c.is_ascii_lowercase())
            || !text.chars().all(allowed)
            || text.ends_with('-')
        {
            "must be lower-case letters, digits and '-', begin with a letter and not end with '-'"
                .to_owned()
        } else {
            return Ok(Self(text));
        };
        let shown: String = text.chars().take(80).collect();
        Err(D::Error::custom(format!("cluster id {shown:?} {problem}")))
    }
}

/// Which nodes must have reported before the first registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// How many nodes the cluster has; where Kubernetes tells them, that is what is expected without it.
    #[serde(default, deserialize_with = "at_least_one")]
    pub nodes: Option<usize>,
    /// How long to wait for them after the first report; then the cluster is registered with the
    /// nodes that are there. Without it the wait has no end.
    #[serde(default, deserialize_with = "some_duration")]
    pub deadline: Option<Duration>,
}

/// Values that the machines do not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Overrides {
    /// Speeds of interfaces whose driver tells none, as virtual ones often do. The first entry that
    /// fits counts; a speed that the machine tells is never overridden.
    #[serde(default)]
    pub unknown_nic_speeds: Vec<NicSpeed>,
}

/// The speed of interfaces whose driver tells none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NicSpeed {
    /// The node; every node if left out.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// The interface; every interface if left out.
    #[serde(default)]
    pub nic: Option<String>,
    /// Mbit/s.
    pub speed_mbps: u32,
}

impl Overrides {
    /// The speed that the owner gives an interface, in Mbit/s.
    pub fn nic_speed_mbps(&self, node: &NodeId, nic: &str) -> Option<u32> {
        let fits = |entry: &&NicSpeed| {
            entry.node.as_ref().is_none_or(|name| name == node)
                && entry.nic.as_deref().is_none_or(|name| name == nic)
        };
        self.unknown_nic_speeds.iter().find(fits).map(|entry| entry.speed_mbps)
    }
}

fn unique_targets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Target>, D::Error> {
    let targets = Vec::<Target>::deserialize(deserializer)?;
    let mut names = HashSet::new();
    for target in &targets {
        if !names.insert(target.name()) {
            let message =
                format!("two targets are named {:?}: a name stands once", target.name().as_str());
            return Err(D::Error::custom(message));
        }
    }
    let networks: Vec<&AiosTarget> = targets.iter().filter_map(Target::aios).collect();
    for (index, target) in networks.iter().enumerate() {
        let mut others = networks.iter().skip(index + 1);
        if let Some(other) = others.find(|other| other.gateway_url == target.gateway_url) {
            let message = format!(
                "targets {:?} and {:?} have one gatewayUrl: a cluster has one entry in a network",
                target.name.as_str(),
                other.name.as_str()
            );
            return Err(D::Error::custom(message));
        }
    }
    let mut regions = targets.iter().filter_map(Target::unikorn);
    if let (Some(one), Some(other)) = (regions.next(), regions.next()) {
        let message = format!(
            "targets {:?} and {:?} are both of type unikorn: a Node has one class, and a cluster is one region",
            one.name.as_str(),
            other.name.as_str()
        );
        return Err(D::Error::custom(message));
    }
    Ok(targets)
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(D::Error::custom("a cluster has at least 1 node")),
        nodes => Ok(Some(nodes)),
    }
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| D::Error::custom(format!("{text:?} is no duration such as 30m: {error}")))
}

impl ClusterFile {
    /// Reads and checks a cluster file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or holds a wrong key or value; the error names file, line and key.
    pub fn read(path: &Path) -> Result<Self, ClusterFileError> {
        let unreadable = |source| ClusterFileError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        // One byte more than allowed tells that it is too large, whatever length it claims.
        let mut file = File::open(path).map_err(unreadable)?.take(MAX_FILE_BYTES + 1);
        file.read_to_string(&mut text).map_err(unreadable)?;
        if file.limit() == 0 {
            return Err(ClusterFileError::TooLarge { path: path.to_owned() });
        }
        Self::parse(&text)
            .map_err(|problem| ClusterFileError::Invalid { path: path.to_owned(), problem })
    }

    /// The AIOS networks among the targets.
    pub fn aios_targets(&self) -> impl Iterator<Item = &AiosTarget> {
        self.targets.iter().filter_map(Target::aios)
    }

    /// The Unikorn region among the targets, where there is one: the cluster's nodes have classes then.
    pub fn region(&self) -> Option<&UnikornTarget> {
        self.targets.iter().find_map(Target::unikorn)
    }

    /// Which Nodes the targets are offered, those that are offered any; without one the default policy,
    /// which is nobody's.
    pub fn policies(&self) -> Vec<(Option<&TargetName>, &NodePolicy)> {
        static DEFAULT: LazyLock<NodePolicy> = LazyLock::new(NodePolicy::default);
        let policies = self.targets.iter().filter_map(|it| Some((Some(it.name()), it.nodes()?)));
        let mut policies: Vec<_> = policies.collect();
        if policies.is_empty() {
            policies.push((None, &*DEFAULT));
        }
        policies
    }

    /// The labels of Nodes that somebody looks at: those that selectors name, and the class.
    pub fn selected_labels(&self) -> BTreeSet<String> {
        let policies = self.targets.iter().filter_map(Target::nodes);
        let mut labels: BTreeSet<String> =
            policies.flat_map(|policy| policy.selector.keys().cloned()).collect();
        if let Some(UnikornTarget { region, .. }) = self.region() {
            let fits = region.classes.iter().filter_map(|class| class.fits.as_ref());
            labels.extend(fits.flat_map(|fits| fits.selector.keys().cloned()));
            labels.insert(NODE_CLASS_LABEL.to_owned());
        }
        labels
    }

    /// Targets that the same nodes may be offered to, two and two: then each network believes that it
    /// has them to itself. One that is only observed is offered nothing.
    pub fn overlapping_targets(&self) -> Vec<(&TargetName, &TargetName)> {
        let is_observed =
            |target: &Target| target.aios().is_some_and(|it| it.mode == Mode::Observe);
        let offered = self.targets.iter().filter(|target| !is_observed(target));
        let offered: Vec<(&TargetName, &NodePolicy)> =
            offered.filter_map(|target| Some((target.name(), target.nodes()?))).collect();
        let pairs = offered.iter().enumerate().flat_map(|(index, (one, policy))| {
            let others = offered.iter().skip(index + 1);
            others.filter(|(_, other)| policy.overlaps(other)).map(|(other, _)| (*one, *other))
        });
        pairs.collect()
    }

    /// The targets that the same nodes may be offered to as to this one.
    pub fn sharers(&self, target: &TargetName) -> Vec<String> {
        let pairs = self.overlapping_targets().into_iter();
        let others = pairs.filter_map(|(one, other)| match (one == target, other == target) {
            (true, _) => Some(other.to_string()),
            (_, true) => Some(one.to_string()),
            (false, false) => None,
        });
        others.collect()
    }

    /// Parses and checks a cluster file's text.
    ///
    /// # Errors
    ///
    /// The first wrong key or value, with its line.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        // Norway is no boolean: only true and false are.
        let options = serde_saphyr::options! { strict_booleans: true };
        // The span of the whole is not needed; asking for it makes an empty file an error with a
        // line like any other.
        serde_saphyr::from_str_with_options::<Spanned<Self>>(text, options)
            .map(|file| file.value)
            .map_err(|error| Problem::new(&error, text))
    }
}

/// What is wrong with a cluster file, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {message}")]
pub struct Problem {
    line: u64,
    column: u64,
    message: String,
}

impl Problem {
    fn new(error: &serde_saphyr::Error, text: &str) -> Self {
        // Without the snippet: the lines around the mistake may hold a join command.
        let error = error.without_snippet();
        let location = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
        let (line, column) = (location.line(), location.column());
        let said = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        let said = said.strip_suffix(&format!(" at line {line}, column {column}")).unwrap_or(&said);
        let message = match key_on_line(text, line) {
            // What is wrong with a whole target stands at its first line, which is not to blame.
            Some(key)
                if !said.contains(key)
                    && !said.starts_with("missing field")
                    && !said.starts_with("target ") =>
            {
                format!("{key}: {said}")
            }
            _ => said.to_owned(),
        };
        Self { line, column, message }
    }
}

/// The key that a line of YAML begins with, if it does. Of the line nothing else is taken: the
/// value may be a secret.
fn key_on_line(text: &str, line: u64) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    let (key, _) = line.trim_start_matches([' ', '-']).split_once(':')?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric());
    is_key.then_some(key)
}

/// Why there is no cluster file.
#[derive(Debug, Error)]
pub enum ClusterFileError {
    /// It cannot be read.
    #[error("cluster file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is too large for a cluster file.
    #[error("cluster file {} has more than {MAX_FILE_BYTES} bytes: is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It holds a wrong key or value.
    #[error("cluster file {}, {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: Problem,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "cluster:\n  id: west\n  regionId: us-west-2\n";

    #[test]
    fn a_small_file_is_enough() {
        let file = ClusterFile::parse(SMALL).expect("valid");
        assert_eq!(file.cluster.id.as_str(), "west");
        assert_eq!(file.cluster.status, "live");
        assert!(file.targets.is_empty());
    }

    #[test]
    fn targets_that_share_nodes() {
        let entry = |name: &str, rest: &str| {
            format!(
                "  - {{name: {name}, type: aios, parserUrl: 'http://p.{name}', gatewayUrl: 'http://g.{name}', {rest}}}\n"
            )
        };
        for (what, one, other, expected) in [
            ("every node for both", "mode: auto", "mode: approve", vec![("a", "b")]),
            ("one is only observed", "mode: auto", "mode: observe", vec![]),
            (
                "another value",
                "nodes: {selector: {zone: x}}",
                "nodes: {selector: {zone: y}}",
                vec![],
            ),
            (
                "another label",
                "nodes: {selector: {zone: x}}",
                "nodes: {selector: {pool: y}}",
                vec![("a", "b")],
            ),
        ] {
            let text = format!("{SMALL}targets:\n{}{}", entry("a", one), entry("b", other));
            let file = ClusterFile::parse(&text).expect(what);
            let pairs = file.overlapping_targets();
            let pairs: Vec<_> =
                pairs.iter().map(|(one, other)| (one.as_str(), other.as_str())).collect();
            assert_eq!(pairs, expected, "{what}");
            let of_b = file.targets.last().map(|target| file.sharers(target.name()));
            let names = expected.iter().map(|(one, _)| (*one).to_owned()).collect();
            assert_eq!(of_b, Some(names), "{what}");
        }
    }

    #[test]
    fn how_many_nodes_are_expected() {
        for (rest, expected) in [
            ("", None),
            ("expect: {nodes: 3}\n", Some((Some(3), None))),
            ("expect: {deadline: 2h}\n", Some((None, Some(Duration::from_hours(2))))),
        ] {
            let file = ClusterFile::parse(&format!("{SMALL}{rest}")).expect("valid");
            let got = file.expect.map(|expect| (expect.nodes, expect.deadline));
            assert_eq!(got, expected, "{rest:?}");
        }
    }

    #[test]
    fn how_long_lost_gpus_count() {
        for (rest, expected) in [
            ("", Duration::from_mins(10)),
            ("gpuLossHoldDown: 90s\n", Duration::from_secs(90)),
            ("gpuLossHoldDown: 0s\n", Duration::ZERO),
        ] {
            let file = ClusterFile::parse(&format!("{SMALL}{rest}")).expect("valid");
            assert_eq!(file.gpu_loss_hold_down, expected, "{rest:?}");
        }
    }

    #[test]
    fn free_form_parts_keep_their_order() {
        let text =
            format!("{SMALL}  clusterMetadata:\n    z: 1\n    a: {{y: true, b: [NO, 2.5]}}\n");
        let file = ClusterFile::parse(&text).expect("valid");
        let json = serde_json::to_string(&file.cluster.cluster_metadata).expect("JSON");
        assert_eq!(json, r#"{"z":1,"a":{"y":true,"b":["NO",2.5]}}"#);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn errors_name_line_and_key() {
        let entry = "  - name: aios\n    type: aios\n    parserUrl: http://p:1\n    gatewayUrl: http://g:2\n";
        let target = format!("targets:\n{entry}");
        for (what, text, line, words) in [
            ("a wrong key", format!("{SMALL}  regoin: x\n"), 4, "regoin"),
            ("a wrong key at the top", format!("{SMALL}target: []\n"), 4, "target"),
            ("a missing id", "cluster:\n  regionId: x\n".into(), 2, "id"),
            ("a bad id", "cluster:\n  id: West_1\n  regionId: x\n".into(), 2, "West_1"),
            ("a long id", format!("cluster:\n  id: {}\n  regionId: x\n", "a".repeat(49)), 2, "49"),
            ("a duplicate key", format!("{SMALL}  id: east\n"), 4, "duplicate"),
            ("a wrong type", format!("{SMALL}  tags: 7\n"), 4, "sequence"),
            ("no YAML", format!("{SMALL}  tags: [\n"), 0, ""),
            ("an empty file", String::new(), 0, ""),
            (
                "an additionalInfo that cannot be marked",
                format!("{SMALL}  clusterMetadata:\n    additionalInfo: hunter2\n"),
                0,
                "additionalInfo must be a mapping",
            ),
            ("no nodes", format!("{SMALL}expect: {{nodes: 0}}\n"), 4, "at least 1"),
            (
                "a bad duration",
                format!("{SMALL}expect:\n  nodes: 1\n  deadline: soon\n"),
                6,
                "soon",
            ),
            (
                "a hold-down without a unit",
                format!("{SMALL}gpuLossHoldDown: 600\n"),
                4,
                "gpuLossHoldDown",
            ),
            (
                "a URL of another scheme",
                format!("{SMALL}{}", target.replace("http://p", "ftp://p")),
                7,
                "parserUrl: must be a URL that begins with http",
            ),
            (
                "no port",
                format!("{SMALL}{}", target.replace("http://p:1", "http://u:hunter2@p:99999")),
                7,
                "parserUrl: no URL",
            ),
            (
                "no scheme",
                format!("{SMALL}{}", target.replace("http://p:1", "u:hunter2@p")),
                7,
                "parserUrl: must be a URL",
            ),
            (
                "a token in a URL",
                format!("{SMALL}{}", target.replace("http://p:1", "http://p/?token=hunter2")),
                7,
                "parserUrl: must not hold a query",
            ),
            (
                "a password in a URL",
                format!("{SMALL}{}", target.replace("http://p", "http://u:hunter2@p")),
                7,
                "password",
            ),
            (
                "an unknown type",
                format!("{SMALL}{}", target.replace("type: aios", "type: oasis")),
                6,
                "oasis",
            ),
            (
                "a bad target name",
                format!("{SMALL}{}", target.replace("name: aios", "name: A B")),
                5,
                "A B",
            ),
            ("a target twice", format!("{SMALL}{target}{entry}"), 0, "two targets"),
            (
                "a network twice",
                format!("{SMALL}{target}{}", entry.replace("name: aios", "name: again")),
                0,
                "have one gatewayUrl",
            ),
            (
                "a join command that is no text",
                format!(
                    "{SMALL}  clusterMetadata: {{additionalInfo: {{joinCommand: [hunter2]}}}}\n"
                ),
                0,
                "joinCommand must be a text",
            ),
            (
                "more than all",
                format!("{SMALL}departures: {{approveAbovePercent: 101}}\n"),
                4,
                "a whole number from 0 to 100",
            ),
            (
                "a percentage with its sign",
                format!("{SMALL}departures: {{approveAbovePercent: 20%}}\n"),
                4,
                "a whole number from 0 to 100",
            ),
            (
                "an unknown mode",
                format!(
                    "{SMALL}{}",
                    target.replace("type: aios", "type: aios\n    mode: auto-matic")
                ),
                7,
                "auto-matic",
            ),
            (
                "looks without a pause",
                format!("{SMALL}{}", target.replace("type: aios", "type: aios\n    lookEvery: 0s")),
                7,
                "from 1s to 1h",
            ),
            (
                "infrastructure without its tasks",
                format!(
                    "{SMALL}{}",
                    target.replace(
                        "type: aios",
                        "type: aios\n    infrastructure: {kubeconfigFile: f}"
                    )
                ),
                7,
                "tasksUrl",
            ),
        ] {
            let problem = ClusterFile::parse(&text).expect_err(what);
            let message = problem.to_string();
            assert!(problem.line > 0 || text.is_empty(), "{what}: {message}");
            assert!(line == 0 || problem.line == line, "{what}: {message}");
            assert!(message.contains(words), "{what}: {message}");
            assert!(!message.contains("hunter2"), "{what}: {message}");
        }
    }

    #[test]
    fn an_error_does_not_show_the_lines_around_it() {
        let text = format!(
            "{SMALL}  clusterMetadata:\n    additionalInfo:\n      joinCommand: hunter2\n      joinCommand: hunter3\n"
        );
        let message = ClusterFile::parse(&text).expect_err("duplicate").to_string();
        assert!(message.contains("line 7"), "{message}");
        assert!(!message.contains("hunter"), "{message}");
    }

    #[test]
    fn nic_speeds() {
        let text = format!(
            "{SMALL}overrides:\n  unknownNicSpeeds:\n    - {{node: n1, nic: eth0, speedMbps: 1000}}\n    - {{nic: eth1, speedMbps: 2000}}\n    - {{node: n2, speedMbps: 3000}}\n"
        );
        let overrides = ClusterFile::parse(&text).expect("valid").overrides;
        for (node, nic, expected) in [
            ("n1", "eth0", Some(1000)),
            ("n1", "eth1", Some(2000)),
            ("n1", "eth2", None),
            ("n2", "eth1", Some(2000)),
            ("n2", "eth0", Some(3000)),
        ] {
            let node = node.parse().expect("a node id");
            assert_eq!(overrides.nic_speed_mbps(&node, nic), expected, "{node} {nic}");
        }
    }
}
