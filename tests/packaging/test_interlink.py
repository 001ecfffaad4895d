"""The Helm values that rollcall prints for interLink come out right where a chart renders them.

The chart here is a snippet of our own: the part of a ConfigMap that takes the certificate, indented in each
of the ways that charts do it. Needs the built programs (ROLLCALL_PROGRAMS).
"""

import pathlib
import tempfile
import unittest

import helm_python
import yaml

import rendered

# How a chart puts the certificate there, below `    KubernetesApiCaCrt: |` in a text that is indented by 4.
ALL_LINES = "{{ .Values.interlink.kubernetesApiCaCrt | indent 6 }}"
FIRST_LINE_ALONE = "      {{ .Values.interlink.kubernetesApiCaCrt }}"
FIRST_LINE_TWICE = "      {{ .Values.interlink.kubernetesApiCaCrt | indent 6 }}"

TEMPLATE = """apiVersion: v1
kind: ConfigMap
metadata:
  name: virtual-kubelet-config
data:
  InterLinkConfig.yaml: |
    {{- if .Values.interlink.kubernetesApiAddr }}
    KubernetesApiAddr: {{ .Values.interlink.kubernetesApiAddr | quote }}
    {{- end }}
    {{- if .Values.interlink.kubernetesApiPort }}
    KubernetesApiPort: {{ .Values.interlink.kubernetesApiPort | quote }}
    {{- end }}
    {{- if .Values.interlink.kubernetesApiCaCrt }}
    KubernetesApiCaCrt: |
CERTIFICATE
    {{- end }}
    DisableProjectedVolumes: false
"""


def certificate(subject):
    """A PEM of a certificate, as openssl writes it."""
    with tempfile.TemporaryDirectory(prefix="rollcall-interlink-") as folder:
        path = pathlib.Path(folder) / "ca.pem"
        rendered.run([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={subject}", "-days", "36500", "-keyout", "/dev/null", "-out", str(path),
        ])
        return path.read_text()


def values(ca, variant):
    """What `document` prints; nothing of it is taken from a cluster."""
    program = rendered.programs() / "rollcall-aggregator"
    with tempfile.TemporaryDirectory(prefix="rollcall-interlink-") as folder:
        folder = pathlib.Path(folder)
        (folder / "ca.pem").write_text(ca)
        access = {"address": "10.1.2.3", "port": 60443, "caFile": str(folder / "ca.pem")}
        (folder / "cluster.yaml").write_text(yaml.safe_dump({
            "cluster": {"id": "west", "regionId": "lab"},
            "targets": [{"name": "interlink", "type": "interlink", "apiAccess": access}],
        }))
        printed = rendered.run(
            [str(program), "document", "interlink", "--cluster", str(folder / "cluster.yaml"), "--variant", variant],
            env={"HOME": str(folder)},
        )
        return yaml.safe_load(printed)


def config_map(given, indented):
    """The ConfigMap of the chart, parsed, and what is in it, parsed."""
    with tempfile.TemporaryDirectory(prefix="rollcall-interlink-") as folder:
        folder = pathlib.Path(folder)
        (folder / "templates").mkdir()
        (folder / "Chart.yaml").write_text("apiVersion: v2\nname: snippet\nversion: 0.1.0\n")
        (folder / "values.yaml").write_text("interlink: {}\n")
        (folder / "templates/config.yaml").write_text(TEMPLATE.replace("CERTIFICATE", indented))
        with helm_python.Chart.load(folder) as chart:
            texts = chart.render(given, name="interlink", namespace="interlink")
    (text,) = texts.values()
    return yaml.safe_load(yaml.safe_load(text)["data"]["InterLinkConfig.yaml"])


@unittest.skipUnless(rendered.programs(), "ROLLCALL_PROGRAMS names no folder with the built programs")
class Values(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        one, other = certificate("one CA"), certificate("another CA")
        cls.cas = {"one certificate": one, "two certificates": one + other}

    def test_each_form_with_the_charts_that_it_is_for(self):
        for what, ca in self.cas.items():
            for variant, indented in (
                ("plain", ALL_LINES),
                ("unindented-chart", FIRST_LINE_ALONE),
                ("unindented-chart", FIRST_LINE_TWICE),
            ):
                with self.subTest(ca=what, variant=variant, chart=indented):
                    config = config_map(values(ca, variant), indented)
                    self.assertEqual(config["KubernetesApiCaCrt"], ca)
                    self.assertEqual(config["KubernetesApiAddr"], "10.1.2.3")
                    self.assertEqual(config["KubernetesApiPort"], "60443")
                    self.assertIs(config["DisableProjectedVolumes"], False)

    def test_the_plain_form_breaks_a_chart_that_indents_the_first_line_alone(self):
        for what, ca in self.cas.items():
            for indented in (FIRST_LINE_ALONE, FIRST_LINE_TWICE):
                with self.subTest(ca=what, chart=indented), self.assertRaises(yaml.YAMLError):
                    config_map(values(ca, "plain"), indented)

    def test_the_other_form_is_spoilt_by_a_chart_that_indents_rightly(self):
        # What the documentation warns of.
        for what, ca in self.cas.items():
            with self.subTest(ca=what):
                config = config_map(values(ca, "unindented-chart"), ALL_LINES)
                self.assertNotEqual(config["KubernetesApiCaCrt"], ca)
                self.assertIn("\n      -----END", config["KubernetesApiCaCrt"])


if __name__ == "__main__":
    unittest.main()
