//! The page: what the cluster has, what is missing and whether it is registered, for people.
//!
//! Made on the server from the same values as the operator's API, and read-only: GET and HEAD. It
//! works without its script, which only fetches the same addresses again and swaps what has changed.
//! No route asks a network anything.

mod assets;
mod events;
mod links;
mod node;
mod overview;
mod rules;
mod snapshot;
mod target;
mod words;

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{ConnectInfo, Path, RawQuery, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use rollcall_report::{NodeName, Refusal, RefusalCode};
use tokio::sync::{Semaphore, watch};

use crate::admin::access::Access;
use crate::aggregator::Aggregator;
use crate::cluster_file::Target;
use crate::refusal::Refused;
use crate::store::HistoryOf;
use links::Query;
use node::NodePage;
use overview::Overview;
use snapshot::{Snapshot, Snapshots};
use target::TargetPage;
use words::Moment;

/// How many may follow the news at the same time; each holds a connection.
const MOST_LISTENERS: usize = 64;

/// How many lines of a target's journal are shown.
const JOURNAL_LINES: u32 = 25;

/// What the routes share.
#[derive(Debug)]
struct Web {
    aggregator: Arc<Aggregator>,
    access: Access,
    snapshots: Snapshots,
    listeners: Arc<Semaphore>,
    stopping: watch::Receiver<()>,
}

/// The page's routes, for whoever may read. Who follows the news is let go when the sender of
/// `stopping` is dropped.
pub fn router(
    aggregator: Arc<Aggregator>,
    access: Access,
    stopping: watch::Receiver<()>,
) -> Router {
    let listeners = Arc::new(Semaphore::new(MOST_LISTENERS));
    let snapshots = Snapshots::new(Arc::clone(&aggregator));
    let web = Arc::new(Web { aggregator, access, snapshots, listeners, stopping });
    Router::new()
        .route("/", get(overview))
        .route("/nodes/{name}", get(node))
        .route("/targets/{name}", get(target))
        .route("/targets/{name}/document.json", get(document))
        .route("/events", get(follow))
        .layer(middleware::from_fn_with_state(Arc::clone(&web), guard))
        // They are the same for everybody, and the page that asks for the token is made with them.
        .route("/assets/{version}/{name}", get(asset))
        .layer(middleware::map_response(with_headers))
        .with_state(web)
}

/// Headers of every answer: nothing of another origin is loaded, run, framed or told.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // One address shows different things to who may read and who may not.
    (header::VARY, "Authorization"),
];

/// Lets in who may read.
async fn guard(
    State(web): State<Arc<Web>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match web.access.page(peer, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => web.refused(refusal),
    }
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What says nothing of it is not to be kept by anybody.
    let _assets_say = headers
        .entry(header::CACHE_CONTROL)
        .or_insert_with(|| HeaderValue::from_static("no-store"));
    response
}

async fn overview(State(web): State<Arc<Web>>, RawQuery(query): RawQuery) -> Response {
    let snapshot = web.snapshots.now().await;
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let frame = Frame::of(&snapshot, None);
    // Thousands of nodes are filtered, sorted and written.
    let page = blocking(move || html(StatusCode::OK, &Overview::of(&snapshot, query, frame)));
    page.await.unwrap_or_else(|refusal| web.refused(refusal))
}

async fn node(State(web): State<Arc<Web>>, Path(name): Path<String>) -> Response {
    let snapshot = web.snapshots.now().await;
    let page = NodeName::from_str(&name).ok().and_then(|name| {
        NodePage::of(&web.aggregator, &snapshot, &name, Frame::of(&snapshot, Some(name.as_str())))
    });
    match page {
        Some(page) => html(StatusCode::OK, &page),
        None => web.missing(&format!(
            "There is no node {name} on the roll, nor does Kubernetes have one that a target is to get."
        )),
    }
}

async fn target(State(web): State<Arc<Web>>, Path(name): Path<String>) -> Response {
    let Some(target) = web.target(&name) else {
        return web.missing(&format!("The cluster file names no target {name}."));
    };
    let of = HistoryOf { target: Some(name.clone()), limit: JOURNAL_LINES };
    let journal = web.aggregator.store.history(of).await.map_err(|error| error.to_string());
    let snapshot = web.snapshots.now().await;
    let frame = Frame::of(&snapshot, Some(&name));
    let (aggregator, target) = (Arc::clone(&web.aggregator), target.clone());
    let page = blocking(move || TargetPage::of(&aggregator, &snapshot, &target, journal, frame));
    match page.await {
        Ok(page) => html(StatusCode::OK, &page),
        Err(refusal) => web.refused(refusal),
    }
}

/// The document as it is sent to a target, secrets masked.
async fn document(State(web): State<Arc<Web>>, Path(name): Path<String>) -> Response {
    let Some(target) = web.target(&name).cloned() else {
        return web.missing(&format!("The cluster file names no target {name}."));
    };
    let aggregator = Arc::clone(&web.aggregator);
    let text = blocking(move || target::whole_document(&aggregator, &target)).await.flatten();
    match text {
        Ok(Some(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Ok(None) => web.missing(&format!("The target {name} is sent no document.")),
        Err(refusal) => web.refused(refusal),
    }
}

async fn follow(State(web): State<Arc<Web>>) -> Response {
    let Ok(permit) = Arc::clone(&web.listeners).try_acquire_owned() else {
        return web.refused(Refusal {
            code: RefusalCode::Unavailable,
            message: format!("{MOST_LISTENERS} pages follow the news already"),
        });
    };
    events::follow(&web.aggregator, web.stopping.clone(), permit)
}

async fn asset(Path((version, name)): Path<(String, String)>) -> Response {
    match assets::find(&version, &name) {
        Some(asset) => asset.into_response(),
        // Whoever asks has not proved who he is, and is told nothing of the cluster.
        None => {
            (StatusCode::NOT_FOUND, "There is no such file: load the page anew.\n").into_response()
        }
    }
}

/// Does what takes a while without keeping reports waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refusal {
        code: RefusalCode::Other,
        message: format!("the page could not be made: {error}; report this as a bug"),
    })
}

impl Web {
    fn target(&self, name: &str) -> Option<&Target> {
        self.aggregator.file.targets.iter().find(|target| target.name().as_str() == name)
    }

    fn missing(&self, words: &str) -> Response {
        let refusal = Refusal { code: RefusalCode::NotFound, message: words.to_owned() };
        self.refused(refusal)
    }

    /// A refusal as a page. Whoever is not let in is told nothing of the cluster.
    fn refused(&self, refusal: Refusal) -> Response {
        let is_let_in = refusal.code == RefusalCode::NotFound;
        let Refusal { code, message } = refusal.clone();
        let mut response = Refused(refusal).into_response();
        let status = response.status();
        let cluster = if is_let_in { self.aggregator.file.cluster.id.as_str() } else { "" };
        let page = ErrorPage {
            frame: Frame {
                title: title(&[status.canonical_reason().unwrap_or("Error"), cluster]),
                cluster: cluster.to_owned(),
                here: None,
                as_of: None,
            },
            heading: match code {
                RefusalCode::NotFound => "Not found",
                RefusalCode::CredentialsMissing | RefusalCode::CredentialsWrong => "Operators only",
                RefusalCode::Forbidden => "Not from here",
                RefusalCode::Unavailable => "Not now",
                _ => "This went wrong",
            },
            message,
            asks: status == StatusCode::UNAUTHORIZED,
        };
        response = html(status, &page);
        if status == StatusCode::UNAUTHORIZED {
            let asks = HeaderValue::from_static("Basic realm=\"rollcall\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, asks);
        }
        response
    }
}

/// What is around every page.
#[derive(Debug, Clone)]
struct Frame {
    /// The title.
    title: String,
    /// The cluster's id; empty: whoever asks may not know.
    cluster: String,
    /// What the page shows below the overview.
    here: Option<String>,
    /// The time of what is shown.
    as_of: Option<Moment>,
}

impl Frame {
    fn of(snapshot: &Snapshot, here: Option<&str>) -> Self {
        let cluster = &snapshot.status.cluster;
        Self {
            title: match here {
                Some(here) => title(&[here, cluster]),
                None => title(&[cluster]),
            },
            cluster: cluster.clone(),
            here: here.map(str::to_owned),
            as_of: Some(Moment::of(snapshot.at, snapshot.at)),
        }
    }

    #[expect(clippy::unused_self, reason = "the shape that templates call")]
    fn asset(&self, name: &str) -> String {
        assets::path(name)
    }

    #[expect(clippy::unused_self, reason = "the shape that templates call")]
    const fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

fn title(parts: &[&str]) -> String {
    let parts = parts.iter().filter(|part| !part.is_empty()).chain([&"rollcall"]);
    parts.copied().collect::<Vec<_>>().join(" · ")
}

/// What is not there, or not for whoever asks.
#[derive(Debug, Template)]
#[template(path = "error.html")]
struct ErrorPage {
    frame: Frame,
    heading: &'static str,
    message: String,
    /// Whether the browser asks for the operator's token.
    asks: bool,
}

fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            log::error!(error:% = error; "a page could not be made");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n").into_response()
        }
    }
}
