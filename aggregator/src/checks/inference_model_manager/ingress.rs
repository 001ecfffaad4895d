//! What is checked of the ingress controller: that it runs, with the template that the platform needs.

use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, ListParams};

use super::{Facts, judge_read};
use crate::checks::kubernetes::{Reader, read};
use crate::checks::workloads::is_ingress_nginx;
use crate::checks::{Observed, Verdict, handful};

/// Where ingress-nginx has its template.
const FOLDER: &str = "/etc/nginx/template";
const FILE: &str = "nginx.tmpl";

/// The annotation in which an endpoint's Ingress names the client that it admits.
const ANNOTATION: &str = "allowed-values";
/// What nginx calls the subject of a client's certificate.
const SUBJECT: &str = "$ssl_client_s_dn";

/// What was seen of the ingress controller.
#[derive(Debug)]
pub(super) struct Seen {
    controllers: Observed<Vec<Controller>>,
    templates: Observed<Vec<Template>>,
}

/// A pod of the ingress controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Controller {
    name: String,
    image: String,
    is_ready: bool,
    /// The ConfigMap and its key that its template is taken from; `None`: it is its image's own.
    template: Option<(String, String)>,
}

/// A template in a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    config_map: String,
    key: String,
    /// Whether it tells an endpoint's clients apart.
    tells_apart: bool,
}

pub(super) async fn look(reader: &Observed<Reader>, namespace: &str) -> Seen {
    let (controllers, templates) = tokio::join!(
        read(reader, async |reader| {
            let api: Api<core::Pod> = Api::namespaced(reader.access.client.clone(), namespace);
            let pods = reader.list(api, ListParams::default()).await;
            pods.map(|pods| pods.into_iter().filter_map(Controller::of).collect())
        }),
        read(reader, async |reader| {
            let api: Api<core::ConfigMap> =
                Api::namespaced(reader.access.client.clone(), namespace);
            let maps = reader.list(api, ListParams::default()).await;
            maps.map(|maps| maps.into_iter().flat_map(texts).collect::<Vec<_>>())
        }),
    );
    let templates = templates.map(|texts| the_templates(texts, controllers.seen()));
    Seen { controllers, templates }
}

/// Whether the controller runs.
pub(super) fn runs(facts: &Facts) -> Verdict {
    let namespace = &facts.platform.ingress_namespace;
    judge_read(&facts.ingress.controllers, |controllers| judge_runs(controllers, namespace))
}

/// Whether there is a template.
pub(super) fn template(facts: &Facts) -> Verdict {
    let namespace = &facts.platform.ingress_namespace;
    judge_read(&facts.ingress.templates, |templates| judge_template(templates, namespace))
}

/// Whether the template is the platform's.
pub(super) fn change(facts: &Facts) -> Verdict {
    let controllers = facts.ingress.controllers.seen().map(Vec::as_slice).unwrap_or_default();
    judge_read(&facts.ingress.templates, |templates| judge_change(templates, controllers))
}

/// Whether the controller has the template.
pub(super) fn mounted(facts: &Facts) -> Verdict {
    let templates = facts.ingress.templates.seen().map(Vec::as_slice).unwrap_or_default();
    judge_read(&facts.ingress.controllers, |controllers| judge_mounted(controllers, templates))
}

fn judge_runs(controllers: &[Controller], namespace: &str) -> Verdict {
    let waiting: Vec<&str> =
        controllers.iter().filter(|it| !it.is_ready).map(|it| it.name.as_str()).collect();
    let (all, some) = (controllers.len(), waiting.len());
    if all == 0 {
        return Verdict::fail(format!("no pod of an nginx ingress controller is in {namespace}"));
    }
    let seen = format!("{} of {all} pods in {namespace} are ready", all - some);
    let mend = |name: &str| format!("kubectl describe pod --namespace {namespace} {name}");
    match waiting.first() {
        None => {
            let image = controllers.first().map(|it| it.image.as_str()).unwrap_or_default();
            Verdict::pass(format!("{seen} ({image})"))
        }
        Some(first) if some == all => Verdict::fail(seen).mend(mend(first)),
        Some(first) => {
            Verdict::warn(format!("{seen}, but not {}", handful(waiting.iter().copied())))
                .mend(mend(first))
        }
    }
}

fn judge_template(templates: &[Template], namespace: &str) -> Verdict {
    if templates.is_empty() {
        return Verdict::fail(format!("no ConfigMap in {namespace} has a key {FILE}, or one that is mounted as it")).mend(format!(
            "kubectl create configmap nginx-template --namespace {namespace} --from-file {FILE}, with the template of the chart ing-subchart, or your controller's own with its change"
        ));
    }
    let names: Vec<String> = templates.iter().map(Template::name).collect();
    Verdict::pass(handful(names.iter().map(String::as_str)))
}

fn judge_change(templates: &[Template], controllers: &[Controller]) -> Verdict {
    // Which of several counts is known once one is mounted.
    let is_used = |it: &&Template| controllers.iter().any(|pod| pod.uses(it));
    let mut used: Vec<&Template> = templates.iter().filter(is_used).collect();
    if used.is_empty() {
        used = templates.iter().collect();
    }
    let without: Vec<String> =
        used.iter().filter(|it| !it.tells_apart).map(|it| it.name()).collect();
    if used.is_empty() {
        Verdict::skipped("there is no template")
    } else if without.is_empty() {
        Verdict::pass(format!("it compares {SUBJECT} with the annotation {ANNOTATION}"))
    } else {
        Verdict::fail(format!(
            "{}: it does not compare {SUBJECT} with the annotation {ANNOTATION}",
            handful(without.iter().map(String::as_str))
        ))
    }
}

fn judge_mounted(controllers: &[Controller], templates: &[Template]) -> Verdict {
    let words = |pod: &Controller| match &pod.template {
        None => Some(format!("{} has its image's own", pod.name)),
        Some(_) if templates.iter().any(|it| pod.uses(it)) => None,
        Some((map, key)) => {
            Some(format!("{} mounts {key} of {map}, which is no such template", pod.name))
        }
    };
    let without: Vec<String> = controllers.iter().filter_map(words).collect();
    let all = controllers.len();
    if all == 0 {
        Verdict::skipped("no ingress controller runs")
    } else if without.is_empty() {
        Verdict::pass(format!("{all} of {all} pods"))
    } else {
        let names = handful(without.iter().map(String::as_str));
        Verdict::fail(format!("{} of {all} pods do not mount it: {names}", without.len()))
    }
}

impl Controller {
    fn of(pod: core::Pod) -> Option<Self> {
        let status = pod.status.unwrap_or_default();
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if is_over || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let spec = pod.spec.unwrap_or_default();
        let container = spec.containers.iter().find(|it| is_controller(it))?;
        let volumes = spec.volumes.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Some(Self {
            name: pod.metadata.name.unwrap_or_default(),
            image: container.image.clone().unwrap_or_default(),
            is_ready: conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True"),
            template: mounted_template(container, &volumes),
        })
    }

    fn uses(&self, template: &Template) -> bool {
        self.template
            .as_ref()
            .is_some_and(|(map, key)| *map == template.config_map && *key == template.key)
    }
}

/// Whether a container runs the controller: by its program, or by its image where it names none.
fn is_controller(container: &core::Container) -> bool {
    const PROGRAM: &str = "nginx-ingress-controller";
    let mut words = container.command.iter().chain(&container.args).flatten();
    words.any(|word| word.rsplit('/').next() == Some(PROGRAM))
        || container.image.as_deref().is_some_and(is_ingress_nginx)
}

/// The ConfigMap and the key that end up at the template's place.
fn mounted_template(
    container: &core::Container,
    volumes: &[core::Volume],
) -> Option<(String, String)> {
    let place = format!("{FOLDER}/{FILE}");
    container.volume_mounts.iter().flatten().find_map(|mount| {
        let path = mount.mount_path.trim_end_matches('/');
        let part = mount.sub_path.as_deref().filter(|part| !part.is_empty());
        let file = match part {
            None if path == FOLDER => FILE,
            Some(part) if path == place => part,
            _ => return None,
        };
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        let whole = volume.config_map.iter().map(|it| (&it.name, &it.items));
        let parts = volume.projected.iter().flat_map(|it| it.sources.iter().flatten());
        let parts = parts.filter_map(|it| it.config_map.as_ref()).map(|it| (&it.name, &it.items));
        whole.chain(parts).find_map(|(name, items)| {
            let key = match items {
                None => file,
                Some(items) => &items.iter().find(|item| item.path == file)?.key,
            };
            Some((name.clone(), key.to_owned()))
        })
    })
}

/// All texts in a ConfigMap, as if each were a template.
fn texts(map: core::ConfigMap) -> impl Iterator<Item = Template> {
    let name = map.metadata.name.unwrap_or_default();
    map.data.into_iter().flatten().map(move |(key, text)| Template {
        config_map: name.clone(),
        tells_apart: tells_clients_apart(&text),
        key,
    })
}

/// The templates among texts: those that are called as one is, and those that a controller takes for
/// one, whatever they are called.
fn the_templates(texts: Vec<Template>, controllers: Option<&Vec<Controller>>) -> Vec<Template> {
    let mounts = |text: &Template| controllers.into_iter().flatten().any(|pod| pod.uses(text));
    texts.into_iter().filter(|text| text.key == FILE || mounts(text)).collect()
}

impl Template {
    fn name(&self) -> String {
        format!("{} of {}", self.key, self.config_map)
    }
}

/// Whether a template compares the client's subject with the annotation, or with a variable that is
/// made of it, outside of comments.
fn tells_clients_apart(template: &str) -> bool {
    let template = without_comments(template);
    let lines = template.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut made_of_it: Vec<&str> = Vec::new();
    for line in lines {
        let has = |variable: &str| variables(line).any(|it| it == variable);
        if !line.contains(ANNOTATION) && !made_of_it.iter().any(|it| has(it)) {
            continue;
        }
        // What stands behind # is a comment, unless it is a part of a word.
        let condition = line.split(" #").next().unwrap_or_default();
        if condition.starts_with("if") && variables(condition).any(|it| it == SUBJECT) {
            return true;
        }
        made_of_it.extend(assigned(line));
    }
    false
}

/// A template without its comments, `{{/* … */}}`, which may go over several lines. One that does not
/// end hides the rest.
fn without_comments(template: &str) -> String {
    let mut kept = String::new();
    let mut rest = template;
    while let Some((before, action)) = rest.split_once("{{") {
        kept.push_str(before);
        let begun = action.strip_prefix('-').unwrap_or(action).trim_start();
        rest = if let Some(comment) = begun.strip_prefix("/*") {
            let behind = comment.split_once("*/").and_then(|(_, rest)| rest.split_once("}}"));
            behind.map_or("", |(_, rest)| rest)
        } else {
            kept.push_str("{{");
            action
        };
    }
    kept.push_str(rest);
    kept
}

/// The variables that a line names, each with its `$`.
fn variables(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices('$').filter_map(|(start, _)| {
        let rest = line.get(start..)?;
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.char_indices().skip(1).find(|(_, c)| !is_part(*c));
        rest.get(..end.map_or(rest.len(), |(end, _)| end))
    })
}

/// The variable that a line sets: nginx's `set $x …`, or the template's own `{{ $x := … }}`.
fn assigned(line: &str) -> Option<&str> {
    let action = line.trim_start_matches("{{").trim_start_matches('-').trim_start();
    let is_set = line.starts_with("set ");
    let is_made = action.starts_with('$') && action.contains('=');
    if is_set || is_made { variables(line).next() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Skipped, Warn};

    const CHANGED: &str = "set $wanted \"{{ index $ing.Annotations \"allowed-values\" }}\";\n\
                           if ($ssl_client_s_dn != $wanted) {\n  return 403;\n}\n";

    fn pod(container: &Value, volumes: &Value, ready: &str, phase: &str) -> Option<Controller> {
        let pod = json!({
            "metadata": {"name": "nginx-1"},
            "spec": {"containers": [container], "volumes": volumes},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        });
        Controller::of(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn which_pods_are_controllers() {
        for (container, expected) in [
            (
                json!({"name": "c", "image": "registry.example.org/ingress-nginx/controller:v1.9.4@sha256:ab"}),
                true,
            ),
            (
                json!({"name": "c", "image": "quay.example/kubernetes-ingress-controller/nginx-ingress-controller:0.17.1"}),
                true,
            ),
            (json!({"name": "c", "image": "registry:5000/nginx-ingress-controller"}), true),
            (
                json!({"name": "c", "image": "mirror/nginx", "args": ["/nginx-ingress-controller", "--v=2"]}),
                true,
            ),
            (
                json!({"name": "c", "image": "registry.example.org/ingress-nginx/kube-webhook-certgen:v1"}),
                false,
            ),
            (json!({"name": "c", "image": "defaultbackend:1.4"}), false),
            (json!({"name": "c", "image": "example.org/shop/controller:1"}), false),
        ] {
            let found = pod(&container, &json!([]), "True", "Running");
            assert_eq!(found.is_some(), expected, "{container}");
        }
        let container = json!({"name": "c", "args": ["/nginx-ingress-controller"]});
        assert_eq!(pod(&container, &json!([]), "False", "Failed"), None, "it is over");
    }

    #[test]
    fn where_the_template_comes_from() {
        let maps = json!([
            {"name": "plain", "configMap": {"name": "nginx-template"}},
            {"name": "items", "configMap": {"name": "t", "items": [{"key": "a.tmpl", "path": "nginx.tmpl"}]}},
            {"name": "other", "configMap": {"name": "t", "items": [{"key": "a.tmpl", "path": "b"}]}},
            {"name": "projected", "projected": {"sources": [{"configMap": {"name": "p"}}]}},
            {"name": "disk", "emptyDir": {}},
        ]);
        for (mount, expected) in [
            (
                json!({"name": "plain", "mountPath": "/etc/nginx/template/"}),
                Some(("nginx-template", "nginx.tmpl")),
            ),
            (
                json!({"name": "plain", "mountPath": "/etc/nginx/template/nginx.tmpl", "subPath": "mine.tmpl"}),
                Some(("nginx-template", "mine.tmpl")),
            ),
            (json!({"name": "items", "mountPath": "/etc/nginx/template"}), Some(("t", "a.tmpl"))),
            (
                json!({"name": "projected", "mountPath": "/etc/nginx/template"}),
                Some(("p", "nginx.tmpl")),
            ),
            (json!({"name": "other", "mountPath": "/etc/nginx/template"}), None),
            (json!({"name": "disk", "mountPath": "/etc/nginx/template"}), None),
            (json!({"name": "plain", "mountPath": "/etc/nginx"}), None),
        ] {
            let container = json!({
                "name": "c", "args": ["/nginx-ingress-controller"], "volumeMounts": [mount],
            });
            let found = pod(&container, &maps, "True", "Running").expect("a controller");
            let expected = expected.map(|(map, key)| (map.to_owned(), key.to_owned()));
            assert_eq!(found.template, expected, "{mount}");
        }
    }

    #[test]
    fn the_change() {
        for (what, template, expected) in [
            ("the change", CHANGED, true),
            ("none", "location / { proxy_pass x; }", false),
            ("no comparison", "set $a \"{{ index $ing.Annotations \"allowed-values\" }}\";", false),
            ("no annotation", "if ($ssl_client_s_dn != x) { return 403; }", false),
            (
                "only a header",
                "proxy_set_header ssl-client-subject-dn $ssl_client_s_dn; # allowed-values",
                false,
            ),
            ("in comments", "# allowed-values\n# if ($ssl_client_s_dn)", false),
            ("in a comment of several lines", &format!("{{{{/*\n{CHANGED}\n*/}}}}\nx"), false),
            ("in a trimmed one", &format!("{{{{- /* {CHANGED} */ -}}}}"), false),
            ("in one without an end", &format!("{{{{/*\n{CHANGED}"), false),
            ("beside comments", &format!("{{{{/* a\nb */}}}}\n{CHANGED}{{{{/* c */}}}}"), true),
            (
                "compared with something else",
                "set $allowed \"{{ index $ing.Annotations \"allowed-values\" }}\";\nif ($ssl_client_s_dn = \"\") { return 403; }",
                false,
            ),
            (
                "compared with another variable",
                "set $allowed \"{{ index $ing.Annotations \"allowed-values\" }}\";\nif ($ssl_client_s_dn != $allowed_too) { return 403; }",
                false,
            ),
            (
                "something else is compared with it",
                "set $allowed \"{{ index $ing.Annotations \"allowed-values\" }}\";\nif ($ssl_client_s_dn_legacy != $allowed) { return 403; }",
                false,
            ),
            (
                "compared behind a comment",
                "set $allowed \"{{ index $ing.Annotations \"allowed-values\" }}\";\nif ($x) { # $ssl_client_s_dn != $allowed\n}",
                false,
            ),
            (
                "without a variable",
                "if ($ssl_client_s_dn != \"{{ index $ing.Annotations \"allowed-values\" }}\") { return 403; }",
                true,
            ),
            (
                "by a variable of the template",
                "{{- $wanted := index $ing.Annotations \"allowed-values\" }}\nset $allowed \"{{ $wanted }}\";\nif ($allowed != $ssl_client_s_dn) { return 403; }",
                true,
            ),
        ] {
            assert_eq!(tells_clients_apart(template), expected, "{what}");
        }
    }

    #[test]
    fn what_is_a_template() {
        let of = |key: &str| Template {
            config_map: "t".to_owned(),
            key: key.to_owned(),
            tells_apart: true,
        };
        let mounts = |key: &str| Controller {
            template: Some(("t".to_owned(), key.to_owned())),
            ..controller("a", true, None)
        };
        let all = || vec![of("nginx.tmpl"), of("custom"), of("notes.txt")];
        for (controllers, expected) in [
            (None, vec![of("nginx.tmpl")]),
            (Some(vec![mounts("nginx.tmpl")]), vec![of("nginx.tmpl")]),
            // The chart of ingress-nginx lets whoever installs it name the key.
            (Some(vec![mounts("custom")]), vec![of("nginx.tmpl"), of("custom")]),
        ] {
            assert_eq!(the_templates(all(), controllers.as_ref()), expected, "{controllers:?}");
        }
    }

    fn controller(name: &str, is_ready: bool, map: Option<&str>) -> Controller {
        let template = map.map(|map| (map.to_owned(), FILE.to_owned()));
        Controller { name: name.to_owned(), image: "controller:1".to_owned(), is_ready, template }
    }

    fn template(map: &str, tells_apart: bool) -> Template {
        Template { config_map: map.to_owned(), key: FILE.to_owned(), tells_apart }
    }

    #[test]
    fn verdicts() {
        let (good, bare) = (controller("a", true, Some("t")), controller("b", false, None));
        for (verdict, outcome, words) in [
            (judge_runs(&[], "web"), Fail, "no pod of an nginx ingress controller is in web"),
            (
                judge_runs(std::slice::from_ref(&good), "web"),
                Pass,
                "1 of 1 pods in web are ready (controller:1)",
            ),
            (judge_runs(std::slice::from_ref(&bare), "web"), Fail, "0 of 1 pods in web are ready"),
            (
                judge_runs(&[good.clone(), bare.clone()], "web"),
                Warn,
                "1 of 2 pods in web are ready, but not b",
            ),
            (judge_template(&[], "web"), Fail, "no ConfigMap in web has a key nginx.tmpl"),
            (judge_change(&[], &[]), Skipped, "there is no template"),
            // One that is not mounted does not matter beside one that is.
            (
                judge_change(
                    &[template("t", true), template("old", false)],
                    std::slice::from_ref(&good),
                ),
                Pass,
                "it compares",
            ),
            (
                judge_change(&[template("t", false)], std::slice::from_ref(&good)),
                Fail,
                "nginx.tmpl of t: it does not compare",
            ),
            (judge_mounted(&[], &[]), Skipped, "no ingress controller runs"),
            (
                judge_mounted(std::slice::from_ref(&good), &[template("t", true)]),
                Pass,
                "1 of 1 pods",
            ),
            (
                judge_mounted(&[good.clone(), bare.clone()], &[template("t", true)]),
                Fail,
                "1 of 2 pods do not mount it: b has its image's own",
            ),
            (
                judge_mounted(std::slice::from_ref(&good), &[template("u", true)]),
                Fail,
                "a mounts nginx.tmpl of t, which is no such template",
            ),
        ] {
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }
}
