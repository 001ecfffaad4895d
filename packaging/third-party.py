#!/usr/bin/env python3
"""Prints the licences of what is linked into a program, with their texts, each text once.

usage: third-party.py PROGRAM PLATFORM    (a crate of the workspace; for example x86_64-unknown-linux-gnu)

Fails where a crate has neither a text nor says that the licence of this repository may be taken. CARGO: as for make.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
NAMES = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE|AUTHORS|PATENTS)", re.I)
# The licence of this repository, whose text stands in for one that a crate has left out.
OURS = "Apache-2.0"


def linked(program, platform):
    """The foreign packages that a program is made of: what it needs to be built or tested is not in it."""
    told = subprocess.run(
        [os.environ.get("CARGO", "cargo"), "metadata", "--locked", "--format-version=1", f"--filter-platform={platform}"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout
    metadata = json.loads(told)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [package["id"] for package in packages.values() if package["name"] == program and package["source"] is None]
    if not todo:
        sys.exit(f"third-party.py: the workspace has no crate {program}")
    seen = set(todo)
    while todo:
        for dependency in nodes[todo.pop()]["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    foreign = (packages[package] for package in seen if packages[package]["source"] is not None)
    return sorted(foreign, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """What a package's folder has of licences and notices."""
    folder = pathlib.Path(package["manifest_path"]).parent
    # Also of what it has taken from others, which lies deeper.
    files = {path for path in folder.rglob("*")
             if path.is_file() and path.suffix != ".rs" and (NAMES.match(path.name) or path.parent.name == "LICENSES")}
    if package["license_file"]:
        files.add(folder / package["license_file"])
    found = [path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip("\n") for path in sorted(files)]
    return [text for text in found if text.strip()]


def main():
    """Prints the list, and then the texts."""
    if len(sys.argv) != 3:
        sys.exit("usage: third-party.py PROGRAM PLATFORM")
    numbers, table, bad = {}, [], []
    for package in linked(*sys.argv[1:]):
        name, licence = f"{package['name']} {package['version']}", package["license"] or ""
        found = texts(package)
        if not found and OURS in re.split(r"\s+OR\s+|\s*/\s*", licence):
            found = [(REPOSITORY / "LICENSE").read_text(encoding="utf-8").strip("\n")]
        if not found:
            bad.append(f"{name}: no text of its licence, {licence or 'which it does not name'}")
        which = sorted({numbers.setdefault(text, len(numbers) + 1) for text in found})
        table.append(f"{name}: {licence or 'see the text'} [{', '.join(map(str, which))}]")
    if bad:
        sys.exit("third-party.py: " + "\nthird-party.py: ".join(bad))
    print(f"{sys.argv[1]} is made with the following. The numbers are those of the texts below.\n")
    print("\n".join(table))
    for text, number in numbers.items():
        print(f"\n{'=' * 80}\n[{number}]\n\n{text}")


if __name__ == "__main__":
    main()
