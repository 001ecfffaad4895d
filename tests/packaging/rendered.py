"""Renders what is shipped: overlays with kubectl, the chart with Helm.

Both come out as a mapping of (kind, namespace, name) to the object. Overlays are built in a copy of their
own, with certificates and a token made for the test.
"""

import copy
import functools
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import helm_python
import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
KUSTOMIZE = REPOSITORY / "packaging/kubernetes"
DASHBOARD = REPOSITORY / "packaging/grafana"
CHART = REPOSITORY / "packaging/helm/rollcall"
EXAMPLES = REPOSITORY / "packaging/helm/examples"
NAMESPACE = "rollcall-system"

OVERLAYS = sorted(path.name for path in (KUSTOMIZE / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUSTOMIZE / "components").iterdir())


@functools.cache
def _copy():
    """A copy of the Kustomize folder with the files that an operator makes."""
    folder = tempfile.TemporaryDirectory(prefix="rollcall-packaging-")
    root = pathlib.Path(folder.name) / "kubernetes"
    # What an operator may have made here is theirs.
    theirs = shutil.ignore_patterns("*.crt", "*.key")
    shutil.copytree(KUSTOMIZE, root, ignore=theirs)
    # A component of its own, which one of ours names.
    shutil.copytree(DASHBOARD, root.parent / DASHBOARD.name)
    run([str(root / "components/tls-generated/generate.sh")])
    (root / "components/operator-token/operator-token").write_text("0123456789abcdef" * 4)
    return folder, root


def run(command, **options):
    """Runs a command and returns its output; an error tells what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _objects(text, source):
    objects = {}
    for document in yaml.safe_load_all(text):
        if document is None:
            continue
        metadata = document["metadata"]
        key = (document["kind"], metadata.get("namespace", ""), metadata["name"])
        if key in objects:
            raise AssertionError(f"{source}: {key} is there twice")
        objects[key] = document
    return objects


@functools.cache
def _overlay(name):
    text = run(["kubectl", "kustomize", str(_copy()[1] / "overlays" / name)])
    return _objects(text, f"overlay {name}")


def overlay(name):
    """The objects of an overlay, as kubectl would apply them."""
    return copy.deepcopy(_overlay(name))


def composed(components):
    """The objects of the base with components, as an overlay of one's own would have them."""
    root = _copy()[1]
    folder = tempfile.mkdtemp(dir=root / "overlays")
    try:
        (pathlib.Path(folder) / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "kustomize.config.k8s.io/v1beta1",
                    "kind": "Kustomization",
                    "resources": ["../../base"],
                    "components": [f"../../components/{name}" for name in components],
                }
            )
        )
        return _objects(run(["kubectl", "kustomize", folder]), f"base with {components}")
    finally:
        shutil.rmtree(folder)


def values(example=None):
    """The values of an example, with the cluster file of the overlay of its name."""
    given = {}
    if example is not None:
        given = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    cluster = KUSTOMIZE / "overlays" / (example or "default") / "cluster.yaml"
    return {**given, "clusterFile": cluster.read_text()}


def chart(given, namespace=NAMESPACE, path=CHART):
    """The objects of the chart, a folder or a package, with these values, without its CRDs."""
    with helm_python.Chart.load(path) as loaded:
        rendered = loaded.render(given, name="rollcall", namespace=namespace)
    text = "\n---\n".join(text for path, text in rendered.items() if not path.endswith(".txt"))
    return _objects(text, "the chart")


def agents(objects):
    """The DaemonSets."""
    return {key[2]: found for key, found in objects.items() if key[0] == "DaemonSet"}


def workloads(objects):
    """DaemonSets and Deployments."""
    return {key[2]: found for key, found in objects.items() if key[0] in ("DaemonSet", "Deployment")}


GENERATED = re.compile(r"^(rollcall-(?:cluster|ca|aggregator-tls|operator-token))-[a-z0-9]{10}$")


def without_hashes(value):
    """The same, with the names that a generator made as they are without the content's hash."""
    if isinstance(value, dict):
        return {key: without_hashes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_hashes(inner) for inner in value]
    if isinstance(value, str):
        return GENERATED.sub(r"\1", value)
    return value


def rules(objects):
    """What each service account may do: a set of (account, namespace, group, resource, name, verb)."""
    granted = set()
    for (kind, namespace, _), binding in objects.items():
        if kind not in ("ClusterRoleBinding", "RoleBinding"):
            continue
        role = binding["roleRef"]
        where = "" if role["kind"] == "ClusterRole" else namespace
        for rule in objects[(role["kind"], where, role["name"])]["rules"]:
            for subject in binding["subjects"]:
                granted.update(
                    (subject["name"], namespace, group, resource, name, verb)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for name in rule.get("resourceNames", [""])
                    for verb in rule["verbs"]
                )
    return granted


def programs():
    """The folder with the built programs, or None."""
    folder = os.environ.get("ROLLCALL_PROGRAMS")
    return pathlib.Path(folder) if folder else None
