#!/usr/bin/env bash
# rollcall's main job on this very machine: an agent probes it and reports, the aggregator keeps the
# roll, assembles the document and registers the cluster. The network is a stand-in on loopback that
# behaves as AIOS's services do; all else is the real thing.
#
# Run by `make demo`, which builds the programs. With KEEP=1 it stays up until Ctrl-C.
set -euo pipefail

bin=${1:?usage: demo.sh FOLDER_OF_THE_PROGRAMS}
folder=$(mktemp -d)
pids=()

finish() {
    # The agent first, so that it does not miss its aggregator.
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }

# start NAME COMMAND...: in the background, its output in a log of that name.
start() {
    local name=$1
    shift
    "$@" >"$folder/$name.out" 2>"$folder/$name.log" &
    pids+=($!)
}

# await WHAT NAME PATTERN: until a line of that program's output matches; prints the line.
await() {
    local line
    for ((tries = 0; tries < 300; tries++)); do
        if line=$(cat "$folder/$2.out" "$folder/$2.log" | grep -m1 -E "$3"); then
            printf '%s\n' "$line"
            return
        fi
        sleep 0.1
    done
    {
        echo "demo: $1 did not come about within 30 s; the log of $2:"
        tail -n 20 "$folder/$2.log"
    } >&2
    return 1
}

# address NAME WHAT: where a program listens, from its log.
address() { await "the address of $1's $2" "$1" "$2 listening" | sed -E 's/.* address=([^ ]+).*/\1/'; }

say "a network to register with: a stand-in of AIOS's parser, gateway and registry"
start network "$bin/aios-standin"
urls=$(await "the stand-in" network '^\{')
parser=$(sed -E 's/.*"parser[^"]*": ?"([^"]+)".*/\1/' <<<"$urls")
gateway=$(sed -E 's/.*"gateway[^"]*": ?"([^"]+)".*/\1/' <<<"$urls")
echo "parser $parser, gateway $gateway"

umask 077
for name in token operator-token; do
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
done
cat >"$folder/cluster.yaml" <<EOT
cluster:
  id: demo-cluster
  regionId: on-my-desk
  tags: [demo]
  config:
    publicHostname: demo-cluster.example.org
    useGateway: false
  clusterMetadata:
    name: Demo
    description: The machine that the demo runs on.
targets:
  - name: aios
    type: aios
    parserUrl: $parser
    gatewayUrl: $gateway
expect:
  nodes: 1
EOT

say "the aggregator, with its store in a file"
start aggregator "$bin/rollcall-aggregator" serve \
    --cluster "$folder/cluster.yaml" --store "sqlite:$folder/rollcall.db" \
    --token-file "$folder/token" --operator-token-file "$folder/operator-token" \
    --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0
intake=$(address aggregator intake)
admin=$(address aggregator admin)
echo "intake http://$intake, admin http://$admin"

say "an agent on this machine"
start agent "$bin/rollcall-agent" run \
    --aggregator "http://$intake" --token-file "$folder/token" --listen 127.0.0.1:0
await "the registration" aggregator 'the cluster is registered' >/dev/null
echo "reported, and the cluster was registered"

export ROLLCALL_SERVER="http://$admin"
say "rollcall-aggregator nodes"
"$bin/rollcall-aggregator" nodes
say "rollcall-aggregator document aios"
"$bin/rollcall-aggregator" document aios
say "rollcall-aggregator status"
"$bin/rollcall-aggregator" status

if [ -n "${KEEP:-}" ]; then
    say "everything stays up until Ctrl-C; logs in $folder"
    echo "try: export ROLLCALL_SERVER=http://$admin ROLLCALL_OPERATOR_TOKEN_FILE=$folder/operator-token"
    echo "     $bin/rollcall-aggregator status"
    echo "     curl http://$admin/metrics"
    wait
fi

printf '\nThe cluster demo-cluster is registered: sent once to %s/api/createCluster and read back from %s\n' \
    "$parser" "$gateway"
