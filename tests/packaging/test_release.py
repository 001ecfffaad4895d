"""One version everywhere, and documents that name what there is."""

import re
import tomllib
import unittest

import yaml

import rendered
from rendered import CHART, REPOSITORY

DOCKERFILE = (REPOSITORY / "packaging/container/Dockerfile").read_text()


class Release(unittest.TestCase):
    def test_one_version(self):
        version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))
        self.assertEqual(set(re.findall(r"ARG VERSION=(\S+)", DOCKERFILE)), {version})
        for name in rendered.OVERLAYS:
            for workload, found in rendered.workloads(rendered.overlay(name)).items():
                image = found["spec"]["template"]["spec"]["containers"][0]["image"]
                self.assertEqual(image.rpartition(":")[2], version, (name, workload))

    def test_images_run_as_the_manifests_say(self):
        stages = {}
        for line in DOCKERFILE.splitlines():
            if line.startswith("FROM "):
                stage = line.split(" AS ")[1]
                parent = line.split()[1]
                stages[stage] = dict(stages.get(parent, {}))
            elif line.startswith(("USER ", "ENTRYPOINT ")):
                word, _, rest = line.partition(" ")
                stages[stage][word] = rest
        for component in ("agent", "aggregator"):
            expected = {"USER": "65532:65532", "ENTRYPOINT": f'["/usr/bin/rollcall-{component}"]'}
            for stage in (component, f"{component}-prebuilt"):
                self.assertEqual(stages[stage], expected, stage)

    def test_keys_stay_out_of_the_build(self):
        allowed = (REPOSITORY / ".dockerignore").read_text().splitlines()
        self.assertIn("*", allowed)
        self.assertEqual([line for line in allowed if line.startswith("!packaging")], ["!packaging/pages"], "a crate")

    def test_the_build_has_all_crates(self):
        members = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["members"]
        allowed = (REPOSITORY / ".dockerignore").read_text().splitlines()
        for member in members:
            # Its folder, or one above it.
            ways = {"/".join(member.split("/")[:depth + 1]) for depth in range(member.count("/") + 1)}
            self.assertTrue(ways & set(re.findall(r"(?m)^COPY (\S+) \1$", DOCKERFILE)), f"Dockerfile: {member}")
            self.assertTrue(ways & {line[1:] for line in allowed if line.startswith("!")}, f".dockerignore: {member}")

    def test_the_document_names_what_there_is(self):
        text = (REPOSITORY / "docs/kubernetes.md").read_text()
        rows = {cell for line in text.splitlines() if line.startswith("| `") for cell in re.findall(r"`([a-z-]+)`", line.split("|")[1])}
        for name in (*rendered.OVERLAYS, *rendered.COMPONENTS):
            self.assertIn(name, rows, "docs/kubernetes.md, Overlays and components")


if __name__ == "__main__":
    unittest.main()
