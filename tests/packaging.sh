#!/usr/bin/env bash
# Tests of what is shipped for Kubernetes and for monitoring: Kustomize, the Helm chart, rights, the admission policy,
# rules and dashboard. Needs no cluster. What it runs with is installed once, outside the checkout.
#
# usage: packaging.sh [FOLDER]    (with the built programs: the manifests are held to what these know)
set -euo pipefail
cd "$(dirname "$0")/.."

programs=${1:-}
[ -z "$programs" ] || programs=$(cd "$programs" && pwd)
missing=()
command -v openssl >/dev/null || missing+=(openssl)
command -v promtool >/dev/null || missing+=(prometheus)
[ ${#missing[@]} = 0 ] || tests/install.sh "${missing[@]}"

requirements=(tests/packaging/requirements.txt)
# Old ones do not know components.
kubectl kustomize packaging/kubernetes/base >/dev/null 2>&1 || requirements+=(tests/packaging/requirements-kubectl.txt)

venv=$(tests/venv.sh packaging "${requirements[@]}")
PATH="$venv/bin:$PATH" ROLLCALL_PROGRAMS=$programs PYTHONDONTWRITEBYTECODE=1 \
    "$venv/bin/python" -m unittest discover --start-directory tests/packaging --top-level-directory tests/packaging
