"""The chart is sound, refuses wrong values, and installs what Kustomize does."""

import base64
import difflib
import pathlib
import subprocess
import tempfile
import unittest

import helm_python
import kubernetes_validate
import yaml

import rendered
from rendered import CHART, EXAMPLES, KUSTOMIZE, NAMESPACE, OVERLAYS, chart, composed, overlay, values
from test_kustomize import FOREIGN

# Overlays and the values that mean the same. `default` is the chart's own.
PAIRS = {name: None if name == "default" else name for name in OVERLAYS}

# Kustomize's alone: Helm makes no namespace, and installs CRDs by itself (compared below).
NOT_IN_THE_CHART = {"Namespace", "CustomResourceDefinition"}
# What Helm marks its objects with.
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")
# A hash in the name does the same in Kustomize; or there is nothing to compare with.
HELM_ANNOTATIONS = ("checksum/cluster", "checksum/ca", "helm.sh/resource-policy")


def comparable(found):
    """An object without what differs between Helm and Kustomize by their nature."""
    found = rendered.without_hashes(found)
    places = [found["metadata"]]
    if found["kind"] in ("DaemonSet", "Deployment"):
        places.append(found["spec"]["template"]["metadata"])
        # Order means nothing among these, but for what is passed to the first container.
        pod = found["spec"]["template"]["spec"]
        pod["volumes"].sort(key=lambda it: it["name"])
        for container in pod["containers"]:
            container["env"].sort(key=lambda it: it["name"])
            container["volumeMounts"].sort(key=lambda it: it["name"])
    for metadata in places:
        for key in HELM_LABELS:
            metadata.get("labels", {}).pop(key, None)
        for key in HELM_ANNOTATIONS:
            metadata.get("annotations", {}).pop(key, None)
        if not metadata.get("annotations", True):
            del metadata["annotations"]
    if found["kind"] == "Secret":
        # Made anew by each; ca.crt is how the chart knows its own.
        found["data"] = sorted(set(found["data"]) - {"ca.crt"})
    if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "rollcall-ca":
        found["data"] = sorted(found["data"])
    return found


class Equality(unittest.TestCase):
    maxDiff = None

    def compare(self, what, expected, by_helm):
        by_kustomize = {
            (kind, namespace, rendered.without_hashes(called)): it
            for (kind, namespace, called), it in expected.items()
            if kind not in NOT_IN_THE_CHART
        }
        with self.subTest(what=what):
            self.assertEqual(sorted(by_helm), sorted(by_kustomize))
        for key in sorted(by_kustomize.keys() & by_helm.keys()):
            with self.subTest(what=what, object=key):
                texts = [yaml.safe_dump(comparable(it[key])).splitlines() for it in (by_kustomize, by_helm)]
                difference = "\n".join(difflib.unified_diff(*texts, "kustomize", "helm", lineterm="", n=6))
                self.assertEqual(difference, "", f"\n{difference}")

    def test_the_chart_installs_what_kustomize_does(self):
        for name, example in PAIRS.items():
            self.compare(name, overlay(name), chart(values(example)))

    def test_components_that_are_in_no_overlay_together(self):
        base = {"clusterFile": (KUSTOMIZE / "base/cluster.yaml").read_text()}
        for components, given in (
            (["nvidia", "tls-generated", "operator-token", "host-files"],
             {"agent": {"hostFiles": True, "nvidia": {"enabled": True}}}),
            (["ha", "nvidia", "tls-cert-manager", "stamping-by-aggregator"],
             {"aggregator": {"replicas": 3}, "agent": {"nvidia": {"enabled": True}}, "tls": {"mode": "certManager"},
              "stamping": "aggregator", "operatorToken": {"enabled": False}}),
        ):
            self.compare(components, composed(components), chart({**base, **given}))

    def test_an_example_for_each_overlay(self):
        self.assertEqual({path.stem for path in EXAMPLES.glob("*.yaml")}, set(OVERLAYS) - {"default"})

    def test_the_same_crds(self):
        ours = {path.name: path.read_text() for path in (KUSTOMIZE / "crds").glob("*.yaml") if path.name != "kustomization.yaml"}
        helms = {path.name: path.read_text() for path in (CHART / "crds").iterdir()}
        self.assertEqual(helms, ours, "copy packaging/kubernetes/crds into packaging/helm/rollcall/crds")


class Chart(unittest.TestCase):
    def test_lint(self):
        for example in PAIRS.values():
            report = helm_python.lint(CHART, values(example), strict=True)
            self.assertEqual(report["errors"], [], example)
            # No icon is the one thing that is missed.
            said = [it for it in report["messages"] if it["error"] != "icon is recommended"]
            self.assertEqual(said, [], example)

    def test_schemas(self):
        for example in PAIRS.values():
            for key, found in chart(values(example)).items():
                if found["apiVersion"] not in FOREIGN:
                    with self.subTest(values=example, object=key):
                        kubernetes_validate.validate(found, "1.30", strict=True)

    def test_without_a_cluster_file_nothing_is_installed(self):
        with self.assertRaisesRegex(helm_python.HelmRenderError, "--set-file clusterFile"):
            chart({})

    def test_values_that_are_refused(self):
        good = values()
        for wrong, words in (
            ({"nope": 1}, "nope"),
            ({"store": {"type": "etcd"}}, "/store/type"),
            ({"store": {"sqlite": {"size": "much"}}}, "/store/sqlite/size"),
            ({"tls": {"mode": "none"}}, "/tls/mode"),
            ({"tls": {"generated": {"days": 0}}}, "/tls/generated/days"),
            ({"stamping": "nobody"}, "/stamping"),
            ({"aggregator": {"replicas": 0}}, "/aggregator/replicas"),
            ({"aggregator": {"replicas": "3"}}, "/aggregator/replicas"),
            ({"aggregator": {"listen": "7655"}}, "/aggregator/listen"),
            ({"aggregator": {"interval": "soon"}}, "/aggregator/interval"),
            ({"aggregator": {"logLevel": "loud"}}, "/aggregator/logLevel"),
            ({"aggregator": {"resources": {"limits": {"memory": "512 MB"}}}}, "/aggregator/resources/limits/memory"),
            ({"agent": {"maxUnavailable": "0%"}}, "/agent/maxUnavailable"),
            ({"agent": {"tolerations": [{"operator": "Any"}]}}, "/agent/tolerations/0/operator"),
            ({"agent": {"nvidia": {"enabled": "yes"}}}, "/agent/nvidia/enabled"),
            ({"agent": {"extraEnv": [{"value": "x"}]}}, "/agent/extraEnv/0"),
            ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy"),
            ({"clusterFile": {"cluster": {}}}, "/clusterFile"),
            ({"priorityClass": {"value": 2000000000}}, "/priorityClass/value"),
            ({"prometheusRule": {"runbooks": "docs/runbooks.md"}}, "/prometheusRule/runbooks"),
            ({"grafanaDashboard": {"labels": {"grafana_dashboard": 1}}}, "/grafanaDashboard/labels"),
            ({"store": {"type": "sqlite"}, "aggregator": {"replicas": 3}}, "one writer"),
            ({"priorityClass": {"name": ""}}, "priorityClass.name is empty"),
        ):
            with self.subTest(values=wrong):
                with self.assertRaises(helm_python.HelmError) as refused:
                    chart({**good, **wrong})
                self.assertIn(words, str(refused.exception))

    def test_values_that_change_what_they_say(self):
        def pod(objects, name="rollcall-agent"):
            return rendered.workloads(objects)[name]["spec"]["template"]["spec"]

        def env(objects, name="rollcall-agent"):
            return {it["name"]: it.get("value") for it in pod(objects, name)["containers"][0]["env"]}

        for given, seen, expected in (
            ({"images": {"registry": "registry.example.org/x/", "tag": "9"}},
             lambda it: pod(it)["containers"][0]["image"], "registry.example.org/x/rollcall-agent:9"),
            ({"images": {"pullSecrets": ["mine"]}}, lambda it: pod(it)["imagePullSecrets"], [{"name": "mine"}]),
            ({"agent": {"overwriteLabels": True}}, lambda it: env(it)["ROLLCALL_OVERWRITE_LABELS"], "true"),
            ({"agent": {"logLevel": "debug"}}, lambda it: env(it)["ROLLCALL_LOG_LEVEL"], "debug"),
            ({"agent": {"listen": "[::]:9000"}}, lambda it: pod(it)["containers"][0]["ports"][0]["containerPort"], 9000),
            ({"agent": {"tolerations": []}}, lambda it: pod(it).get("tolerations"), None),
            ({"agent": {"hostFiles": True}}, lambda it: len(pod(it)["volumes"]), 6),
            ({"agent": {"extraNodeAffinity": [{"key": "k", "operator": "Exists"}]}},
             lambda it: pod(it)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
             ["nodeSelectorTerms"][0]["matchExpressions"][-1], {"key": "k", "operator": "Exists"}),
            ({"aggregator": {"interval": "30s"}}, lambda it: env(it, "rollcall-aggregator")["ROLLCALL_INTERVAL"], "30s"),
            ({"aggregator": {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://p:1"}]}},
             lambda it: env(it, "rollcall-aggregator")["HTTPS_PROXY"], "http://p:1"),
            ({"aggregator": {"adminListen": "0.0.0.0:9657"}},
             lambda it: env(it, "rollcall-aggregator")["ROLLCALL_SERVER"], "http://127.0.0.1:9657"),
            ({"operatorToken": {"enabled": False}},
             lambda it: env(it, "rollcall-aggregator").get("ROLLCALL_OPERATOR_TOKEN_FILE"), None),
            ({"operatorToken": {"existingSecret": "mine"}},
             lambda it: (("Secret", NAMESPACE, "rollcall-operator-token") in it,
                         "mine" in yaml.safe_dump(pod(it, "rollcall-aggregator"))), (False, True)),
            ({"tls": {"mode": "existing", "existing": {"secretName": "s", "caConfigMapName": "c"}}},
             lambda it: [v for v in pod(it)["volumes"] if v["name"] == "ca"][0]["configMap"]["name"], "c"),
            ({"tls": {"mode": "certManager", "certManager": {"issuerRef": {"kind": "ClusterIssuer", "name": "corp"}}}},
             lambda it: sorted(key[2] for key in it if key[0] in ("Issuer", "Certificate")),
             ["rollcall-agent", "rollcall-aggregator"]),
            ({"networkPolicy": {"enabled": False}}, lambda it: [key for key in it if key[0] == "NetworkPolicy"], []),
            ({"priorityClass": {"create": False, "name": ""}}, lambda it: pod(it).get("priorityClassName"), None),
            ({"podMonitor": {"enabled": True, "labels": {"release": "p"}}},
             lambda it: it[("PodMonitor", NAMESPACE, "rollcall-agent")]["metadata"]["labels"]["release"], "p"),
        ):
            with self.subTest(values=given):
                self.assertEqual(seen(chart({**values(), **given})), expected)

    def test_certificate_and_ca_belong_together(self):
        objects = chart(values())
        secret = objects[("Secret", NAMESPACE, "rollcall-aggregator-tls")]["data"]
        ca = objects[("ConfigMap", NAMESPACE, "rollcall-ca")]["data"]["ca.crt"]
        with tempfile.TemporaryDirectory(prefix="rollcall-chart-") as folder:
            (pathlib.Path(folder) / "ca.crt").write_text(ca)
            (pathlib.Path(folder) / "tls.crt").write_bytes(base64.b64decode(secret["tls.crt"]))
            done = subprocess.run(
                ["openssl", "verify", "-CAfile", "ca.crt", "-purpose", "sslserver",
                 "-verify_hostname", f"rollcall-aggregator.{NAMESPACE}.svc", "tls.crt"],
                cwd=folder, capture_output=True, text=True, check=False,
            )
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_another_namespace(self):
        text = yaml.safe_dump_all(chart({**values(), "admissionPolicy": {"enabled": True}}, namespace="elsewhere").values())
        self.assertNotIn(NAMESPACE, text)
        self.assertIn("https://rollcall-aggregator.elsewhere.svc:7655", text)
        self.assertIn("system:serviceaccount:elsewhere:rollcall-agent", text)


if __name__ == "__main__":
    unittest.main()
