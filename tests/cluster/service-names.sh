#!/usr/bin/env bash
# Tells the bed's name server the Services of the cluster, as they come and go. Names outlast the
# API server's absence. Services without an address of their own have no name here.
#
# usage: service-names.sh KUBECONFIG HOSTS-FILE PID-FILE-OF-DNSMASQ
set -euo pipefail

kubeconfig=$1 hosts=$2 pid_file=$3

services() {
    kubectl --kubeconfig "$kubeconfig" get services --all-namespaces "$@" 2>/dev/null
}

tell() {
    services --output 'go-template={{range .items}}{{if ne .spec.clusterIP "None"}}{{.spec.clusterIP}} {{.metadata.name}}.{{.metadata.namespace}}.svc.cluster.local{{"\n"}}{{end}}{{end}}' \
        >"$hosts.new" || return 0
    # dnsmasq is told of the file, so that it stays the same.
    cmp --silent "$hosts.new" "$hosts" && return
    cat "$hosts.new" >"$hosts"
    kill -HUP "$(<"$pid_file")"
}

while :; do
    # Each change that the watch tells is a reason to list them anew.
    services --watch --output name | while read -r _; do tell; done || true
    sleep 1
done
