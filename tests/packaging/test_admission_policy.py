"""The admission policy, evaluated as a server does, over requests as a server makes them.

Kubernetes' own type checks and cost limits are not had here: expressions are evaluated by an independent
implementation of CEL.
"""

import copy
import unittest

import cel
import yaml

import rendered

AGENT = "system:serviceaccount:rollcall-system:rollcall-agent"
NODE_NAME = "authentication.kubernetes.io/node-name"
CLASS = "kubernetes.region.unikorn-cloud.org/node-class"

NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {
        "name": "n1",
        "uid": "0a",
        "resourceVersion": "7",
        "labels": {"kubernetes.io/hostname": "n1", "pool": "gpu"},
        "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
        "managedFields": [{"manager": "kubelet"}],
    },
    "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "gpu", "effect": "NoSchedule"}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


def request(change=None, *, old=NODE, **how):
    """An UPDATE of a Node by the agent on n1; `change` makes of the old Node the new one."""
    new = copy.deepcopy(old)
    if change is not None:
        change(new)
    asked = {
        "operation": "UPDATE",
        "subResource": "",
        "name": old["metadata"]["name"],
        "userInfo": {"username": AGENT, "extra": {NODE_NAME: ["n1"]}},
        **how,
    }
    return {"request": asked, "object": new, "oldObject": copy.deepcopy(old)}


def label(key, value):
    def change(node):
        labels = node["metadata"].setdefault("labels", {})
        if value is None:
            del labels[key]
        else:
            labels[key] = value

    return change


def together(*changes):
    def change(node):
        for it in changes:
            it(node)

    return change


def at(path, value):
    """Sets or, with None, removes what is below a path."""

    def change(node):
        *above, last = path.split("/")
        for part in above:
            node = node.setdefault(part, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value

    return change


class Policy:
    """A policy as an API server applies it."""

    def __init__(self, spec):
        self.spec = spec

    def _evaluate(self, expression, context, resolved):
        return cel.evaluate(expression, {**context, "variables": resolved})

    def judge(self, review):
        """`None` where the request passes, else why not; `not matched` where the policy does not care."""
        for condition in self.spec["matchConditions"]:
            if not self._evaluate(condition["expression"], review, {}):
                return "not matched"
        resolved = {}
        for variable in self.spec["variables"]:
            resolved[variable["name"]] = self._evaluate(variable["expression"], review, dict(resolved))
        for validation in self.spec["validations"]:
            try:
                passed = self._evaluate(validation["expression"], review, resolved)
            except Exception as error:  # What cannot be judged is refused: failurePolicy.
                return f"error: {error}"
            if passed is not True:
                return validation["message"]
        return None


def shipped():
    """The policy of the overlay and of the chart."""
    by_overlay = rendered.overlay("production")
    by_chart = rendered.chart(rendered.values("production"))
    key = ("ValidatingAdmissionPolicy", "", "rollcall-agent")
    return {"kustomize": by_overlay[key], "helm": by_chart[key]}


BARE = {**NODE, "metadata": {"name": "n1", "uid": "0a"}, "spec": {}, "status": {}}
OWN = "changes its own Node alone"
LABELS = "changes no label but"

CASES = [
    # What agents do.
    ("its own node's id", request(label("nodeID", "n1")), None),
    ("another value", request(label("nodeID", "x"), old={**NODE, "metadata": {**NODE["metadata"], "labels": {"nodeID": "n1"}}}), None),
    ("id and class", request(together(label("nodeID", "n1"), label(CLASS, "5b0e6b0a"))), None),
    ("a node without labels and annotations", request(label("nodeID", "n1"), old=BARE), None),
    ("the last label goes", request(at("metadata/labels", None), old={**BARE, "metadata": {"name": "n1", "labels": {"nodeID": "n1"}}}), None),
    ("what the server keeps", request(together(label("nodeID", "n1"), at("metadata/managedFields", [{"manager": "rollcall-agent"}]), at("metadata/resourceVersion", "8"))), None),
    ("nothing at all", request(), None),
    # What it must not do.
    ("another node", request(label("nodeID", "n1"), userInfo={"username": AGENT, "extra": {NODE_NAME: ["n2"]}}), OWN),
    ("a token that names no node", request(label("nodeID", "n1"), userInfo={"username": AGENT, "extra": {"other": ["n1"]}}), OWN),
    ("a token with nothing beside its name", request(label("nodeID", "n1"), userInfo={"username": AGENT}), OWN),
    ("a token that names two nodes", request(label("nodeID", "n1"), userInfo={"username": AGENT, "extra": {NODE_NAME: ["n1", "n2"]}}), OWN),
    ("another label", request(label("pool", "cpu")), LABELS),
    ("another label beside its own", request(together(label("nodeID", "n1"), label("x", "y"))), LABELS),
    ("another label removed", request(label("pool", None)), LABELS),
    ("all labels removed", request(at("metadata/labels", None)), LABELS),
    ("a role", request(label("node-role.kubernetes.io/control-plane", "")), LABELS),
    ("an annotation", request(at("metadata/annotations/x", "y")), "no annotation"),
    ("an annotation removed", request(at("metadata/annotations", None)), "no annotation"),
    ("a first annotation", request(at("metadata/annotations/x", "y"), old=BARE), "no annotation"),
    ("a finalizer", request(at("metadata/finalizers", ["x"])), "neither finalizers nor owners"),
    ("an owner", request(at("metadata/ownerReferences", [{"name": "x"}])), "neither finalizers nor owners"),
    ("a taint removed", request(at("spec/taints", None)), "nothing in a Node's spec"),
    ("a taint added", request(at("spec/taints", [{"key": "x"}]), old=BARE), "nothing in a Node's spec"),
    ("cordoned", request(at("spec/unschedulable", True)), "nothing in a Node's spec"),
    ("the whole spec removed", request(at("spec", None)), "nothing in a Node's spec"),
    ("a condition", request(at("status/conditions", [])), "nothing in a Node's status"),
    ("the status by its subresource", request(at("status/conditions", []), subResource="status"), "only update Nodes"),
    ("created", {**request(operation="CREATE"), "oldObject": None}, "only update Nodes"),
    ("deleted", {**request(operation="DELETE"), "object": None}, "only update Nodes"),
    # Whom it does not concern.
    ("a kubelet", request(at("spec/taints", None), userInfo={"username": "system:node:n1"}), "not matched"),
    ("the aggregator", request(label("nodeID", "n1"), userInfo={"username": AGENT.replace("agent", "aggregator")}), "not matched"),
    ("an agent of that name elsewhere", request(userInfo={"username": AGENT.replace("rollcall-system", "mine")}), "not matched"),
]


class AdmissionPolicy(unittest.TestCase):
    def test_verdicts(self):
        for source, policy in shipped().items():
            judge = Policy(policy["spec"]).judge
            for name, review, expected in CASES:
                with self.subTest(source=source, case=name):
                    verdict = judge(review)
                    if expected is None or expected == "not matched":
                        self.assertEqual(verdict, expected)
                    else:
                        self.assertIn(expected, verdict or "passed")

    def test_every_validation_refuses_something(self):
        # A validation that no case needs is one that could be lost unseen.
        for source, policy in shipped().items():
            spec = policy["spec"]
            for index, validation in enumerate(spec["validations"]):
                weaker = {**spec, "validations": spec["validations"][:index] + spec["validations"][index + 1 :]}
                caught = [name for name, review, expected in CASES if expected not in (None, "not matched") and Policy(weaker).judge(review) is None]
                with self.subTest(source=source, validation=validation["message"]):
                    self.assertTrue(caught)

    def test_it_stands_in_the_way_of_all_writes_to_nodes(self):
        for source, policy in shipped().items():
            spec = policy["spec"]
            self.assertEqual(spec["failurePolicy"], "Fail", source)
            self.assertEqual(
                spec["matchConstraints"]["resourceRules"],
                [{"apiGroups": [""], "apiVersions": ["*"], "operations": ["*"], "resources": ["nodes", "nodes/*"]}],
                source,
            )
        binding = rendered.overlay("production")[("ValidatingAdmissionPolicyBinding", "", "rollcall-agent")]
        self.assertEqual(binding["spec"], {"policyName": "rollcall-agent", "validationActions": ["Deny"]})

    def test_the_labels_are_the_programs(self):
        source = (rendered.REPOSITORY / "report/src/identity.rs").read_text()
        for source_name, policy in shipped().items():
            ours = {it["name"]: it["expression"] for it in policy["spec"]["variables"]}["ours"]
            for key in yaml.safe_load(ours):
                self.assertIn(f'_LABEL: &str = "{key}"', source, source_name)


if __name__ == "__main__":
    unittest.main()
