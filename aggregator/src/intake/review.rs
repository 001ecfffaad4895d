//! Asks Kubernetes whose a service account token is.
//!
//! A good answer is kept for a minute; while the API server cannot be asked, until the token expires,
//! so that an outage there costs no report. Tokens are kept as digests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use rollcall_daemon::kubernetes::words;
use rollcall_report::{Refusal, RefusalCode};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::authenticate::Placement;
use crate::tokens::sha256;

/// Whom the tokens must be made for.
pub const AUDIENCE: &str = "rollcall";

/// How long an answer is not asked for again.
const FRESH: SignedDuration = SignedDuration::from_mins(1);
/// How long a token that is not good is not asked about again.
const REFUSED_FOR: SignedDuration = SignedDuration::from_secs(10);
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is asked after an answer did not come, of tokens that an older answer stands for.
const AWAY_FOR: SignedDuration = SignedDuration::from_secs(10);
/// How many questions are asked at a time: whoever sends nonsense must not flood the API server.
const QUESTIONS: usize = 16;
/// How many answers are remembered.
const MOST_ANSWERS: usize = 50_000;

/// What a server from 1.30 on tells of the node that a token's pod runs on.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
/// What older ones tell.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceAccount {
    fn user_name(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for ServiceAccount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("a service account is given as NAMESPACE/NAME".to_owned()),
        }
    }
}

/// Reviews tokens of one service account.
pub struct Reviewer {
    reviews: Api<TokenReview>,
    pods: Api<Pod>,
    account: ServiceAccount,
    answers: Mutex<HashMap<[u8; 32], Answer>>,
    questions: Semaphore,
    /// When an answer last did not come.
    missed: Mutex<Option<Timestamp>>,
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reviewer({})", self.account)
    }
}

/// What Kubernetes said of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    said: Result<Placement, Refusal>,
    at: Timestamp,
    /// When the token expires; `None`: it does not say.
    expires: Option<Timestamp>,
}

impl Answer {
    fn is_fresh(&self, now: Timestamp) -> bool {
        let kept = if self.said.is_ok() { FRESH } else { REFUSED_FOR };
        // A clock that was set back must not keep it for long.
        let age = now.duration_since(self.at);
        (SignedDuration::ZERO..kept).contains(&age) && !self.has_expired(now)
    }

    /// Whether it stands in for one that cannot be had.
    fn stands_in(&self, now: Timestamp) -> bool {
        self.said.is_ok() && self.expires.is_some() && !self.has_expired(now)
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Reviewer {
    /// Reviews the tokens of the agents' service account.
    pub fn new(client: Client, account: ServiceAccount) -> Self {
        Self {
            reviews: Api::all(client.clone()),
            pods: Api::namespaced(client, &account.namespace),
            account,
            answers: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
            missed: Mutex::default(),
        }
    }

    /// Says on which node the token's pod runs.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub async fn review(&self, token: &str) -> Result<Placement, Refusal> {
        let key = sha256(token);
        let known = self.answers().get(&key).cloned();
        let now = Timestamp::now();
        let is_away =
            self.missed().is_some_and(|missed| now.duration_since(missed).abs() < AWAY_FOR);
        let is_enough = |answer: &&Answer| answer.is_fresh(now) || is_away && answer.stands_in(now);
        if let Some(answer) = known.as_ref().filter(is_enough) {
            return answer.said.clone();
        }
        let said = match timeout(PATIENCE, self.questions.acquire()).await {
            Ok(_turn) => timeout(PATIENCE, self.ask(token)).await.unwrap_or_else(|_elapsed| {
                Err(Unreviewed::Unavailable(format!("no answer within {} s", PATIENCE.as_secs())))
            }),
            // Whoever floods us with tokens does not make the API server one that is away.
            Err(_elapsed) => {
                let message = "too many tokens wait for their review; try again".to_owned();
                return Err(Refusal { code: RefusalCode::Unavailable, message });
            }
        };
        let now = Timestamp::now();
        let said = match said {
            Ok(placement) => Ok(placement),
            Err(Unreviewed::Refused(refusal)) => Err(refusal),
            Err(Unreviewed::Unavailable(why)) => {
                *self.missed() = Some(now);
                if let Some(answer) = known.filter(|answer| answer.stands_in(now)) {
                    return answer.said;
                }
                let message =
                    format!("the token cannot be reviewed by Kubernetes: {why}; try again");
                return Err(Refusal { code: RefusalCode::Unavailable, message });
            }
        };
        *self.missed() = None;
        let answer = Answer { said: said.clone(), at: now, expires: expiry(token) };
        let mut answers = self.answers();
        if answers.len() >= MOST_ANSWERS {
            answers.retain(|_, answer| answer.is_fresh(now) || answer.stands_in(now));
        }
        if answers.len() < MOST_ANSWERS {
            answers.insert(key, answer);
        }
        said
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<[u8; 32], Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missed(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, token: &str) -> Result<Placement, Unreviewed> {
        let spec = TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![AUDIENCE.to_owned()]),
        };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| {
            Unreviewed::Unavailable(format!("POST tokenreviews: {}", words::of(&error)))
        })?;
        let status = answer.status.unwrap_or_default();
        match judge(&status, &self.account)? {
            Pointer::Node(placement) => Ok(placement),
            Pointer::Pod { name, uid } => self.placement_of(&name, &uid).await,
        }
    }

    /// Where a pod runs, on servers that do not tell it with the token.
    async fn placement_of(&self, name: &str, uid: &str) -> Result<Placement, Unreviewed> {
        let pod = match self.pods.get_opt(name).await {
            Ok(pod) => pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)),
            Err(error) => {
                let said = match &error {
                    Error::Api(status) if status.code == 403 => {
                        format!(
                            "{}: the aggregator needs the right to get pods there",
                            words::of(&error)
                        )
                    }
                    error => words::of(error),
                };
                return Err(Unreviewed::Unavailable(format!("GET pod {name}: {said}")));
            }
        };
        let node = pod.and_then(|pod| pod.spec?.node_name).and_then(|node| node.parse().ok());
        match node {
            Some(node) => Ok(Placement { node, node_uid: None }),
            None => Err(refused(format!("the token's pod {name} is not there any more"))),
        }
    }
}

/// Why it is not known where a token's pod runs.
#[derive(Debug, PartialEq, Eq)]
enum Unreviewed {
    /// It is not one of an agent.
    Refused(Refusal),
    /// Kubernetes did not say.
    Unavailable(String),
}

/// What a token points to.
#[derive(Debug, PartialEq, Eq)]
enum Pointer {
    Node(Placement),
    Pod { name: String, uid: String },
}

fn refused(message: String) -> Unreviewed {
    Unreviewed::Refused(Refusal { code: RefusalCode::CredentialsWrong, message })
}

/// What Kubernetes says of a token.
fn judge(status: &TokenReviewStatus, account: &ServiceAccount) -> Result<Pointer, Unreviewed> {
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().filter(|why| !why.is_empty());
        let why = why.unwrap_or("it is not authenticated");
        return Err(refused(format!("Kubernetes does not accept the token: {why}")));
    }
    // A server that does not know audiences does not tell any.
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(refused(format!("the token is not made for the audience {AUDIENCE}")));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.as_deref().unwrap_or_default();
    if name != account.user_name() {
        let message = format!(
            "the token is of {name}, and agents report as the service account {account} (--agent-service-account)"
        );
        return Err(Unreviewed::Refused(Refusal { code: RefusalCode::Forbidden, message }));
    }
    pointer(&user).ok_or_else(|| {
        refused(
            "the token is bound to no pod: agents use the projected token of their pod".to_owned(),
        )
    })
}

fn pointer(user: &UserInfo) -> Option<Pointer> {
    let extra = user.extra.as_ref()?;
    let only = |key: &str| extra.get(key)?.first().cloned();
    if let Some(node) = only(NODE_NAME) {
        let node = node.parse().ok()?;
        return Some(Pointer::Node(Placement { node, node_uid: only(NODE_UID) }));
    }
    Some(Pointer::Pod { name: only(POD_NAME)?, uid: only(POD_UID)? })
}

/// When a token says that it expires. Kubernetes has vouched for what it says.
fn expiry(token: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let claims = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Timestamp::from_second(claims.exp).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> ServiceAccount {
        "rollcall-system/rollcall-agent".parse().expect("an account")
    }

    fn status(user: &str, audiences: &[&str], extra: &[(&str, &str)]) -> TokenReviewStatus {
        let extra = extra.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()]));
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences.iter().map(ToString::to_string).collect()),
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(extra.collect()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn whose_a_token_is() {
        const AGENT: &str = "system:serviceaccount:rollcall-system:rollcall-agent";
        let pod = [(POD_NAME, "agent-x"), (POD_UID, "p1")];
        let node = [(POD_NAME, "agent-x"), (POD_UID, "p1"), (NODE_NAME, "n1"), (NODE_UID, "u1")];
        let on = |uid: Option<&str>| {
            let node = "n1".parse().expect("a name");
            Ok(Pointer::Node(Placement { node, node_uid: uid.map(ToOwned::to_owned) }))
        };
        let refusal = |code| Err(Some(code));
        let wrong = RefusalCode::CredentialsWrong;
        let unknown = TokenReviewStatus {
            error: Some("token expired".into()),
            ..TokenReviewStatus::default()
        };
        for (what, status, expected) in [
            ("a new server's", status(AGENT, &["rollcall"], &node), on(Some("u1"))),
            ("one of several audiences", status(AGENT, &["a", "rollcall"], &node), on(Some("u1"))),
            ("a node without a UID", status(AGENT, &["rollcall"], &[(NODE_NAME, "n1")]), on(None)),
            (
                "an old server's",
                status(AGENT, &["rollcall"], &pod),
                Ok(Pointer::Pod { name: "agent-x".into(), uid: "p1".into() }),
            ),
            ("for somebody else", status(AGENT, &["api"], &node), refusal(wrong)),
            ("for nobody", status(AGENT, &[], &node), refusal(wrong)),
            (
                "another account's",
                status("system:serviceaccount:default:rollcall-agent", &["rollcall"], &node),
                refusal(RefusalCode::Forbidden),
            ),
            ("a person's", status("admin", &["rollcall"], &[]), refusal(RefusalCode::Forbidden)),
            ("bound to no pod", status(AGENT, &["rollcall"], &[]), refusal(wrong)),
            ("a pod without a UID", status(AGENT, &["rollcall"], &pod[..1]), refusal(wrong)),
            (
                "a name that is none",
                status(AGENT, &["rollcall"], &[(NODE_NAME, "N!")]),
                refusal(wrong),
            ),
            ("not accepted", unknown, refusal(wrong)),
            ("no answer at all", TokenReviewStatus::default(), refusal(wrong)),
        ] {
            let got = judge(&status, &account()).map_err(|unreviewed| match unreviewed {
                Unreviewed::Refused(refusal) => Some(refusal.code),
                Unreviewed::Unavailable(_) => None,
            });
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn when_a_token_expires() {
        let token = |claims: &str| format!("header.{}.signature", URL_SAFE_NO_PAD.encode(claims));
        let at = |second| Some(Timestamp::from_second(second).expect("in range"));
        for (what, token, expected) in [
            ("a token", token(r#"{"aud":["rollcall"],"exp":1700000000}"#), at(1_700_000_000)),
            ("one that never expires", token(r#"{"aud":["rollcall"]}"#), None),
            ("a time that is none", token(r#"{"exp":"soon"}"#), None),
            ("a time out of range", token(r#"{"exp":9223372036854775807}"#), None),
            ("no JSON", token("exp"), None),
            ("no token", "hunter2".to_owned(), None),
            ("no base64", "a.%%.c".to_owned(), None),
        ] {
            assert_eq!(expiry(&token), expected, "{what}");
        }
    }

    #[test]
    fn how_long_an_answer_counts() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let placement = Placement { node: "n1".parse().expect("a name"), node_uid: None };
        let good = |expires: Option<i64>| Answer {
            said: Ok(placement.clone()),
            at: at(1000),
            expires: expires.map(at),
        };
        let refusal = Refusal { code: RefusalCode::CredentialsWrong, message: String::new() };
        let bad = Answer { said: Err(refusal), at: at(1000), expires: Some(at(5000)) };
        for (what, answer, now, fresh, stands_in) in [
            ("just now", good(Some(5000)), 1000, true, true),
            ("within the minute", good(Some(5000)), 1059, true, true),
            ("after a minute", good(Some(5000)), 1060, false, true),
            ("after its end", good(Some(1030)), 1030, false, false),
            ("without an end", good(None), 1060, false, false),
            ("a clock that was set back", good(Some(5000)), 900, false, true),
            ("a refusal, just now", bad.clone(), 1009, true, false),
            ("a refusal, later", bad, 1010, false, false),
        ] {
            assert_eq!(answer.is_fresh(at(now)), fresh, "{what}");
            assert_eq!(answer.stands_in(at(now)), stands_in, "{what}");
        }
    }
}
