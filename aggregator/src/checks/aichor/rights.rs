//! What `AIchor`'s account may do, asked with its own token.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::api::{Api, PostParams};
use rollcall_daemon::kubernetes::{Access, Selection};
use rollcall_daemon::secret::Secret;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::{Facts, PREPARE_OVER};
use crate::checks::kubernetes::{OUT_OF_REACH, Reader, read, words_of};
use crate::checks::{Check, Observed, Unseen, Verdict, observe};
use crate::cluster_file::aichor::Engine;
use crate::targets::aichor::rights::{self as asked_for, Right, by_resource, with_rules};

/// How many reviews are asked at a time. More would be held back by servers that are shared fairly
/// between their clients.
const AT_A_TIME: usize = 16;

/// No token of any server.
const WRONG_TOKEN: &str = "rollcall-asks-whether-this-is-refused";

const NO_TOKEN: &str = "there is no token to ask with";

/// What is seen with the account's token, and with a wrong one.
#[derive(Debug)]
pub(super) struct Rights {
    /// The server's version, as the account is told it.
    accepted: Observed<String>,
    /// The status with which the server answers a wrong token.
    wrong_token: Observed<u16>,
    /// Whether the account may.
    reviews: BTreeMap<Right<'static>, Observed<bool>>,
    /// What the account may do in its namespace.
    all: Observed<All>,
}

/// What a user may do, as far as the server tells.
#[derive(Debug, Default)]
struct All {
    rules: Vec<ResourceRule>,
    /// Why that is not all, if so.
    incomplete: Option<String>,
}

impl Rights {
    pub(super) async fn look(
        engine: &Engine,
        selection: &Selection,
        reader: &Observed<Reader>,
        token: Option<&Secret>,
        limit: Duration,
    ) -> Self {
        let as_account = async {
            match (&reader.result, token) {
                (Err(_), _) => Observed::not_tried(OUT_OF_REACH),
                (Ok(_), None) => Observed::not_tried(NO_TOKEN),
                (Ok(_), Some(token)) => Reader::open_as(selection, token, limit).await,
            }
        };
        let wrong_token =
            read(reader, async |_| observe(limit, status_of_a_wrong_token(selection)).await);
        let (account, wrong_token) = tokio::join!(as_account, wrong_token);
        let (reviews, all) = match &account.result {
            Ok(reader) => tokio::join!(
                ask(limit, async |right| reader.may(&attributes(right)).await),
                observe(limit, all_rights(&reader.access, &engine.namespace)),
            ),
            Err(unseen) => {
                let why = match unseen {
                    Unseen::NotTried { why } => why.clone(),
                    _ => "the token is not accepted".to_owned(),
                };
                let not_tried = |right| (right, Observed::not_tried(why.clone()));
                (all_asked().map(not_tried).collect(), Observed::not_tried(why.clone()))
            }
        };
        Self { accepted: account.map(|reader| reader.version), wrong_token, reviews, all }
    }

    fn judge(&self, right: Right<'_>, judge: impl FnOnce(bool) -> Verdict) -> Verdict {
        // A right that is not in the table cannot be looked up in it; it is not asked for either.
        match self.reviews.iter().find(|(asked, _)| **asked == right) {
            Some((_, observed)) => observed.judge(|allowed| judge(*allowed)),
            None => Verdict::skipped("it was not asked for"),
        }
    }
}

/// All that reviews are asked for.
fn all_asked() -> impl Iterator<Item = Right<'static>> {
    asked_for::rights().chain(asked_for::DENIED.iter().copied())
}

/// Asks for all reviews, some at a time. The limit is for all of them together: a server that
/// hangs is not waited for once for each.
async fn ask(
    limit: Duration,
    may: impl AsyncFn(Right<'static>) -> Observed<bool>,
) -> BTreeMap<Right<'static>, Observed<bool>> {
    let slots = Semaphore::new(AT_A_TIME);
    let started = Instant::now();
    let ask_one = async |right| {
        let asking = async {
            // It is never closed.
            let _slot = slots.acquire().await;
            may(right).await
        };
        let out_of_time = |_elapsed| Observed {
            result: Err(Unseen::OutOfTime { limit }),
            took: started.elapsed(),
        };
        (right, timeout(limit, asking).await.unwrap_or_else(out_of_time))
    };
    join_all(all_asked().map(ask_one)).await.into_iter().collect()
}

/// A right as reviews ask for it: in all namespaces, as the `ClusterRoleBinding` gives it.
fn attributes(right: Right<'_>) -> ResourceAttributes {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    ResourceAttributes {
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(right.verb.to_owned()),
        ..ResourceAttributes::default()
    }
}

async fn status_of_a_wrong_token(selection: &Selection) -> Result<u16, String> {
    let access = Access::open_as(selection, &Secret::new(WRONG_TOKEN.to_owned())).await?;
    match access.client.apiserver_version().await {
        Ok(_) => Ok(200),
        Err(kube::Error::Api(status)) => Ok(status.code),
        Err(error) => Err(words_of("GET /version with a wrong token", &access, &error)),
    }
}

async fn all_rights(access: &Access, namespace: &str) -> Result<All, String> {
    let api: Api<SelfSubjectRulesReview> = Api::all(access.client.clone());
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) },
        ..SelfSubjectRulesReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| words_of("a SelfSubjectRulesReview", access, &error))?;
    let status =
        answer.status.ok_or("the server answered a SelfSubjectRulesReview with nothing")?;
    let why = status.evaluation_error.filter(|why| !why.is_empty());
    let incomplete =
        status.incomplete.then(|| why.unwrap_or_else(|| "it does not say why".to_owned()));
    Ok(All { rules: status.resource_rules, incomplete })
}

/// Whether the server takes the token.
pub(super) fn accepted(facts: &Facts) -> Verdict {
    facts.rights.accepted.judge(|version| Verdict::pass(format!("{version} answers to it")))
}

/// Whether the server does not take any token.
pub(super) fn wrong_token(facts: &Facts) -> Verdict {
    facts.rights.wrong_token.judge(|status| match status {
        401 => Verdict::pass("it answered 401"),
        other => Verdict::fail(format!("it answered {other}, not 401")),
    })
}

fn allowed(facts: &Facts, right: Right<'_>) -> Verdict {
    facts.rights.judge(right, |allowed| {
        if allowed {
            Verdict::pass("allowed")
        } else {
            Verdict::fail(format!("{} is not allowed", by_resource([right]).join("")))
        }
    })
}

fn denied(facts: &Facts, right: Right<'_>) -> Verdict {
    facts.rights.judge(right, |allowed| {
        if allowed {
            Verdict::fail(format!("{} is allowed", by_resource([right]).join("")))
        } else {
            Verdict::pass("not allowed")
        }
    })
}

/// Whether the account may do anything else.
fn nothing_else(facts: &Facts) -> Verdict {
    facts.rights.all.judge(judge_all)
}

fn judge_all(all: &All) -> Verdict {
    let given = all.rules.iter().flat_map(|rule| {
        let groups = rule.api_groups.as_deref().unwrap_or_default();
        let resources = rule.resources.as_deref().unwrap_or_default();
        groups.iter().flat_map(move |group| {
            resources.iter().flat_map(move |resource| {
                rule.verbs.iter().map(move |verb| Right { group, resource, verb })
            })
        })
    });
    let is_wanted = |right: &Right<'_>| asked_for::rights().any(|wanted| wanted == *right);
    // What everybody may ask about himself.
    let is_everybodys = |right: &Right<'_>| {
        ["authorization.k8s.io", "authentication.k8s.io"].contains(&right.group)
            && right.resource.starts_with("selfsubject")
            && right.verb == "create"
    };
    let beyond = by_resource(given.filter(|right| !is_wanted(right) && !is_everybodys(right)));
    match (&beyond[..], &all.incomplete) {
        ([], None) => Verdict::pass("none"),
        ([], Some(why)) => {
            Verdict::warn(format!("none that the server tells of, and it does not tell all: {why}"))
        }
        (beyond, _) => Verdict::warn(format!("it also may: {}", beyond.join("; "))),
    }
}

const ALLOWED_PAGE: &str = "docs/targets/aichor.md#what-aichor-may-do";
const DENIED_PAGE: &str = "docs/targets/aichor.md#what-aichor-may-not-do";

/// A check for each right of the table of rules, named by verb and resource.
macro_rules! checks {
    ($(($group:literal, $resources:tt, $verbs:tt))*) => {
        checks!(@ [] $(($group, $resources, $verbs))*)
    };
    (@ [$($check:tt)*] ($group:literal, [], $verbs:tt) $($rest:tt)*) => {
        checks!(@ [$($check)*] $($rest)*)
    };
    (@ [$($check:tt)*]
        ($group:literal, [$resource:literal $($resources:literal)*], [$($verb:literal)*])
        $($rest:tt)*
    ) => {
        checks!(@ [
            $($check)*
            $(Check {
                name: concat!($verb, " ", $resource),
                why: "AIchor does this",
                mend: PREPARE_OVER,
                page: ALLOWED_PAGE,
                judge: |facts| {
                    allowed(facts, Right { group: $group, resource: $resource, verb: $verb })
                },
            },)*
        ] ($group, [$($resources)*], [$($verb)*]) $($rest)*)
    };
    (@ [$($check:tt)*]) => { &[$($check)*] };
}

/// One for each right that `AIchor` asks for.
pub(super) const ALLOWED: &[Check<Facts>] = with_rules!(checks);

const TAKE_AWAY: &str = "kubectl get clusterrolebindings,rolebindings --all-namespaces --output wide, and take from dp-cluster-service-account and its groups what gives it this";

/// What the account must not be able to do.
pub(super) const DENIED: &[Check<Facts>] = &[
    Check {
        name: "cannot list nodes",
        why: "the cluster's machines are none of AIchor's business",
        mend: TAKE_AWAY,
        page: DENIED_PAGE,
        judge: |facts| denied(facts, Right { group: "", resource: "nodes", verb: "list" }),
    },
    Check {
        name: "cannot get pods/log",
        why: "what the programs of others print may be secret",
        mend: TAKE_AWAY,
        page: DENIED_PAGE,
        judge: |facts| denied(facts, Right { group: "", resource: "pods/log", verb: "get" }),
    },
    Check {
        name: "cannot watch deployments",
        why: "AIchor's rules list them and do not watch them",
        mend: TAKE_AWAY,
        page: DENIED_PAGE,
        judge: |facts| {
            denied(facts, Right { group: "apps", resource: "deployments", verb: "watch" })
        },
    },
    Check {
        name: "cannot list services",
        why: "AIchor's rules let it get its own by their names",
        mend: TAKE_AWAY,
        page: DENIED_PAGE,
        judge: |facts| denied(facts, Right { group: "", resource: "services", verb: "list" }),
    },
    Check {
        name: "has no other rights in its namespace",
        why: "what the account may do beyond AIchor's rules, whoever has the token may do",
        mend: TAKE_AWAY,
        page: DENIED_PAGE,
        judge: nothing_else,
    },
];

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::checks::Outcome::{Pass, Warn};

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_check_for_each_right() {
        let checks: Vec<&str> = ALLOWED.iter().map(|check| check.name).collect();
        let rights: Vec<String> = asked_for::rights().map(|right| right.to_string()).collect();
        assert_eq!(checks, rights);
        let denied = asked_for::DENIED.iter().map(|right| format!("cannot {right}"));
        let checks: Vec<&str> = DENIED.iter().take(4).map(|check| check.name).collect();
        assert_eq!(checks, denied.collect::<Vec<_>>());
    }

    #[test]
    fn how_a_review_asks() {
        for (right, resource, subresource) in [
            (Right { group: "", resource: "pods/exec", verb: "get" }, "pods", Some("exec")),
            (Right { group: "apps", resource: "deployments", verb: "list" }, "deployments", None),
        ] {
            let asked = attributes(right);
            assert_eq!(asked.group.as_deref(), Some(right.group));
            assert_eq!(asked.resource.as_deref(), Some(resource));
            assert_eq!(asked.subresource.as_deref(), subresource);
            assert_eq!(asked.verb.as_deref(), Some(right.verb));
            assert_eq!((asked.namespace, asked.name), (None, None), "in all namespaces");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_waited_for_once() {
        let started = Instant::now();
        let reviews = ask(LIMIT, async |_| std::future::pending().await).await;
        assert_eq!(started.elapsed(), LIMIT);
        assert_eq!(reviews.len(), 67 + 4);
        for (right, observed) in &reviews {
            assert_eq!(observed.result, Err(Unseen::OutOfTime { limit: LIMIT }), "{right}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_in_the_middle() {
        let asked = AtomicUsize::new(0);
        let started = Instant::now();
        let reviews = ask(LIMIT, async |_| {
            if asked.fetch_add(1, Ordering::Relaxed) >= 40 {
                std::future::pending::<()>().await;
            }
            Observed::known(true)
        })
        .await;
        assert_eq!(started.elapsed(), LIMIT);
        let seen = reviews.values().filter(|it| it.seen().is_some()).count();
        assert_eq!((seen, reviews.len()), (40, 71));
    }

    #[tokio::test(start_paused = true)]
    async fn some_reviews_at_a_time() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let reviews = ask(LIMIT, async |_| {
            let at_a_time = now.fetch_add(1, Ordering::Relaxed) + 1;
            most.fetch_max(at_a_time, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Observed::known(true)
        })
        .await;
        assert_eq!(most.into_inner(), AT_A_TIME);
        assert!(reviews.values().all(|it| it.seen() == Some(&true)), "{reviews:?}");
    }

    #[test]
    fn what_is_beyond() {
        let rule = |group: &str, resources: &[&str], verbs: &[&str]| {
            let list = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            ResourceRule {
                api_groups: Some(list(&[group])),
                resources: Some(list(resources)),
                resource_names: None,
                verbs: list(verbs),
            }
        };
        let wanted: Vec<ResourceRule> =
            asked_for::RULES.iter().map(|it| rule(it.group, it.resources, it.verbs)).collect();
        let everybodys = rule(
            "authorization.k8s.io",
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            &["create"],
        );
        let logs = rule("", &["pods/log"], &["get", "list"]);
        let incomplete = || Some("a webhook decides, too".to_owned());
        for (what, more, incomplete, outcome, seen) in [
            ("as asked for", vec![everybodys.clone()], None, Pass, "none"),
            ("more", vec![logs], None, Warn, "it also may: get, list pods/log"),
            ("all", vec![rule("*", &["*"], &["*"])], None, Warn, "it also may: * *.*"),
            (
                "not all is told",
                vec![everybodys],
                incomplete(),
                Warn,
                "none that the server tells of, and it does not tell all: a webhook decides, too",
            ),
        ] {
            let rules = [wanted.clone(), more].concat();
            let verdict = judge_all(&All { rules, incomplete });
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen), "{what}");
        }
    }
}
