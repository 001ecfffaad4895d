#!/usr/bin/env bash
# Tests of what is shipped for Kubernetes: Kustomize, the Helm chart, rights, the admission policy. Needs no
# cluster. What it runs with is installed once, outside the checkout.
#
# usage: packaging.sh [FOLDER]    (with the built programs: the manifests are held to what these know)
set -euo pipefail
cd "$(dirname "$0")/.."

programs=${1:-}
[ -z "$programs" ] || programs=$(cd "$programs" && pwd)
missing=()
command -v openssl >/dev/null || missing+=(openssl)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} = 0 ] || tests/install.sh "${missing[@]}"

requirements=(tests/packaging/requirements.txt)
# Old ones do not know components.
kubectl kustomize packaging/kubernetes/base >/dev/null 2>&1 || requirements+=(tests/packaging/requirements-kubectl.txt)

sum=$({ python3 --version && cat "${requirements[@]}"; } | sha256sum | cut -c1-16)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/packaging-$sum
(
    # Two runs at a time would spoil each other's.
    mkdir -p "$(dirname "$venv")"
    exec 9>"$venv.lock"
    flock 9
    if ! [ -f "$venv/complete" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "${requirements[@]/#/--requirement=}"
        touch "$venv/complete"
    fi
)
PATH="$venv/bin:$PATH" ROLLCALL_PROGRAMS=$programs PYTHONDONTWRITEBYTECODE=1 \
    "$venv/bin/python" -m unittest discover --start-directory tests/packaging --top-level-directory tests/packaging
