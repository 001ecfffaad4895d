//! Tables for people.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use jiff::Timestamp;

use crate::admin::views::{NodeState, NodeView, NodesView, StatusView};
use crate::document::NodeData;

/// The nodes, their totals, and what has to be said about them.
pub fn nodes(view: &NodesView, now: Timestamp) -> String {
    let mut table = plain(&[
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
    ]);
    for node in &view.nodes {
        let mut row = vec![Cell::new(&node.name), Cell::new(&node.node_id), Cell::new(state(node))];
        row.extend(figures(node.entry.as_ref()));
        let models = node.entry.as_ref().map(|entry| entry.gpus.model_names.join(", "));
        row.push(Cell::new(models.unwrap_or_default()));
        row.push(Cell::new(ago(node.last_seen, now)));
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
    text.join("\n")
}

/// Where the targets stand.
pub fn status(view: &StatusView, now: Timestamp) -> String {
    let expected =
        view.expected_nodes.map_or_else(String::new, |nodes| format!(" ({nodes} expected)"));
    let mut text = vec![format!(
        "cluster {}: {} nodes complete{expected}, {} incomplete, {} stale",
        view.cluster, view.complete_nodes, view.incomplete_nodes, view.stale_nodes
    )];
    text.extend(view.waiting_for.iter().map(|why| format!("first registration waits: {why}")));
    text.extend(view.conflicts.iter().map(|conflict| format!("! refused: {conflict}")));
    if view.targets.is_empty() {
        text.push("no targets: the cluster file names none".to_owned());
        return text.join("\n");
    }
    let mut table = plain(&["TARGET", "STATE", "SINCE", "NEXT TRY", "URL"]);
    for target in &view.targets {
        let next = target.state.next_try.map_or_else(String::new, |at| until(at, now));
        table.add_row(vec![
            Cell::new(&target.name),
            Cell::new(target.state.phase),
            Cell::new(ago(target.state.since, now)),
            Cell::new(next),
            Cell::new(&target.url),
        ]);
    }
    text.extend(lines(&table));
    for target in &view.targets {
        text.extend(target.state.detail.iter().map(|detail| format!("{}: {detail}", target.name)));
    }
    text.join("\n")
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
