//! What is checked of the platform's namespaces: that nobody else reads the secrets in them.

use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::api::core::v1 as core;
use kube::api::Api;

use super::{Facts, judge_read};
use crate::checks::kubernetes::{Reader, read};
use crate::checks::{Observed, Unseen, Verdict};
use crate::cluster_file::inference_model_manager::Platform;
use crate::targets::inference_model_manager::{DEX_SECRET, MINIO_SECRET, TLS_SECRET};

/// Each of them shows what a secret holds.
const VERBS: [&str; 3] = ["get", "list", "watch"];

/// The platform's Secrets in the management API's namespace. A right may be for one of them alone, by its
/// name, and is not seen where all are asked about.
const BY_NAME: [&str; 3] = [MINIO_SECRET, TLS_SECRET, DEX_SECRET];

/// What everybody who has signed in is in.
const SIGNED_IN: &str = "system:authenticated";

/// What was seen of the namespaces.
#[derive(Debug)]
pub(super) struct Seen {
    /// Whether the controller's namespace is there.
    controller: Observed<bool>,
    /// Who may read the secrets there.
    controllers_secrets: Observed<Vec<Review>>,
    /// Who may read the secrets of the management API.
    management_secrets: Observed<Vec<Review>>,
}

/// What the API says of somebody and a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Review {
    who: String,
    verb: &'static str,
    /// The Secret that was asked about; `None`: all of them.
    secret: Option<&'static str>,
    is_allowed: bool,
    /// Why, in the API's words.
    reason: String,
    /// What the API could not find out about it.
    unknown: Option<String>,
}

/// Somebody whom the API is asked about.
#[derive(Debug, Clone, Copy)]
enum Who<'a> {
    User(&'a str),
    Group(&'a str),
}

pub(super) async fn look(reader: &Observed<Reader>, platform: &Platform) -> Seen {
    let controller = &platform.controller_namespace;
    let is_there = read(reader, async |reader| {
        let api: Api<core::Namespace> = Api::all(reader.access.client.clone());
        reader.get(api, controller).await.map(|found| found.is_some())
    });
    let (controller, controllers_secrets, management_secrets) = tokio::join!(
        is_there,
        read(reader, async |reader| review_all(reader, platform, controller, &[]).await),
        read(reader, async |reader| {
            review_all(reader, platform, &platform.management_namespace, &BY_NAME).await
        }),
    );
    Seen { controller, controllers_secrets, management_secrets }
}

/// Asks about all ordinary users and groups, for all Secrets and for some by their names; what cannot be asked about one counts for all.
async fn review_all(
    reader: &Reader,
    platform: &Platform,
    namespace: &str,
    by_name: &[&'static str],
) -> Observed<Vec<Review>> {
    let users = platform.ordinary_users.iter().map(|name| Who::User(name));
    let groups = platform.ordinary_groups.iter().map(|name| Who::Group(name));
    let everybody = users.chain(groups);
    let secrets = || std::iter::once(None).chain(by_name.iter().copied().map(Some));
    let verbs = |secret| VERBS.map(|verb| (verb, secret));
    let asked = everybody
        .flat_map(|who| secrets().flat_map(verbs).map(move |(verb, secret)| (who, verb, secret)));
    let reviews = asked.map(|(who, verb, secret)| review(reader, namespace, who, verb, secret));
    let mut took = Duration::ZERO;
    let mut seen = Vec::new();
    for review in join_all(reviews).await {
        took = took.max(review.took);
        match review.result {
            Ok(review) => seen.push(review),
            Err(unseen) => return Observed { result: Err(unseen), took },
        }
    }
    if seen.is_empty() {
        let why = "ordinaryUsers and ordinaryGroups name nobody".to_owned();
        return Observed { result: Err(Unseen::NotTried { why }), took };
    }
    Observed { result: Ok(seen), took }
}

/// Asks whether somebody may read secrets: a review, which changes nothing.
async fn review(
    reader: &Reader,
    namespace: &str,
    who: Who<'_>,
    verb: &'static str,
    secret: Option<&'static str>,
) -> Observed<Review> {
    let (user, groups) = match who {
        // Who has signed in is in this group too, which is not asked about by itself.
        Who::User(name) => (Some(name.to_owned()), vec![SIGNED_IN.to_owned()]),
        Who::Group(name) => (None, vec![name.to_owned()]),
    };
    let asked = SubjectAccessReviewSpec {
        user,
        groups: Some(groups),
        resource_attributes: Some(ResourceAttributes {
            namespace: Some(namespace.to_owned()),
            resource: Some("secrets".to_owned()),
            verb: Some(verb.to_owned()),
            name: secret.map(str::to_owned),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    };
    reader.may_another(asked).await.map(|status| Review::of(who, verb, secret, status))
}

impl Review {
    fn of(
        who: Who<'_>,
        verb: &'static str,
        secret: Option<&'static str>,
        status: SubjectAccessReviewStatus,
    ) -> Self {
        Self {
            who: match who {
                Who::User(name) => format!("user {name}"),
                Who::Group(name) => format!("group {name}"),
            },
            verb,
            secret,
            is_allowed: status.allowed,
            reason: status.reason.unwrap_or_default(),
            unknown: status.evaluation_error.filter(|error| !error.is_empty()),
        }
    }
}

/// Whether the controller's namespace is there.
pub(super) fn is_there(facts: &Facts) -> Verdict {
    let namespace = &facts.platform.controller_namespace;
    judge_read(&facts.access.controller, |is_there| {
        if *is_there {
            Verdict::pass(namespace)
        } else {
            Verdict::fail(format!("there is no namespace {namespace}"))
                .mend(format!("kubectl create namespace {namespace}"))
        }
    })
}

/// Whether the controller's secrets are its own.
pub(super) fn controllers_secrets(facts: &Facts) -> Verdict {
    let namespace = &facts.platform.controller_namespace;
    if facts.access.controller.seen() == Some(&false) {
        return Verdict::skipped(format!("there is no namespace {namespace}"));
    }
    judge_read(&facts.access.controllers_secrets, |reviews| judge_reviews(reviews, namespace))
}

/// Whether the management API's secrets are its own.
pub(super) fn management_secrets(facts: &Facts) -> Verdict {
    let namespace = &facts.platform.management_namespace;
    judge_read(&facts.access.management_secrets, |reviews| judge_reviews(reviews, namespace))
}

fn judge_reviews(reviews: &[Review], namespace: &str) -> Verdict {
    // Whoever may read all of them need not be told of for each.
    let may_all = |it: &Review| {
        let covers = |all: &&Review| all.who == it.who && all.verb == it.verb;
        reviews.iter().filter(|all| all.is_allowed && all.secret.is_none()).any(|all| covers(&all))
    };
    let mut allowed: Vec<(&str, Option<&str>, Vec<&str>, &str)> = Vec::new();
    for review in reviews.iter().filter(|review| review.is_allowed) {
        if review.secret.is_some() && may_all(review) {
            continue;
        }
        match allowed.last_mut() {
            Some((who, secret, verbs, _)) if *who == review.who && *secret == review.secret => {
                verbs.push(review.verb);
            }
            _ => {
                allowed.push((&review.who, review.secret, vec![review.verb], &review.reason));
            }
        }
    }
    let unknown = reviews.iter().find_map(|review| review.unknown.as_deref());
    if !allowed.is_empty() {
        let words = allowed.iter().map(|(who, secret, verbs, reason)| {
            let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            let which =
                secret.map_or_else(|| "secrets".to_owned(), |it| format!("the secret {it}"));
            format!("{who} may {} {which}{because}", verbs.join(", "))
        });
        let words = words.collect::<Vec<_>>().join("; ");
        return Verdict::fail(format!("in {namespace}: {words}"));
    }
    let mut everybody: Vec<&str> = reviews.iter().map(|review| review.who.as_str()).collect();
    everybody.dedup();
    let everybody = everybody.join(", ");
    match unknown {
        Some(unknown) => Verdict::warn(format!(
            "nobody of {everybody} may read them in {namespace}, as far as the API could find out: {unknown}"
        )),
        None => Verdict::pass(format!("none of {everybody} in {namespace}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Warn};

    #[test]
    fn who_may() {
        let review = |who: &str, verb, is_allowed, unknown: Option<&str>| Review {
            who: who.to_owned(),
            verb,
            secret: None,
            is_allowed,
            reason: if is_allowed { "by binding x".to_owned() } else { String::new() },
            unknown: unknown.map(str::to_owned),
        };
        for (reviews, outcome, words) in [
            (
                vec![review("group a", "get", false, None), review("user b", "get", false, None)],
                Pass,
                "none of group a, user b in crd",
            ),
            (
                vec![
                    review("group a", "get", true, None),
                    review("group a", "list", true, None),
                    review("user b", "get", false, None),
                ],
                Fail,
                "in crd: group a may get, list secrets (by binding x)",
            ),
            (
                vec![
                    review("group a", "get", false, None),
                    Review { secret: Some("dex"), ..review("group a", "get", true, None) },
                    Review { secret: Some("dex"), ..review("group a", "watch", true, None) },
                    Review { secret: Some("tls-secret"), ..review("group a", "get", true, None) },
                ],
                Fail,
                "in crd: group a may get, watch the secret dex (by binding x); group a may get the secret tls-secret (by binding x)",
            ),
            // What is allowed for all of them is told once.
            (
                vec![
                    review("group a", "get", true, None),
                    Review { secret: Some("dex"), ..review("group a", "get", true, None) },
                    review("user b", "get", false, None),
                    Review { secret: Some("dex"), ..review("user b", "get", true, None) },
                ],
                Fail,
                "in crd: group a may get secrets (by binding x); user b may get the secret dex (by binding x)",
            ),
            (
                vec![review("group a", "get", false, Some("a role is missing"))],
                Warn,
                "as far as the API could find out: a role is missing",
            ),
        ] {
            let verdict = judge_reviews(&reviews, "crd");
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }
}
