//! A node: who it is, how it stands, and every device that its agent told of.

use askama::Template;
use jiff::Timestamp;
use rollcall_report::{
    Attachment, Gpu, GpuFailure, Inventory, Link, NicKind, NodeName, PassedOver, Reading, Subject,
};

use super::Frame;
use super::overview::{Badge, Notice, badges};
use super::rules;
use super::snapshot::Snapshot;
use super::words::{Amount, Moment, Tone, counted, grouped};
use crate::admin::brief::NodeBrief;
use crate::admin::views::{NodeState, NodeView, NotOffered};
use crate::aggregator::Aggregator;
use crate::document::NodeData;
use crate::roll::loss::{Losses, Standing};
use crate::roll::{Entry, Failing};

/// A node's page.
#[derive(Debug, Template)]
#[template(path = "node.html")]
pub(super) struct NodePage {
    frame: Frame,
    name: String,
    /// `complete`, `incomplete` or `missing`.
    state: &'static str,
    is_stale: bool,
    badges: Vec<Badge>,
    notices: Vec<Notice>,
    facts: Vec<Fact>,
    /// Whether no target gets it.
    is_left_out: bool,
    /// Its entry in the document, also where no target gets that.
    entry: Vec<Fact>,
    features: String,
    devices: Vec<Devices>,
    passed_over: Vec<PassedOverRow>,
    changed: Option<Moment>,
}

/// Something that is known of a node.
#[derive(Debug)]
struct Fact {
    label: &'static str,
    value: String,
    /// Exactly, where the value is rounded.
    exactly: Option<String>,
    at: Option<Moment>,
}

/// The devices of one kind.
#[derive(Debug)]
struct Devices {
    subject: Subject,
    heading: &'static str,
    rows: Vec<Device>,
    /// Why there are no rows.
    note: Option<String>,
}

/// A device.
#[derive(Debug)]
struct Device {
    name: String,
    what: String,
    value: String,
    exactly: String,
    tone: Tone,
    /// Whether it counts, in words.
    counts: String,
    /// What it is of, where that is not what its list is of.
    subject: Option<Subject>,
}

/// Candidates that one rule left out.
#[derive(Debug)]
struct PassedOverRow {
    subject: Subject,
    rule: String,
    meaning: &'static str,
    count: String,
    examples: String,
}

impl Fact {
    fn new(label: &'static str, value: impl Into<String>) -> Self {
        Self { label, value: value.into(), exactly: None, at: None }
    }

    fn amount(label: &'static str, amount: Amount) -> Self {
        let exactly = Some(amount.exactly).filter(|exactly| *exactly != amount.words);
        Self { exactly, ..Self::new(label, amount.words) }
    }

    fn at(label: &'static str, at: Timestamp, now: Timestamp) -> Self {
        Self { at: Some(Moment::of(at, now)), ..Self::new(label, "") }
    }
}

impl NodePage {
    /// `None`: there is no such node, neither on the roll nor among those that are missing there.
    pub(super) fn of(
        aggregator: &Aggregator,
        snapshot: &Snapshot,
        name: &NodeName,
        frame: Frame,
    ) -> Option<Self> {
        let now = snapshot.at;
        let conflicts = aggregator.conflicts_about(name, now);
        let offers = Offers::of(snapshot, name);
        let brief = NodeBrief::of(aggregator, name, now);
        let known = {
            let classes = aggregator.classes();
            let roll = aggregator.roll();
            roll.get(name)
                .map(|entry| (entry.clone(), NodeView::of(aggregator, entry, &classes, now)))
        };
        match known.zip(brief) {
            Some(((entry, view), brief)) => {
                let lost = Lost { now, hold_down: aggregator.file.gpu_loss_hold_down };
                let badges = badges(&brief, snapshot);
                Some(Self::on_the_roll(&entry, &view, badges, &conflicts, &offers, &lost, frame))
            }
            None if conflicts.is_empty() && offers.is_empty() => None,
            None => {
                let left_out = snapshot.left_out.get(name);
                let is_refused = snapshot.refused.contains(name);
                let badge = match left_out {
                    _ if is_refused => Badge::refused(),
                    Some(left_out) if offers.missing.is_empty() => Badge::left_out(left_out),
                    _ => Badge {
                        tone: Tone::Bad,
                        word: "missing".to_owned(),
                        title: "it is not on the roll".to_owned(),
                    },
                };
                Some(Self::missing(name, badge, &conflicts, &offers, frame))
            }
        }
    }

    fn on_the_roll(
        entry: &Entry,
        view: &NodeView,
        badges: Vec<Badge>,
        conflicts: &[String],
        offers: &Offers<'_>,
        lost: &Lost,
        frame: Frame,
    ) -> Self {
        let is_complete = view.state == NodeState::Complete;
        Self {
            frame,
            name: view.name.to_string(),
            state: if is_complete { "complete" } else { "incomplete" },
            is_stale: view.stale,
            badges,
            notices: notices(view, conflicts, offers, lost.now),
            facts: facts(entry, view, lost.now),
            features: view
                .entry
                .as_ref()
                .map_or_else(String::new, |it| it.gpus.features.join(", ")),
            is_left_out: offers.are_none,
            entry: view.entry.as_ref().map_or_else(Vec::new, entry_facts),
            devices: devices(entry, lost),
            passed_over: view.passed_over.iter().map(PassedOverRow::of).collect(),
            changed: Some(Moment::of(view.changed, lost.now)),
        }
    }

    fn missing(
        name: &NodeName,
        badge: Badge,
        conflicts: &[String],
        offers: &Offers<'_>,
        frame: Frame,
    ) -> Self {
        let mut notices = Vec::new();
        if !conflicts.is_empty() {
            notices.push(Notice::new(Tone::Bad, "Its reports are refused", conflicts));
        }
        if !offers.missing.is_empty() {
            let heading = if conflicts.is_empty() {
                "Kubernetes has this Node, and nobody has reported for it: look at its agent"
            } else {
                "Kubernetes has this Node, and no report of it was taken"
            };
            notices.push(Notice::new(Tone::Bad, heading, &offers.missing_words()));
        }
        notices.extend(offers.left_out_notice());
        Self {
            frame,
            name: name.to_string(),
            state: "missing",
            is_stale: false,
            badges: vec![badge],
            notices,
            facts: Vec::new(),
            is_left_out: offers.are_none,
            entry: Vec::new(),
            features: String::new(),
            devices: Vec::new(),
            passed_over: Vec::new(),
            changed: None,
        }
    }
}

/// Which targets do not get a node.
#[derive(Debug)]
struct Offers<'a> {
    missing: Vec<&'a NotOffered>,
    left_out: Vec<&'a NotOffered>,
    /// Whether no target gets it.
    are_none: bool,
}

impl<'a> Offers<'a> {
    fn of(snapshot: &'a Snapshot, name: &NodeName) -> Self {
        let of = |all: &'a [NotOffered]| all.iter().filter(|it| it.name == *name).collect();
        Self {
            missing: of(&snapshot.nodes.missing),
            left_out: of(&snapshot.nodes.left_out),
            are_none: snapshot.left_out.get(name).is_some_and(|it| it.is_of_all),
        }
    }

    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.left_out.is_empty()
    }

    fn missing_words(&self) -> Vec<String> {
        let words = self.missing.iter().map(|it| match (&it.why, it.targets.as_slice()) {
            (Some(why), []) => why.clone(),
            (Some(why), targets) => format!("{}: {why}", targets.join(", ")),
            (None, []) => "it is expected".to_owned(),
            (None, targets) => format!("expected by {}", targets.join(", ")),
        });
        words.collect()
    }

    fn left_out_notice(&self) -> Option<Notice> {
        let words = self.left_out.iter().map(|it| {
            let why = it.why.as_deref().unwrap_or("for no known reason");
            if it.targets.is_empty() {
                why.to_owned()
            } else {
                format!("of {}: {why}", it.targets.join(", "))
            }
        });
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| Notice::new(Tone::Quiet, "It is left out", &words))
    }
}

fn notices(
    view: &NodeView,
    conflicts: &[String],
    offers: &Offers<'_>,
    now: Timestamp,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    if !conflicts.is_empty() {
        notices.push(Notice::new(Tone::Bad, "Reports are refused", conflicts));
    }
    if view.stale {
        let last = Moment::of(view.last_seen, now).words;
        let heading =
            format!("Silent: the last report came {last}; what it said stands. Look at its agent");
        notices.push(Notice::new(Tone::Bad, heading, &[]));
    }
    if let Some(why) = &view.kept_out {
        let heading = "It is kept out of the document until this is mended on the node";
        notices.push(Notice::new(Tone::Bad, heading, std::slice::from_ref(why)));
    }
    let failing: Vec<String> = view
        .failing
        .iter()
        .map(|it| format!("{}, since {:.0}: {}", it.subject, it.since, it.reason))
        .collect();
    if !failing.is_empty() {
        let heading = "This cannot be read on the node; what was known of it before stands";
        notices.push(Notice::new(Tone::Warn, heading, &failing));
    }
    let changes: Vec<String> =
        view.hardware_changes.iter().flatten().map(ToString::to_string).collect();
    if !changes.is_empty() {
        let heading = "It has not the hardware that it had before its last boot";
        notices.push(Notice::new(Tone::Warn, heading, &changes));
    }
    if !view.warnings.is_empty() {
        notices.push(Notice::new(Tone::Warn, "Worth knowing", &view.warnings));
    }
    notices.extend(offers.left_out_notice());
    notices
}

fn facts(entry: &Entry, view: &NodeView, now: Timestamp) -> Vec<Fact> {
    let mut facts = vec![Fact::new("nodeID", view.node_id.as_str())];
    if let Some(class) = &view.class {
        let name = class.name.as_deref();
        let words = match (name, class.id.as_deref()) {
            (Some(name), Some(id)) => format!("{name} ({id})"),
            (one, other) => one.or(other).unwrap_or("none yet").to_owned(),
        };
        facts.push(Fact::new("Class", words));
    }
    match &entry.inventory.machine {
        Reading::Known(machine) => {
            let maker = [machine.vendor.as_deref(), machine.product.as_deref()];
            let maker: Vec<&str> = maker.into_iter().flatten().collect();
            let text = |label, value: Option<&str>| value.map(|value| Fact::new(label, value));
            facts.extend(text(
                "Machine",
                Some(maker.join(" ").as_str()).filter(|it| !it.is_empty()),
            ));
            facts.push(Fact::new("Architecture", machine.architecture.as_str()));
            facts.extend(text("System", machine.operating_system.as_deref()));
            facts.extend(text("Kernel", machine.kernel_release.as_deref()));
            let booted = machine.boot_time_seconds.and_then(|at| i64::try_from(at).ok());
            let booted = booted.and_then(|at| Timestamp::from_second(at).ok());
            facts.extend(booted.map(|at| Fact::at("Booted", at, now)));
        }
        Reading::Absent => facts.push(Fact::new("Machine", "unknown")),
        Reading::Failed { reason } => {
            facts.push(Fact::new("Machine", format!("unknown: {reason}")));
        }
    }
    facts.push(Fact::new("Agent", view.agent_version.as_str()));
    facts.push(Fact::at("First report", view.first_seen, now));
    facts.push(Fact::at("Last report", view.last_seen, now));
    facts.push(Fact::at("Last change", view.changed, now));
    facts
}

fn entry_facts(entry: &NodeData) -> Vec<Fact> {
    let mut facts = vec![
        Fact::amount("vCPUs", Amount::of_count(entry.vcpus.count)),
        Fact::amount("Memory", Amount::of_mib(entry.memory)),
        Fact::amount("Swap", Amount::of_mib(entry.swap)),
        Fact::amount("Disks", Amount::of_count(entry.storage.disks)),
        Fact::amount("Storage", Amount::of_mib(entry.storage.size)),
        Fact::amount("Links", Amount::of_count(entry.network.interfaces)),
        Fact::amount("Bandwidth", Amount::of_mbits(entry.network.tx_bandwidth)),
        Fact::amount("GPUs", Amount::of_count(entry.gpus.count)),
    ];
    if entry.gpus.count > 0 {
        facts.push(Fact::amount("GPU memory", Amount::of_mib(entry.gpus.memory)));
    }
    facts
}

/// What is needed to say whether a lost GPU counts.
struct Lost {
    now: Timestamp,
    hold_down: std::time::Duration,
}

fn devices(entry: &Entry, lost: &Lost) -> Vec<Devices> {
    let inventory = &entry.inventory;
    let mut all = vec![
        processors(inventory),
        memory(inventory),
        disks(inventory),
        nics(inventory),
        gpus(entry, lost),
    ];
    for devices in &mut all {
        for (subject, failing) in &entry.failing {
            devices.as_last_known(*subject, failing, lost.now);
        }
    }
    all
}

impl Devices {
    /// The rows of a reading; where it failed or there is nothing, that in words.
    fn of<T>(
        subject: Subject,
        heading: &'static str,
        reading: &Reading<T>,
        rows: impl FnOnce(&T) -> Vec<Device>,
    ) -> Self {
        let (rows, note) = match reading {
            Reading::Known(value) => (rows(value), None),
            Reading::Absent => (Vec::new(), Some("The machine tells none.".to_owned())),
            Reading::Failed { reason } => (Vec::new(), Some(format!("Not known: {reason}"))),
        };
        let is_empty = rows.is_empty();
        let note = note.or_else(|| is_empty.then(|| "There are none.".to_owned()));
        Self { subject, heading, rows, note }
    }

    /// What cannot be read is shown as it was last known, and so marked.
    fn as_last_known(&mut self, subject: Subject, failing: &Failing, now: Timestamp) {
        let is_swap = |row: &Device| row.subject == Some(Subject::Swap);
        let is_of_it = |row: &Device| match subject {
            Subject::Swap => is_swap(row),
            _ => !is_swap(row),
        };
        let is_here = subject == self.subject
            || (subject == Subject::Swap && self.subject == Subject::Memory);
        let mut is_any = false;
        for row in self.rows.iter_mut().filter(|row| is_here && is_of_it(row)) {
            is_any = true;
            if matches!(row.tone, Tone::Good | Tone::Quiet) {
                row.tone = Tone::Warn;
                row.counts.push_str(", as last known");
            }
        }
        if is_any {
            let since = Moment::of(failing.since, now).words;
            let words = format!("As last known: {subject} cannot be read since {since}.");
            self.note = Some(match self.note.take() {
                Some(note) => format!("{words} {note}"),
                None => words,
            });
        }
    }
}

impl Device {
    fn new(name: impl Into<String>, what: impl Into<String>, tone: Tone, counts: &str) -> Self {
        Self {
            name: name.into(),
            what: what.into(),
            value: String::new(),
            exactly: String::new(),
            tone,
            counts: counts.to_owned(),
            subject: None,
        }
    }

    fn of(self, subject: Subject) -> Self {
        Self { subject: Some(subject), ..self }
    }

    fn amount(self, amount: Amount) -> Self {
        Self { value: amount.words, exactly: amount.exactly, ..self }
    }

    /// What a reading in bytes tells; `absent` says what it means that there is none.
    fn bytes(self, reading: &Reading<u64>, absent: &str) -> Self {
        match reading {
            Reading::Known(bytes) => self.amount(Amount::of_bytes(*bytes)),
            Reading::Absent => Self { value: absent.to_owned(), ..self },
            Reading::Failed { reason } => Self {
                value: "unknown".to_owned(),
                exactly: reason.clone(),
                tone: Tone::Warn,
                ..self
            },
        }
    }
}

/// The parts of a description that are known.
fn joined(parts: &[Option<String>]) -> String {
    parts.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" · ")
}

fn processors(inventory: &Inventory) -> Devices {
    Devices::of(Subject::Cpu, "Processors", &inventory.cpu, |cpu| {
        let several = |count: Option<u32>, what: &str| {
            count.map(|count| counted(usize::try_from(count).unwrap_or(usize::MAX), what))
        };
        let what = joined(&[
            several(cpu.sockets, "socket"),
            several(cpu.cores, "core"),
            several(cpu.numa_nodes, "NUMA node"),
        ]);
        let name = cpu.model.clone().or_else(|| cpu.vendor.clone());
        let name = name.unwrap_or_else(|| "model unknown".to_owned());
        let online = Amount::of_count(cpu.online.into());
        let value = format!("{} online", online.words);
        vec![Device {
            value,
            exactly: online.exactly,
            ..Device::new(name, what, Tone::Good, "counts")
        }]
    })
}

fn memory(inventory: &Inventory) -> Devices {
    let mut devices =
        Devices::of(Subject::Memory, "Memory and swap", &inventory.memory, |memory| {
            vec![
                Device::new("MemTotal", "what the kernel has to give out", Tone::Good, "counts")
                    .amount(Amount::of_bytes(memory.total_bytes)),
                Device::new("installed", "memory blocks that are online", Tone::Quiet, "apart")
                    .bytes(&memory.installed_bytes, "not told"),
            ]
        });
    match &inventory.swap {
        Reading::Known(swap) => {
            devices.rows.push(
                Device::new("swap", "partitions and files", Tone::Good, "counts")
                    .of(Subject::Swap)
                    .amount(Amount::of_bytes(swap.total_bytes)),
            );
            if swap.zram_bytes > 0 {
                devices.rows.push(
                    Device::new("zram", "compressed memory", Tone::Quiet, "apart")
                        .of(Subject::Swap)
                        .amount(Amount::of_bytes(swap.zram_bytes)),
                );
            }
        }
        Reading::Absent => {}
        Reading::Failed { reason } => {
            let swap = Device::new("swap", reason.as_str(), Tone::Warn, "unknown");
            devices.rows.push(swap.of(Subject::Swap));
        }
    }
    devices
}

fn disks(inventory: &Inventory) -> Devices {
    Devices::of(Subject::Disks, "Disks", &inventory.disks, |disks| {
        let rows = disks.iter().map(|disk| {
            let spins = disk.rotational.map(|spins| if spins { "spinning" } else { "solid state" });
            let what = joined(&[disk.model.clone(), spins.map(str::to_owned)]);
            let (tone, counts) = match disk.attachment {
                Attachment::Local => (Tone::Good, "counts"),
                Attachment::Network => (Tone::Quiet, "apart: behind a network"),
                Attachment::Other => (Tone::Quiet, "apart: this version does not know where it is"),
            };
            Device::new(disk.name.as_str(), what, tone, counts).bytes(&disk.size_bytes, "not told")
        });
        rows.collect()
    })
}

fn nics(inventory: &Inventory) -> Devices {
    Devices::of(Subject::Nics, "Network interfaces", &inventory.nics, |nics| {
        let rows = nics.iter().map(|nic| {
            let kind = match nic.kind {
                NicKind::Ethernet => "Ethernet",
                NicKind::Infiniband => "InfiniBand",
                NicKind::Other => "another kind",
            };
            let link = match nic.link {
                Link::Up => "link up",
                Link::Down => "link down",
                Link::Unknown => "link unknown",
            };
            let what = joined(&[Some(kind.to_owned()), nic.driver.clone(), Some(link.to_owned())]);
            let device = Device::new(nic.name.as_str(), what, Tone::Good, "counts");
            match (nic.link, &nic.speed_mbps) {
                (Link::Down, _) => Device {
                    tone: Tone::Quiet,
                    counts: "counts, with bandwidth 0".to_owned(),
                    ..device
                },
                (_, Reading::Known(mbits)) => device.amount(Amount::of_mbits(*mbits)),
                (_, Reading::Absent) => Device {
                    value: "not told".to_owned(),
                    tone: Tone::Warn,
                    counts: "counts; bandwidth 0 unless overrides.unknownNicSpeeds says more"
                        .to_owned(),
                    ..device
                },
                (_, Reading::Failed { reason }) => Device {
                    value: "unknown".to_owned(),
                    exactly: reason.clone(),
                    tone: Tone::Warn,
                    counts: format!("unknown: {reason}"),
                    ..device
                },
            }
        });
        rows.collect()
    })
}

fn gpus(entry: &Entry, lost: &Lost) -> Devices {
    let (tone, counts) = if entry.gpus_unanswered.is_some() {
        (Tone::Warn, "counts as last known: the driver does not answer")
    } else {
        (Tone::Good, "usable, counts")
    };
    let mut devices = Devices::of(Subject::Gpus, "GPUs", &entry.inventory.gpus, |gpus| {
        let mut rows = Vec::new();
        match &gpus.nvidia_driver {
            Reading::Known(driver) => {
                rows.extend(driver.gpus.iter().map(|gpu| nvidia(gpu, tone, counts)));
                // One that was known is told of below, as what it was.
                let is_known = |failure: &&GpuFailure| {
                    entry.lost_gpus.iter().any(|it| it.gpu.index == failure.index)
                };
                rows.extend(driver.failures.iter().filter(|it| !is_known(it)).map(|failure| {
                    let name = format!("GPU {}", failure.index);
                    Device::new(name, failure.reason.as_str(), Tone::Bad, "does not answer")
                }));
            }
            Reading::Absent => {}
            Reading::Failed { reason } => {
                let counts = match &gpus.nvidia_pci_devices {
                    Reading::Known(count) => format!("{count} on the bus, usable unknown"),
                    Reading::Absent | Reading::Failed { .. } => "unknown".to_owned(),
                };
                rows.push(Device::new("NVIDIA's driver", reason.as_str(), Tone::Bad, &counts));
            }
        }
        let unasked = "counts by other witnesses: one that is dead is not found out";
        rows.extend(gpus.nvidia_unasked.iter().map(|gpu| nvidia(gpu, Tone::Warn, unasked)));
        let losses = Losses::at(&entry.lost_gpus, lost.now, lost.hold_down);
        rows.extend(losses.all().iter().map(|loss| {
            let since = Moment::of(loss.lost.since, lost.now).words;
            let words = match loss.standing {
                Standing::Counted { until: Some(at) } => {
                    format!("lost {since}, counts until {at:.0}")
                }
                Standing::Counted { until: None } => {
                    format!("lost {since}, counts while the driver as a whole is silent")
                }
                Standing::GivenUp => format!("lost {since}, counts no more"),
            };
            nvidia(&loss.lost.gpu, Tone::Bad, &words)
        }));
        let is_known = |address: &String| {
            let known = entry.lost_gpus.iter().filter_map(|it| it.gpu.pci_address.as_ref());
            known.into_iter().any(|known| known.eq_ignore_ascii_case(address))
        };
        let unknown = gpus.lost.iter().filter(|address| !is_known(address));
        rows.extend(unknown.map(|address| {
            Device::new(
                address.as_str(),
                "on the bus",
                Tone::Bad,
                "does not answer, does not count",
            )
        }));
        match &gpus.amd {
            Reading::Known(amd) => rows.extend(amd.iter().map(|gpu| {
                let what = format!("{} · {}", gpu.pci_address, gpu.device_id);
                Device::new(gpu.model.as_str(), what, tone, counts)
                    .bytes(&gpu.memory_bytes, "shares the machine's")
            })),
            Reading::Absent => {}
            Reading::Failed { reason } => {
                rows.push(Device::new("AMD's GPUs", reason.as_str(), Tone::Bad, "unknown"));
            }
        }
        rows.extend(gpus.unmeasured.iter().map(|it| {
            let what = format!("PCI {}:{}", it.vendor_id, it.device_id);
            let counts = "apart: cannot be measured";
            Device::new(it.pci_address.as_str(), what, Tone::Warn, counts)
        }));
        if gpus.passed_through > 0 {
            let many = grouped(gpus.passed_through.into());
            let counts = "apart: handed on to virtual machines";
            rows.push(Device::new("passed through", "", Tone::Quiet, counts));
            if let Some(row) = rows.last_mut() {
                row.value = many;
            }
        }
        rows
    });
    if let Some(driver) = entry.inventory.gpus.known().and_then(|it| it.nvidia_driver.known())
        && let Some(version) = &driver.version
    {
        let cuda = driver.cuda_version.as_deref().map(|cuda| format!(", CUDA up to {cuda}"));
        devices.note = Some(format!("NVIDIA's driver {version}{}", cuda.unwrap_or_default()));
    }
    devices
}

fn nvidia(gpu: &Gpu, tone: Tone, counts: &str) -> Device {
    let what = joined(&[
        Some(format!("GPU {}", gpu.index)),
        gpu.pci_address.as_deref().map(str::to_owned),
        gpu.compute_capability.map(|it| format!("compute capability {it}")),
        gpu.active_nvlinks.map(|links| format!("{links} NVLinks")),
        gpu.mig.as_ref().map(|parts| counted(parts.len(), "MIG instance")),
        gpu.uuid.as_deref().map(str::to_owned),
    ]);
    Device::new(gpu.model.as_str(), what, tone, counts)
        .bytes(&gpu.memory_bytes, "shares the machine's")
}

impl PassedOverRow {
    fn of(passed_over: &PassedOver) -> Self {
        let PassedOver { subject, rule, count, examples } = passed_over;
        let shown = examples.join(", ");
        let more = usize::try_from(*count).unwrap_or(usize::MAX).saturating_sub(examples.len());
        Self {
            subject: *subject,
            rule: rule.clone(),
            meaning: rules::meaning_of(*subject, rule).unwrap_or("a rule of another version"),
            count: grouped((*count).into()),
            examples: if more > 0 && !shown.is_empty() { format!("{shown}, …") } else { shown },
        }
    }
}
