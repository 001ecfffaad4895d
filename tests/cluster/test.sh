#!/usr/bin/env bash
# Passes the tests that need a real Kubernetes, and takes what it set up down in any case.
#
# usage: test.sh [--include-ignored] [FILTER]    (the long ones too; a word that the names of tests hold)
#
# CARGO, CARGO_TARGET_DIR: as for make.
# ROLLCALL_TEST_KUBECONFIG: the kubeconfig of a cluster that tests may change; then nothing is set up.
# ROLLCALL_KILLS: how often a leader is killed. ROLLCALL_SEED: live that one life again.
# KUBEBUILDER_ASSETS: etcd and kube-apiserver; then there are no nodes, and what needs them is not run.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
kubectl=$(tests/cluster/kubectl.sh)
export PATH=$PATH:$kubectl

# What the cluster's programs said is kept where a test has failed.
take_down() {
    local status=$?
    if [ "$status" != 0 ] && [ -d "$work/bed" ]; then
        rm -rf "$target/cluster-logs"
        mkdir -p "$target/cluster-logs"
        (cd "$work/bed" && find . -name '*.log' -not -path '*/var-l*' -exec cp --parents {} "$target/cluster-logs" \;)
        echo "test.sh: what the cluster's programs said is in $target/cluster-logs" >&2
    fi
    tests/cluster/bed.sh down "$work/bed"
    rm -rf "$work"
}

if [ -z "${ROLLCALL_TEST_KUBECONFIG:-}" ]; then
    work=$(mktemp -d)
    trap take_down EXIT
    trap 'exit 130' INT TERM
    tests/cluster/bed.sh up "$work/bed"
    if [ -z "${KUBEBUILDER_ASSETS:-}" ]; then
        tests/cluster/images.sh "$target/debug" "$work/images"
        tests/cluster/bed.sh load "$work/bed" "$work"/images/*.tar
    fi
    export ROLLCALL_BED=$work/bed
fi

"${CARGO:-cargo}" test --locked -p rollcall-tests --test cluster --test cluster_scale -- "$@"
