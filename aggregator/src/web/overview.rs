//! The first page: the targets in large, what wants a person, totals, and the nodes. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use askama::Template;

use super::Frame;
use super::links::{Order, Query, Show, Sort};
use super::snapshot::{LeftOut, Snapshot};
use super::target::{Names, TargetCard};
use super::words::{Amount, Moment, Tone, by_name, counted, grouped, length};
use crate::admin::brief::{NodeBrief, RollBrief};
use crate::admin::views::{NodeState, NotOffered};
use crate::document::{GpuStates, NodeData, NodeGpus};
use crate::kubernetes::leader::LEASE;

/// How many nodes a page has.
const PAGE: usize = 100;

/// How many lines of one kind of warning are shown before the rest is counted.
const MOST_WORDS: usize = 20;

/// The overview as it is shown.
#[derive(Debug, Template)]
#[template(path = "overview.html")]
pub(super) struct Overview<'a> {
    frame: Frame,
    query: Query,
    /// What wants a person before all else.
    notices: Vec<Notice>,
    targets: Vec<TargetCard>,
    /// What first registrations wait for.
    waiting_for: Option<&'a str>,
    totals: Vec<Total>,
    /// What the totals leave out, in words.
    left_out_of_totals: Option<String>,
    models: Vec<Model<'a>>,
    columns: Vec<Column>,
    shows: Vec<Choice>,
    rows: Vec<Row<'a>>,
    pages: Pages,
    /// Why there are no rows.
    nothing: Option<&'static str>,
    left_out: Option<Names>,
}

/// Something that wants a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) tone: Tone,
    pub(super) heading: String,
    pub(super) lines: Vec<String>,
    /// How many more there are.
    pub(super) more: usize,
}

impl Notice {
    pub(super) fn new(tone: Tone, heading: impl Into<String>, lines: &[String]) -> Self {
        let shown = lines.iter().take(MOST_WORDS).cloned().collect();
        let more = lines.len().saturating_sub(MOST_WORDS);
        Self { tone, heading: heading.into(), lines: shown, more }
    }
}

/// What the cluster has of one kind.
#[derive(Debug, PartialEq, Eq)]
struct Total {
    label: &'static str,
    key: &'static str,
    /// `None`: not known, for no node is.
    amount: Option<Amount>,
    /// What goes with it: a key, a number, and its noun.
    beside: Option<(&'static str, Option<Amount>, &'static str)>,
    /// What goes with it in words.
    note: Option<String>,
}

/// A model of GPUs, and how many of it count.
#[derive(Debug, PartialEq, Eq)]
struct Model<'a> {
    name: &'a str,
    count: u64,
    words: String,
    /// Of the most frequent one, in percent.
    bar: u64,
}

/// A column that can be sorted by.
#[derive(Debug, PartialEq, Eq)]
struct Column {
    sort: Sort,
    label: &'static str,
    href: String,
    /// `aria-sort`'s value, where the table is sorted by it.
    sorted: Option<&'static str>,
    is_number: bool,
}

/// Which nodes can be shown, and how many there are.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    show: Show,
    count: String,
    is_chosen: bool,
}

/// Where in the table one is.
#[derive(Debug, PartialEq, Eq)]
struct Pages {
    /// `101–200 of 5,000`.
    words: String,
    previous: Option<String>,
    next: Option<String>,
}

/// A node in the table.
#[derive(Debug)]
struct Row<'a> {
    name: &'a str,
    href: String,
    /// Its id, where that is not its name.
    id: Option<&'a str>,
    class: Option<&'a str>,
    /// `None`: nobody reports for it.
    node: Option<&'a NodeBrief>,
    state: &'static str,
    is_stale: bool,
    badges: Vec<Badge>,
    cells: [Option<Cell>; 4],
    gpus: Gpus,
    warnings: usize,
    seen: Option<Moment>,
}

/// A word for how a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Badge {
    pub(super) tone: Tone,
    pub(super) word: String,
    /// What it means here.
    pub(super) title: String,
}

/// What a node holds of one kind.
#[derive(Debug, PartialEq, Eq)]
struct Cell {
    label: &'static str,
    amount: Amount,
    /// Of the largest node, in percent.
    bar: u64,
}

/// A node's GPUs.
#[derive(Debug, PartialEq, Eq)]
struct Gpus {
    words: String,
    is_known: bool,
    models: Option<String>,
    bar: Option<u64>,
    is_short: bool,
}

/// A node as it is sorted: on the roll, or missing there.
#[derive(Debug, Clone, Copy)]
enum Line<'a> {
    Node(&'a NodeBrief),
    Missing(&'a NotOffered),
}

impl<'a> Overview<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, query: Query, frame: Frame) -> Self {
        let Snapshot { nodes, status, .. } = snapshot;
        let lines = lines(nodes);
        let wanted = query.q.to_lowercase();
        let wanted: Vec<&str> = wanted.split_whitespace().collect();
        let mut chosen: Vec<Line<'a>> =
            lines.iter().copied().filter(|line| line.is_shown(query.show, &wanted)).collect();
        let pages = Pages::of(&query, chosen.len());
        let first = Pages::first(&query, chosen.len());
        let page = page(&mut chosen, first, query.sort, query.order());
        let largest = Largest::of(nodes);
        Self {
            notices: notices(snapshot),
            targets: TargetCard::all(snapshot),
            waiting_for: status.waiting_for.as_deref(),
            totals: totals(snapshot),
            left_out_of_totals: (status.incomplete_nodes > 0).then(|| {
                format!(
                    "Without {} whose numbers are not complete.",
                    counted(status.incomplete_nodes, "node")
                )
            }),
            models: models(nodes),
            columns: columns(&query),
            shows: Show::ALL
                .iter()
                .map(|&show| Choice {
                    show,
                    count: grouped(
                        u64::try_from(lines.iter().filter(|line| line.is(show)).count())
                            .unwrap_or(u64::MAX),
                    ),
                    is_chosen: show == query.show,
                })
                .collect(),
            rows: page.iter().map(|line| line.row(&largest, snapshot)).collect(),
            nothing: chosen.is_empty().then_some(if lines.is_empty() {
                "No node has reported yet."
            } else {
                "No node is like this."
            }),
            pages,
            left_out: left_out(snapshot),
            frame,
            query,
        }
    }

    /// What the form keeps of the address beside its own fields.
    fn kept(&self) -> Vec<(&'static str, &'static str)> {
        let sort =
            (self.query.sort != Sort::default()).then_some(("sort", self.query.sort.as_str()));
        let order = self.query.order.map(|order| ("order", order.as_str()));
        sort.into_iter().chain(order).collect()
    }
}

/// What wants a person before all else.
fn notices(snapshot: &Snapshot) -> Vec<Notice> {
    let Snapshot { status, at, .. } = snapshot;
    let mut notices = Vec::new();
    if let Some(trouble) = &snapshot.store_trouble {
        let heading = "Nothing can be stored: reports and orders are refused until that is mended";
        notices.push(Notice::new(Tone::Bad, heading, std::slice::from_ref(trouble)));
    }
    if let Some(expired) = snapshot.expired {
        let since = Moment::of(expired, *at).words;
        let heading = format!("The intake's certificate expired {since}: agents cannot report");
        notices.push(Notice::new(Tone::Bad, heading, &[]));
    }
    if let Some(kubernetes) = &status.kubernetes
        && let Some(words) = &kubernetes.failing
    {
        let since = kubernetes.failing_since.map(|since| Moment::of(since, *at).words);
        let heading = format!(
            "Kubernetes fell silent {}: what is known of its Nodes is from before",
            since.as_deref().unwrap_or("at the start")
        );
        notices.push(Notice::new(Tone::Bad, heading, std::slice::from_ref(words)));
    }
    if !status.conflicts.is_empty() {
        let heading =
            format!("The reports of {} are refused", counted(status.conflicts.len(), "node"));
        notices.push(Notice::new(Tone::Bad, heading, &status.conflicts));
    }
    if status.follows {
        let heading = format!(
            "This replica does not submit, but whoever holds the Lease {LEASE}: of the targets this one knows the last change of state"
        );
        notices.push(Notice::new(Tone::Quiet, heading, &[]));
    }
    if let Some(lag) = snapshot.lag {
        let heading = format!(
            "Several replicas take reports: one that is refused is known to the replica that got it, and of nodes that report to another the last report may be {} late",
            length(lag)
        );
        notices.push(Notice::new(Tone::Quiet, heading, &[]));
    }
    notices
}

fn totals(snapshot: &Snapshot) -> Vec<Total> {
    let Snapshot { nodes, status, .. } = snapshot;
    let sums = &nodes.totals;
    let sum = |of: u64| (status.complete_nodes > 0).then_some(of);
    let count = |of| sum(of).map(Amount::of_count);
    let complete = u64::try_from(status.complete_nodes).unwrap_or(u64::MAX);
    let note = complete_words(snapshot);
    let total = |label, key, amount| Total { label, key, amount, beside: None, note: None };
    vec![
        Total { note: Some(note), ..total("Nodes", "nodes", Some(Amount::of_count(complete))) },
        total("vCPUs", "cpus", count(sums.vcpus.count)),
        Total {
            beside: Some(("swap", sum(sums.swap).map(Amount::of_mib), "swap")),
            ..total("Memory", "memory", sum(sums.memory).map(Amount::of_mib))
        },
        Total {
            beside: Some(("disks", count(sums.storage.disks), "disks")),
            ..total("Storage", "disk", sum(sums.storage.size).map(Amount::of_mib))
        },
        Total {
            beside: Some(("links", count(sums.network.interfaces), "links")),
            ..total("Network", "bandwidth", sum(sums.network.tx_bandwidth).map(Amount::of_mbits))
        },
        Total {
            beside: Some(("gpu-memory", sum(sums.gpus.memory).map(Amount::of_mib), "memory")),
            ..total("GPUs", "gpus", count(sums.gpus.count))
        },
    ]
}

/// What goes with the number of complete nodes: how many of those that are expected they are.
fn complete_words(snapshot: &Snapshot) -> String {
    let Snapshot { nodes, status, left_out, .. } = snapshot;
    let Some(expected) = status.expected_nodes else { return "complete".to_owned() };
    let is_offered =
        |node: &&NodeBrief| left_out.get(&node.line.name).is_none_or(|it| !it.is_of_all);
    let complete = nodes.nodes.iter().filter(|node| node.line.entry.is_ok());
    let offered = complete.filter(is_offered).count();
    let number = |number: usize| grouped(u64::try_from(number).unwrap_or(u64::MAX));
    if offered > expected {
        format!("complete, {} expected", number(expected))
    } else if offered == status.complete_nodes {
        format!("of {} expected", number(expected))
    } else {
        format!("complete, {} of {} expected", number(offered), number(expected))
    }
}

/// The nodes that targets do not get.
fn left_out(snapshot: &Snapshot) -> Option<Names> {
    let all = &snapshot.left_out;
    let what = format!("{} left out: targets do not get these", counted(all.len(), "node"));
    Names::of(what, all.iter().map(|(name, left_out)| format!("{name} ({})", left_out.words())))
}

/// The models of the GPUs that count, the most frequent first.
fn models(nodes: &RollBrief) -> Vec<Model<'_>> {
    // Most nodes share their list of GPUs with many others.
    let mut alike: HashMap<*const NodeGpus, (&NodeGpus, u64)> = HashMap::new();
    for entry in nodes.nodes.iter().filter_map(NodeBrief::entry) {
        alike.entry(std::ptr::from_ref(&*entry.gpus)).or_insert((&*entry.gpus, 0)).1 += 1;
    }
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (gpus, nodes) in alike.into_values() {
        for gpu in &gpus.gpus {
            *counts.entry(&gpu.model_name).or_default() += nodes;
        }
    }
    let most = counts.values().copied().max().unwrap_or_default();
    let mut models: Vec<Model<'_>> = counts
        .into_iter()
        .map(|(name, count)| Model { name, count, words: grouped(count), bar: share(count, most) })
        .collect();
    // It is stable: of equal ones, the first by name.
    models.sort_by_key(|model| std::cmp::Reverse(model.count));
    models
}

fn columns(query: &Query) -> Vec<Column> {
    [
        (Sort::Name, "Node", false),
        (Sort::Attention, "State", false),
        (Sort::Cpus, "vCPUs", true),
        (Sort::Memory, "Memory", true),
        (Sort::Disk, "Storage", true),
        (Sort::Network, "Network", true),
        (Sort::Gpus, "GPUs", true),
        (Sort::Seen, "Last report", true),
    ]
    .into_iter()
    .map(|(sort, label, is_number)| Column {
        sort,
        label,
        href: query.sorted_by(sort).to_string(),
        sorted: (sort == query.sort).then(|| match query.order() {
            Order::Ascending => "ascending",
            Order::Descending => "descending",
        }),
        is_number,
    })
    .collect()
}

impl Pages {
    /// The place of the first row, on the last page at most.
    fn first(query: &Query, rows: usize) -> usize {
        let last_page = rows.div_ceil(PAGE).max(1);
        (query.page.clamp(1, last_page) - 1) * PAGE
    }

    fn of(query: &Query, rows: usize) -> Self {
        let first = Self::first(query, rows);
        let (page, last) = (first / PAGE + 1, (first + PAGE).min(rows));
        let words = |number: usize| grouped(u64::try_from(number).unwrap_or(u64::MAX));
        let range = match rows {
            0 => "0".to_owned(),
            _ => format!("{}–{}", words(first + 1), words(last)),
        };
        Self {
            words: format!("{range} of {}", words(rows)),
            previous: (page > 1).then(|| query.at_page(page - 1).to_string()),
            next: (last < rows).then(|| query.at_page(page + 1).to_string()),
        }
    }
}

/// The most that a node holds of each kind, for the bars.
#[derive(Debug, Clone, Copy, Default)]
struct Largest {
    cpus: u64,
    memory: u64,
    disk: u64,
    network: u64,
    gpus: u64,
}

impl Largest {
    fn of(nodes: &RollBrief) -> Self {
        let entries = nodes.nodes.iter().filter_map(NodeBrief::entry);
        entries.fold(Self::default(), |most, node| Self {
            cpus: most.cpus.max(node.vcpus.count),
            memory: most.memory.max(node.memory),
            disk: most.disk.max(node.storage.size),
            network: most.network.max(node.network.tx_bandwidth),
            gpus: most.gpus.max(node.gpus.count),
        })
    }
}

/// Of something, in percent; what is there is always to be seen.
fn share(part: u64, whole: u64) -> u64 {
    match part {
        0 => 0,
        _ => (u128::from(part) * 100)
            .checked_div(u128::from(whole))
            .and_then(|percent| u64::try_from(percent).ok())
            .unwrap_or(100)
            .clamp(1, 100),
    }
}

/// All nodes, also those that nobody reports for.
fn lines(nodes: &RollBrief) -> Vec<Line<'_>> {
    if nodes.missing.is_empty() {
        return nodes.nodes.iter().map(Line::Node).collect();
    }
    let mut seen: HashSet<_> = nodes.nodes.iter().map(|node| &node.line.name).collect();
    // Those that report and are not complete are on the roll. A Node may be missing in several
    // targets, for different reasons.
    let missing = nodes.missing.iter().filter(|missing| seen.insert(&missing.name));
    nodes.nodes.iter().map(Line::Node).chain(missing.map(Line::Missing)).collect()
}

/// The lines of a page in their order, the others in any. Where what is sorted by is not known, a node is
/// at the end in either order.
fn page<'a, 'b>(lines: &'b mut [Line<'a>], first: usize, by: Sort, order: Order) -> &'b [Line<'a>] {
    let turned = |ordering: Ordering| match order {
        Order::Ascending => ordering,
        Order::Descending => ordering.reverse(),
    };
    // No two have the same name.
    let compare = |one: &Line<'_>, other: &Line<'_>| {
        let names = || by_name(one.name(), other.name());
        match (one.key(by), other.key(by)) {
            (Some(one), Some(other)) => turned(one.cmp(&other)).then_with(names),
            _ if by == Sort::Name => turned(names()),
            (one, other) => other.is_some().cmp(&one.is_some()).then_with(names),
        }
    };
    if first > 0 && first < lines.len() {
        lines.select_nth_unstable_by(first, compare);
    }
    let page = lines.get_mut(first..).unwrap_or_default();
    if page.len() > PAGE {
        page.select_nth_unstable_by(PAGE, compare);
    }
    let shown = page.len().min(PAGE);
    let page = page.get_mut(..shown).unwrap_or_default();
    page.sort_unstable_by(compare);
    page
}

/// How many GPUs that were known do not answer.
fn lost(gpus: &GpuStates) -> u64 {
    gpus.lost.unwrap_or_default()
}

/// How a node stands, the worst first, with what is to be said of one that is well.
pub(super) fn badges(node: &NodeBrief, snapshot: &Snapshot) -> Vec<Badge> {
    let mut badges = troubles(node);
    let left_out = snapshot.left_out.get(&node.line.name).filter(|left_out| left_out.is_of_all);
    if let Some(left_out) = left_out {
        badges.push(Badge::left_out(left_out));
    } else if badges.is_empty() {
        let title = "all its capacities are known".to_owned();
        badges.push(Badge { tone: Tone::Good, word: "complete".to_owned(), title });
    }
    badges
}

impl Badge {
    /// No target gets it.
    pub(super) fn left_out(left_out: &LeftOut) -> Self {
        let title = "in no target's document, by their policies".to_owned();
        Self { tone: Tone::Quiet, word: format!("left out: {}", left_out.reasons()), title }
    }

    /// Its reports are refused.
    pub(super) fn refused() -> Self {
        let title = "it reports, and its reports are not taken".to_owned();
        Self { tone: Tone::Bad, word: "refused".to_owned(), title }
    }
}

/// What is wrong with a node, the worst first.
fn troubles(node: &NodeBrief) -> Vec<Badge> {
    let badge = |tone, word: &str, title: String| Badge { tone, word: word.to_owned(), title };
    let mut badges = Vec::new();
    if node.is_stale {
        let title = "silent for too long; what it last said stands".to_owned();
        badges.push(badge(Tone::Bad, "stale", title));
    }
    if let Err(why) = &node.line.entry {
        badges.push(badge(Tone::Bad, "incomplete", why.to_string()));
    }
    let failing = &node.line.failing;
    if !failing.is_empty() {
        let subjects: Vec<&str> = failing.iter().map(|(subject, _)| subject.as_str()).collect();
        let title = "cannot be read; the last known value stands".to_owned();
        badges.push(badge(Tone::Warn, &format!("{} failing", subjects.join(", ")), title));
    }
    let lost = lost(&node.line.gpus);
    if lost > 0 {
        let plural = if lost == 1 { "" } else { "s" };
        let title = "on the bus, and their driver does not answer for them".to_owned();
        badges.push(badge(Tone::Bad, &format!("{} GPU{plural} lost", grouped(lost)), title));
    }
    if node.line.hardware_changes.is_some_and(|changes| changes > 0) {
        let title = "not as it was before its last boot".to_owned();
        badges.push(badge(Tone::Warn, "changed", title));
    }
    badges
}

/// How much is to be said of a node.
fn warnings(node: &NodeBrief) -> usize {
    node.warnings()
        + node.line.failing.len()
        + node.line.hardware_changes.unwrap_or(0)
        + usize::from(node.line.entry.is_err())
}

impl<'a> Line<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Node(node) => node.line.name.as_str(),
            Self::Missing(missing) => missing.name.as_str(),
        }
    }

    const fn node(self) -> Option<&'a NodeBrief> {
        match self {
            Self::Node(node) => Some(node),
            Self::Missing(_) => None,
        }
    }

    fn entry(self) -> Option<&'a NodeData> {
        self.node()?.entry()
    }

    /// Who comes first where one looks for what is wrong.
    fn rank(self) -> u8 {
        let Self::Node(node) = self else { return 0 };
        let is_incomplete = node.line.entry.is_err();
        match node {
            _ if node.is_stale => 1,
            _ if is_incomplete => 2,
            _ if !node.line.failing.is_empty() => 3,
            _ if lost(&node.line.gpus) > 0 => 4,
            _ if warnings(node) > 0 => 5,
            _ => 6,
        }
    }

    /// The number that it is sorted by; `None`: there is none, or it is not known.
    fn key(self, by: Sort) -> Option<i128> {
        let entry = self.entry();
        let of = |number: fn(&NodeData) -> u64| entry.map(|entry| number(entry).into());
        match by {
            Sort::Name => None,
            Sort::Attention => Some(self.rank().into()),
            Sort::Cpus => of(|node| node.vcpus.count),
            Sort::Memory => of(|node| node.memory),
            Sort::Disk => of(|node| node.storage.size),
            Sort::Network => of(|node| node.network.tx_bandwidth),
            Sort::Gpus => of(|node| node.gpus.count),
            Sort::Seen => self.node().map(|node| node.last_seen.as_nanosecond()),
        }
    }

    fn is(self, show: Show) -> bool {
        let node = self.node();
        match show {
            Show::All => true,
            Show::Attention => self.rank() < 6,
            Show::Missing => node.is_none(),
            Show::Stale => node.is_some_and(|node| node.is_stale),
            Show::Incomplete => node.is_some_and(|node| node.line.entry.is_err()),
            Show::Failing => node.is_some_and(|node| !node.line.failing.is_empty()),
            Show::Lost => node.is_some_and(|node| lost(&node.line.gpus) > 0),
            Show::Gpus => node.is_some_and(|node| {
                let gpus = &node.line.gpus;
                gpus.expected.or(gpus.counted).is_some_and(|gpus| gpus > 0)
            }),
        }
    }

    /// `wanted`: words in small letters, all of which are to be found.
    fn is_shown(self, show: Show, wanted: &[&str]) -> bool {
        if !self.is(show) {
            return false;
        }
        if wanted.is_empty() {
            return true;
        }
        let mut text = self.name().to_lowercase();
        if let Some(node) = self.node() {
            let models = node.entry().into_iter().flat_map(|entry| &entry.gpus.model_names);
            let class = node.class.iter().flat_map(|class| class.id.iter().chain(&class.name));
            for part in std::iter::once(node.line.node_id.as_str())
                .chain(models.map(|model| &**model))
                .chain(class.map(String::as_str))
            {
                text.push('\n');
                text.push_str(&part.to_lowercase());
            }
        }
        wanted.iter().all(|word| text.contains(word))
    }

    fn row(self, largest: &Largest, snapshot: &Snapshot) -> Row<'a> {
        let name = self.name();
        let href = format!("/nodes/{name}");
        let node = match self {
            Self::Node(node) => node,
            Self::Missing(missing) => {
                let badge = if snapshot.refused.contains(&missing.name) {
                    Badge::refused()
                } else {
                    let why = missing.why.clone();
                    let title = why.clone().unwrap_or_else(|| {
                        "Kubernetes has it, and nobody has reported for it".to_owned()
                    });
                    let word =
                        why.map_or_else(|| "missing".to_owned(), |why| format!("missing, {why}"));
                    Badge { tone: Tone::Bad, word, title }
                };
                return Row {
                    name,
                    href,
                    id: None,
                    class: None,
                    node: None,
                    state: "missing",
                    is_stale: false,
                    badges: vec![badge],
                    cells: [None, None, None, None],
                    gpus: Gpus::of(&GpuStates::default(), None, largest),
                    warnings: 0,
                    seen: None,
                };
            }
        };
        let cell =
            |label, amount: Amount, most| Cell { label, bar: share(amount.exact, most), amount };
        let cells = match node.entry() {
            None => [None, None, None, None],
            Some(entry) => [
                Some(cell("vCPUs", Amount::of_count(entry.vcpus.count), largest.cpus)),
                Some(cell("Memory", Amount::of_mib(entry.memory), largest.memory)),
                Some(cell("Storage", Amount::of_mib(entry.storage.size), largest.disk)),
                Some(cell(
                    "Network",
                    Amount::of_mbits(entry.network.tx_bandwidth),
                    largest.network,
                )),
            ],
        };
        let id = node.line.node_id.as_str();
        let class = node.class.as_ref();
        Row {
            name,
            href,
            id: Some(id).filter(|id| *id != name),
            class: class.and_then(|class| class.name.as_deref().or(class.id.as_deref())),
            node: Some(node),
            state: match node.state() {
                NodeState::Complete => "complete",
                NodeState::Incomplete => "incomplete",
            },
            is_stale: node.is_stale,
            badges: badges(node, snapshot),
            cells,
            gpus: Gpus::of(&node.line.gpus, node.entry(), largest),
            warnings: warnings(node),
            seen: Some(Moment::of(node.last_seen, snapshot.at)),
        }
    }
}

impl Gpus {
    fn of(states: &GpuStates, entry: Option<&NodeData>, largest: &Largest) -> Self {
        let known = |words: String| (words, true);
        let (words, is_known) = match (states.expected, states.usable) {
            (Some(0), Some(0)) => known("none".to_owned()),
            (Some(expected), Some(usable)) => {
                known(format!("{} of {} usable", grouped(usable), grouped(expected)))
            }
            (None, Some(usable)) => known(format!("{} usable", grouped(usable))),
            (Some(expected), None) => known(format!("{}, usable unknown", grouped(expected))),
            (None, None) => ("unknown".to_owned(), false),
        };
        let models = entry.map(|entry| entry.gpus.model_names.join(", "));
        let counted = entry.map(|entry| entry.gpus.count).filter(|count| *count > 0);
        Self {
            words,
            is_known,
            models: models.filter(|models| !models.is_empty()),
            bar: counted.map(|count| share(count, largest.gpus)),
            is_short: (states.usable.zip(states.expected))
                .is_some_and(|(usable, expected)| usable < expected),
        }
    }
}
