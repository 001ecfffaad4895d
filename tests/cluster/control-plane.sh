# The bed's control plane: etcd, the API server, its controllers, the scheduler, and the names of
# Services. It has a machine of its own, which also joins the nodes with this machine; or, with
# KUBEBUILDER_ASSETS, etcd and the API server alone run beside the tests.
# shellcheck shell=bash disable=SC2154
#
# Sourced by bed.sh, which sets: bed (the bed's folder), here (this folder), kind (of bed: nodes or
# server), programs (the folder of Kubernetes' programs), etcd (the program), etcd_data (its
# folder), network (the first two numbers of the bed's addresses), link (to the bed's network),
# api_address, api_port, etcd_port, etcd_peer_port.

service_account_issuer=https://kubernetes.default.svc.cluster.local

start_control_plane() {
    local names=IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
    names=$names,IP:$network.128.1
    [ "$api_address" = 127.0.0.1 ] || names=$names,IP:$api_address
    make_authority
    make_certificate api-server /CN=kube-apiserver "$names"
    make_certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
    make_certificate admin /O=system:masters/CN=admin
    make_kubeconfig "$bed/kubeconfig" admin
    cat >"$bed/audit-policy.yaml" <<EOF
# What is changed, and by whom.
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
EOF

    if [ "$kind" = nodes ]; then
        start_machine control-plane "$(openssl rand -hex 16)"
        join_networks
    fi
    start_program etcd "$etcd" --name bed --data-dir "$etcd_data" \
        --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
        --listen-peer-urls "http://127.0.0.1:$etcd_peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer_port" \
        --initial-cluster "bed=http://127.0.0.1:$etcd_peer_port"
    start_api_server
    [ "$kind" = nodes ] || return 0

    local controller
    for controller in kube-controller-manager kube-scheduler; do
        make_certificate "$controller" "/CN=system:$controller"
        make_kubeconfig "$bed/pki/$controller.kubeconfig" "$controller"
    done
    start_program kube-controller-manager "$programs/kube-controller-manager" \
        --kubeconfig "$bed/pki/kube-controller-manager.kubeconfig" --use-service-account-credentials \
        --leader-elect=false --root-ca-file "$bed/pki/ca.crt" \
        --service-account-private-key-file "$bed/pki/service-accounts.key" \
        --cluster-signing-cert-file "$bed/pki/ca.crt" --cluster-signing-key-file "$bed/pki/ca.key"
    start_program kube-scheduler "$programs/kube-scheduler" \
        --kubeconfig "$bed/pki/kube-scheduler.kubeconfig" --leader-elect=false

    touch "$bed/service-names"
    # Nothing else has names here, so that a name that is wrong is told at once.
    start_program dnsmasq dnsmasq --keep-in-foreground --conf-file=/dev/null --log-facility=- --user=root \
        --pid-file=/run/dnsmasq.pid --listen-address="$api_address" --bind-interfaces \
        --no-resolv --no-hosts --local=/cluster.local/ --addn-hosts="$bed/service-names"
    start_program service-names bash "$here/service-names.sh" "$bed/kubeconfig" "$bed/service-names" /run/dnsmasq.pid
}

# The control plane's machine is the switch between its nodes and this machine, and the way from
# here to pods and Services.
join_networks() {
    local pid
    pid=$(machine_init control-plane)
    ip link set "$link-in" netns "$pid"
    # A bridge without an address of its own takes that of a port, and ports come and go.
    in_machine control-plane ip link add nodes address 02:00:00:00:00:01 type bridge
    in_machine control-plane ip link set "$link-in" master nodes up
    in_machine control-plane ip address add "$network.0.1/24" dev nodes
    in_machine control-plane ip link set nodes up
    # Who looks for the world is told at once that there is none.
    in_machine control-plane ip route add unreachable default
    ip address add "$network.0.254/24" dev "$link"
    ip link set "$link" up
    ip route add "$network.0.0/16" via "$network.0.1"
}

start_api_server() {
    # A service account's tokens name the issuer, and are for the server where they say nothing else.
    start_program kube-apiserver "$programs/kube-apiserver" \
        --bind-address "$api_address" --secure-port "$api_port" --advertise-address "$api_address" \
        --etcd-servers "http://127.0.0.1:$etcd_port" --service-cluster-ip-range "$network.128.0/20" \
        --tls-cert-file "$bed/pki/api-server.crt" --tls-private-key-file "$bed/pki/api-server.key" \
        --client-ca-file "$bed/pki/ca.crt" --cert-dir "$bed/pki" \
        --kubelet-client-certificate "$bed/pki/kubelet-client.crt" --kubelet-client-key "$bed/pki/kubelet-client.key" \
        --kubelet-preferred-address-types InternalIP \
        --service-account-issuer "$service_account_issuer" \
        --service-account-key-file "$bed/pki/service-accounts.key" \
        --service-account-signing-key-file "$bed/pki/service-accounts.key" \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged=true \
        --audit-policy-file "$bed/audit-policy.yaml" --audit-log-path "$bed/log/audit.log"
    wait_for "the API server to be ready" 60 api_server_is_ready
}

stop_api_server() {
    stop_program kube-apiserver
}

api_server_is_ready() {
    kubectl --kubeconfig "$bed/kubeconfig" get --raw /readyz >/dev/null 2>&1
}

# start_program NAME COMMAND...: on the control plane's machine, or beside the tests.
start_program() {
    local name=$1 pid
    if [ "$kind" = nodes ]; then
        start_in control-plane "$@"
        return
    fi
    shift
    mkdir -p "$bed/processes"
    # shellcheck disable=SC2016 # Expanded inside.
    setsid --fork bash -c 'echo "$$" >"$1"; shift; exec "$@"' start "$bed/processes/$name" "$@" \
        </dev/null >>"$bed/log/$name.log" 2>&1
    wait_for "the start of $name" 10 test -s "$bed/processes/$name"
    pid=$(<"$bed/processes/$name")
    echo "$pid $(started_at "$pid")" >"$bed/processes/$name"
}

stop_program() {
    local name=$1 pid started
    if [ "$kind" = nodes ]; then
        stop_in control-plane "$name"
        return
    fi
    read -r pid started <"$bed/processes/$name"
    if [ "$(started_at "$pid")" = "$started" ]; then
        kill "$pid"
        wait_for "" 5 process_ended "$pid" "$started" || kill -KILL "$pid"
    fi
    rm "$bed/processes/$name"
}

process_ended() {
    [ "$(started_at "$1")" != "$2" ]
}
