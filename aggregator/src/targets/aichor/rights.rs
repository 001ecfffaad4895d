//! What `AIchor`'s service account may do: the rules of its `ClusterRole`, and the single rights that
//! they come to.

use std::fmt;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

/// The rules as `AIchor`'s documentation has them, handed to a macro: for each its API group, its
/// resources and its verbs. All that is made of the rules is made of this table.
macro_rules! with_rules {
    ($make:ident) => {
        $make! {
            ("", ["pods" "pods/status" "pods/exec" "serviceaccounts" "configmaps" "namespaces" "secrets"],
                ["get" "list" "watch" "create" "update" "patch" "delete"])
            ("networking.k8s.io", ["ingresses"], ["create" "get" "delete"])
            ("cert-manager.io", ["certificates"], ["create"])
            ("apps", ["deployments"], ["create" "get" "delete" "list"])
            ("", ["events"], ["create"])
            ("", ["services"], ["create" "get" "delete"])
            ("ray.instadeep.io", ["rayclusters"], ["list" "create" "get" "delete"])
            ("argoproj.io", ["workflows"], ["get" "patch"])
        }
    };
}
pub(crate) use with_rules;

/// A rule of the `ClusterRole`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its API group; the core group is empty.
    pub group: &'static str,
    /// Its resources, subresources as `pods/exec`.
    pub resources: &'static [&'static str],
    /// Its verbs.
    pub verbs: &'static [&'static str],
}

macro_rules! rules {
    ($(($group:literal, [$($resource:literal)*], [$($verb:literal)*]))*) => {
        &[$(Rule { group: $group, resources: &[$($resource),*], verbs: &[$($verb),*] }),*]
    };
}

/// The rules, in their order.
pub const RULES: &[Rule] = with_rules!(rules);

/// What the account must not be able to do.
pub const DENIED: &[Right<'static>] = &[
    Right { group: "", resource: "nodes", verb: "list" },
    Right { group: "", resource: "pods/log", verb: "get" },
    Right { group: "apps", resource: "deployments", verb: "watch" },
    Right { group: "", resource: "services", verb: "list" },
];

/// One thing that may be done with one resource, in all namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right<'a> {
    /// The API group; the core group is empty.
    pub group: &'a str,
    /// The resource, a subresource as `pods/exec`.
    pub resource: &'a str,
    /// The verb.
    pub verb: &'a str,
}

impl Rule {
    /// The rights that it comes to.
    pub fn rights(&self) -> impl Iterator<Item = Right<'static>> {
        let Self { group, resources, verbs } = *self;
        resources
            .iter()
            .flat_map(move |resource| verbs.iter().map(move |verb| Right { group, resource, verb }))
    }

    /// As it stands in a manifest.
    pub fn manifest(&self) -> Value {
        json!({"apiGroups": [self.group], "resources": self.resources, "verbs": self.verbs})
    }
}

/// All rights that the rules come to.
pub fn rights() -> impl Iterator<Item = Right<'static>> {
    RULES.iter().flat_map(Rule::rights)
}

impl fmt::Display for Right<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)
    }
}

/// In what rules differ from those that `AIchor` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rights that `AIchor` asks for, and that they do not give.
    pub missing: Vec<String>,
    /// What they give beyond.
    pub beyond: Vec<String>,
}

impl Difference {
    /// Compares rules with those that `AIchor` asks for, by what they come to: how they are cut is
    /// all the same.
    pub fn of(rules: &[PolicyRule]) -> Self {
        let missing = rights().filter(|right| !rules.iter().any(|rule| gives(rule, *right)));
        let beyond = rules.iter().flat_map(beyond);
        Self { missing: by_resource(missing), beyond: by_resource(beyond) }
    }
}

/// Whether a rule gives a right, to every object of the kind.
fn gives(rule: &PolicyRule, right: Right<'_>) -> bool {
    let has = |list: Option<&[String]>, wanted: &str| {
        list.unwrap_or_default().iter().any(|it| it == wanted || it == "*")
    };
    // `*/exec` is the subresource of everything.
    let of_all = right.resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
    let resources = rule.resources.as_deref();
    let is_of_all = of_all.is_some_and(|of_all| has(resources, &of_all));
    rule.resource_names.as_ref().is_none_or(Vec::is_empty)
        && has(rule.api_groups.as_deref(), right.group)
        && (has(resources, right.resource) || is_of_all)
        && has(Some(&rule.verbs), right.verb)
}

/// What a rule gives that `AIchor` does not ask for. A `*` is beyond, whatever else there is.
fn beyond(rule: &PolicyRule) -> Vec<Right<'_>> {
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    let resources = rule.resources.as_deref().unwrap_or_default();
    let paths = rule.non_resource_urls.as_deref().unwrap_or_default();
    let mut given = Vec::new();
    for verb in &rule.verbs {
        for resource in resources {
            given.extend(groups.iter().map(|group| Right { group, resource, verb }));
        }
        given.extend(paths.iter().map(|path| Right { group: "", resource: path, verb }));
    }
    given.retain(|given| !rights().any(|right| right == *given));
    given
}

/// Rights for a message: the verbs of each resource together, such as `get, list pods/exec`.
pub fn by_resource<'a>(rights: impl IntoIterator<Item = Right<'a>>) -> Vec<String> {
    let mut grouped: Vec<(Right<'a>, Vec<&'a str>)> = Vec::new();
    for right in rights {
        let is_of = |(known, _): &&mut (Right<'a>, Vec<&'a str>)| {
            (known.group, known.resource) == (right.group, right.resource)
        };
        match grouped.iter_mut().find(is_of) {
            Some((_, verbs)) if verbs.contains(&right.verb) => {}
            Some((_, verbs)) => verbs.push(right.verb),
            None => grouped.push((right, vec![right.verb])),
        }
    }
    let shown = |(right, verbs): (Right<'_>, Vec<&str>)| {
        let dot = if right.group.is_empty() { "" } else { "." };
        format!("{} {}{dot}{}", verbs.join(", "), right.resource, right.group)
    };
    grouped.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
        let list = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(list(&[group])),
            resources: Some(list(resources)),
            verbs: list(verbs),
            ..PolicyRule::default()
        }
    }

    fn as_asked_for() -> Vec<PolicyRule> {
        RULES.iter().map(|it| rule(it.group, it.resources, it.verbs)).collect()
    }

    #[test]
    fn the_rules_come_to_67_rights() {
        let each: Vec<usize> = RULES.iter().map(|rule| rule.rights().count()).collect();
        assert_eq!(each, [49, 3, 1, 4, 1, 3, 4, 2]);
        let distinct: BTreeSet<_> = rights().collect();
        assert_eq!((rights().count(), distinct.len()), (67, 67));
        // Checks are named by resource and verb alone.
        let names: BTreeSet<String> =
            rights().chain(DENIED.iter().copied()).map(|it| it.to_string()).collect();
        assert_eq!(names.len(), 67 + DENIED.len());
        for denied in DENIED {
            assert!(!distinct.contains(denied), "{denied} is asked for and denied");
        }
    }

    #[test]
    fn how_rules_differ() {
        let without = |gone: usize| {
            let mut rules = as_asked_for();
            rules.remove(gone);
            rules
        };
        let and = |more: PolicyRule| [as_asked_for(), vec![more]].concat();
        let named = PolicyRule {
            resource_names: Some(vec!["one".to_owned()]),
            ..rule("argoproj.io", &["workflows"], &["get", "patch"])
        };
        let path = PolicyRule {
            non_resource_urls: Some(vec!["/metrics".to_owned()]),
            verbs: vec!["get".to_owned()],
            ..PolicyRule::default()
        };
        let one_each: Vec<PolicyRule> =
            rights().map(|right| rule(right.group, &[right.resource], &[right.verb])).collect();
        for (what, rules, missing, beyond) in [
            ("as asked for", as_asked_for(), vec![], vec![]),
            ("cut otherwise", one_each, vec![], vec![]),
            ("no workflows", without(7), vec!["get, patch workflows.argoproj.io"], vec![]),
            ("no events", without(4), vec!["create events"], vec![]),
            (
                "one workflow alone",
                [without(7), vec![named]].concat(),
                vec!["get, patch workflows.argoproj.io"],
                vec![],
            ),
            ("nodes", and(rule("", &["nodes"], &["list", "get"])), vec![], vec!["list, get nodes"]),
            (
                "another group",
                and(rule("batch", &["pods"], &["get"])),
                vec![],
                vec!["get pods.batch"],
            ),
            ("logs", and(rule("", &["pods/log"], &["get"])), vec![], vec!["get pods/log"]),
            ("a path", and(path), vec![], vec!["get /metrics"]),
            ("everything", vec![rule("*", &["*"], &["*"])], vec![], vec!["* *.*"]),
            (
                "all of pods",
                [
                    without(0),
                    vec![
                        rule("", &["pods", "*/status", "*/exec"], &["*"]),
                        rule(
                            "",
                            &["serviceaccounts", "configmaps", "namespaces", "secrets"],
                            RULES[0].verbs,
                        ),
                    ],
                ]
                .concat(),
                vec![],
                vec!["* pods", "* */status", "* */exec"],
            ),
        ] {
            let difference = Difference::of(&rules);
            assert_eq!(difference.missing, missing, "{what}");
            assert_eq!(difference.beyond, beyond, "{what}");
        }
        let nothing = Difference::of(&[]);
        assert_eq!((nothing.missing.len(), nothing.beyond.len()), (14, 0), "{nothing:?}");
    }

    #[test]
    fn rules_in_a_manifest() {
        let events = json!({"apiGroups": [""], "resources": ["events"], "verbs": ["create"]});
        assert_eq!(RULES[4].manifest(), events);
    }
}
