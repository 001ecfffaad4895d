//! A target: where it stands, what is sent to it, what differs there, and what was done.

use askama::Template;
use jiff::Timestamp;
use rollcall_report::{Refusal, RefusalCode};

use super::Frame;
use super::snapshot::Snapshot;
use super::words::{
    Moment, Tone, counted, counted_as, entry_words, grouped, meaning_of, tone_of,
    tone_of_infrastructure,
};
use crate::admin::views::{DocumentView, ExpectedView, RegionStatus, TargetView};
use crate::aggregator::{Aggregator, LastLook};
use crate::cluster_file::{Mode, Target, TargetKind};
use crate::onboarding::state::{Phase, Presence};
use crate::store::JournalLine;
use crate::targets::{Difference, FieldDifference, Held};

/// How many names are shown before the rest is counted.
const MOST_NAMES: usize = 50;

/// How many fields that differ are shown before the rest is counted.
const MOST_FIELDS: usize = 200;

/// How many nodes of the document are shown.
const MOST_NODES: usize = 3;

/// Where a target stands.
#[derive(Debug, Clone)]
pub(super) struct TargetCard {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) tone: Tone,
    /// The phase, `none` for one without a registry.
    pub(super) phase: &'static str,
    /// The phase as people read it.
    pub(super) heading: &'static str,
    pub(super) meaning: &'static str,
    pub(super) since: Option<Moment>,
    pub(super) failing_since: Option<Moment>,
    pub(super) attempts: u32,
    /// When it is looked at or tried again.
    pub(super) next: Option<Moment>,
    /// Why it stands so, the network's own words where it had any.
    pub(super) words: Option<String>,
    /// What waits for approval, and the beginning of its digest.
    pub(super) proposal: Option<(String, String)>,
    pub(super) infrastructure: Option<InfrastructureCard>,
    /// What else is to be said, a sentence each.
    pub(super) notes: Vec<String>,
    /// Lists of names, with what they are.
    pub(super) lists: Vec<Names>,
    /// Where it is registered.
    pub(super) url: Option<String>,
}

/// Where a network's infrastructure on the cluster stands.
#[derive(Debug, Clone)]
pub(super) struct InfrastructureCard {
    pub(super) tone: Tone,
    pub(super) phase: &'static str,
    pub(super) since: Option<Moment>,
    pub(super) words: Option<String>,
}

/// Names, and what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) what: String,
    pub(super) first: Vec<String>,
    /// How many more there are.
    pub(super) more: usize,
}

impl Names {
    /// `None`: there are none.
    pub(super) fn of(what: String, names: impl ExactSizeIterator<Item = String>) -> Option<Self> {
        let more = names.len().saturating_sub(MOST_NAMES);
        let first: Vec<String> = names.take(MOST_NAMES).collect();
        (!first.is_empty()).then_some(Self { what, first, more })
    }
}

impl TargetCard {
    /// All targets, those with a registry first.
    pub(super) fn all(snapshot: &Snapshot) -> Vec<Self> {
        let status = &snapshot.status;
        let registries = status.targets.iter().map(|it| Self::of_registry(it, snapshot.at));
        let others = snapshot.others.iter().map(|(name, kind)| {
            let region = status.region.as_ref().filter(|region| region.name == *name);
            Self::of_other(name, *kind, region)
        });
        registries.chain(others).collect()
    }

    fn of_registry(target: &TargetView, now: Timestamp) -> Self {
        let state = &target.state;
        let phase = state.observed_phase();
        let is_observed = target.mode == Mode::Observe;
        let mut notes = Vec::new();
        if is_observed {
            notes.push("It is only observed: nothing is sent.".to_owned());
        }
        notes.extend(entry_words(state));
        if target.will.presence != Presence::Registered && phase != Phase::Offboarded {
            notes.push("Its operator wants the cluster out of it.".to_owned());
        }
        if !target.shares_nodes_with.is_empty() {
            notes.push(format!(
                "It may be offered the same nodes as {}; each network takes them for its own.",
                target.shares_nodes_with.join(", ")
            ));
        }
        let expected = target.expected.as_ref();
        notes.extend(expected.map(of_expected));
        let missing = expected.and_then(|expected| {
            let names = expected.missing.iter().map(ToString::to_string);
            let what = counted(expected.missing.len(), "node");
            Names::of(format!("{what} expected and not in its document"), names)
        });
        let kept = {
            let what = counted(target.kept.len(), "node");
            let names = target.kept.iter().cloned();
            Names::of(format!("{what} kept in its entry that nobody reports for"), names)
        };
        let held = &state.infrastructure;
        Self {
            name: target.name.clone(),
            kind: kind_words(target.kind),
            tone: if is_observed && phase == Phase::Ready { Tone::Quiet } else { tone_of(phase) },
            phase: phase.as_str(),
            heading: phase.as_str(),
            meaning: meaning_of(state, target.mode),
            since: Some(Moment::of(state.since, now)),
            failing_since: state.failing_since.map(|since| Moment::of(since, now)),
            attempts: state.attempts,
            // One that is due is under way.
            next: state.next_look().filter(|next| *next > now).map(|next| Moment::of(next, now)),
            words: state.detail.clone(),
            proposal: state
                .proposal
                .as_ref()
                .map(|proposal| (proposal.what.clone(), proposal.digest.short())),
            infrastructure: (!held.is_none()).then(|| InfrastructureCard {
                tone: tone_of_infrastructure(held.phase),
                phase: held.phase.as_str(),
                since: held.since.map(|since| Moment::of(since, now)),
                words: held.detail.clone(),
            }),
            notes,
            lists: missing.into_iter().chain(kept).collect(),
            url: Some(target.url.clone()),
        }
    }

    fn of_other(name: &str, kind: TargetKind, region: Option<&RegionStatus>) -> Self {
        let mut notes = Vec::new();
        let mut lists = Vec::new();
        let mut tone = Tone::Quiet;
        if let Some(region) = region {
            notes.push(format!(
                "Region {}: {} offered, {} in a class.",
                region.region,
                counted_as(region.offered, "class", "classes"),
                counted(region.nodes, "node"),
            ));
            let refused = region.not_offered.iter().cloned();
            let troubles = region.troubles.iter().cloned();
            let what = counted(region.troubles.len(), "node");
            lists.extend(Names::of("Classes that are not offered".to_owned(), refused));
            lists.extend(Names::of(format!("{what} not as their class says"), troubles));
            if !lists.is_empty() {
                tone = Tone::Warn;
            }
        }
        Self {
            name: name.to_owned(),
            kind: kind_words(kind),
            tone,
            phase: "none",
            heading: "no registry",
            meaning: "Nothing is registered there by itself. The commands check and prepare say what it needs of this cluster.",
            since: None,
            failing_since: None,
            attempts: 0,
            next: None,
            words: None,
            proposal: None,
            infrastructure: None,
            notes,
            lists,
            url: None,
        }
    }
}

fn of_expected(expected: &ExpectedView) -> String {
    let number = |count: usize| grouped(u64::try_from(count).unwrap_or(u64::MAX));
    let there = number(expected.nodes.saturating_sub(expected.missing.len()));
    let text = format!("{there} of {} nodes are in its document", number(expected.nodes));
    match expected.left_out {
        0 => format!("{text}."),
        left_out => format!("{text}; {} left out.", counted(left_out, "node")),
    }
}

const fn kind_words(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Aios => "AIOS network",
        TargetKind::Unikorn => "Unikorn region",
        TargetKind::Aichor => "AIchor engine",
        TargetKind::Interlink => "InterLink",
        TargetKind::InferenceModelManager => "Inference Model Manager",
    }
}

/// A target's page.
#[derive(Debug, Template)]
#[template(path = "target.html")]
pub(super) struct TargetPage {
    frame: Frame,
    card: TargetCard,
    mode: Option<&'static str>,
    look: Option<LookCard>,
    document: Option<DocumentCard>,
    journal: Vec<JournalRow>,
    /// Why the journal cannot be read.
    journal_trouble: Option<String>,
}

/// What the last look at the network found.
#[derive(Debug)]
struct LookCard {
    tone: Tone,
    at: Option<Moment>,
    words: String,
    fields: Vec<FieldDifference>,
    more_fields: usize,
    removed: Option<Names>,
}

/// The document that is sent.
#[derive(Debug)]
struct DocumentCard {
    text: String,
    masked: bool,
    /// How many nodes it has, where not all are shown.
    cut: Option<String>,
    warnings: Vec<String>,
    more_warnings: usize,
    incomplete: Vec<String>,
    more_incomplete: usize,
}

/// A line of the journal.
#[derive(Debug)]
struct JournalRow {
    at: Moment,
    what: String,
    detail: Option<String>,
    sends: Vec<String>,
}

impl TargetPage {
    pub(super) fn of(
        aggregator: &Aggregator,
        snapshot: &Snapshot,
        target: &Target,
        journal: Result<Vec<JournalLine>, String>,
        frame: Frame,
    ) -> Self {
        let name = target.name().as_str();
        let view = snapshot.status.targets.iter().find(|view| view.name == name);
        let region = snapshot.status.region.as_ref().filter(|region| region.name == name);
        let card = match view {
            Some(view) => TargetCard::of_registry(view, snapshot.at),
            None => TargetCard::of_other(name, target.kind(), region),
        };
        let (lines, journal_trouble) = match journal {
            Ok(lines) => (lines, None),
            Err(trouble) => (Vec::new(), Some(trouble)),
        };
        let aios = target.aios();
        Self {
            card,
            mode: aios.map(|target| match target.mode {
                Mode::Auto => "registered and kept right without a person",
                Mode::Approve => "nothing is sent before a person has approved it",
                Mode::Observe => "only observed: nothing is sent",
            }),
            look: aios.map(|target| {
                let look = aggregator.standing(target).look;
                LookCard::of(look.as_deref(), snapshot.status.follows, snapshot.at)
            }),
            document: aios
                .map(|target| DocumentCard::of(DocumentView::of(aggregator, Some(target)))),
            // The newest first.
            journal: lines.into_iter().rev().map(|it| JournalRow::of(it, snapshot.at)).collect(),
            journal_trouble,
            frame,
        }
    }
}

impl LookCard {
    fn of(look: Option<&LastLook>, follows: bool, now: Timestamp) -> Self {
        let words = |tone, words: &str| Self {
            tone,
            at: look.map(|look| Moment::of(look.at, now)),
            words: words.to_owned(),
            fields: Vec::new(),
            more_fields: 0,
            removed: None,
        };
        let Some(LastLook { held, .. }) = look else {
            return words(
                Tone::Quiet,
                if follows {
                    "This replica does not submit, nor look at the network; what the one that does sees is not known here."
                } else {
                    "The network was not looked at since this aggregator was started."
                },
            );
        };
        match held {
            Held::NotRead => words(Tone::Quiet, "The network was not looked at yet."),
            Held::Absent => words(Tone::Quiet, "The network holds no entry of this cluster."),
            Held::Unreadable { words: said } => words(Tone::Bad, said),
            Held::Ours(difference) if difference.is_none() => {
                words(Tone::Good, "The network's copy is the same in every field that is compared.")
            }
            Held::Ours(difference) => {
                Self { ..words(Tone::Warn, "The network's copy differs.").with(difference) }
            }
            Held::Foreign(difference) => {
                let said = "The network holds an entry of this id that is not of this installation. It would differ in:";
                words(Tone::Bad, said).with(difference)
            }
        }
    }

    fn with(mut self, difference: &Difference) -> Self {
        self.fields = difference.fields.iter().take(MOST_FIELDS).cloned().collect();
        self.more_fields = difference.fields.len().saturating_sub(MOST_FIELDS);
        let what = format!("{} to be taken away", counted(difference.removed.len(), "node"));
        self.removed = Names::of(what, difference.removed.iter().cloned());
        self
    }
}

impl DocumentCard {
    fn of(mut view: DocumentView) -> Self {
        let nodes = &mut view.document.nodes.node_data;
        let cut = (nodes.len() > MOST_NODES).then(|| counted(nodes.len(), "node"));
        nodes.truncate(MOST_NODES);
        match serde_json::to_string_pretty(&view.document) {
            Ok(text) => Self {
                text,
                masked: view.masked,
                cut,
                more_warnings: view.warnings.len().saturating_sub(MOST_NAMES),
                warnings: view.warnings.into_iter().take(MOST_NAMES).collect(),
                more_incomplete: view.incomplete.len().saturating_sub(MOST_NAMES),
                incomplete: view.incomplete.into_iter().take(MOST_NAMES).collect(),
            },
            Err(error) => Self::trouble(&error.to_string()),
        }
    }

    fn trouble(trouble: &str) -> Self {
        Self {
            text: format!("the document cannot be encoded: {trouble}"),
            masked: false,
            cut: None,
            warnings: Vec::new(),
            more_warnings: 0,
            incomplete: Vec::new(),
            more_incomplete: 0,
        }
    }
}

impl JournalRow {
    fn of(line: JournalLine, now: Timestamp) -> Self {
        let event = line.event;
        Self {
            at: Moment::of(event.at, now),
            what: event.what,
            detail: event.detail,
            sends: event
                .sends
                .into_iter()
                .map(|sent| match sent.body_digest {
                    Some(digest) => format!("{} (body {})", sent.request, digest.short()),
                    None => sent.request,
                })
                .collect(),
        }
    }
}

/// The whole document of a target, secrets masked; `None`: it is sent none.
///
/// # Errors
///
/// The refusal to answer with.
pub(super) fn whole_document(
    aggregator: &Aggregator,
    target: &Target,
) -> Result<Option<String>, Refusal> {
    let Some(target) = target.aios() else { return Ok(None) };
    let text = serde_json::to_string_pretty(&DocumentView::of(aggregator, Some(target)).document);
    text.map(Some).map_err(|error| Refusal {
        code: RefusalCode::Other,
        message: format!("the document cannot be encoded: {error}"),
    })
}
