//! What others write into the store, as the API server tells it.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use rollcall_daemon::kubernetes::words;
use rollcall_report::NodeName;

use super::objects::{BOOK_LABEL, Book, Ledger, NodeInventory, Onboarding};
use super::{Cluster, KnownTarget, Standings, ledger, standing, unreadable};
use crate::store::{Learned, WriteError};

/// Watches the store.
pub struct Feed {
    cluster: Arc<Cluster>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Feed")
    }
}

impl Feed {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    /// Tells what the store holds from now on, for ever; `tell` must not write to the store.
    pub async fn run(&self, tell: impl Fn(Learned) + Send + Sync + 'static) {
        let cluster = &self.cluster;
        // It is run once.
        let _is_set = cluster.tell.set(Box::new(tell));
        let mut inventories = pin!(watch(cluster.inventories.clone(), watcher::Config::default()));
        let mut onboardings = pin!(watch(cluster.onboardings.clone(), watcher::Config::default()));
        let books = [Book::Departures, Book::Installation, Book::Classes].map(Book::as_str);
        let books = format!("{BOOK_LABEL} in ({})", books.join(","));
        let books = watcher::Config::default().labels(&books);
        let mut ledgers = pin!(watch(cluster.departed.ledgers().clone(), books));
        let mut there = HashSet::new();
        let mut listing = Listing::default();
        let mut troubles = Troubles::default();
        loop {
            tokio::select! {
                Some(event) = inventories.next() => {
                    if let Some(event) = troubles.sift("nodeinventories", event) {
                        cluster.inventory(event, &mut listing);
                    }
                }
                Some(event) = onboardings.next() => {
                    if let Some(event) = troubles.sift("onboardings", event) {
                        cluster.onboarding(event).await;
                    }
                }
                Some(event) = ledgers.next() => {
                    if let Some(event) = troubles.sift("ledgers", event) {
                        cluster.page(event, &mut there).await;
                    }
                }
            }
        }
    }

    /// Reads anew where all targets stand and who has left: whoever begins to lead must not go by what
    /// it was told.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub async fn standings(&self) -> Result<Standings, WriteError> {
        self.cluster.standings().await
    }
}

impl Cluster {
    fn inventory(&self, event: Event<NodeInventory>, listing: &mut Listing) {
        match event {
            Event::Init => {
                let nodes = self.nodes();
                let known = nodes.iter().map(|(name, known)| (name.clone(), known.uid.clone()));
                *listing = Listing { before: known.collect(), listed: HashSet::new() };
            }
            Event::InitApply(object) => {
                listing.listed.extend(name_of(&object));
                self.apply(&object, true);
            }
            Event::Apply(object) => self.apply(&object, false),
            Event::InitDone => {
                let Listing { before, listed } = std::mem::take(listing);
                for (name, uid) in before.into_iter().filter(|(name, _)| !listed.contains(name)) {
                    self.apply_gone(&name, &uid);
                }
            }
            Event::Delete(object) => {
                let uid = object.metadata.uid.as_deref().unwrap_or_default();
                if let Some(name) = name_of(&object) {
                    self.apply_gone(&name, uid);
                }
            }
        }
    }

    async fn page(&self, event: Event<Ledger>, there: &mut HashSet<&'static str>) {
        match &event {
            Event::Apply(page) | Event::InitApply(page) => {
                there.insert(page.spec.book.as_str());
                match page.spec.book {
                    Book::Departures => self.tell(Learned::Departures(self.departed.told(page))),
                    Book::Classes => match self.classes.told(page) {
                        Ok(classes) => self.tell(Learned::Classes(classes)),
                        Err(error) => unreadable("ledger", page, &error),
                    },
                    Book::Installation | Book::Journal => {}
                }
            }
            Event::Init => there.clear(),
            Event::Delete(page) => {
                there.remove(page.spec.book.as_str());
            }
            Event::InitDone => {}
        }
        let is_short = match &event {
            Event::Apply(page) => {
                page.spec.book == Book::Classes && self.classes.are_missing_in(page)
            }
            _ => false,
        };
        let is_listed = matches!(event, Event::InitDone | Event::Delete(_));
        if is_listed && !there.contains(Book::Installation.as_str()) {
            let (ledgers, namespace) = (self.departed.ledgers(), &self.place.namespace);
            match ledger::restore_installation(ledgers, namespace, self.installation).await {
                Ok(()) => log::warn!("the installation's id was deleted, and is written again"),
                Err(error) => {
                    log::error!(error:% = error;
                        "the installation's id was deleted: after a restart the entries in the networks are taken for another's");
                }
            }
        }
        if is_short || is_listed && !there.contains(Book::Classes.as_str()) {
            match self.classes.restore().await {
                Ok(true) => log::warn!("the node classes were deleted, and are written again"),
                // Nobody has any, or another aggregator was quicker.
                Ok(false) | Err(WriteError::Overtaken { .. }) => {}
                Err(error) => {
                    log::error!(error:% = error;
                        "the node classes were deleted: after a restart new machines are given other classes");
                }
            }
        }
    }

    async fn onboarding(&self, event: Event<Onboarding>) {
        let object = match event {
            Event::Apply(object) | Event::InitApply(object) => object,
            Event::Delete(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                let uid = object.metadata.uid.as_deref().unwrap_or_default();
                self.target_is_gone(name, uid);
                // What its operator wants must outlive this process all the same.
                if self.place.targets.contains(name) {
                    match self.target(name).await {
                        Ok(_) => log::warn!(target = name;
                            "the target's onboarding was deleted, and is written again"),
                        Err(error) => log::warn!(target = name, error:% = error;
                            "the target's onboarding was deleted, and is not written again yet"),
                    }
                }
                return;
            }
            Event::Init | Event::InitDone => return,
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let (state, will) = match standing(&object) {
            Ok(standing) => standing,
            Err(error) => return unreadable("onboarding", &object, &error),
        };
        let fresh = KnownTarget::of(&object);
        let writer = object.status.as_ref().map(|status| status.leader.as_str());
        let is_foreign = writer.is_some_and(|writer| writer != self.place.replica);
        {
            let mut targets = self.targets();
            let number = |version: &str| version.parse::<u64>().ok();
            match targets.get_mut(&name).filter(|known| known.uid == fresh.uid) {
                Some(known) if number(&fresh.version) < number(&known.version) => return,
                // While this aggregator leads, a state that another has written is one that its next
                // write must fall over.
                Some(known) if is_foreign && self.place.leadership.is_held() => {
                    if fresh.status == known.status {
                        *known = fresh;
                    }
                }
                Some(known) => *known = fresh,
                None => {
                    targets.insert(name.clone(), fresh);
                }
            }
        }
        self.tell(Learned::Target { name, state: state.map(Box::new), will: Box::new(will) });
    }
}

/// A list that is under way.
#[derive(Default)]
struct Listing {
    /// The objects that were known before it was asked for, and their UIDs: of these, those that it lacks
    /// are gone. One that we make meanwhile may be too young for it.
    before: Vec<(NodeName, String)>,
    /// What it holds.
    listed: HashSet<NodeName>,
}

/// What is in the way of seeing a kind's objects, so that it is said once.
#[derive(Default)]
struct Troubles(HashMap<&'static str, String>);

impl Troubles {
    fn sift<K>(
        &mut self,
        kind: &'static str,
        event: Result<Event<K>, watcher::Error>,
    ) -> Option<Event<K>> {
        match event {
            Ok(event) => {
                if self.0.remove(kind).is_some() {
                    log::info!(kind; "what other aggregators write is seen again");
                }
                Some(event)
            }
            Err(error) => {
                let words = said(&error);
                let is_known = self.0.get(kind).is_some_and(|known| *known == words);
                if !is_known {
                    log::warn!(kind, error = words.as_str();
                        "what other aggregators write cannot be seen, trying again");
                    self.0.insert(kind, words);
                }
                None
            }
        }
    }
}

fn name_of(object: &NodeInventory) -> Option<NodeName> {
    object.metadata.name.as_ref()?.parse().ok()
}

/// All objects and their changes; after an error it goes on by itself, after a pause.
fn watch<K>(
    api: kube::Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    watcher(api, config).backoff(Pauses::default())
}

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Short: until the API server tells again, nothing is known here of what the others write. Kubernetes'
/// own programs go on to half a minute, and need two tries where what was seen last is too long ago.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The pauses between tries.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        // Spreads replicas.
        Some(pause.mul_f64(0.8 + 0.2 * fastrand::f64()))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

fn said(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => words::of(error),
        error => words::chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew() {
        let mut pauses = Pauses::default();
        let longest: Vec<_> = [500, 1000, 2000, 3000, 3000].map(Duration::from_millis).into();
        for round in 0..2 {
            for (pause, longest) in pauses.by_ref().zip(&longest) {
                assert!(pause <= *longest && pause >= longest.mul_f64(0.79), "{round}: {pause:?}");
            }
            pauses.reset();
        }
        let mut last = pauses.skip(1_000);
        assert!(last.next().is_some_and(|pause| pause <= LONGEST_PAUSE));
    }
}
