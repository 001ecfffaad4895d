#!/usr/bin/env bash
# Tests of the packages as files: what is in them and how, their scripts, man pages and completions. The programs in
# them are run for their help alone. Installing them is for tests/host.
#
# usage: packages.sh FOLDER    (with the .deb and the .rpm of both programs, as `make packages` leaves them)
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# = 1 ] || { sed -n 5p "$0" >&2; exit 2; }
missing=()
for needed in dpkg-deb:dpkg lintian:lintian rpm:rpm shellcheck:shellcheck mandoc:mandoc groff:groff zsh:zsh fish:fish \
    python3:python3; do
    command -v "${needed%:*}" >/dev/null || missing+=("${needed#*:}")
done
[ ${#missing[@]} = 0 ] || tests/install.sh "${missing[@]}"
ROLLCALL_PACKAGES=$(cd "$1" && pwd) PYTHONDONTWRITEBYTECODE=1 \
    python3 -m unittest discover --start-directory tests/packages --top-level-directory tests/packages
