//! GPU models as label values. They are reported words, so that not each of them gets a series: only the
//! most frequent ones of the cluster, always the same for the same nodes.

use std::collections::{BTreeMap, HashMap, HashSet};

use rollcall_report::clean_text;

/// More models than these are told of as one.
const MOST: usize = 64;
/// What the others are called.
const OTHER: &str = "other";

/// What each model is called in a label.
#[derive(Debug)]
pub(super) struct Models<'a>(HashMap<&'a str, String>);

impl<'a> Models<'a> {
    /// Of all GPUs of the cluster: how many there are by each name.
    pub(super) fn of(counts: &HashMap<&'a str, u64>) -> Self {
        let mut labels: HashMap<&str, String> =
            counts.keys().map(|model| (*model, label(model))).collect();
        let mut by_label: BTreeMap<String, u64> = BTreeMap::new();
        for (model, count) in counts {
            if let Some(label) = labels.get(model) {
                *by_label.entry(label.clone()).or_default() += count;
            }
        }
        let mut by_count: Vec<(String, u64)> = by_label.into_iter().collect();
        // Stable: those that are equally many stay in the order of their names.
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let others: HashSet<String> =
            by_count.into_iter().skip(MOST).map(|(label, _)| label).collect();
        if !others.is_empty() {
            for label in labels.values_mut().filter(|label| others.contains(*label)) {
                OTHER.clone_into(label);
            }
        }
        Self(labels)
    }

    /// What a model is called.
    pub(super) fn label(&self, model: &str) -> &str {
        self.0.get(model).map_or(OTHER, String::as_str)
    }
}

fn label(model: &str) -> String {
    let label = clean_text(model);
    if label.is_empty() { OTHER.to_owned() } else { label }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models<'a>(gpus: impl Iterator<Item = &'a str>) -> Models<'a> {
        let mut counts = HashMap::new();
        gpus.for_each(|model| *counts.entry(model).or_default() += 1);
        Models::of(&counts)
    }

    /// How many GPUs there are by each label.
    fn count<'a>(
        models: &'a Models<'_>,
        gpus: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<&'a str, u64> {
        let mut counts = BTreeMap::new();
        gpus.for_each(|model| *counts.entry(models.label(model)).or_default() += 1);
        counts
    }

    #[test]
    fn the_most_frequent_models_stay() {
        // Model 0 once, model 1 twice, …: of 70, the last 64 stay.
        let names: Vec<String> = (0..70).map(|n| format!("model {n:02}")).collect();
        let gpus = || names.iter().enumerate().flat_map(|(n, name)| vec![name.as_str(); n + 1]);
        let models = models(gpus());
        let counts = count(&models, gpus());
        assert_eq!(counts.len(), MOST + 1);
        assert_eq!(counts.get(OTHER), Some(&(1 + 2 + 3 + 4 + 5 + 6)));
        assert_eq!((counts.get("model 05"), counts.get("model 06")), (None, Some(&7)));
        assert_eq!(counts.get("model 69"), Some(&70));
        assert_eq!(counts.values().sum::<u64>(), 70 * 71 / 2, "none is lost");
    }

    #[test]
    fn of_equally_frequent_models_the_first_names_stay() {
        let names: Vec<String> = (0..70).map(|n| format!("model {n:02}")).collect();
        let forwards = models(names.iter().map(String::as_str));
        let backwards = models(names.iter().rev().map(String::as_str));
        for models in [forwards, backwards] {
            let counts = count(&models, names.iter().map(String::as_str));
            assert_eq!((counts.get("model 63"), counts.get("model 64")), (Some(&1), None));
            assert_eq!(counts.get(OTHER), Some(&6));
        }
    }

    #[test]
    fn names_are_cleaned() {
        let gpus = ["NVIDIA H100\n", "NVIDIA H100", "\u{7}", "other"];
        let models = models(gpus.into_iter());
        let counts = count(&models, gpus.into_iter());
        assert_eq!(counts, BTreeMap::from([("NVIDIA H100", 2), (OTHER, 2)]));
    }
}
