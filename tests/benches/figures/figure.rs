//! What was measured, the table of it, and the file.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Plan;

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    what: String,
    unit: &'static str,
    /// `None`: it could not be measured, and `note` says why.
    value: Option<f64>,
    /// What it is compared with, and what that came to.
    peer: Option<(String, f64)>,
    bound: Option<Bound>,
    note: String,
}

/// What a figure is to keep to.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    /// Divided by its peer's.
    RatioAtMost(f64),
    RatioAtLeast(f64),
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        let what = what.into();
        Self { what, unit, value: Some(value), peer: None, bound: None, note: String::new() }
    }

    /// One that could not be measured.
    pub(crate) fn missing(what: impl Into<String>, why: impl Into<String>) -> Self {
        let (what, note) = (what.into(), why.into());
        Self { what, unit: "", value: None, peer: None, bound: None, note }
    }

    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { bound: Some(Bound::AtMost(most)), ..self }
    }

    pub(crate) fn beside(self, peer: impl Into<String>, value: f64) -> Self {
        Self { peer: Some((peer.into(), value)), ..self }
    }

    pub(crate) fn ratio_at_most(self, most: f64) -> Self {
        Self { bound: Some(Bound::RatioAtMost(most)), ..self }
    }

    pub(crate) fn ratio_at_least(self, least: f64) -> Self {
        Self { bound: Some(Bound::RatioAtLeast(least)), ..self }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        Some(self.value? / peer).filter(|ratio| ratio.is_finite())
    }

    /// `None`: there is no bound, or nothing to hold to it.
    fn is_met(&self) -> Option<bool> {
        match self.bound? {
            Bound::AtMost(most) => self.value.map(|value| value <= most),
            Bound::RatioAtMost(most) => self.ratio().map(|ratio| ratio <= most),
            Bound::RatioAtLeast(least) => self.ratio().map(|ratio| ratio >= least),
        }
    }

    /// As the table shows it.
    fn cells(&self, section: &str) -> [String; 7] {
        let or_nothing = |value: Option<f64>| value.map(shown).unwrap_or_default();
        let peer = self.peer.as_ref().map(|(what, value)| format!("{} {what}", shown(*value)));
        let bound = self.bound.map(|bound| match bound {
            Bound::AtMost(most) => format!("<= {}", shown(most)),
            Bound::RatioAtMost(most) => format!("ratio <= {}", shown(most)),
            Bound::RatioAtLeast(least) => format!("ratio >= {}", shown(least)),
        });
        let met = match (self.value, self.is_met()) {
            (None, _) => "not measured",
            (_, Some(true)) => "yes",
            (_, Some(false)) => "NO",
            (_, None) => "",
        };
        [
            format!("{section}: {}", self.what),
            or_nothing(self.value),
            self.unit.to_owned(),
            peer.unwrap_or_default(),
            or_nothing(self.ratio()),
            bound.unwrap_or_default(),
            met.to_owned(),
        ]
    }

    fn json(&self, section: &str) -> Value {
        let bound = self.bound.map(|bound| match bound {
            Bound::AtMost(most) => json!({ "atMost": most }),
            Bound::RatioAtMost(most) => json!({ "ratioAtMost": most }),
            Bound::RatioAtLeast(least) => json!({ "ratioAtLeast": least }),
        });
        json!({
            "section": section,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer.as_ref().map(|(what, value)| json!({ "what": what, "value": value })),
            "ratio": self.ratio(),
            "bound": bound,
            "met": self.is_met(),
            "note": self.note,
        })
    }
}

/// A number with as many digits as say something.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// All of them, in their order.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    all: Vec<(&'static str, Figure)>,
}

impl Figures {
    pub(crate) fn add(&mut self, section: &'static str, figures: Vec<Figure>) {
        self.all.extend(figures.into_iter().map(|figure| (section, figure)));
    }

    /// A whole section could not be measured.
    pub(crate) fn failed(&mut self, section: &'static str) {
        let figure = Figure::missing("all of it", "it broke off; see above");
        self.all.push((section, figure));
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.all.iter().all(|(_, figure)| figure.value.is_some())
    }

    /// Prints the table, as one that Markdown shows, too.
    pub(crate) fn print(&self) {
        let head = ["figure", "value", "unit", "peer", "ratio", "bound", "met"].map(str::to_owned);
        let rows: Vec<_> = self.all.iter().map(|(section, figure)| figure.cells(section)).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|column| {
                let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let print = |row: &[String]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        };
        print(&head);
        print(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
        for row in &rows {
            print(row);
        }
        for (section, Figure { what, note, .. }) in &self.all {
            if !note.is_empty() {
                println!("{section}: {what}: {note}");
            }
        }
    }

    /// Writes them beside what was built: `target/bench/figures.json`.
    pub(crate) fn save(&self, plan: &Plan) -> Result<(), Box<dyn std::error::Error>> {
        // target/release/deps/figures-…
        let program = std::env::current_exe()?;
        let target = program.ancestors().nth(3).ok_or("where was it built?")?;
        let folder: PathBuf = target.join("bench");
        fs::create_dir_all(&folder)?;
        let path = folder.join("figures.json");
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let figures: Vec<Value> =
            self.all.iter().map(|(section, figure)| figure.json(section)).collect();
        let all = json!({
            "machine": {
                "cpus": std::thread::available_parallelism()?.get(),
                "cpu": cpu.map(|(_, model)| model),
                "kernel": read("/proc/sys/kernel/osrelease"),
                "load": read("/proc/loadavg"),
            },
            "nodes": plan.nodes,
            "many": plan.many,
            "intervalSeconds": plan.interval.as_secs(),
            "figures": figures,
        });
        fs::write(&path, format!("{all:#}\n"))?;
        println!("{}", path.display());
        Ok(())
    }
}
