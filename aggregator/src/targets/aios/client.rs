//! The requests to AIOS's parser, gateway and tasks' database.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use rollcall_daemon::http::{below, is_confidential};
use rollcall_daemon::secret::{Secret, warn_if_exposed};
use rollcall_report::error_chain;
use serde_json::{Value, json};
use url::Url;

use super::amend::{Amendment, Amendments};
use super::reply::{
    Reading, compare, judge_change, judge_create, judge_infrastructure, judge_read, judge_task,
    verbatim,
};
use super::secrets::{mask_fields, redact};
use super::{Submission, envelop, first_piece};
use crate::cluster_file::{AiosTarget, Envelope, Infrastructure};
use crate::metrics::RequestDurations;
use crate::targets::kubeconfig::Kubeconfig;
use crate::targets::transport::{ExchangeError, Transport, TransportError};
use crate::targets::{Held, Known, Outgoing, RequestKind, Scheduled, Task, Verdict};

/// Talks to the services of one AIOS network.
#[derive(Debug, Clone)]
pub struct Client {
    parser: Transport,
    gateway: Transport,
    /// The tasks' database, and what the infrastructure is asked for with.
    infrastructure: Option<(Transport, Infrastructure)>,
    envelope: Envelope,
    insecure_http: bool,
    /// What is in the kubeconfigs that were sent: a task may tell of one that was replaced since.
    kubeconfig_secrets: Arc<Mutex<Vec<Secret>>>,
    durations: Option<RequestDurations>,
}

/// What the network was seen to hold, and what would have to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// What it holds.
    pub held: Held,
    /// What has to be set to make an entry right.
    pub amendments: Option<Amendments>,
}

/// What a service answered, without our secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it was asked: method and URL.
    pub sent: String,
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// What was sent and what came back, in part.
    pub fn answered(&self) -> String {
        format!("{} answered {}: {}", self.sent, self.status, verbatim(&self.body))
    }
}

impl Client {
    /// Makes a client; connects to nothing yet. Warns of secret files that everybody can read.
    ///
    /// # Errors
    ///
    /// When a certificate, a key or the proxy of the target is of no use.
    pub fn new(target: &AiosTarget) -> Result<Self, TransportError> {
        let transport = |url: &Url| Transport::new(&target.transport, url);
        let infrastructure = target.infrastructure.as_ref().map(|declared| {
            warn_if_exposed(&declared.kubeconfig_file);
            Ok((transport(&declared.tasks_url)?, declared.clone()))
        });
        let client = Self {
            parser: transport(&target.parser_url)?,
            gateway: transport(&target.gateway_url)?,
            infrastructure: infrastructure.transpose()?,
            envelope: target.envelope,
            insecure_http: target.transport.insecure_http,
            kubeconfig_secrets: Arc::default(),
            durations: None,
        };
        // A task may go on that was asked for before a restart. One of no use is told when it is needed.
        if let Some(kubeconfig) = client.kubeconfig().and_then(Result::ok) {
            client.remember(kubeconfig.secrets());
        }
        target.transport.warn_if_exposed();
        Ok(client)
    }

    /// Notes from now on how long requests take.
    #[must_use]
    pub fn measured(self, durations: RequestDurations) -> Self {
        Self { durations: Some(durations), ..self }
    }

    async fn exchange(
        &self,
        transport: &Transport,
        what: RequestKind,
        request: Request,
    ) -> Result<(u16, Vec<u8>), ExchangeError> {
        let begun = Instant::now();
        let outcome = transport.exchange(request).await;
        if let Some(durations) = &self.durations {
            durations.took(what, begun.elapsed());
        }
        outcome
    }

    /// Looks at what the network holds under the document's id. What is known from before
    /// says what changed here, and what a list lacks that is being written.
    pub async fn look(&self, submission: &Submission, known: Known<'_>) -> Look {
        let id = &submission.document.id;
        let url = below(self.gateway.url(), &["clusters", "read", id]);
        let sent = format!("GET {url}");
        let unreadable = |words| Look { held: Held::Unreadable { words }, amendments: None };
        let request = Request::new(Method::GET, url);
        let exchange = self.exchange(&self.gateway, RequestKind::Read, request);
        let (status, reply) = match exchange.await {
            Ok(answer) => answer,
            Err(error) => return unreadable(silence("the network's gateway", &sent, &error)),
        };
        match judge_read(&sent, status, &reply, id) {
            Reading::Absent => Look { held: Held::Absent, amendments: None },
            Reading::Entry(entry) => match compare(&entry, submission, known) {
                Ok((held, amendments)) => Look { held, amendments: Some(amendments) },
                Err(error) => unreadable(format!("our document cannot be encoded: {error}")),
            },
            // What is shown of a reply is shown without our secrets.
            Reading::Unreadable { .. } => {
                match judge_read(&sent, status, &self.redact(reply, submission), id) {
                    Reading::Unreadable { words } => unreadable(words),
                    Reading::Absent | Reading::Entry(_) => unreadable(format!(
                        "the network's entry could not be read ({sent} answered {status})"
                    )),
                }
            }
        }
    }

    /// Sends the parser an empty request, which it knows and refuses.
    ///
    /// # Errors
    ///
    /// In words, when there is no whole reply.
    pub async fn ask_parser(&self, submission: &Submission) -> Result<Reply, String> {
        let request = Outgoing {
            method: Method::POST,
            url: below(self.parser.url(), &["api", "createCluster"]),
            body: Some(json!({})),
        };
        self.ask("the parser", &self.parser, submission, &request).await
    }

    /// Reads the entry of the document's id, and takes nothing out of the reply but our secrets.
    ///
    /// # Errors
    ///
    /// In words, when there is no whole reply.
    pub async fn ask_gateway(&self, submission: &Submission) -> Result<Reply, String> {
        let url = below(self.gateway.url(), &["clusters", "read", &submission.document.id]);
        let request = Outgoing { method: Method::GET, url, body: None };
        self.ask("the network's gateway", &self.gateway, submission, &request).await
    }

    /// Asks the tasks' database for a task that there is not; `None`: no infrastructure is declared.
    ///
    /// # Errors
    ///
    /// In words, when there is no whole reply.
    pub async fn ask_tasks(&self, submission: &Submission) -> Option<Result<Reply, String>> {
        let (tasks, _) = self.infrastructure.as_ref()?;
        let url = below(tasks.url(), &["task", "none"]);
        let request = Outgoing { method: Method::GET, url, body: None };
        Some(self.ask("the network's tasks' database", tasks, submission, &request).await)
    }

    /// The API servers that the infrastructure's kubeconfig names; `None`: no infrastructure is declared.
    ///
    /// # Errors
    ///
    /// In words, when the kubeconfig is of no use.
    pub fn kubeconfig_servers(&self) -> Option<Result<Vec<String>, String>> {
        Some(self.kubeconfig()?.map(|kubeconfig| kubeconfig.servers()))
    }

    /// The infrastructure's kubeconfig as it is now; `None`: no infrastructure is declared.
    fn kubeconfig(&self) -> Option<Result<Kubeconfig, String>> {
        let (_, declared) = self.infrastructure.as_ref()?;
        let kubeconfig =
            Kubeconfig::read(&declared.kubeconfig_file, "infrastructure.kubeconfigFile");
        Some(kubeconfig.map_err(|error| error_chain(&error)))
    }

    async fn ask(
        &self,
        service: &str,
        transport: &Transport,
        submission: &Submission,
        request: &Outgoing,
    ) -> Result<Reply, String> {
        let sent = request.to_string();
        match transport.exchange(encode(request)).await {
            Ok((status, body)) => Ok(Reply { sent, status, body: self.redact(body, submission) }),
            Err(error) => Err(silence(service, &sent, &error)),
        }
    }

    /// The request that registers the cluster: with as many of its nodes as the registry takes at once.
    ///
    /// # Errors
    ///
    /// When the document cannot be encoded.
    pub fn registration(&self, submission: &Submission) -> serde_json::Result<Outgoing> {
        let document = first_piece(&submission.document)?;
        Ok(Outgoing {
            method: Method::POST,
            url: below(self.parser.url(), &["api", "createCluster"]),
            body: Some(envelop(&document, self.envelope)?),
        })
    }

    /// The requests that make an entry right, to be sent one after the other.
    ///
    /// # Errors
    ///
    /// When they cannot be encoded.
    pub fn updates(
        &self,
        submission: &Submission,
        amendment: &Amendment,
    ) -> serde_json::Result<Vec<Outgoing>> {
        let url = below(self.gateway.url(), &["clusters", "update", &submission.document.id]);
        let put = |body| Outgoing { method: Method::PUT, url: url.clone(), body: Some(body) };
        Ok(amendment.bodies()?.into_iter().map(put).collect())
    }

    /// The request that removes the entry.
    pub fn removal(&self, submission: &Submission) -> Outgoing {
        let url = below(self.gateway.url(), &["clusters", "delete", &submission.document.id]);
        Outgoing { method: Method::DELETE, url, body: None }
    }

    /// Sends a registration.
    pub async fn register(&self, submission: &Submission, request: &Outgoing) -> Verdict {
        let sent = request.to_string();
        match self.exchange(&self.parser, RequestKind::Create, encode(request)).await {
            Ok((status, reply)) => {
                let reply = self.redact(reply, submission);
                judge_create(&sent, status, &reply, &submission.document.id)
            }
            Err(error) => Verdict::Unanswered { words: silence("the parser", &sent, &error) },
        }
    }

    /// Sends updates, or a removal, up to the first that fails. Before each it says which one it is, from 1.
    pub async fn change(
        &self,
        submission: &Submission,
        requests: &[Outgoing],
        told: impl Fn(usize),
    ) -> Verdict {
        for (index, request) in requests.iter().enumerate() {
            told(index + 1);
            let sent = match requests.len() {
                1 => request.to_string(),
                all => format!("{request}, {} of {all} pieces", index + 1),
            };
            let what = match request.method {
                Method::DELETE => RequestKind::Remove,
                _ => RequestKind::Update,
            };
            let verdict = match self.exchange(&self.gateway, what, encode(request)).await {
                Ok((status, reply)) => judge_change(&sent, status, &self.redact(reply, submission)),
                Err(error) => {
                    let words = silence("the network's gateway", &sent, &error);
                    Verdict::Unanswered { words }
                }
            };
            if verdict != Verdict::Accepted {
                return verdict;
            }
        }
        Verdict::Accepted
    }

    /// Method and URL of what asks for the network's infrastructure, or for its removal.
    pub fn infrastructure_request(&self, removal: bool) -> String {
        format!("POST {}", self.infrastructure_url(removal))
    }

    fn infrastructure_url(&self, removal: bool) -> Url {
        let path = if removal { "remove-cluster-infra" } else { "create-cluster-infra" };
        below(self.gateway.url(), &[path])
    }

    /// Asks for the network's infrastructure on the cluster, or for its removal.
    pub async fn infrastructure(&self, submission: &Submission, removal: bool) -> Scheduled {
        let url = self.infrastructure_url(removal);
        let sent = self.infrastructure_request(removal);
        let refused = |words: String| Scheduled::Refused { words };
        let Some(kubeconfig) = self.kubeconfig() else {
            return refused("the cluster file declares no infrastructure for this target".into());
        };
        if !self.insecure_http && !is_confidential(&url) {
            return refused(format!(
                "a kubeconfig holds secrets, and {url} is plain HTTP to another machine: use https, or set insecureHttp: true for this target"
            ));
        }
        let kubeconfig = match kubeconfig {
            Ok(kubeconfig) => kubeconfig,
            Err(words) => return refused(words),
        };
        self.remember(kubeconfig.secrets());
        let request = Outgoing {
            method: Method::POST,
            url: url.clone(),
            body: Some(json!({
                "cluster_id": submission.document.id,
                "kube_config_data": kubeconfig.content(),
            })),
        };
        let what = if removal {
            RequestKind::RemoveInfrastructure
        } else {
            RequestKind::CreateInfrastructure
        };
        match self.exchange(&self.gateway, what, encode(&request)).await {
            Ok((status, reply)) => {
                let reply = self.redact(reply, submission);
                judge_infrastructure(&sent, status, &reply)
            }
            Err(error) => {
                let words = silence("the network's gateway", &sent, &error);
                if error.is_unsent() {
                    Scheduled::NotSent { words }
                } else {
                    Scheduled::Lost { words }
                }
            }
        }
    }

    /// Asks how a task of the network stands.
    pub async fn task(&self, submission: &Submission, task: &str) -> Task {
        let Some((tasks, _)) = &self.infrastructure else {
            let words = "the cluster file declares no infrastructure for this target: without tasksUrl its task cannot be followed";
            return Task::Unreadable { words: words.to_owned() };
        };
        let url = below(tasks.url(), &["task", task]);
        let sent = format!("GET {url}");
        let request = Request::new(Method::GET, url);
        match self.exchange(tasks, RequestKind::ReadTask, request).await {
            Ok((status, reply)) => judge_task(&sent, status, &self.redact(reply, submission)),
            Err(error) => {
                Task::Unreadable { words: silence("the network's tasks' database", &sent, &error) }
            }
        }
    }

    fn sent_secrets(&self) -> MutexGuard<'_, Vec<Secret>> {
        self.kubeconfig_secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, secrets: Vec<Secret>) {
        let mut known = self.sent_secrets();
        for secret in secrets {
            if known.iter().all(|it| it.expose() != secret.expose()) {
                known.push(secret);
            }
        }
    }

    /// Each service may repeat what another was sent: they talk to each other.
    fn redact(&self, reply: Vec<u8>, submission: &Submission) -> Vec<u8> {
        let tasks = self.infrastructure.as_ref().map(|(tasks, _)| tasks);
        let services = [Some(&self.parser), Some(&self.gateway), tasks];
        let mut secrets: Vec<Secret> =
            services.into_iter().flatten().flat_map(Transport::secrets).collect();
        secrets.extend(self.sent_secrets().iter().cloned());
        redact(reply, &submission.document, &secrets)
    }
}

/// Masks the secrets in a request that is to be shown. `true`: there was one.
pub fn mask_request(request: &mut Outgoing) -> bool {
    // The document's fields are in the parser's envelope, or bare, as an update's are.
    request.body.as_mut().is_some_and(|body| match body.pointer_mut("/body/spec/values") {
        Some(values) => mask_fields(values),
        None => mask_fields(body),
    })
}

fn encode(outgoing: &Outgoing) -> Request {
    let mut request = Request::new(outgoing.method.clone(), outgoing.url.clone());
    if let Some(body) = &outgoing.body {
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        *request.body_mut() = Some(Value::to_string(body).into());
    }
    request
}

/// Why a service said nothing.
fn silence(service: &str, sent: &str, error: &ExchangeError) -> String {
    let is_ours = error.is_unsent() && !matches!(error, ExchangeError::Http { .. });
    let words = if is_ours { "was not asked" } else { "did not answer" };
    format!("{service} {words} ({sent}: {})", error_chain(error))
}
