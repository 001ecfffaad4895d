"""Rules, dashboard and runbooks: they ask for metrics that there are, and belong together.

What there is stands in docs/metrics.md, which a test compares with what the programs export. Prometheus' own promtool
says whether rules are sound and do what their tests say.
"""

import dataclasses
import json
import re
import subprocess
import tempfile
import unittest

import helm_python
import promql_parser
import yaml

import rendered
from rendered import CHART, NAMESPACE, REPOSITORY, chart, composed, values

RULES = REPOSITORY / "packaging/prometheus"
TESTS = sorted((RULES / "tests").glob("*.yaml"))
DASHBOARD_FILE = REPOSITORY / "packaging/grafana/rollcall.json"
DASHBOARD = json.loads(DASHBOARD_FILE.read_text())
RUNBOOKS = (REPOSITORY / "docs/runbooks.md").read_text()

# Labels that Prometheus gives each series, and the one that tells several clusters apart where a site has it.
EVERYWHERE = {"job", "instance", "cluster"}
# Prometheus' own metrics.
BY_PROMETHEUS = {"up": {}, "ALERTS": {"alertname": None, "alertstate": {"firing", "pending"}}}
# What comes with Grafana.
BUILT_IN = {"row", "stat", "table", "timeseries", "state-timeline", "bargauge"}


def _rules(name):
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in _rules("alerts.yaml")}
RECORDED = {rule["record"]: rule for rule in _rules("recording.yaml")}


def exported():
    """Each metric of docs/metrics.md with its labels, and of each label the values, or None where any may come."""
    found = {}
    for line in (REPOSITORY / "docs/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 4 or cells[1] not in ("gauge", "counter", "histogram"):
            continue
        name = cells[0].strip("`")
        labels = {}
        for label, listed in re.findall(r"`(\w+)`(?: \(([^)]*)\))?", cells[2]):
            labels[label] = set(re.findall(r"`([^`]*)`", listed)) or None
        names = [name]
        if cells[1] == "histogram":
            names = [f"{name}_sum", f"{name}_count"]
            found[f"{name}_bucket"] = {**labels, "le": None}
        for it in names:
            found[it] = labels
    return found


def words(op):
    """An operator of the parser's, as it is written."""
    return str(op).lower()


def children(node):
    """The expressions that an expression is made of."""
    match node:
        case promql_parser.AggregateExpr():
            return [node.expr] + ([node.param] if node.param is not None else [])
        case promql_parser.BinaryExpr():
            return [node.lhs, node.rhs]
        case promql_parser.Call():
            return list(node.args)
        case promql_parser.MatrixSelector():
            return [node.vector_selector]
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            return [node.expr]
        case promql_parser.VectorSelector() | promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return []
    raise AssertionError(f"{type(node).__name__} is not known here")


@dataclasses.dataclass
class Query:
    """A query, and what it says of metrics and labels."""

    where: str
    text: str

    def __post_init__(self):
        # What Grafana puts in before it asks.
        asked = self.text.replace("$__rate_interval", "5m").replace("$__range", "1h")
        self.root = promql_parser.parse(asked)
        self.selectors = []
        self.labels = set()
        self._walk(self.root, [])

    def _walk(self, node, above):
        if isinstance(node, promql_parser.VectorSelector):
            self.selectors.append((node, above))
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
            self.labels.update(modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and modifier is not None:
            if modifier.matching is not None:
                self.labels.update(modifier.matching.labels)
            self.labels.update(modifier.group_labels or [])
        for child in children(node):
            self._walk(child, [*above, node])


def queries():
    """Every query of rules and dashboard."""
    for name, rule in {**ALERTS, **RECORDED}.items():
        yield Query(name, rule["expr"])
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"] if panel["type"] != "row" else []:
            yield Query(f"panel {panel['title']!r}, {target['refId']}", target["expr"])


def known():
    """Every name that a query may ask for, with its labels."""
    names = {**exported(), **BY_PROMETHEUS}
    for name, rule in RECORDED.items():
        outermost = promql_parser.parse(rule["expr"])
        given = {label: listed for selector, _ in Query(name, rule["expr"]).selectors
                 for label, listed in names[selector.name].items()}
        names[name] = {label: given.get(label) for label in outermost.modifier.labels if label not in EVERYWHERE}
    # An alert keeps the labels of its expression.
    for name, rule in ALERTS.items():
        for label in Query(name, rule["expr"]).labels:
            names["ALERTS"].setdefault(label, None)
        for label, value in rule["labels"].items():
            names["ALERTS"].setdefault(label, set()).add(value)
    return names


def seconds(text):
    """A duration of Prometheus'."""
    size = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(int(number) * size[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))


class Queries(unittest.TestCase):
    def test_the_reference_is_understood(self):
        found = exported()
        self.assertGreater(len(found), 60)
        self.assertIn("registered", found["rollcall_aggregator_target_phase"]["phase"])
        self.assertIn("le", found["rollcall_agent_probe_duration_seconds_bucket"])
        self.assertNotIn("rollcall_agent_probe_duration_seconds", found)

    def test_they_ask_for_what_there_is(self):
        names = known()
        for query in queries():
            there = set(EVERYWHERE)
            with self.subTest(query=query.where):
                for selector, _ in query.selectors:
                    self.assertIn(selector.name, names)
                    labels = names[selector.name]
                    there.update(labels)
                    for matcher in selector.matchers.matchers:
                        if matcher.name in EVERYWHERE:
                            continue
                        self.assertIn(matcher.name, labels, selector.name)
                        listed = labels[matcher.name]
                        # Each word of `a|b` must be one that can come.
                        for word in matcher.value.split("|") if listed is not None else []:
                            self.assertIn(word, listed, f"{selector.name}, {matcher.name}")
                self.assertLessEqual(query.labels, there)

    def test_replicas_do_not_multiply_what_they_tell(self):
        # What each replica tells of the same thing; counters are each replica's own.
        shared = re.compile(r"rollcall_(node_|aggregator_(nodes|\w+_nodes|target_(?!requests_total|drifts_total|request_duration)))")
        seen = 0
        for query in queries():
            for selector, above in query.selectors:
                if not shared.match(selector.name):
                    continue
                seen += 1
                folded = [words(it.op) for it in above if isinstance(it, promql_parser.AggregateExpr)]
                with self.subTest(query=query.where, metric=selector.name):
                    self.assertTrue(folded and folded[-1] == "max", folded)
        self.assertGreater(seen, 60)

    def test_targets_are_told_of_by_the_leader(self):
        # As of its last change on a replica that does not lead. The others are absent there, or everywhere the same.
        own = re.compile(r"rollcall_aggregator_target_(\w*phase|since|next_try|reverts|awaits_approval|kept|different)")
        seen = 0
        for query in queries():
            for selector, above in query.selectors:
                if not own.match(selector.name):
                    continue
                seen += 1
                joined = [it for it in above if isinstance(it, promql_parser.BinaryExpr) and words(it.op) == "and"
                          and "rollcall_aggregator_leads" in str(it.rhs)]
                with self.subTest(query=query.where, metric=selector.name):
                    self.assertTrue(joined)
                    self.assertEqual({"cluster", "job", "instance"}, set(joined[-1].modifier.matching.labels))
        self.assertGreater(seen, 20)

    def test_clusters_of_one_prometheus_are_told_apart(self):
        for name, rule in {**ALERTS, **RECORDED}.items():
            for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
                with self.subTest(rule=name, by=labels):
                    self.assertIn("cluster", labels.split(", "))
        # An address such as 127.0.0.1:7657 may be there in each. Only what is there at all may be asked of all clusters.
        joins = 0
        for query in queries():
            for labels in filter(None, re.findall(r"\bon \(([^)]*)\)", query.text)):
                joins += 1
                with self.subTest(query=query.where, on=labels):
                    self.assertIn("cluster", labels.split(", "))
        self.assertGreater(joins, 30)

    def test_names_of_totals_say_what_they_are(self):
        for name, rule in RECORDED.items():
            with self.subTest(record=name):
                level, metric, operation = name.split(":")
                outermost = promql_parser.parse(rule["expr"])
                self.assertEqual(sorted(level.split("_")), sorted(outermost.modifier.labels))
                self.assertEqual(operation, words(outermost.op))
                self.assertIn(metric, {selector.name for selector, _ in Query(name, rule["expr"]).selectors})
        used = {selector.name for query in queries() for selector, _ in query.selectors}
        self.assertLessEqual(set(RECORDED), used, "nobody uses it")


    def test_prometheus_takes_those_of_the_dashboard(self):
        asked = [{"record": f"q{number}", "expr": query.text.replace("$__rate_interval", "5m")}
                 for number, query in enumerate(queries()) if query.where.startswith("panel ")]
        self.assertGreater(len(asked), 80)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="rollcall-queries-") as file:
            yaml.safe_dump({"groups": [{"name": "queries", "rules": asked}]}, file)
            file.flush()
            rendered.run(["promtool", "check", "rules", file.name])


class Rules(unittest.TestCase):
    def test_promtool_finds_them_sound(self):
        for name in ("alerts.yaml", "recording.yaml"):
            self.assertIn("SUCCESS", rendered.run(["promtool", "check", "rules", "--lint-fatal", str(RULES / name)]))

    def test_they_do_what_their_tests_say(self):
        for path in TESTS:
            with self.subTest(tests=path.name):
                done = subprocess.run(["promtool", "test", "rules", path.name], cwd=path.parent,
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_each_alert_is_seen_to_fire_and_clear_and_not_to_fire(self):
        clears, steady = set(), set()
        for path in TESTS:
            for case in yaml.safe_load(path.read_text())["tests"]:
                looks = {}
                for look in case.get("alert_rule_test", []):
                    looks.setdefault(look["alertname"], []).append((seconds(look["eval_time"]), bool(look["exp_alerts"])))
                for name, seen in looks.items():
                    fires = [is_firing for _, is_firing in sorted(seen)]
                    if True not in fires:
                        steady.add(name)
                    elif False in fires[fires.index(True):]:
                        clears.add(name)
        self.assertEqual(set(ALERTS), clears, "an alert must be seen to fire and then to clear in one case")
        self.assertEqual(set(ALERTS), steady, "a case in which it nearly fires, and does not")

    def test_each_total_is_seen(self):
        seen = set()
        for path in TESTS:
            for case in yaml.safe_load(path.read_text())["tests"]:
                seen.update(look["expr"] for look in case.get("promql_expr_test", []) if look["exp_samples"])
        self.assertEqual(set(RECORDED), seen)

    def test_alerts_say_what_they_know(self):
        names = known()
        for name, rule in ALERTS.items():
            with self.subTest(alert=name):
                self.assertEqual({"severity"}, set(rule["labels"]))
                self.assertIn(rule["labels"]["severity"], ("critical", "warning", "info"))
                self.assertEqual({"summary", "description", "runbook_url"}, set(rule["annotations"]))
                self.assertGreater(seconds(rule["for"]), 0)
                there = EVERYWHERE | {label for selector, _ in Query(name, rule["expr"]).selectors for label in names[selector.name]}
                asked = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
                self.assertLessEqual(asked, there)

    def test_commands_in_texts_exist(self):
        if rendered.programs() is None:
            self.skipTest("ROLLCALL_PROGRAMS names no folder with the built programs")
        told = rendered.run([str(rendered.programs() / "rollcall-aggregator"), "--help"], env={})
        commands = set(re.findall(r"^  ([a-z]+) ", told, re.M))
        texts = [rule["annotations"]["description"] for rule in ALERTS.values()]
        # What stands in a block or is quoted, in the runbooks; a sentence has the program's name, too.
        block = r"(?ms)^```sh$(.*?)^```$"
        texts += re.findall(block, RUNBOOKS)
        texts += [" ".join(it.split()) for it in re.findall(r"`([^`]*)`", re.sub(block, "", RUNBOOKS))]
        text = re.sub(r"\{\{.*?\}\}", " ", "\n".join(texts))
        asked = set(re.findall(r"rollcall-aggregator +([a-z]+)\b", text))
        self.assertGreater(len(asked), 8)
        self.assertEqual(set(), asked - commands)


class Runbooks(unittest.TestCase):
    def test_each_alert_has_a_section_and_links_to_it(self):
        sections = re.findall(r"(?m)^## (Rollcall\w+)$", RUNBOOKS)
        self.assertEqual(sorted(ALERTS), sorted(sections))
        bases = set()
        for name, rule in ALERTS.items():
            base, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            bases.add(base)
            self.assertEqual(name.lower(), anchor)
        self.assertEqual(1, len(bases), "one place to change")
        # Where it is explained, and what the chart puts another in place of.
        base = bases.pop()
        self.assertIn(base, RUNBOOKS)
        self.assertEqual(base, yaml.safe_load((CHART / "values.yaml").read_text())["prometheusRule"]["runbooks"])
        self.assertIn(f'"{base}"', (CHART / "templates/prometheus-rules.yaml").read_text())


class Dashboard(unittest.TestCase):
    def panels(self):
        return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

    def test_it_can_be_imported(self):
        self.assertGreaterEqual(DASHBOARD["schemaVersion"], 39)
        self.assertIsNone(DASHBOARD["id"])
        self.assertLessEqual({panel["type"] for panel in DASHBOARD["panels"]}, BUILT_IN)
        variables = {it["name"]: it for it in DASHBOARD["templating"]["list"]}
        self.assertEqual("datasource", variables["datasource"]["type"])
        text = json.dumps({**DASHBOARD, "annotations": None})
        self.assertEqual({"${datasource}"}, set(re.findall(r'"uid": "([^"]*)"', text)) - {DASHBOARD["uid"]})
        macros = {"__rate_interval", "__range"}
        asked = set(re.findall(r"\$\{?(\w+)", " ".join(target["expr"] for it in self.panels() for target in it["targets"])))
        self.assertLessEqual(asked, set(variables) | macros)

    def test_panels_are_told_apart(self):
        everything = DASHBOARD["panels"]
        ids = [panel["id"] for panel in everything]
        self.assertEqual(len(ids), len(set(ids)))
        taken = {}
        for panel in everything:
            with self.subTest(panel=panel["title"]):
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24)
                for x in range(place["x"], place["x"] + place["w"]):
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertNotIn((x, y), taken, taken.get((x, y)))
                        taken[x, y] = panel["title"]
        for panel in self.panels():
            with self.subTest(panel=panel["title"]):
                self.assertTrue(panel["description"])
                refs = [target["refId"] for target in panel["targets"]]
                self.assertTrue(refs)
                self.assertEqual(len(refs), len(set(refs)))

    def test_every_phase_has_its_word(self):
        phases = exported()
        for title, metric in (("Phase of each target", "rollcall_aggregator_target_phase"),
                              ("Infrastructure of each target", "rollcall_aggregator_target_infrastructure_phase")):
            panel = next(it for it in self.panels() if it["title"] == title)
            mapped = {it["text"] for it in panel["fieldConfig"]["defaults"]["mappings"][0]["options"].values()}
            asked = set(re.findall(r'phase="([\w-]+)"', panel["targets"][0]["expr"]))
            self.assertEqual((phases[metric]["phase"],) * 2, (mapped, asked), title)

    def test_what_is_not_known_is_not_shown_as_right(self):
        for panel in self.panels():
            if panel["type"] != "stat":
                continue
            defaults = panel["fieldConfig"]["defaults"]
            with self.subTest(panel=panel["title"]):
                self.assertEqual("not known", defaults["noValue"])
                shown = [it["options"]["result"] for it in defaults["mappings"] if it["options"].get("match") == "null+nan"]
                self.assertEqual([("not known", "#808080")], [(it["text"], it["color"]) for it in shown])
                # The last value of a range may be hours old.
                self.assertEqual([True], [target["instant"] for target in panel["targets"]])

    def test_what_a_table_names_it_asks_for(self):
        for panel in self.panels():
            for step in panel.get("transformations", []):
                renamed = step["options"].get("renameByName", {})
                refs = {target["refId"] for target in panel["targets"]}
                asked = {name.removeprefix("Value #") for name in renamed if name.startswith("Value #")}
                with self.subTest(panel=panel["title"]):
                    self.assertLessEqual(asked, refs)
                    named = {it["matcher"]["options"] for it in panel["fieldConfig"]["overrides"]} & set(renamed)
                    self.assertEqual(set(), named, "overrides go by the names that are shown")


class Shipped(unittest.TestCase):
    """Kustomize and Helm have what is in packaging/prometheus and packaging/grafana."""

    def test_rules(self):
        installed = composed(["prometheus-rule", "tls-generated"])
        for name in ("alerts", "recording"):
            spec = installed[("PrometheusRule", NAMESPACE, f"rollcall-{name}")]["spec"]
            self.assertEqual(yaml.safe_load((RULES / f"{name}.yaml").read_text()), spec, "run packaging/monitoring.sh")

    def test_dashboard(self):
        installed = composed(["grafana-dashboard", "tls-generated"])[("ConfigMap", NAMESPACE, "rollcall-dashboard")]
        self.assertEqual({"rollcall.json": DASHBOARD_FILE.read_text()}, installed["data"])
        self.assertEqual("1", installed["metadata"]["labels"]["grafana_dashboard"])
        # kubectl apply notes the whole object in an annotation, which has room for 256 KiB.
        self.assertLess(len(json.dumps(installed)), 230_000)

    def test_the_chart_has_them_from_its_folder_and_from_its_package(self):
        asked = {**values(), "prometheusRule": {"enabled": True}, "grafanaDashboard": {"enabled": True}}
        with tempfile.TemporaryDirectory(prefix="rollcall-chart-") as folder:
            for path in (CHART, helm_python.package(CHART, destination=folder)):
                installed = chart(asked, path=path)
                with self.subTest(path=path):
                    for name in ("alerts", "recording"):
                        spec = installed[("PrometheusRule", NAMESPACE, f"rollcall-{name}")]["spec"]
                        self.assertEqual(yaml.safe_load((RULES / f"{name}.yaml").read_text()), spec)
                    dashboard = installed[("ConfigMap", NAMESPACE, "rollcall-dashboard")]
                    self.assertEqual({"rollcall.json": DASHBOARD_FILE.read_text()}, dashboard["data"])

    def test_off_unless_asked_for(self):
        kinds = {key[0] for key in chart(values())} | {key[2] for key in chart(values())}
        self.assertNotIn("PrometheusRule", kinds)
        self.assertNotIn("rollcall-dashboard", kinds)

    def test_runbooks_may_be_elsewhere(self):
        given = {"prometheusRule": {"enabled": True, "labels": {"release": "p"}, "runbooks": "https://wiki.example.org/rollcall"}}
        rules = chart({**values(), **given})[("PrometheusRule", NAMESPACE, "rollcall-alerts")]
        self.assertEqual("p", rules["metadata"]["labels"]["release"])
        for group in rules["spec"]["groups"]:
            for rule in group["rules"]:
                self.assertEqual(f"https://wiki.example.org/rollcall#{rule['alert'].lower()}", rule["annotations"]["runbook_url"])


if __name__ == "__main__":
    unittest.main()
