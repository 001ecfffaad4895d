//! What is written down in pages: the installation's id, the nodes that have left, the node classes,
//! the journal.

use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use rollcall_report::NodeId;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::objects::{BOOK_LABEL, Book, Ledger, ledger};
use super::{Failed, TRIES, encode, overtaken, request};
use crate::class::NodeClass;
use crate::roll::departure::Departure;
use crate::store::{Event, HistoryOf, JournalLine, WriteError};

const INSTALLATION: &str = "installation";
const DEPARTURES: &str = "departures";
const CLASSES: &str = "classes";

/// A page of the journal is full with this many lines, or this many bytes: each line that is added
/// writes it anew.
const PAGE_LINES: usize = 200;
const PAGE_BYTES: usize = 128 * 1024;
/// Words that are so close are one.
const SAME_WORD: SignedDuration = SignedDuration::from_mins(2);
/// How many departures are remembered: an object has at most about a megabyte.
const MOST_DEPARTURES: usize = 5000;
/// What a page's number is multiplied with to make its lines' numbers.
const LINE_NUMBERS: u64 = 1000;
/// How many pages of the journal are kept.
const MOST_PAGES: u64 = 100;

/// The installation's id; made once.
pub(super) async fn installation(ledgers: &Api<Ledger>, namespace: &str) -> Result<Uuid, String> {
    for _ in 0..TRIES {
        let get = ledgers.get_opt(INSTALLATION);
        let stored = request("GET", ledgers, INSTALLATION, get).await.map_err(|it| it.words)?;
        if let Some(stored) = stored {
            let id = stored.spec.lines.first().map(|line| line.parse::<Uuid>());
            let Some(Ok(id)) = id else {
                return Err(format!("the ledger {INSTALLATION} in {namespace} holds no UUID"));
            };
            return Ok(id);
        }
        let id = Uuid::new_v4();
        let page = installation_page(namespace, id);
        match request("POST", ledgers, "", ledgers.create(&PostParams::default(), &page)).await {
            Ok(_) => return Ok(id),
            // Another aggregator was quicker.
            Err(Failed { code: Some(409), .. }) => {}
            Err(failed) => return Err(failed.words),
        }
    }
    Err(format!("the ledger {INSTALLATION} in {namespace} comes and goes"))
}

/// Writes the installation's id again, where somebody has deleted it: without it the entries in the
/// networks would be taken for another's after a restart.
pub(super) async fn restore_installation(
    ledgers: &Api<Ledger>,
    namespace: &str,
    id: Uuid,
) -> Result<(), WriteError> {
    let page = installation_page(namespace, id);
    match request("POST", ledgers, "", ledgers.create(&PostParams::default(), &page)).await {
        Ok(_) | Err(Failed { code: Some(409), .. }) => Ok(()),
        Err(failed) => Err(failed.into()),
    }
}

fn installation_page(namespace: &str, id: Uuid) -> Ledger {
    let mut page = ledger(namespace, INSTALLATION, Book::Installation, 0);
    page.spec.lines = vec![id.to_string()];
    page
}

/// The nodes that have left, on one page.
pub(super) struct Departed {
    ledgers: Api<Ledger>,
    namespace: String,
    /// The page as it was last seen; `None`: there is none.
    page: Mutex<Option<Ledger>>,
}

impl Departed {
    pub(super) async fn open(ledgers: Api<Ledger>, namespace: &str) -> Result<Self, String> {
        let get = ledgers.get_opt(DEPARTURES);
        let page = request("GET", &ledgers, DEPARTURES, get).await.map_err(|it| it.words)?;
        Ok(Self { ledgers, namespace: namespace.to_owned(), page: Mutex::new(page) })
    }

    pub(super) const fn ledgers(&self) -> &Api<Ledger> {
        &self.ledgers
    }

    pub(super) async fn all(&self) -> Vec<Departure> {
        self.page.lock().await.as_ref().map(departures).unwrap_or_default()
    }

    /// The page as the feed tells it.
    pub(super) fn told(&self, page: &Ledger) -> Vec<Departure> {
        // Whoever changes it just now learns what it says by that.
        if let Ok(mut known) = self.page.try_lock() {
            let number =
                |page: &Ledger| page.metadata.resource_version.as_ref()?.parse::<u64>().ok();
            if known.as_ref().is_none_or(|known| number(known) < number(page)) {
                *known = Some(page.clone());
            }
        }
        departures(page)
    }

    /// The page as it is now.
    pub(super) async fn read(&self) -> Result<Vec<Departure>, WriteError> {
        let mut page = self.page.lock().await;
        *page = request("GET", &self.ledgers, DEPARTURES, self.ledgers.get_opt(DEPARTURES)).await?;
        Ok(page.as_ref().map(departures).unwrap_or_default())
    }

    /// Remembers some. A word that is much later than the last one about the same id is about a node that
    /// came back meanwhile, and has left again.
    pub(super) async fn add(&self, departures: &[Departure]) -> Result<(), WriteError> {
        self.change(|all| {
            let mut is_news = false;
            for departure in departures {
                match all.iter_mut().find(|known| known.node_id == departure.node_id) {
                    Some(known) if departure.at.duration_since(known.at) > SAME_WORD => {
                        known.clone_from(departure);
                        is_news = true;
                    }
                    Some(known) if known.renamed || !departure.renamed => {}
                    Some(known) => {
                        known.renamed = true;
                        is_news = true;
                    }
                    None => {
                        all.push(departure.clone());
                        is_news = true;
                    }
                }
            }
            is_news
        })
        .await
    }

    /// The node is there again.
    pub(super) async fn take_back(&self, id: &NodeId) -> Result<(), WriteError> {
        self.change(|all| {
            let before = all.len();
            all.retain(|departure| departure.node_id != *id);
            all.len() != before
        })
        .await
    }

    async fn change(&self, change: impl Fn(&mut Vec<Departure>) -> bool) -> Result<(), WriteError> {
        let mut page = self.page.lock().await;
        for _ in 0..TRIES {
            let mut all = page.as_ref().map(departures).unwrap_or_default();
            if !change(&mut all) {
                return Ok(());
            }
            let now = Timestamp::now();
            all.retain(|departure| departure.is_remembered(now));
            // An id that no Node has departs by that, too, where an entry still holds it.
            let surplus = all.len().saturating_sub(MOST_DEPARTURES);
            all.drain(..surplus);
            let lines = all.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
            let lines = lines.map_err(|error| encode(&error))?;
            let params = PostParams::default();
            let outcome = if let Some(mut stored) = page.clone() {
                stored.spec.lines = lines;
                let replace = self.ledgers.replace(DEPARTURES, &params, &stored);
                request("PUT", &self.ledgers, DEPARTURES, replace).await
            } else {
                let mut new = ledger(&self.namespace, DEPARTURES, Book::Departures, 0);
                new.spec.lines = lines;
                request("POST", &self.ledgers, "", self.ledgers.create(&params, &new)).await
            };
            match outcome {
                Ok(stored) => {
                    *page = Some(stored);
                    return Ok(());
                }
                Err(Failed { code: Some(404 | 409), .. }) => {
                    let get = self.ledgers.get_opt(DEPARTURES);
                    *page = request("GET", &self.ledgers, DEPARTURES, get).await?;
                }
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(overtaken("ledger", DEPARTURES))
    }
}

/// What a page says; a line that is not understood was written by hand, and says nothing.
fn departures(page: &Ledger) -> Vec<Departure> {
    page.spec.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The node classes, on one page. Only whoever leads adds to it; none is ever taken away.
pub(super) struct Classes {
    ledgers: Api<Ledger>,
    namespace: String,
    /// All that were ever seen, in the order in which they came.
    known: std::sync::Mutex<Vec<NodeClass>>,
}

impl Classes {
    pub(super) fn new(ledgers: Api<Ledger>, namespace: &str) -> Self {
        Self { ledgers, namespace: namespace.to_owned(), known: std::sync::Mutex::default() }
    }

    /// All of them, as the store holds them now.
    pub(super) async fn read(&self) -> Result<Vec<NodeClass>, WriteError> {
        let page = self.page().await?;
        let stored = page.as_ref().map_or(Ok(Vec::new()), classes);
        Ok(self.noted(stored.map_err(|error| unreadable_page(&error))?))
    }

    /// The same; none where the page cannot be read or understood. That keeps new classes from being made,
    /// and nothing else.
    pub(super) async fn read_or_none(&self) -> Vec<NodeClass> {
        self.read().await.unwrap_or_else(|error| {
            log::error!(error:% = error; "the node classes cannot be read, and no new one is made");
            Vec::new()
        })
    }

    /// The page as the feed tells it.
    pub(super) fn told(&self, page: &Ledger) -> serde_json::Result<Vec<NodeClass>> {
        classes(page).map(|stored| self.noted(stored))
    }

    /// Adds one, unless there are others than those that were known when it was decided on.
    pub(super) async fn add(
        &self,
        class: &NodeClass,
        known: usize,
    ) -> Result<Vec<NodeClass>, WriteError> {
        let page = self.page().await?;
        let stored = page.as_ref().map_or(Ok(Vec::new()), classes);
        // What somebody has taken away by hand is written again with it.
        let mut all = self.noted(stored.map_err(|error| unreadable_page(&error))?);
        if all.len() != known {
            return Err(overtaken("ledger", CLASSES));
        }
        all.push(class.clone());
        self.write(page, &all).await?;
        Ok(self.noted(all))
    }

    /// Whether a page lacks some that are known.
    pub(super) fn are_missing_in(&self, page: &Ledger) -> bool {
        classes(page).is_ok_and(|stored| stored.len() < self.noted(stored).len())
    }

    /// Writes them again, where somebody has deleted the page, or lines of it: without them a machine that
    /// comes would be given a class of its own.
    pub(super) async fn restore(&self) -> Result<bool, WriteError> {
        let page = self.page().await?;
        let stored = page.as_ref().map_or(Ok(Vec::new()), classes);
        let stored = stored.map_err(|error| unreadable_page(&error))?;
        let count = stored.len();
        let all = self.noted(stored);
        if all.len() == count {
            return Ok(false);
        }
        self.write(page, &all).await.map(|()| true)
    }

    async fn write(&self, page: Option<Ledger>, all: &[NodeClass]) -> Result<(), WriteError> {
        let lines = all.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let lines = lines.map_err(|error| encode(&error))?;
        let params = PostParams::default();
        let outcome = if let Some(mut stored) = page {
            stored.spec.lines = lines;
            let replace = self.ledgers.replace(CLASSES, &params, &stored);
            request("PUT", &self.ledgers, CLASSES, replace).await
        } else {
            let mut new = ledger(&self.namespace, CLASSES, Book::Classes, 0);
            new.spec.lines = lines;
            request("POST", &self.ledgers, "", self.ledgers.create(&params, &new)).await
        };
        match outcome {
            Ok(_) => Ok(()),
            Err(Failed { code: Some(404 | 409), .. }) => Err(overtaken("ledger", CLASSES)),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn page(&self) -> Result<Option<Ledger>, WriteError> {
        let get = self.ledgers.get_opt(CLASSES);
        request("GET", &self.ledgers, CLASSES, get).await.map_err(WriteError::from)
    }

    /// Remembers what was seen, and tells all.
    fn noted(&self, seen: Vec<NodeClass>) -> Vec<NodeClass> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for class in seen {
            if !known.iter().any(|it| it.id == class.id) {
                known.push(class);
            }
        }
        known.clone()
    }
}

/// What a page says. A class that is not understood must not be given to others anew.
fn classes(page: &Ledger) -> serde_json::Result<Vec<NodeClass>> {
    page.spec.lines.iter().map(|line| serde_json::from_str(line)).collect()
}

fn unreadable_page(error: &serde_json::Error) -> WriteError {
    WriteError::Refused { reason: format!("the ledger {CLASSES} cannot be understood: {error}") }
}

/// The journal, in pages that are numbered.
pub(super) struct Journal {
    ledgers: Api<Ledger>,
    namespace: String,
    /// The last page as it was last seen.
    page: Mutex<Option<Ledger>>,
}

impl Journal {
    pub(super) fn new(ledgers: Api<Ledger>, namespace: &str) -> Self {
        Self { ledgers, namespace: namespace.to_owned(), page: Mutex::default() }
    }

    /// Adds a line. Others may add theirs at the same time; none is lost.
    pub(super) async fn append(&self, target: &str, event: Event) -> Result<(), WriteError> {
        let mut last = self.page.lock().await;
        let mut line = JournalLine { id: 0, target: target.to_owned(), event };
        for _ in 0..TRIES {
            let page = match last.take() {
                Some(page) => Some(page),
                None => self.pages().await?.into_iter().max_by_key(|page| page.spec.page),
            };
            let (mut page, is_new) = match page {
                Some(page) if !is_full(&page) => (page, false),
                page => {
                    let number = page.map_or(1, |page| page.spec.page + 1);
                    let name = page_name(number);
                    (ledger(&self.namespace, &name, Book::Journal, number), true)
                }
            };
            let number = page.spec.page * LINE_NUMBERS + page.spec.lines.len() as u64;
            line.id = i64::try_from(number).unwrap_or(i64::MAX);
            page.spec.lines.push(serde_json::to_string(&line).map_err(|error| encode(&error))?);
            let name = page_name(page.spec.page);
            let params = PostParams::default();
            let outcome = if is_new {
                request("POST", &self.ledgers, "", self.ledgers.create(&params, &page)).await
            } else {
                let replace = self.ledgers.replace(&name, &params, &page);
                request("PUT", &self.ledgers, &name, replace).await
            };
            match outcome {
                Ok(stored) => {
                    *last = Some(stored);
                    if is_new {
                        self.prune(page.spec.page).await;
                    }
                    return Ok(());
                }
                // Somebody else has written, or pruned.
                Err(Failed { code: Some(404 | 409), .. }) => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(overtaken("ledger", "journal"))
    }

    /// The newest lines, the newest last.
    pub(super) async fn read(&self, of: &HistoryOf) -> Result<Vec<JournalLine>, WriteError> {
        let mut lines = Vec::new();
        for page in self.pages().await? {
            for line in &page.spec.lines {
                let line: JournalLine =
                    serde_json::from_str(line).map_err(|error| encode(&error))?;
                if of.target.as_ref().is_none_or(|target| *target == line.target) {
                    lines.push(line);
                }
            }
        }
        lines.sort_unstable_by_key(|line| line.id);
        let limit = usize::try_from(of.limit).unwrap_or(usize::MAX);
        lines.drain(..lines.len().saturating_sub(limit));
        Ok(lines)
    }

    async fn pages(&self) -> Result<Vec<Ledger>, WriteError> {
        let params =
            ListParams::default().labels(&format!("{BOOK_LABEL}={}", Book::Journal.as_str()));
        let pages = request("GET", &self.ledgers, "", self.ledgers.list(&params)).await?;
        Ok(pages.items)
    }

    /// Lets go of what is older than anybody asks for.
    async fn prune(&self, newest: u64) {
        let Some(old) = newest.checked_sub(MOST_PAGES).filter(|old| *old > 0) else { return };
        let name = page_name(old);
        let params = DeleteParams::default();
        let delete = self.ledgers.delete(&name, &params);
        match request("DELETE", &self.ledgers, &name, delete).await {
            Ok(_) | Err(Failed { code: Some(404), .. }) => {}
            Err(failed) => {
                log::warn!(error = failed.words.as_str(); "an old page of the journal stays");
            }
        }
    }
}

fn is_full(page: &Ledger) -> bool {
    let lines = &page.spec.lines;
    lines.len() >= PAGE_LINES || lines.iter().map(String::len).sum::<usize>() >= PAGE_BYTES
}

/// Numbers of one width, so that the pages stand in their order wherever they are listed.
fn page_name(number: u64) -> String {
    format!("journal-{number:08}")
}
