"""The real programs, as processes: aggregators with what reports to them, and stand-ins of networks."""

import http.client
import json
import os
import pathlib
import re
import secrets
import select
import subprocess
import tempfile
import threading
import time
import urllib.parse

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(os.environ["ROLLCALL_PROGRAMS"])
# For what ought to be at once, on a slow and busy machine.
PATIENCE = 60


def ask(address, method, path, token=None, body=None, headers=()):
    """Sends one request: the status, the headers in lower case, the body."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    sent = dict(headers)
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    if body is not None:
        sent.setdefault("Content-Type", "application/json")
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def wait(what, condition, patience=PATIENCE):
    """Waits until something is so, and returns what it is."""
    end = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about within {patience} s")
        time.sleep(0.1)


class Program:
    """A running program; ends with the block that it is in."""

    def __init__(self, name, *arguments):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(PROGRAMS / name), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def address(self, what):
        """Where it listens, from its log."""
        def look():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended: {self.said()}")
            return re.search(rf"{what} listening address=(\S+)", self.said())
        return wait(f"the address of {self.name}'s {what}", look).group(1)


class Network(Program):
    """A stand-in of AIOS's services."""

    def __init__(self, *arguments):
        super().__init__("aios-standin", *arguments)
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise AssertionError(f"the stand-in did not start: {self.said()}")
        self.urls = json.loads(line)

    def target(self, name, **settings):
        """A target of the cluster file."""
        return {
            "name": name, "type": "aios", "lookEvery": "1s",
            "parserUrl": self.urls["parserUrl"], "gatewayUrl": self.urls["gatewayUrl"], **settings,
        }


class Aggregator(Program):
    """An aggregator with its own store."""

    def __init__(self, targets, **cluster_file):
        self.folder = tempfile.TemporaryDirectory(prefix="rollcall-api-")
        folder = pathlib.Path(self.folder.name)
        self.join_token, self.operator_token = secrets.token_hex(32), secrets.token_hex(32)
        for name, token in (("token", self.join_token), ("operator-token", self.operator_token)):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(token)
        cluster = {"id": "api-cluster", "regionId": "here", "tags": ["a"], "config": {"useGateway": False},
                   "clusterMetadata": {"name": "API", "additionalInfo": {"joinCommand": "kubeadm join --token s3cret"}}}
        # JSON is YAML.
        (folder / "cluster.yaml").write_text(json.dumps({"cluster": cluster, "targets": targets, **cluster_file}))
        super().__init__(
            "rollcall-aggregator", "serve", "--cluster", str(folder / "cluster.yaml"),
            "--store", f"sqlite:{folder / 'rollcall.db'}",
            "--token-file", str(folder / "token"), "--operator-token-file", str(folder / "operator-token"),
            "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
        )
        self.intake, self.admin = self.address("intake"), self.address("admin")

    def __exit__(self, *what):
        super().__exit__(*what)
        self.folder.cleanup()

    def report(self, body):
        """Posts a report."""
        return ask(self.intake, "POST", "/v1/reports", self.join_token, body)

    def operate(self, method, path, body=None):
        """Asks the operator's API, as an operator."""
        return ask(self.admin, method, path, self.operator_token, body)

    def targets(self):
        """Where the targets stand, by name."""
        status, _, body = self.operate("GET", "/v1/status")
        assert status == 200, body
        return {target["name"]: target for target in json.loads(body)["targets"]}

    def wait_for(self, target, phase):
        """Waits until a target is in a phase."""
        wait(f"{phase} of target {target}", lambda: self.targets()[target]["phase"] == phase)


def report(number):
    """A node's report: one of those of the aggregator's own tests, of another machine."""
    body = json.loads((REPOSITORY / f"aggregator/tests/sample/node-{1 + number % 2}.json").read_text())
    body["node"].update(name=f"n{number}", proposedId=f"n{number}", machineHash=f"{number:032x}")
    return body


class Reporting(threading.Thread):
    """Keeps nodes on the roll, whoever forgets them."""

    def __init__(self, aggregator, reports):
        super().__init__(daemon=True)
        self.aggregator, self.reports = aggregator, reports
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.2):
            for body in self.reports:
                self.aggregator.report(body)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()
