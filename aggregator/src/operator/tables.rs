//! Tables for people, with escape codes for styles; the stream takes them out where they are not wanted.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;
use rollcall_daemon::table::{
    BAD, Cell, Column, FAINT, GOOD, HEAD, Laid, NOTABLE, PLAIN, Table, one_line, painted,
};

use crate::admin::views::{
    ExpectedView, HistoryView, NodeState, NodeView, NodesView, NotOffered, RegionStatus,
    StatusView, TargetView,
};
use crate::cluster_file::Mode;
use crate::digest::Digest;
use crate::document::{ClusterDocument, NodeData};
use crate::onboarding::state::infrastructure::InfrastructurePhase;
use crate::onboarding::state::{Phase, Sending};
use crate::store::JournalLine;
use crate::targets::unikorn::region::RegionView;
use crate::targets::{Difference, listed};

/// What the tables are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Viewer {
    /// Now.
    pub now: Timestamp,
    /// How many columns of characters there is room for; as many as are needed if left out.
    pub room: Option<usize>,
}

/// The nodes, their totals, and what has to be said about them.
pub fn nodes(view: &NodesView, viewer: Viewer) -> String {
    let has_classes = view.nodes.iter().any(|node| node.class.is_some());
    let mut columns =
        vec![Column::new("NODE"), Column::new("NODE ID").gives_way(6), Column::new("STATE")];
    columns.extend(FIGURES.map(|figure| figure.column));
    columns.push(Column::new("GPU MODELS").gives_way(10));
    columns.push(Column::new("LAST REPORT").gives_way(12));
    if has_classes {
        columns.push(Column::new("CLASS").gives_way(9));
    }
    let mut table = Table::new(columns).headed(HEAD);
    for node in &view.nodes {
        let mut row = vec![
            Cell::new(node.name.as_str()),
            Cell::new(node.node_id.as_str()),
            Cell::new(state(node)).styled(state_style(node)),
        ];
        row.extend(figures(node.entry.as_ref()));
        let models = node.entry.as_ref().map(|entry| entry.gpus.model_names.join(", "));
        row.push(Cell::new(models.unwrap_or_default()));
        let seen = if node.stale { NOTABLE } else { PLAIN };
        row.push(Cell::new(ago(node.last_seen, viewer.now)).styled(seen));
        if has_classes {
            let class = node.class.as_ref().and_then(|class| class.name.as_deref());
            row.push(Cell::new(class.unwrap_or_default()));
        }
        table.row(row);
    }
    if view.nodes.len() > 1 {
        let mut row = vec![Cell::new("TOTAL"), Cell::new(""), Cell::new("")];
        let entries = view.nodes.iter().filter_map(|node| node.entry.as_ref());
        row.extend(totals(entries).map(Cell::number));
        table.row(row.into_iter().map(|cell| cell.styled(HEAD)).collect());
    }
    let Laid { lines: mut text, left_out } = table.lay(viewer.room);
    if view.nodes.is_empty() {
        text.push("no node has reported yet".to_owned());
    }
    for node in &view.nodes {
        text.extend(node.kept_out.iter().chain(&node.warnings).map(|said| notable(said)));
        text.extend(node.hardware_changes.iter().flatten().map(|change| {
            notable(&format!("node {}: changed since its last boot: {change}", node.node_id))
        }));
        text.extend(node.failing.iter().map(|failing| {
            let since = ago(failing.since, viewer.now);
            let (id, subject, reason) = (&node.node_id, failing.subject, &failing.reason);
            notable(&format!("node {id}: {subject} failed {since}: {reason}"))
        }));
    }
    text.extend(view.conflicts.iter().map(|conflict| bad(&format!("refused: {conflict}"))));
    let missing = not_offered("expected, not in the document", &view.missing);
    text.extend(missing.iter().map(|said| notable(said)));
    text.extend(not_offered("left out", &view.left_out).into_iter().map(one_line));
    text.extend(no_room(&left_out));
    text.join("\n")
}

/// What has to be told of columns for which there is no room.
fn no_room(left_out: &[&str]) -> Option<String> {
    let titles = left_out.join(", ");
    let words =
        format!("no room for: {titles}; a wider terminal, a pipe or --output json shows them");
    (!left_out.is_empty()).then(|| painted(FAINT, &words))
}

/// A line that somebody should read.
fn notable(said: &str) -> String {
    painted(NOTABLE, &one_line(format!("! {said}")))
}

/// A line that somebody must act upon.
fn bad(said: &str) -> String {
    painted(BAD, &one_line(format!("! {said}")))
}

/// Nodes that targets do not get, a line for each set of targets.
fn not_offered(what: &str, nodes: &[NotOffered]) -> Vec<String> {
    let mut by_targets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for NotOffered { name, why, targets } in nodes {
        let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        by_targets.entry(targets.join(", ")).or_default().push(format!("{name}{why}"));
    }
    let lines = by_targets.into_iter().map(|(targets, nodes)| {
        let of = if targets.is_empty() { targets } else { format!(" of {targets}") };
        format!("{what}{of}: {}", listed(&nodes, ", "))
    });
    lines.collect()
}

/// Where the targets stand.
pub fn status(view: &StatusView, viewer: Viewer) -> String {
    let expected =
        view.expected_nodes.map_or_else(String::new, |nodes| format!(" ({nodes} expected)"));
    let mut text = vec![format!(
        "cluster {}: {} nodes complete{expected}, {} incomplete, {} stale",
        view.cluster, view.complete_nodes, view.incomplete_nodes, view.stale_nodes
    )];
    text.extend(view.kubernetes.iter().filter_map(|kubernetes| {
        let failing = kubernetes.failing.as_ref().zip(kubernetes.failing_since);
        failing.map(|(words, since)| {
            bad(&format!("Kubernetes has not told its Nodes since {since:.0}: {words}"))
        })
    }));
    if view.follows {
        text.push(
            "another replica submits: what stands here of targets is as of their last change"
                .to_owned(),
        );
    }
    text.extend(
        view.waiting_for
            .iter()
            .map(|why| painted(NOTABLE, &one_line(format!("first registration waits: {why}")))),
    );
    if viewer.room.is_some() {
        text.extend(view.targets.iter().filter_map(gathering));
    }
    text.extend(view.conflicts.iter().map(|conflict| bad(&format!("refused: {conflict}"))));
    if let Some(region) = &view.region {
        text.extend(region_lines(region));
    }
    if view.targets.is_empty() {
        if view.region.is_none() {
            text.push(
                "the cluster is registered nowhere: the cluster file names no network".to_owned(),
            );
        }
        return text.join("\n");
    }
    let mut table = Table::new(vec![
        Column::new("TARGET"),
        Column::new("STATE"),
        Column::new("SINCE").gives_way(4),
        Column::new("NEXT TRY").gives_way(3),
        Column::new("MODE").gives_way(1),
        Column::new("INFRASTRUCTURE").gives_way(5),
        Column::new("URL").gives_way(2),
    ])
    .headed(HEAD);
    for target in &view.targets {
        let (state, held) = (&target.state, target.state.infrastructure.phase);
        let next = state.next_look().map_or_else(String::new, |at| until(at, viewer.now));
        table.row(vec![
            Cell::new(&target.name),
            Cell::new(state.phase.as_str()).styled(phase_style(state.phase)),
            Cell::new(ago(state.since, viewer.now)),
            Cell::new(next),
            Cell::new(mode(target.mode)),
            Cell::new(held.as_str()).styled(infrastructure_style(held)),
            Cell::new(&target.url),
        ]);
    }
    let Laid { lines, left_out } = table.lay(viewer.room);
    text.extend(lines);
    for target in &view.targets {
        text.extend(target_notes(target));
        text.extend(target.expected.iter().filter(|it| !it.missing.is_empty()).map(|expected| {
            let ExpectedView { nodes, missing, .. } = expected;
            let (name, there) = (&target.name, nodes.saturating_sub(missing.len()));
            notable(&format!(
                "{name}: {there} of {nodes} expected nodes are in the document; missing: {}",
                listed(missing, ", ")
            ))
        }));
    }
    text.extend(no_room(&left_out));
    text.join("\n")
}

/// How many of the nodes that a target waits for are there, as a bar.
fn gathering(target: &TargetView) -> Option<String> {
    const BAR: usize = 30;
    let expected = target.expected.as_ref().filter(|it| !it.missing.is_empty())?;
    if target.state.phase != Phase::Waiting {
        return None;
    }
    let there = expected.nodes.saturating_sub(expected.missing.len());
    let full = BAR * there / expected.nodes.max(1);
    let bar = format!("[{}{}]", "=".repeat(full), " ".repeat(BAR.saturating_sub(full)));
    Some(format!(
        "{} {there} of {} nodes for {}",
        painted(NOTABLE, &bar),
        expected.nodes,
        target.name
    ))
}

/// What a target is doing, for whoever waits for it.
pub fn doing(view: &TargetView) -> String {
    let state = &view.state;
    let mut words = format!("target {} is {}", view.name, state.observed_phase());
    words.extend(
        view.sending.iter().map(|Sending { piece, pieces }| format!(", piece {piece} of {pieces}")),
    );
    words.extend(state.detail.iter().map(|detail| format!(": {detail}")));
    let again = state.next_look().filter(|_| state.failing_since.is_some());
    words.extend(again.map(|at| format!("; tried again at {at:.0}")));
    let held = &state.infrastructure;
    if held.phase != InfrastructurePhase::None {
        words.extend(["; infrastructure ", held.phase.as_str()]);
        words.extend(held.task.iter().map(|task| format!(", task {task}")));
        words.extend(held.detail.iter().map(|detail| format!(": {detail}")));
    }
    one_line(words)
}

/// How the cluster's node classes stand.
fn region_lines(region: &RegionStatus) -> Vec<String> {
    let RegionStatus { name, offered, nodes, .. } = region;
    let mut lines = vec![format!(
        "{name}: {offered} node classes are offered in Region {}, {nodes} nodes have one",
        region.region
    )];
    let not_offered =
        region.not_offered.iter().map(|words| one_line(format!("{name}: not offered: {words}")));
    lines.extend(not_offered);
    lines.extend(region.troubles.iter().map(|words| notable(&format!("{name}: {words}"))));
    lines
}

/// What has to be said about a target.
fn target_notes(target: &TargetView) -> Vec<String> {
    let state = &target.state;
    let wants_a_person = matches!(state.phase, Phase::Refused | Phase::Foreign | Phase::Contested)
        || state.proposal.is_some()
        || state.infrastructure.phase.wants_a_person();
    let name = &target.name;
    let mut notes: Vec<String> = state.detail.clone().into_iter().collect();
    notes.extend(
        state
            .proposal
            .iter()
            .map(|proposal| format!("what waits for approval has the digest {}", proposal.digest)),
    );
    notes.extend(state.infrastructure.detail.iter().map(|it| format!("infrastructure: {it}")));
    let mut notes: Vec<String> = notes
        .into_iter()
        .map(|said| match (wants_a_person, state.failing_since) {
            (true, _) => bad(&format!("{name}: {said}")),
            (false, Some(_)) => painted(NOTABLE, &one_line(format!("{name}: {said}"))),
            (false, None) => one_line(format!("{name}: {said}")),
        })
        .collect();
    if let [first, ..] = target.shares_nodes_with.as_slice() {
        notes.push(format!(
            "{name}: may be offered the same nodes as {}: give it and {first} selectors that differ in a label's value",
            listed(&target.shares_nodes_with, ", ")
        ));
    }
    if state.past.reverts > 1 && state.phase != Phase::Contested {
        notes.push(format!(
            "{name}: somebody else has changed the entry {} times in a row",
            state.past.reverts
        ));
    }
    notes
}

/// What the journal tells, one line an event.
pub fn history(view: &HistoryView, viewer: Viewer) -> String {
    if view.lines.is_empty() {
        return "the journal holds nothing of it".to_owned();
    }
    let mut table = Table::new(vec![
        Column::new("AT"),
        Column::new("TARGET"),
        Column::new("WHAT"),
        Column::new("ABOUT").gives_way(2),
        Column::new("VERSION").gives_way(1),
        Column::new("DETAIL").open(),
    ])
    .headed(HEAD);
    for JournalLine { target, event, .. } in &view.lines {
        let sends = event.sends.iter().map(|sent| {
            let body = sent.body_digest.as_ref().map(Digest::short);
            let body = body.map_or_else(String::new, |digest| format!(" (body {digest})"));
            format!("sends {}{body}", sent.request)
        });
        let shown = sends.collect::<Vec<_>>();
        let detail = event.detail.clone().into_iter().chain([listed(&shown, ", ")]);
        let detail: Vec<String> = detail.filter(|part| !part.is_empty()).collect();
        // Besides phases it holds what was asked and what was answered.
        let phase = Phase::ALL.into_iter().find(|phase| phase.as_str() == event.what);
        table.row(vec![
            Cell::new(format!("{:.0}", event.at)),
            Cell::new(target),
            Cell::new(&event.what).styled(phase.map_or(PLAIN, phase_style)),
            Cell::new(event.about.as_ref().map(Digest::short).unwrap_or_default()),
            Cell::new(&event.version),
            Cell::new(detail.join("; ")),
        ]);
    }
    let Laid { lines: mut text, left_out } = table.lay(viewer.room);
    text.extend(no_room(&left_out));
    text.join("\n")
}

/// How a network's entry differs from what it should be.
pub fn difference(difference: &Difference, viewer: Viewer) -> String {
    let columns = vec![Column::new("FIELD"), Column::new("THERE"), Column::new("HERE").open()];
    let mut table = Table::new(columns).headed(HEAD);
    for field in &difference.fields {
        table.row(vec![
            Cell::new(&field.field),
            Cell::new(&field.there).styled(BAD),
            Cell::new(&field.here).styled(GOOD),
        ]);
    }
    table.lay(viewer.room).lines.join("\n")
}

/// The document: what it says of the cluster, and its nodes.
pub fn document(document: &ClusterDocument, viewer: Viewer) -> String {
    let ClusterDocument { id, region_id, status, tags, config, cluster_metadata, .. } = document;
    let keys = |map: &serde_json::Map<String, serde_json::Value>| {
        map.keys().cloned().collect::<Vec<_>>().join(", ")
    };
    let said = [
        ("cluster", id.clone()),
        ("region", region_id.clone()),
        ("status", status.clone()),
        ("reputation", document.reputation.to_string()),
        ("tags", tags.join(", ")),
        ("config", keys(config)),
        ("clusterMetadata", keys(cluster_metadata)),
    ];
    let said = said.into_iter().filter(|(_, value)| !value.is_empty());
    let mut text: Vec<String> =
        said.map(|(field, value)| one_line(format!("{field}: {value}"))).collect();
    let mut columns = vec![Column::new("NODE ID")];
    columns.extend(FIGURES.map(|figure| figure.column));
    columns.push(Column::new("GPU MODELS").gives_way(10));
    let mut table = Table::new(columns).headed(HEAD);
    let nodes = &document.nodes.node_data;
    for node in nodes {
        let mut row = vec![Cell::new(node.id.as_str())];
        row.extend(figures(Some(node)));
        row.push(Cell::new(node.gpus.model_names.join(", ")));
        table.row(row);
    }
    if nodes.len() > 1 {
        let mut row = vec![Cell::new("TOTAL")];
        row.extend(totals(nodes.iter().map(Deref::deref)).map(Cell::number));
        table.row(row.into_iter().map(|cell| cell.styled(HEAD)).collect());
    }
    let Laid { lines, left_out } = table.lay(viewer.room);
    text.push(String::new());
    text.extend(lines);
    text.extend(no_room(&left_out));
    text.join("\n")
}

/// The classes of a Region, and which of them are offered.
pub fn region(view: &RegionView, viewer: Viewer) -> String {
    let mut table = Table::new(vec![
        Column::new("CLASS"),
        Column::new("ID").gives_way(1),
        Column::new("NODES"),
        Column::new("OFFERED").open(),
    ])
    .headed(HEAD);
    for class in &view.classes {
        let offered = match &class.not_offered {
            None => Cell::new("yes").styled(GOOD),
            Some(why) => Cell::new(format!("no: {why}")).styled(match class.trouble() {
                Some(_) => NOTABLE,
                None => FAINT,
            }),
        };
        let nodes = u64::try_from(class.nodes.len()).unwrap_or(u64::MAX);
        table.row(vec![Cell::new(&class.name), Cell::new(&class.id), Cell::number(nodes), offered]);
    }
    let Laid { lines: mut text, left_out } = table.lay(viewer.room);
    text.extend(no_room(&left_out));
    text.join("\n")
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Approve => "approve",
        Mode::Observe => "observe",
    }
}

fn state(node: &NodeView) -> &'static str {
    match (node.state, node.stale) {
        (NodeState::Complete, false) => "complete",
        (NodeState::Complete, true) => "complete, stale",
        (NodeState::Incomplete, false) => "incomplete",
        (NodeState::Incomplete, true) => "incomplete, stale",
    }
}

const fn state_style(node: &NodeView) -> Style {
    match (node.state, node.stale) {
        (NodeState::Complete, false) => GOOD,
        (NodeState::Complete, true) => NOTABLE,
        (NodeState::Incomplete, _) => BAD,
    }
}

const fn phase_style(phase: Phase) -> Style {
    match phase {
        Phase::Registered => GOOD,
        Phase::Waiting
        | Phase::Ready
        | Phase::Submitting
        | Phase::Drifted
        | Phase::Updating
        | Phase::Offboarding => NOTABLE,
        Phase::Contested | Phase::Refused | Phase::Failing | Phase::Foreign => BAD,
        Phase::Offboarded => FAINT,
    }
}

const fn infrastructure_style(phase: InfrastructurePhase) -> Style {
    match phase {
        InfrastructurePhase::None => PLAIN,
        InfrastructurePhase::Creating | InfrastructurePhase::Removing => NOTABLE,
        InfrastructurePhase::Created => GOOD,
        InfrastructurePhase::Failed
        | InfrastructurePhase::Unclear
        | InfrastructurePhase::RemovalFailed => BAD,
    }
}

/// A number of a node's entry.
#[derive(Clone, Copy)]
struct Figure {
    column: Column,
    of: fn(&NodeData) -> u64,
}

impl Figure {
    const fn new(column: Column, of: fn(&NodeData) -> u64) -> Self {
        Self { column, of }
    }
}

const FIGURES: [Figure; 9] = [
    Figure::new(Column::new("VCPUS"), |node| node.vcpus.count),
    Figure::new(Column::new("MEMORY MIB").gives_way(11), |node| node.memory),
    Figure::new(Column::new("SWAP MIB").gives_way(1), |node| node.swap),
    Figure::new(Column::new("DISKS").gives_way(4), |node| node.storage.disks),
    Figure::new(Column::new("STORAGE MIB").gives_way(8), |node| node.storage.size),
    Figure::new(Column::new("NICS").gives_way(2), |node| node.network.interfaces),
    Figure::new(Column::new("MBIT/S").gives_way(7), |node| node.network.tx_bandwidth),
    Figure::new(Column::new("GPUS"), |node| node.gpus.count),
    Figure::new(Column::new("GPU MIB").gives_way(3), |node| node.gpus.memory),
];

fn figures(entry: Option<&NodeData>) -> impl Iterator<Item = Cell> {
    FIGURES.iter().map(move |figure| match entry {
        None => Cell::new("?").styled(NOTABLE),
        Some(entry) => Cell::number((figure.of)(entry)),
    })
}

fn totals<'a>(entries: impl Iterator<Item = &'a NodeData> + Clone) -> impl Iterator<Item = u64> {
    FIGURES.iter().map(move |figure| entries.clone().map(figure.of).sum())
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(at, now))
}

fn until(at: Timestamp, now: Timestamp) -> String {
    format!("in {}", span(now, at))
}

fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0);
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use serde_json::{Value, json};

    use super::*;
    use crate::onboarding::state::infrastructure::Infrastructure;

    const ESCAPE: char = '\u{1b}';

    fn viewer(room: Option<usize>) -> Viewer {
        Viewer { now: "2026-01-01T00:10:00Z".parse().expect("a time"), room }
    }

    fn plain(text: &str) -> Vec<String> {
        strip_str(text).to_string().lines().map(str::to_owned).collect()
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a view")
    }

    fn entry(id: &str, gpus: u64) -> Value {
        let model = if gpus > 0 { vec!["NVIDIA H100 80GB HBM3"] } else { vec![] };
        json!({
            "id": id,
            "gpus": {
                "count": gpus, "memory": gpus * 81_559, "gpus": [], "features": [],
                "modelNames": model,
            },
            "vcpus": {"count": 192}, "memory": 2_063_923, "swap": 0,
            "storage": {"disks": 10, "size": 30_000_000},
            "network": {"interfaces": 10, "txBandwidth": 3_400_000, "rxBandwidth": 3_400_000},
        })
    }

    fn some_nodes() -> NodesView {
        let node = |name: &str, more: Value| {
            let mut node = json!({
                "name": name, "nodeId": name, "state": "complete", "changed": "2026-01-01T00:00:00Z",
                "agentVersion": "0.1.0", "firstSeen": "2026-01-01T00:00:00Z",
                "lastSeen": "2026-01-01T00:09:15Z", "stale": false,
            });
            let more = more.as_object().expect("an object").clone();
            node.as_object_mut().expect("an object").extend(more);
            node
        };
        read(json!({
            "nodes": [
                node("gpu-1", json!({"entry": entry("gpu-1", 8)})),
                node("cpu-1", json!({"entry": entry("cpu-1", 0), "stale": true,
                    "lastSeen": "2026-01-01T00:00:00Z"})),
                node("cpu-2", json!({"state": "incomplete", "keptOut": "node cpu-2: memory is not known",
                    "failing": [{"subject": "memory", "reason": "unread\u{1b}[2J\nable",
                        "since": "2026-01-01T00:08:00Z"}]})),
            ],
            "conflicts": ["node x: another machine"],
            "missing": [{"name": "gone-1", "targets": ["aios"]}],
            "leftOut": [{"name": "spare", "why": "cordoned", "targets": []}],
        }))
    }

    #[test]
    fn nodes_as_they_are_printed() {
        let text = nodes(&some_nodes(), viewer(None));
        assert_eq!(
            plain(&text),
            [
                "NODE   NODE ID  STATE            VCPUS  MEMORY MIB  SWAP MIB  DISKS  STORAGE MIB  NICS  MBIT/S   GPUS  GPU MIB  GPU MODELS             LAST REPORT",
                "gpu-1  gpu-1    complete           192     2063923         0     10     30000000    10  3400000     8   652472  NVIDIA H100 80GB HBM3  45s ago",
                "cpu-1  cpu-1    complete, stale    192     2063923         0     10     30000000    10  3400000     0        0                         10m ago",
                "cpu-2  cpu-2    incomplete       ?      ?           ?         ?      ?            ?     ?        ?     ?                               45s ago",
                "TOTAL                              384     4127846         0     20     60000000    20  6800000     8   652472",
                "! node cpu-2: memory is not known",
                "! node cpu-2: memory failed 2m ago: unread [2J able",
                "! refused: node x: another machine",
                "! expected, not in the document of aios: gone-1",
                "left out: spare (cordoned)",
            ]
        );
        for (what, part) in [
            ("complete", "\u{1b}[32mcomplete\u{1b}[0m "),
            ("stale", "\u{1b}[33mcomplete, stale\u{1b}[0m"),
            ("incomplete", "\u{1b}[31mincomplete\u{1b}[0m"),
            ("a note", "\u{1b}[33m! node cpu-2: memory failed"),
            ("a refusal", "\u{1b}[31m! refused: "),
            ("the header", "\u{1b}[1mNODE\u{1b}[0m"),
        ] {
            assert!(text.contains(part), "{what}: {text:?}");
        }
        assert!(!text.contains("\u{1b}[2J"), "what is reported does nothing to a terminal");
    }

    #[test]
    fn what_nodes_show_on_narrow_terminals() {
        for (room, header, gone) in [
            (
                150,
                "NODE   NODE ID  STATE            VCPUS  MEMORY MIB  SWAP MIB  DISKS  STORAGE MIB  NICS  MBIT/S   GPUS  GPU MIB  GPU MODELS             LAST REPORT",
                "",
            ),
            (
                140,
                "NODE   NODE ID  STATE            VCPUS  MEMORY MIB  DISKS  STORAGE MIB  NICS  MBIT/S   GPUS  GPU MIB  GPU MODELS             LAST REPORT",
                "SWAP MIB",
            ),
            (
                100,
                "NODE   STATE            VCPUS  MEMORY MIB  STORAGE MIB  GPUS  GPU MODELS             LAST REPORT",
                "SWAP MIB, NICS, GPU MIB, DISKS, NODE ID, MBIT/S",
            ),
            (
                80,
                "NODE   STATE            VCPUS  MEMORY MIB  GPUS  LAST REPORT",
                "SWAP MIB, NICS, GPU MIB, DISKS, NODE ID, MBIT/S, STORAGE MIB, GPU MODELS",
            ),
            (
                1,
                "NODE   STATE            VCPUS  GPUS",
                "SWAP MIB, NICS, GPU MIB, DISKS, NODE ID, MBIT/S, STORAGE MIB, GPU MODELS, MEMORY MIB, LAST REPORT",
            ),
        ] {
            let lines = plain(&nodes(&some_nodes(), viewer(Some(room))));
            assert_eq!(lines.first().map(String::as_str), Some(header), "{room}");
            let last = lines.last().expect("lines");
            match gone {
                "" => assert!(last.starts_with("left out"), "{room}: {last}"),
                _ => assert!(last.starts_with(&format!("no room for: {gone}; ")), "{room}: {last}"),
            }
        }
    }

    fn some_status() -> StatusView {
        let target = |name: &str, state: Value| {
            let mut target = json!({
                "name": name, "type": "aios", "url": "http://parser", "envelope": "parser-v1",
                "mode": "auto", "since": "2026-01-01T00:00:00Z",
            });
            target
                .as_object_mut()
                .expect("an object")
                .extend(state.as_object().expect("an object").clone());
            target
        };
        read(json!({
            "version": "0.1.0", "cluster": "west", "completeNodes": 37, "incompleteNodes": 1,
            "staleNodes": 2, "expectedNodes": 200, "conflicts": [],
            "waitingFor": "37 of 200 expected nodes have reported",
            "targets": [
                target("one", json!({"phase": "registered", "nextTry": "2026-01-01T00:15:00Z",
                    "infrastructure": {"phase": "created"}})),
                target("two", json!({"phase": "refused", "detail": "POST http://parser answered 403"})),
                target("three", json!({"phase": "waiting", "detail": "37 of 200 expected nodes have reported",
                    "expected": {"nodes": 4, "missing": [{"name": "gone-1"}], "leftOut": 0}})),
            ],
        }))
    }

    #[test]
    fn status_as_it_is_printed() {
        let text = status(&some_status(), viewer(None));
        let expected = [
            "cluster west: 37 nodes complete (200 expected), 1 incomplete, 2 stale",
            "first registration waits: 37 of 200 expected nodes have reported",
            "TARGET  STATE       SINCE    NEXT TRY  MODE  INFRASTRUCTURE  URL",
            "one     registered  10m ago  in 5m     auto  created         http://parser",
            "two     refused     10m ago            auto  none            http://parser",
            "three   waiting     10m ago            auto  none            http://parser",
            "! two: POST http://parser answered 403",
            "three: 37 of 200 expected nodes have reported",
            "! three: 3 of 4 expected nodes are in the document; missing: gone-1",
        ];
        assert_eq!(plain(&text), expected);
        for part in [
            "\u{1b}[32mregistered\u{1b}[0m",
            "\u{1b}[31mrefused\u{1b}[0m",
            "\u{1b}[33mwaiting\u{1b}[0m",
        ] {
            assert!(text.contains(part), "{part:?}: {text:?}");
        }
        // Whoever looks on sees it fill.
        let text = plain(&status(&some_status(), viewer(Some(50))));
        assert_eq!(
            text.get(2).map(String::as_str),
            Some("[======================        ] 3 of 4 nodes for three")
        );
        assert_eq!(
            text.get(3).map(String::as_str),
            Some("TARGET  STATE       SINCE    INFRASTRUCTURE")
        );
        assert!(
            text.last().is_some_and(|last| last.starts_with("no room for: MODE, URL, NEXT TRY; ")),
            "{text:#?}"
        );
    }

    #[test]
    fn what_a_target_is_doing() {
        let mut view = some_status().targets.remove(2);
        assert_eq!(doing(&view), "target three is waiting: 37 of 200 expected nodes have reported");
        view.state.phase = Phase::Updating;
        view.state.detail = None;
        view.sending = Some(Sending { piece: 3, pieces: 12 });
        assert_eq!(doing(&view), "target three is updating, piece 3 of 12");
        view.sending = None;
        view.state.phase = Phase::Registered;
        view.state.infrastructure.phase = InfrastructurePhase::Creating;
        view.state.infrastructure.task = Some("t-1".to_owned());
        assert_eq!(doing(&view), "target three is registered; infrastructure creating, task t-1");
        view.state.phase = Phase::Failing;
        view.state.infrastructure = Infrastructure::default();
        view.state.failing_since = Some(viewer(None).now);
        view.state.next_try = Some(viewer(None).now);
        view.state.detail = Some("no\nanswer".to_owned());
        assert_eq!(
            doing(&view),
            "target three is failing: no answer; tried again at 2026-01-01T00:10:00Z"
        );
    }

    #[test]
    fn differences_and_documents() {
        let differs: Difference = read(json!({
            "fields": [{"field": "memory", "there": "7", "here": "134218"},
                {"field": "node a: swap", "there": "0", "here": "8192"}],
            "removed": [], "kept": [], "heldNodes": 1,
        }));
        let text = difference(&differs, viewer(Some(20)));
        let expected = [
            "FIELD         THERE  HERE",
            "memory        7      134218",
            "node a: swap  0      8192",
        ];
        assert_eq!(plain(&text), expected);
        assert!(text.contains(&format!("{ESCAPE}[31m7{ESCAPE}[0m")), "{text:?}");

        let whole: ClusterDocument = read(json!({
            "id": "west", "regionId": "lab", "status": "live", "reputation": 0,
            "nodes": {"count": 2, "nodeData": [entry("a", 8), entry("b", 0)]},
            "gpus": {"count": 8, "memory": 652_472}, "vcpus": {"count": 384},
            "memory": 4_127_846, "swap": 0, "storage": {"disks": 20, "size": 60_000_000},
            "network": {"interfaces": 20, "txBandwidth": 6_800_000, "rxBandwidth": 6_800_000},
            "config": {"publicHostname": "h"}, "tags": ["a", "b"], "clusterMetadata": {},
        }));
        assert_eq!(
            plain(&document(&whole, viewer(Some(80)))),
            [
                "cluster: west",
                "region: lab",
                "status: live",
                "reputation: 0",
                "tags: a, b",
                "config: publicHostname",
                "",
                "NODE ID  VCPUS  MEMORY MIB  STORAGE MIB  MBIT/S   GPUS  GPU MODELS",
                "a          192     2063923     30000000  3400000     8  NVIDIA H100 80GB HBM3",
                "b          192     2063923     30000000  3400000     0",
                "TOTAL      384     4127846     60000000  6800000     8",
                "no room for: SWAP MIB, NICS, GPU MIB, DISKS; a wider terminal, a pipe or --output json shows them",
            ]
        );
    }
}
