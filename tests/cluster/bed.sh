#!/usr/bin/env bash
# A real Kubernetes for tests, on this machine alone: a control plane and two nodes, each with
# namespaces, cgroups and a network of its own, so that any number of beds run side by side and
# nothing of them stays. All state is in one folder. Root on Debian 12; programs that are missing
# are installed or built.
#
# With KUBEBUILDER_ASSETS (a folder with etcd and kube-apiserver), these two alone run, and no root
# is needed: there are no nodes then, no controllers, and no pod ever starts. The server is at
# 127.0.0.1, or at the address of this machine that ROLLCALL_API_ADDRESS names.
#
# Pods reach one another, Services by address and by name (those without an address have none), and
# this machine, at 10.NUMBER.0.254; this machine reaches pods and Services; nothing reaches the
# world. Nodes are told apart by machine id and boot id; their hardware is this machine's. Nothing
# enforces a NetworkPolicy. DIR/log/audit.log tells all that was written to the API server;
# DIR/machines/*/log is what each program says.
# shellcheck source-path=SCRIPTDIR disable=SC2154
set -euo pipefail

usage() {
    cat >&2 <<'EOF'
usage: bed.sh up DIR                       set a bed up; DIR/kubeconfig is its administrator's
       bed.sh down DIR                     take it down, whatever is left of it, and remove DIR
       bed.sh load DIR IMAGE-TAR...        give container images to every node, later ones too
       bed.sh stop-node DIR NODE           as a power failure would; the Node object stays
       bed.sh start-node DIR NODE          start it again; or a new one
       bed.sh stop-apiserver DIR
       bed.sh start-apiserver DIR
       bed.sh run DIR MACHINE COMMAND...   run a command on a node, or on control-plane
EOF
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pause_image=rollcall.test/pause:1
busybox_image=rollcall.test/busybox:1
# shellcheck source=../basics.sh
. "$here/../basics.sh"
# shellcheck source=machine.sh
. "$here/machine.sh"
# shellcheck source=certificates.sh
. "$here/certificates.sh"
# shellcheck source=control-plane.sh
. "$here/control-plane.sh"
# shellcheck source=node.sh
. "$here/node.sh"

up() {
    [ ! -e "$bed/settings" ] || fail "$bed holds a bed already: take it down first (bed.sh down $bed)"
    mkdir -p "$bed/log"
    trap 'gave_up' EXIT
    need openssl:openssl
    if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
        set_up_server
    else
        set_up_nodes
    fi
    trap - EXIT
}

# What the programs of a failed bed said would be lost with it.
gave_up() {
    local log
    for log in "$bed"/machines/*/log/*.log; do
        [ -s "$log" ] || continue
        echo "--- last lines of $log" >&2
        tail -n 8 "$log" >&2
    done
    down
}

# etcd and the API server of KUBEBUILDER_ASSETS, on free ports.
set_up_server() {
    local program ports
    for program in etcd kube-apiserver; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] || fail "KUBEBUILDER_ASSETS names $KUBEBUILDER_ASSETS, which has no $program"
    done
    echo "bed.sh: KUBEBUILDER_ASSETS has no nodes: what needs them is not run" >&2
    read -ra ports < <(free_ports 3)
    cat >"$bed/settings" <<EOF
kind=server
programs=$(printf %q "$KUBEBUILDER_ASSETS")
etcd=$(printf %q "$KUBEBUILDER_ASSETS/etcd")
etcd_data=$(printf %q "$bed/etcd")
network=10.64
api_address=${ROLLCALL_API_ADDRESS:-127.0.0.1}
api_port=${ports[0]}
etcd_port=${ports[1]}
etcd_peer_port=${ports[2]}
EOF
    read_settings
    start_control_plane
}

free_ports() {
    python3 -c '
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(each.getsockname()[1] for each in sockets))' "$1"
}

set_up_nodes() {
    local built number
    [ "$(id -u)" = 0 ] ||
        fail "a bed with nodes needs root; without, set KUBEBUILDER_ASSETS or ROLLCALL_TEST_KUBECONFIG"
    # Machines have their own of these.
    case $bed/ in
    /run/* | /var/run/* | /var/lib/* | /var/log/* | /proc/* | /sys/*) fail "a bed cannot lie in $bed" ;;
    esac
    need ip:iproute2 nsenter:util-linux etcd:etcd-server containerd:containerd runc:runc \
        /usr/lib/cni/ptp:containernetworking-plugins iptables:iptables conntrack:conntrack \
        dnsmasq:dnsmasq-base busybox:busybox-static jq:jq
    built=$("$here/build-kubernetes.sh")
    take_number make_link
    cat >"$bed/settings" <<EOF
kind=nodes
number=$number
programs=$(printf %q "$built")
etcd=etcd
etcd_data=/run/etcd
network=10.$number
api_address=10.$number.0.1
api_port=6443
etcd_port=2379
etcd_peer_port=2380
EOF
    read_settings
    mkdir "$bed/images"
    "$here/image.sh" "$(command -v busybox)" "$busybox_image" "$bed/images/busybox.tar"
    "$here/image.sh" "$(command -v busybox)" "$pause_image" "$bed/images/pause.tar" sleep 2147483647
    start_control_plane
    start_node node-a
    start_node node-b
    wait_for "both nodes to be ready" 60 nodes_are_ready node-a node-b
}

# make_link NUMBER: between this machine and the bed's network.
make_link() {
    ip link add "rollcall$1" type veth peer name "rollcall$1-in"
}

read_settings() {
    [ -f "$bed/settings" ] || fail "$bed holds no bed"
    # shellcheck source=/dev/null
    . "$bed/settings"
    # shellcheck disable=SC2034 # For certificates.sh.
    api_server=https://$api_address:$api_port
    link=rollcall${number:-}
}

down() {
    local folder process
    if [ -f "$bed/settings" ]; then
        read_settings
        for folder in "$bed"/machines/*/; do
            [ ! -d "$folder" ] || stop_machine "$(basename "$folder")"
        done
        [ "$kind" != nodes ] || ! ip link show "$link" >/dev/null 2>&1 || ip link delete "$link"
        for process in "$bed"/processes/*; do
            [ ! -f "$process" ] || stop_program "$(basename "$process")"
        done
    fi
    for folder in machines images pki log processes etcd settings kubeconfig audit-policy.yaml service-names{,.new}; do
        rm -rf "${bed:?}/$folder"
    done
    [ ! -d "$bed" ] || rmdir --ignore-fail-on-non-empty "$bed"
}

load() {
    local tar node
    [ "$kind" = nodes ] || fail "$bed has no nodes that images could be given to"
    for tar in "$@"; do
        cp "$tar" "$bed/images/$(basename "$tar")"
        for node in $(nodes); do
            load_on_node "$node" "$tar"
        done
    done
}

[ "$#" -ge 2 ] || usage
PATH=$PATH:/usr/sbin:/sbin
command=$1
bed=$(realpath --canonicalize-missing "$2")
shift 2
if [ "$command" != down ]; then
    kubectl=$("$here/kubectl.sh")
    PATH=$PATH:$kubectl
fi
case $command in
up | down) "$command" ;;
load | start-node | stop-node | start-apiserver | stop-apiserver | run)
    read_settings
    case $command in
    load) load "$@" ;;
    run) in_machine "$@" ;;
    start-node) start_node "${1:?the node}" && wait_for "node $1" 60 nodes_are_ready "$1" ;;
    stop-node) stop_machine "${1:?the node}" ;;
    start-apiserver) api_server_is_ready || start_api_server ;;
    stop-apiserver) stop_api_server ;;
    esac
    ;;
*) usage ;;
esac
