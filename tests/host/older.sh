#!/usr/bin/env bash
# Makes packages to upgrade from: these very ones with a lower number, and a line more in the settings' file, so
# that an upgrade brings new settings along. Their programs are this build's: nothing is told of what an older
# version has left behind.
#
# usage: older.sh FOLDER OUT-FOLDER
set -euo pipefail

[ "$#" = 2 ] || { sed -nE 's/^# (usage: .*)/\1/p' "$0" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$2"
for package in "$1"/*.deb; do
    rm -rf "$work/root"
    dpkg-deb --raw-extract "$package" "$work/root"
    sed -i -E 's/^Version: .*/Version: 0.0.1-1/' "$work/root/DEBIAN/control"
    for file in "$work"/root/etc/default/*; do
        echo '# A line of the version before.' >>"$file"
    done
    (cd "$work/root" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Znone --build "$work/root" "$2/$(basename "$package" | sed -E 's/_[^_]+_/_0.0.1-1_/')" >/dev/null
done
