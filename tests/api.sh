#!/usr/bin/env bash
# Tests that what the programs answer is what their OpenAPI descriptions say: schemathesis against both listeners
# of real aggregators, and answers of targets in several phases. Needs no cluster. What it runs with is
# installed once, outside the checkout.
#
# usage: api.sh FOLDER_OF_THE_PROGRAMS [TEST...]
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(cd "${1:?usage: api.sh FOLDER_OF_THE_PROGRAMS}" && pwd)
shift
venv=$(tests/venv.sh api tests/api/requirements.txt)
cd tests/api
PATH="$venv/bin:$PATH" ROLLCALL_PROGRAMS=$programs PYTHONDONTWRITEBYTECODE=1 \
    exec "$venv/bin/python" -m unittest --verbose "${@:-test_api}"
