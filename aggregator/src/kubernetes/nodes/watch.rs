//! Follows the Nodes through the API server: a list, then what changes, for ever.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use rollcall_daemon::kubernetes::words;
use tokio::time::{sleep, timeout};

use super::{Node, Nodes};

/// How many Nodes are asked for at a time: one is about 10 KiB.
const PAGE: u32 = 200;
/// How long a page of a list may take.
const PAGE_LIMIT: Duration = Duration::from_mins(1);
/// Every kubelet tells its Node's status every five minutes, changed or not: when nobody does for so
/// long, the watch is dead, whatever its connection says.
const QUIET: Duration = Duration::from_mins(12);
/// A watch that broke off once is taken up where it was.
const HICCUP_PAUSE: Duration = Duration::from_secs(1);
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When so many watches in a row broke off, and lists worked, something on the way does not let them
/// live.
const SHORT_LIVED: u32 = 3;

/// Why a list is begun anew.
#[derive(Debug)]
enum End {
    /// Nothing was heard for long: to be sure.
    Quiet,
    /// The watch broke off twice. The list that was read before it is none the worse.
    BrokenOff(String),
    /// No list can be read.
    NotListed(String),
}

/// Tells `nodes` the cluster's Nodes for as long as it runs. A failure is logged once, and tried
/// again after a pause that grows.
pub async fn watch(client: Client, nodes: Nodes) -> Infallible {
    let api: Api<core::Node> = Api::all(client);
    let mut failures = 0;
    loop {
        match follow(&api, &nodes, &mut failures).await {
            End::Quiet => failures = 0,
            End::BrokenOff(error) => {
                failures = failures.saturating_add(1);
                let level =
                    if failures == SHORT_LIVED { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, error; "the watch of the Nodes breaks off; they are listed anew each time");
                sleep(pause(failures, fastrand::f64())).await;
            }
            End::NotListed(error) => {
                failures = failures.saturating_add(1);
                let is_news = nodes.fail(error.clone(), Timestamp::now());
                let level = if is_news { log::Level::Error } else { log::Level::Debug };
                log::log!(level, error; "Kubernetes does not tell its Nodes; what is known of them stands");
                sleep(pause(failures, fastrand::f64())).await;
            }
        }
    }
}

/// Lists and watches until something goes wrong, or nothing was heard for too long.
async fn follow(api: &Api<core::Node>, nodes: &Nodes, failures: &mut u32) -> End {
    let labels = nodes.labels();
    let config = watcher::Config::default().page_size(PAGE);
    let mut events = pin!(watcher::watcher(api.clone(), config));
    let mut list = Some(Vec::new());
    let mut has_broken_off = false;
    loop {
        let limit = if list.is_some() { PAGE_LIMIT } else { QUIET };
        let event = match timeout(limit, events.next()).await {
            Ok(Some(event)) => event,
            // A watcher has no end.
            Ok(None) => return End::BrokenOff("it has ended by itself".to_owned()),
            Err(_late) if list.is_some() => {
                let limit = humantime::format_duration(PAGE_LIMIT);
                return End::NotListed(format!("GET /api/v1/nodes: no answer within {limit}"));
            }
            Err(_late) => return End::Quiet,
        };
        match event {
            Ok(Event::Init) => list = Some(Vec::new()),
            Ok(Event::InitApply(object)) => {
                list.get_or_insert_default().extend(Node::of(object, &labels));
            }
            Ok(Event::InitDone) => {
                let list = list.take().unwrap_or_default();
                let count = list.len();
                let is_first = nodes.all().is_none();
                if let Err(error) = nodes.take_list(list) {
                    return End::NotListed(error.to_string());
                }
                has_broken_off = false;
                if let Some(since) = nodes.recover() {
                    log::info!(nodes = count, since:% = since; "Kubernetes tells its Nodes again");
                } else if is_first {
                    log::info!(nodes = count; "Kubernetes tells its Nodes");
                }
            }
            Ok(Event::Apply(object)) => {
                (has_broken_off, *failures) = (false, 0);
                if let Some(node) = Node::of(object, &labels) {
                    nodes.take(node);
                }
            }
            Ok(Event::Delete(object)) => {
                (has_broken_off, *failures) = (false, 0);
                if let Some(node) = Node::of(object, &labels) {
                    log::info!(node = node.name.as_str(); "a Node was deleted");
                    nodes.remove(&node.name, &node.uid);
                }
            }
            Err(error) if list.is_some() => return End::NotListed(words_of(&error)),
            Err(error) if has_broken_off => return End::BrokenOff(words_of(&error)),
            // The watcher takes it up where it was, or lists anew where that is too long ago.
            Err(error) => {
                log::debug!(error = words_of(&error); "the watch of the Nodes broke off");
                has_broken_off = true;
                sleep(HICCUP_PAUSE).await;
            }
        }
    }
}

/// What was tried and what came back.
fn words_of(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => {
            format!("GET /api/v1/nodes: {}", words::of(error))
        }
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            format!("GET /api/v1/nodes?watch=true: {}", words::of(error))
        }
        watcher::Error::WatchError(status) => {
            format!("GET /api/v1/nodes?watch=true: it answered {}: {}", status.code, status.message)
        }
        watcher::Error::NoResourceVersion => {
            "GET /api/v1/nodes: it answered without a resourceVersion".to_owned()
        }
    }
}

/// How long to wait after so many failures; `dice` of 0 to 1 spreads replicas by a fifth.
fn pause(failures: u32, dice: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    pause.mul_f64(0.8 + 0.2 * dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let seconds: Vec<f64> =
            [1, 2, 5, 6, 7, 99].iter().map(|n| pause(*n, 1.0).as_secs_f64()).collect();
        assert_eq!(seconds, [1.0, 2.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(pause(99, 0.0), Duration::from_secs(24));
    }
}
