"""What the accounts may do is what docs/kubernetes.md says, for every overlay and for the chart."""

import re
import unittest

import rendered

DOCUMENT = rendered.REPOSITORY / "docs/kubernetes.md"
# Which rows of the table hold in an overlay.
WHEN = {
    "always": lambda overlay: True,
    "agents stamp": lambda overlay: overlay != "stamping-by-aggregator",
    "the aggregator stamps": lambda overlay: overlay == "stamping-by-aggregator",
    "store `kubernetes`": lambda overlay: overlay != "sqlite",
}
WHERE = {"the cluster": "", "`rollcall-system`": "rollcall-system", "`default`": "default"}


def documented():
    """The rows of the table of rights: (account, namespace, group, resource, name, verb) and when."""
    text = DOCUMENT.read_text()
    table = text[text.index("| account | where |") :].split("\n\n")[0].splitlines()
    for line in table[2:]:
        account, where, group, resource, verbs, when, why = (cell.strip() for cell in line.strip("|").split("|"))
        if not why:
            raise AssertionError(f"{line}: it says not why")
        named = re.fullmatch(r"`([a-z/]+)`(?: named `([a-z-]+)`)?", resource)
        for verb in verbs.split(", "):
            row = (
                account.strip("`"),
                WHERE[where],
                "" if group == "core" else group.strip("`"),
                named[1],
                named[2] or "",
                verb,
            )
            yield row, when


class Rights(unittest.TestCase):
    maxDiff = None

    def test_the_document_s_table(self):
        rows = list(documented())
        self.assertGreater(len(rows), 30)
        self.assertEqual(len(rows), len(set(rows)), "a right stands there twice")
        for name in rendered.OVERLAYS:
            expected = {row for row, when in rows if WHEN[when](name)}
            with self.subTest(overlay=name):
                self.assertEqual(sorted(rendered.rules(rendered.overlay(name))), sorted(expected))
            with self.subTest(chart=name):
                given = rendered.values(None if name == "default" else name)
                self.assertEqual(sorted(rendered.rules(rendered.chart(given))), sorted(expected))

    def test_no_right_is_wider_than_it_reads(self):
        for name in rendered.OVERLAYS:
            for right in rendered.rules(rendered.overlay(name)):
                self.assertNotIn("*", right, name)


if __name__ == "__main__":
    unittest.main()
