//! Tables for people.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use jiff::Timestamp;

use crate::admin::views::{
    ExpectedView, HistoryView, NodeState, NodeView, NodesView, NotOffered, RegionStatus,
    StatusView, TargetView,
};
use crate::cluster_file::Mode;
use crate::digest::Digest;
use crate::document::NodeData;
use crate::onboarding::state::Phase;
use crate::store::JournalLine;
use crate::targets::{Difference, listed};

/// The nodes, their totals, and what has to be said about them.
pub fn nodes(view: &NodesView, now: Timestamp) -> String {
    let has_classes = view.nodes.iter().any(|node| node.class.is_some());
    let mut header = vec![
        "NODE",
        "NODE ID",
        "STATE",
        "VCPUS",
        "MEMORY MIB",
        "SWAP MIB",
        "DISKS",
        "STORAGE MIB",
        "NICS",
        "MBIT/S",
        "GPUS",
        "GPU MIB",
        "GPU MODELS",
        "LAST REPORT",
    ];
    if has_classes {
        header.push("CLASS");
    }
    let mut table = plain(&header);
    for node in &view.nodes {
        let mut row = vec![Cell::new(&node.name), Cell::new(&node.node_id), Cell::new(state(node))];
        row.extend(figures(node.entry.as_ref()));
        let models = node.entry.as_ref().map(|entry| entry.gpus.model_names.join(", "));
        row.push(Cell::new(models.unwrap_or_default()));
        row.push(Cell::new(ago(node.last_seen, now)));
        if has_classes {
            let class = node.class.as_ref().and_then(|class| class.name.as_deref());
            row.push(Cell::new(class.unwrap_or_default()));
        }
        table.add_row(row);
    }
    if view.nodes.len() > 1 {
        let mut row = vec![Cell::new("TOTAL"), Cell::new(""), Cell::new("")];
        row.extend(totals(view).into_iter().map(number));
        table.add_row(row);
    }
    let mut text = lines(&table);
    if view.nodes.is_empty() {
        text.push("no node has reported yet".to_owned());
    }
    for node in &view.nodes {
        text.extend(node.kept_out.iter().chain(&node.warnings).map(|said| format!("! {said}")));
        text.extend(node.hardware_changes.iter().flatten().map(|change| {
            format!("! node {}: changed since its last boot: {change}", node.node_id)
        }));
        text.extend(node.failing.iter().map(|failing| {
            let since = ago(failing.since, now);
            format!(
                "! node {}: {} failed {since}: {}",
                node.node_id, failing.subject, failing.reason
            )
        }));
    }
    text.extend(view.conflicts.iter().map(|conflict| format!("! refused: {conflict}")));
    text.extend(not_offered("! expected, not in the document", &view.missing));
    text.extend(not_offered("left out", &view.left_out));
    text.join("\n")
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
pub fn status(view: &StatusView, now: Timestamp) -> String {
    let expected =
        view.expected_nodes.map_or_else(String::new, |nodes| format!(" ({nodes} expected)"));
    let mut text = vec![format!(
        "cluster {}: {} nodes complete{expected}, {} incomplete, {} stale",
        view.cluster, view.complete_nodes, view.incomplete_nodes, view.stale_nodes
    )];
    text.extend(view.kubernetes.iter().filter_map(|kubernetes| {
        let failing = kubernetes.failing.as_ref().zip(kubernetes.failing_since);
        failing.map(|(words, since)| {
            format!("! Kubernetes has not told its Nodes since {since:.0}: {words}")
        })
    }));
    if view.follows {
        text.push(
            "another replica submits: what stands here of targets is as of their last change"
                .to_owned(),
        );
    }
    text.extend(view.waiting_for.iter().map(|why| format!("first registration waits: {why}")));
    text.extend(view.conflicts.iter().map(|conflict| format!("! refused: {conflict}")));
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
    let mut table =
        plain(&["TARGET", "STATE", "SINCE", "NEXT TRY", "MODE", "INFRASTRUCTURE", "URL"]);
    for target in &view.targets {
        let next = target.state.next_look().map_or_else(String::new, |at| until(at, now));
        table.add_row(vec![
            Cell::new(&target.name),
            Cell::new(target.state.phase),
            Cell::new(ago(target.state.since, now)),
            Cell::new(next),
            Cell::new(mode(target.mode)),
            Cell::new(target.state.infrastructure.phase),
            Cell::new(&target.url),
        ]);
    }
    text.extend(lines(&table));
    for target in &view.targets {
        text.extend(target_notes(target));
        text.extend(target.expected.iter().filter(|it| !it.missing.is_empty()).map(|expected| {
            let ExpectedView { nodes, missing, .. } = expected;
            let (name, there) = (&target.name, nodes.saturating_sub(missing.len()));
            format!(
                "! {name}: {there} of {nodes} expected nodes are in the document; missing: {}",
                listed(missing, ", ")
            )
        }));
    }
    text.join("\n")
}

/// How the cluster's node classes stand.
fn region_lines(region: &RegionStatus) -> Vec<String> {
    let RegionStatus { name, offered, nodes, .. } = region;
    let mut lines = vec![format!(
        "{name}: {offered} node classes are offered in Region {}, {nodes} nodes have one",
        region.region
    )];
    let not_offered =
        region.not_offered.iter().map(|words| format!("{name}: not offered: {words}"));
    lines.extend(not_offered);
    lines.extend(region.troubles.iter().map(|words| format!("! {name}: {words}")));
    lines
}

/// What has to be said about a target.
pub fn target_notes(target: &TargetView) -> Vec<String> {
    let state = &target.state;
    let wants_a_person = matches!(state.phase, Phase::Refused | Phase::Foreign | Phase::Contested)
        || state.proposal.is_some()
        || state.infrastructure.phase.wants_a_person();
    let name = if wants_a_person { format!("! {}", target.name) } else { target.name.clone() };
    let mut notes: Vec<String> =
        target.state.detail.iter().map(|detail| format!("{name}: {detail}")).collect();
    notes.extend(target.state.proposal.iter().map(|proposal| {
        format!("{name}: what waits for approval has the digest {}", proposal.digest)
    }));
    notes.extend(
        target.state.infrastructure.detail.iter().map(|it| format!("{name}: infrastructure: {it}")),
    );
    if let [first, ..] = target.shares_nodes_with.as_slice() {
        notes.push(format!(
            "{name}: may be offered the same nodes as {}: give it and {first} selectors that differ in a label's value",
            listed(&target.shares_nodes_with, ", ")
        ));
    }
    if target.state.past.reverts > 1 && target.state.phase != Phase::Contested {
        notes.push(format!(
            "{name}: somebody else has changed the entry {} times in a row",
            target.state.past.reverts
        ));
    }
    notes
}

/// What the journal tells, one line an event.
pub fn history(view: &HistoryView) -> String {
    if view.lines.is_empty() {
        return "the journal holds nothing of it".to_owned();
    }
    let mut table = plain(&["AT", "TARGET", "WHAT", "ABOUT", "VERSION", "DETAIL"]);
    for JournalLine { target, event, .. } in &view.lines {
        let sends = event.sends.iter().map(|sent| {
            let body = sent.body_digest.as_ref().map(Digest::short);
            let body = body.map_or_else(String::new, |digest| format!(" (body {digest})"));
            format!("sends {}{body}", sent.request)
        });
        let shown = sends.collect::<Vec<_>>();
        let detail = event.detail.clone().into_iter().chain([listed(&shown, ", ")]);
        let detail: Vec<String> = detail.filter(|part| !part.is_empty()).collect();
        table.add_row(vec![
            Cell::new(format!("{:.0}", event.at)),
            Cell::new(target),
            Cell::new(&event.what),
            Cell::new(event.about.as_ref().map(Digest::short).unwrap_or_default()),
            Cell::new(&event.version),
            Cell::new(detail.join("; ")),
        ]);
    }
    lines(&table).join("\n")
}

/// How a network's entry differs from what it should be.
pub fn difference(difference: &Difference) -> String {
    let mut table = plain(&["FIELD", "THERE", "HERE"]);
    for field in &difference.fields {
        table.add_row(vec![
            Cell::new(&field.field),
            Cell::new(&field.there),
            Cell::new(&field.here),
        ]);
    }
    lines(&table).join("\n")
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Approve => "approve",
        Mode::Observe => "observe",
    }
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// The table's lines without the blanks that pad its first and last column.
fn lines(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.trim().to_owned()).collect()
}

fn state(node: &NodeView) -> &'static str {
    match (node.state, node.stale) {
        (NodeState::Complete, false) => "complete",
        (NodeState::Complete, true) => "complete, stale",
        (NodeState::Incomplete, false) => "incomplete",
        (NodeState::Incomplete, true) => "incomplete, stale",
    }
}

const FIGURES: [fn(&NodeData) -> u64; 9] = [
    |node| node.vcpus.count,
    |node| node.memory,
    |node| node.swap,
    |node| node.storage.disks,
    |node| node.storage.size,
    |node| node.network.interfaces,
    |node| node.network.tx_bandwidth,
    |node| node.gpus.count,
    |node| node.gpus.memory,
];

fn figures(entry: Option<&NodeData>) -> Vec<Cell> {
    FIGURES
        .iter()
        .map(|figure| entry.map_or_else(|| Cell::new("?"), |entry| number(figure(entry))))
        .collect()
}

fn totals(view: &NodesView) -> Vec<u64> {
    let entries = || view.nodes.iter().filter_map(|node| node.entry.as_ref());
    FIGURES.iter().map(|figure| entries().map(figure).sum()).collect()
}

fn number(value: u64) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
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
