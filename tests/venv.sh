#!/usr/bin/env bash
# Makes a Python environment of what requirements name, once, outside the checkout, and prints its folder.
#
# usage: venv.sh NAME REQUIREMENTS...    (a word for the folder's name; files as pip takes them)
set -euo pipefail

name=$1
shift
missing=()
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} = 0 ] || "$(dirname "$0")"/install.sh "${missing[@]}" >&2

sum=$({ python3 --version && cat "$@"; } | sha256sum | cut -c1-16)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/$name-$sum
# Two runs at a time would spoil each other's.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if ! [ -f "$venv/complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${@/#/--requirement=}" >&2
    touch "$venv/complete"
fi
echo "$venv"
