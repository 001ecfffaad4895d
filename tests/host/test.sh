#!/usr/bin/env bash
# Passes the tests that need a machine with a real systemd, with the packages of this tree installed,
# and takes what it set up down in any case.
#
# usage: test.sh PACKAGES [--include-ignored] [FILTER]    (the folder of the packages; the long tests
#                                                         too; a word that the names of tests hold)
#
# CARGO, CARGO_TARGET_DIR: as for make.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
packages=$(realpath "${1:?the folder of the packages}")
shift
command -v openssl >/dev/null || tests/install.sh openssl
command -v etcd >/dev/null || tests/install.sh etcd-server
kubernetes=$(tests/cluster/build-kubernetes.sh)
kubectl=$(tests/cluster/kubectl.sh)
export PATH=$PATH:$kubectl

# What the machines' consoles and journals said is kept where a test has failed.
take_down() {
    local status=$? machine
    if [ "$status" != 0 ] && [ -d "$work/bed" ]; then
        rm -rf "$target/host-logs"
        for machine in "$work"/bed/machines/*/; do
            [ -d "$machine" ] || continue
            mkdir -p "$target/host-logs/$(basename "$machine")"
            cp -r "$machine/log/console.log" "$machine"/disk/var/log/journal "$target/host-logs/$(basename "$machine")" 2>/dev/null || true
        done
        echo "test.sh: what the machines said is in $target/host-logs (journalctl --directory)" >&2
    fi
    tests/cluster/bed.sh down "$work/cluster"
    tests/host/bed.sh down "$work/bed"
    rm -rf "$work"
}

work=$(mktemp -d)
trap take_down EXIT
trap 'exit 130' INT TERM
tests/host/bed.sh up "$work/bed"
mkdir -p "$work/packages/current"
cp "$packages"/*.deb "$work/packages/current"
tests/host/older.sh "$work/packages/current" "$work/packages/previous"

# An API server that the machines reach, for the labels.
mkdir "$work/programs"
ln -s "$(command -v etcd)" "$kubernetes/kube-apiserver" "$work/programs"
address=$(tests/host/bed.sh address "$work/bed")
KUBEBUILDER_ASSETS=$work/programs ROLLCALL_API_ADDRESS=$address tests/cluster/bed.sh up "$work/cluster"

ROLLCALL_BED=$work/cluster ROLLCALL_HOST_BED=$work/bed ROLLCALL_PACKAGES=$work/packages \
    "${CARGO:-cargo}" test --locked -p rollcall-tests --test host -- "$@"
