"""Fails where a unit leaves a setting open that `systemd-analyze security --json` marks, without a comment that names
it and says why; or where a comment gives a reason for a setting that is closed.

usage: systemd-analyze security --json=short … | units-reasons.py UNIT
"""

import json
import pathlib
import re
import sys

unit = pathlib.Path(sys.argv[1])
# A reason: "#  Setting=, Setting=~VALUE: why".
reasons = {}
for line in unit.read_text().splitlines():
    if reason := re.match(r"#  (\S+=.*?): (.+)", line):
        for name in reason[1].split(", "):
            reasons[name] = reason[2]
# What does not count has no exposure.
open_settings = {entry["name"] for entry in json.load(sys.stdin) if float(entry["exposure"] or 0) > 0}

without = sorted(open_settings - reasons.keys())
for name in without:
    print(f"{unit.name}: {name} is open, and the unit does not say why", file=sys.stderr)
stale = sorted(reasons.keys() - open_settings)
for name in stale:
    print(f"{unit.name}: {name} is closed, and the unit gives a reason for leaving it open", file=sys.stderr)
if not open_settings:
    print(f"{unit.name}: nothing is open, which cannot be: is the JSON another one?", file=sys.stderr)
sys.exit(bool(without or stale or not open_settings))
