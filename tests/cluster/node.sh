# The bed's nodes: each a machine with a containerd, a kubelet and a kube-proxy of its own.
# shellcheck shell=bash disable=SC2154
#
# Sourced by bed.sh, which sets: bed (the bed's folder), programs (the folder of Kubernetes'
# programs), network (the first two numbers of the bed's addresses), api_address, pause_image.

# start_node NAME: a new one, or one that was stopped and keeps its disk. Node I has the address
# N.N.0.(I+1), its pods have N.N.(64+I).0/24.
start_node() {
    local name=$1 folder=$bed/machines/$1 index image
    [[ $name =~ ^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$ && $name != control-plane ]] || fail "a node of the bed cannot be named \"$name\""
    machine_is_off "$name" || fail "node $name runs already"
    if [ ! -f "$folder/index" ]; then
        index=$(($(find "$bed/machines" -mindepth 2 -maxdepth 2 -name index | wc -l) + 1))
        [ "$index" -lt 64 ] || fail "a bed has 63 nodes at most"
        mkdir -p "$folder"
        openssl rand -hex 16 >"$folder/own-machine-id"
        echo "$index" >"$folder/index"
        make_certificate "$name" "/O=system:nodes/CN=system:node:$name"
        make_kubeconfig "$folder/kubelet.kubeconfig" "$name"
        make_certificate "$name-proxy" /CN=system:kube-proxy
        make_kubeconfig "$folder/kube-proxy.kubeconfig" "$name-proxy"
    fi
    echo "nameserver $api_address" >"$folder/resolv.conf"
    start_machine "$name" "$(<"$folder/own-machine-id")"
    connect_node "$name"
    configure_node "$name"

    start_in "$name" containerd containerd --config "$folder/containerd.toml"
    wait_for "containerd of $name" 30 in_machine "$name" ctr version >/dev/null 2>&1
    for image in "$bed"/images/*.tar; do
        load_on_node "$name" "$image"
    done
    start_in "$name" kubelet "$programs/kubelet" --config "$folder/kubelet.yaml" --kubeconfig "$folder/kubelet.kubeconfig" \
        --hostname-override "$name" --node-ip "$network.0.$(($(<"$folder/index") + 1))" \
        --container-runtime remote --container-runtime-endpoint unix:///run/containerd/containerd.sock
    start_in "$name" kube-proxy "$programs/kube-proxy" --config "$folder/kube-proxy.yaml" --hostname-override "$name"
}

# A cable to the bridge of the control plane's machine, which knows the way to every node's pods.
connect_node() {
    local name=$1 index address here_pid there_pid
    index=$(<"$bed/machines/$name/index")
    address=$network.0.$((index + 1))
    here_pid=$(machine_init control-plane)
    there_pid=$(machine_init "$name")
    in_machine control-plane ip link delete "node$index" 2>/dev/null || true
    ip link add "node$index" netns "$here_pid" type veth peer name eth0 netns "$there_pid"
    in_machine control-plane ip link set "node$index" master nodes up
    in_machine control-plane ip route replace "$network.$((64 + index)).0/24" via "$address"
    # This machine reaches Services through the first node.
    [ "$index" != 1 ] || in_machine control-plane ip route replace "$network.128.0/20" via "$address"
    in_machine "$name" ip address add "$address/24" dev eth0
    in_machine "$name" ip link set eth0 up
    in_machine "$name" ip route add default via "$network.0.1"
}

configure_node() {
    local name=$1 folder=$bed/machines/$1 index snapshotter=overlayfs
    index=$(<"$folder/index")
    # An overlay cannot lie on another.
    [ "$(stat --file-system --format %T "$folder")" != overlayfs ] || snapshotter=native

    mkdir -p "$folder/cni"
    # Pods of a node have no common bridge: what they send one another passes the node's rules, so
    # that Services work without the kernel's br_netfilter.
    cat >"$folder/cni/10-bed.conflist" <<EOF
{
  "cniVersion": "0.4.0",
  "name": "bed",
  "plugins": [
    {
      "type": "ptp",
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "$network.$((64 + index)).0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/cni"
      }
    }
  ]
}
EOF
    # Lowering a process's oom_score_adj takes a capability that root in a container may lack.
    cat >"$folder/containerd.toml" <<EOF
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$pause_image"
  restrict_oom_score_adj = true
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
EOF
    # The bed's nodes share a disk that is not theirs to judge.
    cat >"$folder/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $bed/pki/ca.crt}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [$api_address]
resolvConf: $folder/resolv.conf
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
# Ready is told soon; else as usual.
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 5m
oomScoreAdj: 0
imageGCHighThresholdPercent: 100
evictionHard:
  memory.available: 100Mi
  nodefs.available: 0%
  nodefs.inodesFree: 0%
  imagefs.available: 0%
EOF
    # The connection table is the whole kernel's.
    cat >"$folder/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $folder/kube-proxy.kubeconfig}
mode: iptables
clusterCIDR: $network.64.0/18
oomScoreAdj: 0
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
EOF
}

# load_on_node NAME TAR
load_on_node() {
    in_machine "$1" ctr --namespace k8s.io images import - <"$2" >/dev/null ||
        fail "containerd of $1 does not take $2"
}

# Nodes that run.
nodes() {
    local folder
    for folder in "$bed"/machines/*/; do
        [ -f "$folder/index" ] || continue
        folder=$(basename "$folder")
        machine_is_off "$folder" || echo "$folder"
    done
}

nodes_are_ready() {
    local node ready
    for node in "$@"; do
        # Its own word, for the server holds a node that went away for ready for a while.
        in_machine "$node" bash -c 'exec 3<>/dev/tcp/127.0.0.1/10248' 2>/dev/null || return 1
        ready=$(kubectl --kubeconfig "$bed/kubeconfig" get node "$node" --output \
            'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null) || return 1
        [ "$ready" = True ] || return 1
    done
}
