"""The manifests set what the programs know. Needs the built programs (ROLLCALL_PROGRAMS)."""

import json
import re
import subprocess
import tempfile
import unittest

import rendered

COMMANDS = {"agent": "run", "aggregator": "serve"}


@unittest.skipUnless(rendered.programs(), "ROLLCALL_PROGRAMS names no folder with the built programs")
class Programs(unittest.TestCase):
    def test_every_setting_is_known(self):
        for component, command in COMMANDS.items():
            program = rendered.programs() / f"rollcall-{component}"
            told = rendered.run([str(program), command, "--help"], env={})
            # Of a flag with two variables the text names both.
            known = set(re.findall(r"\[env:\s+([A-Z_]+)=", told)) | set(re.findall(r"`([A-Z_]+)`", told))
            for name in rendered.OVERLAYS:
                for workload, found in rendered.workloads(rendered.overlay(name)).items():
                    container = found["spec"]["template"]["spec"]["containers"][0]
                    if container["name"] != component:
                        continue
                    self.assertEqual(container["args"], [command], (name, workload))
                    ours = {it["name"] for it in container["env"] if not it["name"].startswith("NVIDIA_")}
                    with self.subTest(overlay=name, workload=workload):
                        self.assertEqual(sorted(ours - known), [])

    def test_the_cluster_files_are_good(self):
        program = rendered.programs() / "rollcall-aggregator"
        report = json.loads((rendered.REPOSITORY / "report/examples/v1.json").read_text())
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="rollcall-report-") as saved:
            json.dump(report, saved)
            saved.flush()
            for path in sorted(rendered.KUSTOMIZE.glob("**/cluster.yaml")):
                with self.subTest(path=path.relative_to(rendered.REPOSITORY)):
                    done = subprocess.run(
                        [str(program), "assemble", "--leave-out-incomplete", "--cluster", str(path), saved.name],
                        capture_output=True, text=True, check=False,
                    )
                    self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
