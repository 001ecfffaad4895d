#!/usr/bin/env bash
# Tests of the aggregator's page in a real browser, against the built programs. What they run with is
# installed where it is missing. Screenshots, and what a failure leaves, go to a folder beside the programs.
#
# usage: page.sh FOLDER [ARGUMENT...]    (with the built programs; arguments are node's, such as
#                                         --test-name-pattern=keyboard)
#
# UPDATE_README=1 writes README's picture anew.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(cd "$1" && pwd)
shift
output=$(dirname "$programs")/page

missing=()
[ -x /usr/bin/chromium ] || missing+=(chromium)
# One that is there is left alone, if it is new enough.
major=$(node --version 2>/dev/null | sed -nE 's/^v([0-9]+)\..*/\1/p')
[ "${major:-0}" -ge 18 ] || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
[ ${#missing[@]} = 0 ] || tests/install.sh "${missing[@]}"

(
    cd tests/browser
    # Two runs at a time would spoil each other's.
    exec 9>"${TMPDIR:-/tmp}/rollcall-page-$(pwd | sha256sum | cut -c1-16).lock"
    flock 9
    sum=$({ node --version && cat package-lock.json; } | sha256sum | cut -c1-16)
    if ! [ -f "node_modules/complete-$sum" ]; then
        npm ci --no-audit --no-fund --loglevel=error
        touch "node_modules/complete-$sum"
    fi
)

rm -rf "$output"
mkdir -p "$output"
# One file after the other: each has an aggregator and a browser, and what is timed is not to be disturbed. All
# that they start ends with them; if they hang, they are ended.
ROLLCALL_PROGRAMS=$programs ROLLCALL_PAGE_OUTPUT=$output \
    timeout --kill-after=10 1800 node --test --test-concurrency=1 --test-reporter=spec "$@" \
    tests/browser/reading.test.js tests/browser/live.test.js tests/browser/large.test.js
