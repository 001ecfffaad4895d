#!/usr/bin/env bash
# Installs packages that building or testing needs, where this machine lets us; else says which.
#
# usage: install.sh PACKAGE...   (Debian's names)
set -euo pipefail

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # A package's service is not started: what runs is for the tests to say.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends -y "$@" </dev/null
else
    echo "install.sh: these packages are missing, install them and run again: $*" >&2
    exit 1
fi
