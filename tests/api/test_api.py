"""What the programs answer, held against their descriptions. Run by tests/api.sh."""

import contextlib
import copy
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from described import Described
from running import PATIENCE, PROGRAMS, REPOSITORY, Aggregator, Network, Reporting, ask, report, wait

HERE = pathlib.Path(__file__).parent
NODES = 3
# A Region of which nothing is sent: only its description is asked for.
UNIKORN = {"name": "unikorn", "type": "unikorn",
           "region": {"name": "west", "management": {"kubeconfigFile": "/nonexistent/management.kubeconfig"}}}


def printed(api):
    """A description as the program prints it, without a server."""
    done = subprocess.run([str(PROGRAMS / "rollcall-aggregator"), "openapi", api],
                          capture_output=True, text=True, check=True, timeout=PATIENCE)
    return json.loads(done.stdout)


def reports():
    return [report(number) for number in range(1, NODES + 1)]


def with_infrastructure(stack, network):
    """A target that is to make infrastructure on the cluster."""
    kubeconfig = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text("apiVersion: v1\nkind: Config\n")
    return network.target("infra", infrastructure={
        "kubeconfigFile": str(kubeconfig), "tasksUrl": network.urls["tasksUrl"]})


class Fuzzed(unittest.TestCase):
    """schemathesis against both listeners; what it asks for destroys, so each has an aggregator of its own."""

    maxDiff = None

    def start(self, stack, config, address, description, token):
        # A folder of its own: it keeps what it has learned, and each run is to be the same.
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in (config, "hooks.py"):
            shutil.copy(HERE / name, folder)
        (folder / "openapi.json").write_text(json.dumps(description))
        process = subprocess.Popen(
            ["schemathesis", "--config-file", config, "run", "openapi.json", "--url", f"http://{address}",
             "--header", f"Authorization: Bearer {token}", "--no-color", "--continue-on-failure", "--checks", "all"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        stack.callback(process.kill)
        return process

    def test_no_answer_is_undocumented(self):
        with contextlib.ExitStack() as stack:
            start = lambda: stack.enter_context(Network())
            targets = [start().target("free"), start().target("asks", mode="approve"),
                       start().target("looks", mode="observe"), with_infrastructure(stack, start()), UNIKORN]
            fuzzed = stack.enter_context(Aggregator(targets, expect={"nodes": NODES}))
            stack.enter_context(Reporting(fuzzed, reports()))
            reported_to = stack.enter_context(Aggregator([]))
            fuzzed.wait_for("free", "registered")
            fuzzed.wait_for("asks", "ready")
            runs = {
                "admin": self.start(stack, "admin.toml", fuzzed.admin, printed("admin"), fuzzed.operator_token),
                "intake": self.start(stack, "intake.toml", reported_to.intake, printed("intake"),
                                     reported_to.join_token),
            }
            for name, process in runs.items():
                said, _ = process.communicate(timeout=540)
                with self.subTest(listener=name):
                    print(said[max(said.rfind("= WARNINGS ="), 0) or said.rfind("= SUMMARY ="):])
                    self.assertEqual(process.returncode, 0, said)
                    operations = sum(len(item) for item in printed(name)["paths"].values())
                    self.assertIn(f"Tested: {operations}\n", said)
            for aggregator in (fuzzed, reported_to):
                self.assertNotIn("panicked", aggregator.said())


class Answers(unittest.TestCase):
    """Answers to what people and agents really ask."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.described = {name: Described(printed(name)) for name in ("intake", "admin")}

    def check(self, api, address, method, path, expected, **request):
        answer = ask(address, method, path, **request)
        self.assertEqual(answer[0], expected, (method, path, answer[2][:300]))
        self.assertEqual(self.described[api].problems(method, path, answer), [])
        return answer[2]

    def test_an_answer_that_is_not_as_described_is_found(self):
        admin = self.described["admin"]
        kind = {"content-type": "application/json"}
        good = {"lines": [{"id": 1, "target": "t", "at": "2026-11-22T05:10:55Z", "what": "w", "version": "0.1.0"}]}
        self.assertEqual(admin.problems("GET", "/v1/history", (200, kind, json.dumps(good).encode())), [])
        for what, edit in {
            "a field that is not described": lambda line: line.update(more=1),
            "no time": lambda line: line.update(at="yesterday"),
            "no field": lambda line: line.pop("version"),
            "another type": lambda line: line.update(id="1"),
            "no digest": lambda line: line.update(about="abc"),
        }.items():
            bad = copy.deepcopy(good)
            edit(bad["lines"][0])
            with self.subTest(what):
                self.assertNotEqual(admin.problems("GET", "/v1/history", (200, kind, json.dumps(bad).encode())), [])
        for what, answer in {
            "a status": (418, kind, b"{}"),
            "a media type": (200, {"content-type": "text/html"}, b"{}"),
            "a missing header": (401, kind, b'{"code": "credentials-missing", "message": "m"}'),
        }.items():
            with self.subTest(what):
                self.assertNotEqual(admin.problems("GET", "/v1/history", answer), [])

    def test_reports_that_are_taken_are_as_described(self):
        of = lambda name: self.described["intake"].validator({"$ref": f"#/components/schemas/{name}"})
        saved = [*REPOSITORY.glob("report/examples/*.json"), *REPOSITORY.glob("agent/tests/hosts/*/report.json"),
                 *REPOSITORY.glob("aggregator/tests/sample/node-*.json")]
        self.assertGreater(len(saved), 10)
        for path in saved:
            with self.subTest(path=str(path.relative_to(REPOSITORY))):
                read = json.loads(path.read_text())
                schema = of("NodeReport" if "schemaVersion" in read else "Inventory")
                self.assertEqual([error.message[:300] for error in schema.iter_errors(read)], [])

    def test_what_is_served_is_what_is_printed(self):
        with Aggregator([]) as aggregator:
            for name, address in (("intake", aggregator.intake), ("admin", aggregator.admin)):
                body = self.check(name, address, "GET", "/openapi.json", 200)
                self.assertEqual(json.loads(body), printed(name), name)

    def test_the_intake(self):
        with Aggregator([]) as aggregator:
            first, second = reports()[:2]
            def post(expected, body, token=aggregator.join_token):
                return self.check("intake", aggregator.intake, "POST", "/v1/reports", expected, token=token, body=body)
            post(200, first)
            post(200, first)
            stolen = copy.deepcopy(second)
            stolen["node"]["proposedId"] = first["node"]["proposedId"]
            absurd = copy.deepcopy(second)
            absurd["inventory"]["cpu"]["known"]["online"] = 0
            for expected, body, token in (
                (401, first, None), (401, first, "another-token"), (400, b"{", aggregator.join_token),
                (400, b"", aggregator.join_token), (400, {**first, "schemaVersion": 2}, aggregator.join_token),
                (409, stolen, aggregator.join_token), (422, absurd, aggregator.join_token),
                (413, b" " * (256 * 1024 + 1), aggregator.join_token),
            ):
                post(expected, body, token)

    def test_targets_in_their_phases(self):
        with contextlib.ExitStack() as stack:
            start = lambda *arguments: stack.enter_context(Network(*arguments))
            free, taken = start(), start()
            # Somebody else's entry of the same id.
            other = stack.enter_context(Aggregator([taken.target("taken")], expect={"nodes": 1}))
            self.assertEqual(other.report(report(1))[0], 200)
            other.wait_for("taken", "registered")
            aggregator = stack.enter_context(Aggregator([
                free.target("free"), taken.target("taken"), start().target("asks", mode="approve"),
                start().target("looks", mode="observe"), UNIKORN,
                with_infrastructure(stack, start()),
                start("--policy-refuses", "<b>no</b>").target("refused"),
                start("--registry-fails").target("fails"), start("--gateway-down").target("unreadable"),
            ], expect={"nodes": NODES}))
            names = ["free", "taken", "asks", "looks", "infra", "refused", "fails", "unreadable"]

            def reads(**access):
                for path in ("/v1/nodes", "/v1/status", "/v1/document", "/v1/history", "/v1/history?limit=2",
                             "/v1/history?target=free", "/v1/region", "/openapi.json", "/livez", "/readyz", "/metrics",
                             *(f"/v1/document?target={name}" for name in names),
                             *(f"/v1/targets/{name}/plan?partial=true" for name in names)):
                    with self.subTest(path=path):
                        self.check("admin", aggregator.admin, "GET", path, 200, **access)

            reads()
            for body in reports():
                self.assertEqual(aggregator.report(body)[0], 200)
            for name, phase in (("free", "registered"), ("taken", "foreign"), ("asks", "ready"), ("looks", "ready"),
                                ("infra", "registered"), ("refused", "refused"), ("fails", "failing")):
                aggregator.wait_for(name, phase)
            reads()
            reads(token=aggregator.operator_token)

            def act(expected, method, path, body=None):
                with self.subTest(what=f"{method} {path}"):
                    return self.check("admin", aggregator.admin, method, path, expected,
                                      token=aggregator.operator_token, body=body)

            proposal = aggregator.targets()["asks"]["proposal"]
            act(202, "POST", "/v1/targets/asks/approve", {"digest": proposal["digest"]})
            act(409, "POST", "/v1/targets/free/approve", {"digest": proposal["digest"]})
            act(202, "POST", "/v1/targets/taken/submit", {"adopt": True})
            act(202, "POST", "/v1/targets/infra/infrastructure")
            act(409, "POST", "/v1/targets/free/infrastructure")
            act(409, "POST", "/v1/targets/looks/submit", {})
            act(409, "POST", "/v1/targets/unikorn/submit", {})
            act(404, "POST", "/v1/targets/nothing/submit", {})
            act(400, "POST", "/v1/targets/free/submit", {"adoptt": True})
            for body in (b"{", b"", b"null", b"[]", b"[true]", b'{"adopt": null}', b'{"adopt": true, "adopt": false}'):
                act(400, "POST", "/v1/targets/free/submit", body)
            act(413, "POST", "/v1/targets/free/submit", b" " * 3_000_000)
            aggregator.wait_for("asks", "registered")
            aggregator.wait_for("taken", "registered")
            first = report(1)["node"]["name"]
            act(204, "POST", f"/v1/nodes/{first}/rebind")
            act(204, "DELETE", f"/v1/nodes/{first}")
            act(404, "POST", f"/v1/nodes/{first}/rebind")
            act(400, "POST", "/v1/nodes/UPPER/rebind")
            act(404, "DELETE", "/v1/nodes/of-nobody")
            act(400, "DELETE", "/v1/nodes/%ff")
            act(202, "POST", "/v1/targets/free/offboard", {"leaveInfrastructure": False})
            aggregator.wait_for("free", "offboarded")
            reads()
            self.check("admin", aggregator.admin, "GET", "/v1/history?limit=-1", 400)
            self.check("admin", aggregator.admin, "GET", "/v1/document?target=none", 404)
            self.check("admin", aggregator.admin, "GET", "/v1/document?target=unikorn", 409)
            self.check("admin", aggregator.admin, "GET", "/v1/status", 401, token="another-token")
            self.check("admin", aggregator.admin, "GET", "/v1/status", 401, headers={"Host": "evil.example"})
            self.check("admin", aggregator.admin, "DELETE", "/v1/nodes/a", 401)
            # Of a body that is no JSON, and says so.
            answer = ask(aggregator.admin, "POST", "/v1/targets/free/submit", aggregator.operator_token, b"{}",
                         {"Content-Type": "text/plain"})
            self.assertEqual(answer[0], 415)
            self.assertEqual(
                self.described["admin"].problems("POST", "/v1/targets/free/submit", answer), [])

    def test_other_methods_and_paths_are_refused_in_the_same_form(self):
        with Aggregator([]) as aggregator:
            for address, method, path, status, allowed in (
                (aggregator.intake, "GET", "/v1/reports", 405, {"POST"}),
                (aggregator.intake, "POST", "/openapi.json", 405, {"GET", "HEAD"}),
                (aggregator.intake, "GET", "/v1/nothing", 404, None),
                (aggregator.admin, "PUT", "/v1/status", 405, {"GET", "HEAD"}),
                (aggregator.admin, "OPTIONS", "/v1/targets/a/submit", 405, {"POST"}),
                (aggregator.admin, "GET", "/v1/nodes/a", 405, {"DELETE"}),
                (aggregator.admin, "POST", "/metrics", 405, {"GET", "HEAD"}),
                (aggregator.admin, "GET", "/v1/nothing", 404, None),
                (aggregator.admin, "GET", "/v1/nodes/" + "a" * 20_000, 405, {"DELETE"}),
                (aggregator.admin, "GET", "/v1/targets/%00/plan", 404, None),
            ):
                with self.subTest(method=method, path=path[:40]):
                    answer = ask(address, method, path)
                    self.assertEqual(answer[0], status, answer[2])
                    self.assertEqual(answer[1]["content-type"], "application/json")
                    refusal = json.loads(answer[2])
                    self.assertEqual((refusal["code"], type(refusal["message"])), ("not-found", str))
                    said = answer[1].get("allow")
                    self.assertEqual(said and {it.strip() for it in said.split(",")}, allowed)
            answer = ask(aggregator.admin, "HEAD", "/v1/status")
            self.assertEqual((answer[0], answer[2]), (200, b""))


if __name__ == "__main__":
    unittest.main()
