#!/usr/bin/env bash
# Builds Kubernetes' server programs from Debian's source package, once a machine, and prints the
# folder that holds them. No registry and no release server is needed, only the distribution's.
#
# usage: build-kubernetes.sh    (about 7 minutes on two cores; at once when it is there already)
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/kubernetes
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

whole() {
    local program
    for program in "${programs[@]}"; do
        [ -x "$cache/bin/$program" ] || return 1
    done
}

if whole; then
    echo "$cache/bin"
    exit
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "build-kubernetes.sh: this needs root on Debian 12; elsewhere, set KUBECONFIG to a cluster that may be used for tests" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
    # Sources are listed beside what this machine has, in folders of our own.
    mkdir -p "$work/apt/lists/partial" "$work/apt/sources"
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$list" ] && sed -nE 's/^deb /deb-src /p' "$list" >"$work/apt/sources/$(basename "$list").list"
    done
    for list in /etc/apt/sources.list.d/*.sources; do
        [ -f "$list" ] && sed -E 's/^Types:.*/Types: deb-src/' "$list" >"$work/apt/sources/$(basename "$list")"
    done
    apt=(-qq -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$work/apt/sources" -o "Dir::State::Lists=$work/apt/lists" -o "APT::Sandbox::User=root")
    "$(dirname "$0")/../install.sh" golang-go jq rsync make gcc libc6-dev dpkg-dev golang-github-modern-go-reflect2-dev
    apt-get "${apt[@]}" update
    (cd "$work" && apt-get "${apt[@]}" source kubernetes)
    source=$(echo "$work"/kubernetes-*/)
    # With the vendored 1.0.1 and Go 1.19, the API server crashes on any custom resource.
    rm -rf "$source/vendor/github.com/modern-go/reflect2"
    cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 "$source/vendor/github.com/modern-go/reflect2"
    mkdir -p "$source/.go/src/k8s.io"
    ln -s "$source" "$source/.go/src/k8s.io/kubernetes"
    what=$(printf 'cmd/%s ' "${programs[@]}")
    (cd "$source/.go/src/k8s.io/kubernetes" && GOPATH="$source/.go" GOCACHE="$work/go-cache" CGO_ENABLED=0 make WHAT="${what% }")
    mkdir -p "$cache/bin"
    for program in "${programs[@]}"; do
        cp "$source/_output/local/go/bin/$program" "$cache/bin/$program.new"
        mv "$cache/bin/$program.new" "$cache/bin/$program"
    done
} >&2
echo "$cache/bin"
