//! What is checked of the paths that lead to the API, and of those that must not.

use serde_json::Value;

use super::{Facts, unseen};
use crate::checks::wire::Answer;
use crate::checks::{Observed, Verdict};

/// Where reviews of one's own rules are asked for.
pub(super) const RULES_REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

const API_KIND: &str = "APIVersions";
const APIS_KIND: &str = "APIGroupList";

/// Whether there is a token.
pub(super) fn token(facts: &Facts) -> Verdict {
    facts.token.judge(|token| Verdict::pass(&token.from))
}

/// Whether the API server takes the token.
pub(super) fn accepted(facts: &Facts) -> Verdict {
    judge_accepted(&facts.routes.api, &facts.routes.apis)
}

/// Whether the core of the API is there.
pub(super) fn api(facts: &Facts) -> Verdict {
    facts.routes.api.judge(|answer| judge_routed(answer, API_KIND, "/versions"))
}

/// Whether the other groups are there.
pub(super) fn apis(facts: &Facts) -> Verdict {
    facts.routes.apis.judge(|answer| judge_routed(answer, APIS_KIND, "/groups"))
}

/// Whether the review of one's own rules works.
pub(super) fn rules(facts: &Facts) -> Verdict {
    let apis = &facts.routes.apis;
    if apis.seen().is_some_and(|answer| answer.status == NOT_FOUND) {
        return Verdict::skipped("/apis is not routed");
    }
    facts.routes.rules.judge(judge_rules)
}

/// Whether who is nobody is nobody.
pub(super) fn wrong_token(facts: &Facts) -> Verdict {
    facts.routes.wrong_token.judge(judge_wrong_token)
}

/// Whether a path leads nowhere.
pub(super) fn absent(answer: &Observed<Answer>) -> Verdict {
    answer.judge(judge_absent)
}

/// Who comes without a token, as the API server calls them.
const ANONYMOUS: &str = "system:anonymous";

const OK: u16 = 200;
const CREATED: u16 = 201;
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;

/// What the API server itself says of a request that it does not serve: its Status.
fn status_of(answer: &Answer) -> Option<String> {
    let body = answer.json()?;
    let is_status = body.get("kind").and_then(Value::as_str) == Some("Status");
    let message = body.get("message").and_then(Value::as_str).unwrap_or_default();
    is_status.then(|| message.to_owned())
}

fn has_kind(answer: &Answer, kind: &str) -> bool {
    let body = answer.json();
    body.as_ref().and_then(|body| body.get("kind")).and_then(Value::as_str) == Some(kind)
}

fn judge_accepted(api: &Observed<Answer>, apis: &Observed<Answer>) -> Verdict {
    let asked = [("/api", api, API_KIND), ("/apis", apis, APIS_KIND)];
    let answers: Vec<(&str, &Answer, &str)> = asked
        .into_iter()
        .filter_map(|(path, answer, kind)| Some((path, answer.seen()?, kind)))
        .collect();
    for (_, answer, _) in &answers {
        match (answer.status, status_of(answer)) {
            (UNAUTHORIZED, said) => {
                let said = said.map_or_else(String::new, |said| format!(": {said}"));
                return Verdict::fail(format!("it answered 401{said}"));
            }
            (FORBIDDEN, Some(said)) if said.contains(ANONYMOUS) => {
                return Verdict::fail(format!(
                    "the Authorization header does not arrive: it answered 403: {said}"
                ));
            }
            _ => {}
        }
    }
    let is_known = |(_, answer, kind): &(&str, &Answer, &str)| match answer.status {
        OK => has_kind(answer, kind),
        // Who is refused by name is known.
        FORBIDDEN => status_of(answer).is_some(),
        _ => false,
    };
    if answers.iter().any(is_known) {
        return Verdict::pass("the API server knows whose it is");
    }
    if answers.is_empty() {
        let why = "nothing answered a request with the token";
        return unseen(api, why).unwrap_or_else(|| Verdict::skipped(why));
    }
    let seen: Vec<String> = answers
        .iter()
        .map(|(path, answer, _)| format!("{path} answered {}", answer.status))
        .collect();
    Verdict::skipped(format!("{}, and not in the words of Kubernetes", seen.join(", ")))
}

fn judge_routed(answer: &Answer, kind: &str, list: &str) -> Verdict {
    match answer.status {
        OK if has_kind(answer, kind) => {
            let body = answer.json().unwrap_or_default();
            let count = body.pointer(list).and_then(Value::as_array).map_or(0, Vec::len);
            Verdict::pass(format!("{kind}, {count} of them"))
        }
        OK => Verdict::fail(format!("it answered 200 with something that is no {kind} of Kubernetes")),
        UNAUTHORIZED => Verdict::skipped("the token is not accepted"),
        FORBIDDEN => Verdict::fail(format!(
            "it answered 403: {}",
            status_of(answer).unwrap_or_else(|| "not in the words of Kubernetes".to_owned())
        ))
        .mend("bind the ClusterRole system:discovery to system:authenticated again, as every cluster has it; and let the proxy pass the Authorization header"),
        NOT_FOUND => Verdict::fail("it answered 404"),
        other => Verdict::fail(format!("it answered {other}")),
    }
}

fn judge_rules(answer: &Answer) -> Verdict {
    match answer.status {
        OK | CREATED if has_kind(answer, "SelfSubjectRulesReview") => {
            let body = answer.json().unwrap_or_default();
            let count =
                |list: &str| body.pointer(list).and_then(Value::as_array).map_or(0, Vec::len);
            let (of_resources, of_others) =
                (count("/status/resourceRules"), count("/status/nonResourceRules"));
            Verdict::pass(format!("{of_resources} rules of resources, {of_others} of other paths"))
        }
        UNAUTHORIZED => Verdict::skipped("the token is not accepted"),
        other => {
            let said = status_of(answer).map_or_else(String::new, |said| format!(": {said}"));
            Verdict::fail(format!("a SelfSubjectRulesReview was answered with {other}{said}"))
        }
    }
}

fn judge_wrong_token(answer: &Answer) -> Verdict {
    match answer.status {
        UNAUTHORIZED => Verdict::pass("it answered 401"),
        NOT_FOUND => Verdict::skipped("/api is not routed"),
        FORBIDDEN => Verdict::fail(
            "it answered 403: whoever has a wrong token is taken for one who has none",
        )
        .mend("let the proxy pass the Authorization header"),
        other => Verdict::fail(format!("it answered {other} to a token that is none")),
    }
}

fn judge_absent(answer: &Answer) -> Verdict {
    match (answer.status, status_of(answer)) {
        (NOT_FOUND, None) => Verdict::pass("it answered 404"),
        (status, Some(_)) => Verdict::fail(format!("the API server itself answered {status}")),
        (status, None) => Verdict::fail(format!("it answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Skipped};

    fn answer(status: u16, body: &Value) -> Answer {
        Answer { status, body: body.to_string().into_bytes() }
    }

    fn page(status: u16) -> Answer {
        Answer { status, body: b"<html>nginx</html>".to_vec() }
    }

    fn refusal(status: u16) -> Answer {
        answer(status, &json!({"kind": "Status", "message": "Unauthorized", "code": status}))
    }

    #[test]
    fn routed() {
        let groups = json!({"kind": APIS_KIND, "groups": [{}, {}]});
        for (what, answer, outcome, words) in [
            ("as it should", answer(200, &groups), Pass, "APIGroupList, 2 of them"),
            ("another service", page(200), Fail, "no APIGroupList"),
            ("another kind", answer(200, &json!({"kind": API_KIND})), Fail, "no APIGroupList"),
            ("nowhere", page(404), Fail, "404"),
            ("a bad gateway", page(502), Fail, "502"),
            ("token refused", refusal(401), Skipped, "not accepted"),
            ("forbidden", refusal(403), Fail, "403: Unauthorized"),
        ] {
            let verdict = judge_routed(&answer, APIS_KIND, "/groups");
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(words), "{what}: {verdict:?}");
        }
    }

    #[test]
    fn tokens() {
        let known = |answer: &Answer| Observed::known(answer.clone());
        let good = answer(200, &json!({"kind": API_KIND}));
        let groups = answer(200, &json!({"kind": APIS_KIND, "groups": []}));
        let forbidden = |user: &str| {
            let message = format!("forbidden: User \"{user}\" cannot get path \"/api\"");
            answer(403, &json!({"kind": "Status", "message": message, "code": 403}))
        };
        let (by_name, nobody) =
            (forbidden("system:serviceaccount:a:trial"), forbidden("system:anonymous"));
        for (what, api, apis, outcome, words) in [
            ("both", known(&good), known(&groups), Pass, "knows whose it is"),
            ("one", known(&good), known(&page(404)), Pass, "knows whose it is"),
            ("the other", known(&page(404)), known(&groups), Pass, "knows whose it is"),
            ("refused", known(&refusal(401)), known(&refusal(401)), Fail, "401: Unauthorized"),
            ("refused once", known(&good), known(&refusal(401)), Fail, "401"),
            ("refused by name", known(&by_name), known(&by_name), Pass, "knows whose it is"),
            ("taken for nobody", known(&nobody), known(&nobody), Fail, "header does not arrive"),
            ("nobody once", known(&good), known(&nobody), Fail, "header does not arrive"),
            ("refused by a proxy", known(&page(403)), known(&page(403)), Skipped, "answered 403"),
            ("a page", known(&page(200)), known(&page(200)), Skipped, "/api answered 200"),
            ("another kind", known(&groups), known(&good), Skipped, "/apis answered 200"),
            ("nothing behind it", known(&page(502)), known(&page(502)), Skipped, "answered 502"),
            ("none", known(&page(404)), known(&page(404)), Skipped, "answered 404"),
            ("not asked", Observed::not_tried("no"), Observed::not_tried("no"), Skipped, "no"),
        ] {
            let verdict = judge_accepted(&api, &apis);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(words), "{what}: {verdict:?}");
        }
        for (what, answer, outcome) in [
            ("refused", refusal(401), Pass),
            ("let in", good, Fail),
            ("taken for nobody", refusal(403), Fail),
            ("nowhere", page(404), Skipped),
        ] {
            let verdict = judge_wrong_token(&answer);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
        }
    }

    #[test]
    fn absences() {
        for (what, answer, outcome) in [
            ("nowhere", page(404), Pass),
            ("there", answer(200, &json!({"gitVersion": "v1.33.1"})), Fail),
            ("there, and not for us", refusal(403), Fail),
            ("there, for other tokens", refusal(401), Fail),
            ("the API server's own 404", refusal(404), Fail),
            ("moved", page(301), Fail),
        ] {
            let verdict = judge_absent(&answer);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
        }
    }

    #[test]
    fn reviews() {
        let review = json!({
            "kind": "SelfSubjectRulesReview",
            "status": {"resourceRules": [{}, {}], "nonResourceRules": [{}]},
        });
        for (what, answer, outcome) in [
            ("created", answer(201, &review), Pass),
            ("another service", page(200), Fail),
            ("not allowed", page(405), Fail),
            ("refused", refusal(401), Skipped),
        ] {
            let verdict = judge_rules(&answer);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
        }
    }
}
