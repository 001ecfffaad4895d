"""Every overlay builds, fits the schemas of Kubernetes, and keeps to what its pods may do."""

import pathlib
import re
import subprocess
import tempfile
import unittest

import kubernetes_validate
import yaml

import rendered
from rendered import KUSTOMIZE, NAMESPACE, OVERLAYS, composed, overlay

# Kinds of other projects, whose schemas are not at hand.
FOREIGN = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}
# The oldest server that an overlay is for, among those whose schemas are at hand.
OLDEST = {"production": "1.30"}
OLDEST_SCHEMA = "1.25"


def matches(expression, labels):
    """Whether a node with these labels fits one expression of a node selector."""
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(f"operator {expression['operator']} is not known here")


def placed(daemon_set, labels):
    """Whether a DaemonSet runs on a node with these labels."""
    affinity = daemon_set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return any(all(matches(it, labels) for it in term["matchExpressions"]) for term in terms)


class Overlays(unittest.TestCase):
    def test_schemas(self):
        versions = ["1.25", "1.30", kubernetes_validate.latest_version()]
        for name in OVERLAYS:
            for (kind, namespace, called), found in overlay(name).items():
                if found["apiVersion"] in FOREIGN:
                    continue
                for version in versions:
                    if float(version[2:]) < float(OLDEST.get(name, OLDEST_SCHEMA)[2:]):
                        continue
                    with self.subTest(overlay=name, kind=kind, name=called, namespace=namespace, version=version):
                        kubernetes_validate.validate(found, version, strict=True)

    def test_old_servers_get_no_newer_kinds(self):
        # What 1.20 does not serve, by kind and version.
        newer = {"policy/v1", "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy"}
        for name in ("default", "nvidia", "sqlite", "stamping-by-aggregator"):
            for key, found in overlay(name).items():
                version = found["apiVersion"]
                self.assertNotIn(version, newer, (name, key))
                self.assertNotIn(f"{version} {key[0]}", newer, (name, key))
                self.assertNotIn("x-kubernetes-validations", yaml.safe_dump(found), (name, key))

    def test_rules_of_newer_servers_are_there_for_them(self):
        crd = overlay("production")[("CustomResourceDefinition", "", "nodeinventories.rollcall.dev")]
        self.assertIn("oldSelf", yaml.safe_dump(crd))

    def test_every_component_is_in_an_overlay_or_builds_by_itself(self):
        used = set()
        for name in OVERLAYS:
            text = (KUSTOMIZE / "overlays" / name / "kustomization.yaml").read_text()
            used.update(pathlib.Path(it).name for it in yaml.safe_load(text)["components"])
        for component in rendered.COMPONENTS:
            if component not in used:
                with self.subTest(component=component):
                    self.assertNotEqual(composed([component, "tls-generated"]), composed(["tls-generated"]))

    def test_what_is_referred_to_is_there(self):
        optional = {"rollcall-targets"}
        # What cert-manager makes.
        by_cert_manager = {"rollcall-aggregator-tls", "rollcall-agent-tls"}
        for name in OVERLAYS:
            objects = overlay(name)
            there = {(kind, called) for kind, _, called in objects} | {("Secret", it) for it in optional}
            if any(kind == "Certificate" for kind, _, _ in objects):
                there |= {("Secret", it) for it in by_cert_manager}
            for workload, found in rendered.workloads(objects).items():
                pod = found["spec"]["template"]["spec"]
                wanted = [("ServiceAccount", pod["serviceAccountName"]), ("PriorityClass", pod["priorityClassName"])]
                for volume in pod["volumes"]:
                    if "secret" in volume:
                        wanted.append(("Secret", volume["secret"]["secretName"]))
                    if "configMap" in volume:
                        wanted.append(("ConfigMap", volume["configMap"]["name"]))
                    if "persistentVolumeClaim" in volume:
                        wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
                for it in wanted:
                    self.assertIn(it, there, (name, workload))

    def test_selectors_find_their_pods_alone(self):
        for name in OVERLAYS:
            objects = overlay(name)
            pods = {it: found["spec"]["template"]["metadata"]["labels"] for it, found in rendered.workloads(objects).items()}

            def chosen(selector):
                return {it for it, labels in pods.items() if selector.items() <= labels.items()}

            for workload, found in rendered.workloads(objects).items():
                self.assertEqual(chosen(found["spec"]["selector"]["matchLabels"]), {workload}, name)
            all_agents = set(rendered.agents(objects))
            for key, found in objects.items():
                expected = all_agents if key[2].endswith("-agent") else {"rollcall-aggregator"}
                match key[0]:
                    case "Service":
                        self.assertEqual(chosen(found["spec"]["selector"]), expected, (name, key))
                    case "NetworkPolicy":
                        self.assertEqual(chosen(found["spec"]["podSelector"]["matchLabels"]), expected, (name, key))
                    case "PodMonitor" | "PodDisruptionBudget":
                        self.assertEqual(chosen(found["spec"]["selector"]["matchLabels"]), expected, (name, key))

    def test_named_ports_exist(self):
        for name in OVERLAYS:
            objects = overlay(name)
            ports = {
                it: {port["name"] for port in found["spec"]["template"]["spec"]["containers"][0]["ports"]}
                for it, found in rendered.workloads(objects).items()
            }
            service = objects[("Service", NAMESPACE, "rollcall-aggregator")]
            for port in service["spec"]["ports"]:
                self.assertIn(port["targetPort"], ports["rollcall-aggregator"], name)
            for workload in ("agent", "aggregator"):
                there = ports[f"rollcall-{workload}"]
                policy = objects[("NetworkPolicy", NAMESPACE, f"rollcall-{workload}")]
                for ingress in policy["spec"]["ingress"]:
                    self.assertLessEqual({port["port"] for port in ingress["ports"]}, there, (name, workload))
                monitor = objects.get(("PodMonitor", NAMESPACE, f"rollcall-{workload}"))
                for endpoint in monitor["spec"]["podMetricsEndpoints"] if monitor else []:
                    self.assertIn(endpoint["port"], there, (name, workload))

    def test_images_can_be_overridden(self):
        root = rendered._copy()[1]
        with tempfile.TemporaryDirectory(dir=root / "overlays") as folder:
            (pathlib.Path(folder) / "kustomization.yaml").write_text(
                "resources: [../nvidia]\nimages:\n"
                + "".join(
                    f"  - {{name: rollcall.dev/rollcall-{it}, newName: registry.example.org/{it}, newTag: '9'}}\n"
                    for it in ("agent", "aggregator")
                )
            )
            objects = rendered._objects(rendered.run(["kubectl", "kustomize", folder]), folder)
        images = {it["spec"]["template"]["spec"]["containers"][0]["image"] for it in rendered.workloads(objects).values()}
        self.assertEqual(images, {"registry.example.org/agent:9", "registry.example.org/aggregator:9"})


class Pods(unittest.TestCase):
    """What the pods may do, in every overlay."""

    def each(self):
        for name in OVERLAYS:
            for workload, found in rendered.workloads(overlay(name)).items():
                yield (name, workload), found["spec"]["template"]["spec"]

    def test_restricted_but_for_the_host_s_files(self):
        for where, pod in self.each():
            for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers", "ephemeralContainers"):
                self.assertNotIn(key, pod, where)
            security = pod["securityContext"]
            self.assertIs(security["runAsNonRoot"], True, where)
            self.assertEqual((security["runAsUser"], security["runAsGroup"]), (65532, 65532), where)
            self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"}, where)
            self.assertEqual(len(pod["containers"]), 1, where)
            expected = {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            self.assertEqual(pod["containers"][0]["securityContext"], expected, where)
            for port in pod["containers"][0]["ports"]:
                self.assertNotIn("hostPort", port, where)

    def test_the_host_is_mounted_read_only(self):
        for where, pod in self.each():
            paths = {it["name"]: it["hostPath"] for it in pod["volumes"] if "hostPath" in it}
            expected = {"/proc": "Directory", "/sys": "Directory"} if "agent" in where[1] else {}
            self.assertEqual({it["path"]: it["type"] for it in paths.values()}, expected, where)
            for mount in pod["containers"][0]["volumeMounts"]:
                if mount["name"] in paths:
                    self.assertIs(mount["readOnly"], True, where)
                    self.assertEqual(mount["mountPath"], "/host" + paths[mount["name"]]["path"], where)

    def test_files_of_the_host_are_never_created(self):
        objects = composed(["nvidia", "host-files", "tls-generated"])
        for name, found in rendered.agents(objects).items():
            paths = {it["hostPath"]["path"]: it["hostPath"]["type"] for it in found["spec"]["template"]["spec"]["volumes"] if "hostPath" in it}
            self.assertEqual({it for it, kind in paths.items() if kind == "File"}, {"/etc/machine-id", "/etc/os-release"}, name)
            self.assertEqual({it for it, kind in paths.items() if kind == "Directory"}, {"/proc", "/sys"}, name)

    def test_no_agent_s_node_may_read_the_aggregator_s_key(self):
        for name in OVERLAYS:
            objects = rendered.without_hashes(overlay(name))
            for agent, found in rendered.agents(objects).items():
                secrets = [it["secret"] for it in found["spec"]["template"]["spec"]["volumes"] if "secret" in it]
                for secret in secrets:
                    self.assertEqual(secret["secretName"], "rollcall-agent-tls", (name, agent))
                    self.assertEqual(secret["items"], [{"key": "ca.crt", "path": "ca.crt"}], (name, agent))
                self.assertNotIn("rollcall-aggregator-tls", yaml.safe_dump(found), (name, agent))

    def test_secrets_are_not_for_everybody(self):
        for where, pod in self.each():
            for volume in pod["volumes"]:
                if "projected" in volume or ("secret" in volume and "items" not in volume["secret"]):
                    mode = (volume.get("secret") or volume["projected"])["defaultMode"]
                    self.assertEqual(mode, 0o440, (where, volume["name"]))
            self.assertEqual(pod["securityContext"]["fsGroup"], 65532, where)

    def test_reports_have_a_token_of_their_own(self):
        for where, pod in self.each():
            tokens = [
                source["serviceAccountToken"]
                for volume in pod["volumes"]
                for source in volume.get("projected", {}).get("sources", [])
            ]
            expected = [{"path": "token", "audience": "rollcall", "expirationSeconds": 3600}]
            self.assertEqual(tokens, expected if "agent" in where[1] else [], where)

    def test_tokens_of_the_api_s_are_mounted_where_they_are_used(self):
        for (name, workload), pod in self.each():
            is_idle = "agent" in workload and name == "stamping-by-aggregator"
            self.assertIs(pod["automountServiceAccountToken"], not is_idle, (name, workload))

    def test_the_certificate_is_for_the_name_that_agents_ask_for(self):
        url = f"https://rollcall-aggregator.{NAMESPACE}.svc:7655"
        for (name, workload), pod in self.each():
            if "agent" in workload:
                env = {it["name"]: it.get("value") for it in pod["containers"][0]["env"]}
                self.assertEqual(env["ROLLCALL_AGGREGATOR"], url, (name, workload))
        certificate = overlay("production")[("Certificate", NAMESPACE, "rollcall-aggregator")]
        self.assertIn(f"rollcall-aggregator.{NAMESPACE}.svc", certificate["spec"]["dnsNames"])

    def test_no_node_has_two_agents_and_none_that_counts_has_none(self):
        linux = {"kubernetes.io/os": "linux"}
        gpu = {**linux, "nvidia.com/gpu.present": "true"}
        for labels, with_nvidia, without in (
            (linux, "rollcall-agent", "rollcall-agent"),
            (gpu, "rollcall-agent-nvidia", "rollcall-agent"),
            ({**linux, "nvidia.com/gpu.present": "false"}, "rollcall-agent", "rollcall-agent"),
            ({**linux, "type": "gpu-box"}, "rollcall-agent", "rollcall-agent"),
            ({**linux, "eks.amazonaws.com/compute-type": "ec2"}, "rollcall-agent", "rollcall-agent"),
            ({"kubernetes.io/os": "windows"}, None, None),
            ({}, None, None),
            ({**linux, "type": "virtual-kubelet"}, None, None),
            ({**gpu, "type": "virtual-kubelet"}, None, None),
            ({**linux, "virtual-node.interlink/type": "virtual-kubelet"}, None, None),
            ({**linux, "liqo.io/type": "virtual-node"}, None, None),
            ({**linux, "virtual-kubelet.io/provider": "azure"}, None, None),
            ({**linux, "eks.amazonaws.com/compute-type": "fargate"}, None, None),
        ):
            for name, expected in (("nvidia", with_nvidia), ("default", without)):
                found = [it for it, daemon_set in rendered.agents(overlay(name)).items() if placed(daemon_set, labels)]
                self.assertEqual(found, [expected] if expected else [], (name, labels))

    def test_no_token_goes_over_plain_http(self):
        for where, pod in self.each():
            settings = {it["name"] for it in pod["containers"][0]["env"]}
            self.assertFalse([it for it in settings if it.endswith("INSECURE_HTTP")], where)
            if where[1] == "rollcall-aggregator":
                self.assertLessEqual({"ROLLCALL_TLS_CERT", "ROLLCALL_TLS_KEY"}, settings, where)

    def test_every_taint_is_tolerated(self):
        for (name, workload), pod in self.each():
            if "agent" in workload:
                self.assertEqual(pod["tolerations"], [{"operator": "Exists"}], (name, workload))

    def test_the_gpu_pods_get_nvidia_s_library(self):
        pod = rendered.agents(overlay("nvidia"))["rollcall-agent-nvidia"]["spec"]["template"]["spec"]
        self.assertEqual(pod["runtimeClassName"], "nvidia")
        env = {it["name"]: it.get("value") for it in pod["containers"][0]["env"]}
        self.assertEqual(env["NVIDIA_VISIBLE_DEVICES"], "all")
        self.assertEqual(env["NVIDIA_DRIVER_CAPABILITIES"], "utility")
        self.assertEqual(env["ROLLCALL_REQUIRE_GPUS"], "true")
        plain = rendered.agents(overlay("nvidia"))["rollcall-agent"]["spec"]["template"]["spec"]
        self.assertNotIn("runtimeClassName", plain)


class Store(unittest.TestCase):
    def test_sqlite_has_one_writer(self):
        objects = overlay("sqlite")
        spec = objects[("Deployment", NAMESPACE, "rollcall-aggregator")]["spec"]
        self.assertEqual((spec["replicas"], spec["strategy"]), (1, {"type": "Recreate"}))
        env = {it["name"]: it.get("value") for it in spec["template"]["spec"]["containers"][0]["env"]}
        self.assertTrue(env["ROLLCALL_STORE"].startswith("sqlite:/var/lib/rollcall/"))
        self.assertEqual(env["ROLLCALL_KUBERNETES"], "true")
        self.assertFalse([key for key in objects if key[0] == "CustomResourceDefinition"])

    def test_replicas_take_over_before_the_last_one_goes(self):
        for name in ("default", "production"):
            spec = overlay(name)[("Deployment", NAMESPACE, "rollcall-aggregator")]["spec"]
            self.assertEqual(spec["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0}, name)


class Certificates(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="rollcall-certificates-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def generate(self):
        return rendered.run([str(KUSTOMIZE / "components/tls-generated/generate.sh"), str(self.folder)])

    def read(self):
        return {path.name: path.read_text() for path in self.folder.iterdir()}

    def test_made_once(self):
        self.generate()
        first = self.read()
        self.assertEqual(set(first), {"ca.crt", "ca.key", "tls.crt", "tls.key"})
        for name in ("ca.key", "tls.key"):
            self.assertEqual((self.folder / name).stat().st_mode & 0o777, 0o600, name)
        self.generate()
        self.assertEqual(self.read(), first)

    def test_a_new_certificate_of_the_same_ca_and_a_new_ca(self):
        self.generate()
        first = self.read()
        (self.folder / "tls.crt").unlink()
        self.generate()
        second = self.read()
        self.assertEqual(second["ca.crt"], first["ca.crt"])
        self.assertNotEqual(second["tls.crt"], first["tls.crt"])
        (self.folder / "ca.crt").unlink()
        self.generate()
        third = self.read()
        self.assertNotEqual(third["ca.crt"], first["ca.crt"])
        self.assertNotEqual(third["tls.crt"], second["tls.crt"])

    def test_a_lost_key_is_told(self):
        self.generate()
        (self.folder / "tls.crt").unlink()
        (self.folder / "ca.key").unlink()
        with self.assertRaisesRegex(AssertionError, "the CA's key is not here"):
            self.generate()

    def test_what_it_is_good_for(self):
        self.generate()
        text = rendered.run(["openssl", "x509", "-in", str(self.folder / "tls.crt"), "-noout", "-text"])
        for words in (
            f"DNS:rollcall-aggregator.{NAMESPACE}.svc,",
            "TLS Web Server Authentication",
            "CA:FALSE",
        ):
            self.assertIn(words, text)
        for host, is_good in ((f"rollcall-aggregator.{NAMESPACE}.svc", True), ("example.org", False)):
            done = subprocess.run(
                ["openssl", "verify", "-CAfile", "ca.crt", "-purpose", "sslserver", "-verify_hostname", host, "tls.crt"],
                cwd=self.folder, capture_output=True, text=True, check=False,
            )
            self.assertEqual(done.returncode == 0, is_good, (host, done.stderr))


class CustomResources(unittest.TestCase):
    """What the API server asks of a structural schema, which it would otherwise say at the installation."""

    def schemas(self):
        for path in sorted((KUSTOMIZE / "crds").glob("*.yaml")):
            if path.name == "kustomization.yaml":
                continue
            crd = yaml.safe_load(path.read_text())
            for version in crd["spec"]["versions"]:
                yield path.name, crd, version

    def test_structural(self):
        def check(schema, where):
            self.assertIn("type", schema, where)
            for name, inner in schema.get("properties", {}).items():
                check(inner, f"{where}.{name}")
            if schema["type"] == "array":
                check(schema["items"], f"{where}[]")
            if schema["type"] == "object" and "properties" not in schema:
                known = schema.get("x-kubernetes-preserve-unknown-fields") or where.endswith(".metadata")
                self.assertTrue(known, f"{where}: everything in it would be pruned")

        for name, _, version in self.schemas():
            check(version["schema"]["openAPIV3Schema"], name)

    def test_columns_show_what_is_there(self):
        for name, _, version in self.schemas():
            for column in version["additionalPrinterColumns"]:
                schema = version["schema"]["openAPIV3Schema"]
                for part in column["jsonPath"].strip(".").split("."):
                    self.assertIn(part, schema["properties"], (name, column["name"]))
                    schema = schema["properties"][part]
                kind = "string" if column["type"] == "date" else column["type"]
                self.assertEqual(schema["type"], kind, (name, column["name"]))

    def test_ids_are_label_values(self):
        crd = yaml.safe_load((KUSTOMIZE / "crds/nodeinventories.yaml").read_text())
        spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        pattern = re.compile(spec["properties"]["nodeID"]["pattern"])
        for text, is_good in (
            ("n1", True), ("N_1.x-y", True), ("a", True), ("-a", False), ("a-", False), ("", False), ("a b", False), ("ä", False),
        ):
            self.assertEqual(bool(pattern.search(text)), is_good, text)


if __name__ == "__main__":
    unittest.main()
