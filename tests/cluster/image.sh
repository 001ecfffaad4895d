#!/usr/bin/env bash
# Makes a container image that holds one program at /usr/bin and the libraries it is linked to, and
# nothing else: no shell, for the user 65532. It needs no registry, no base image and no container engine.
#
# usage: image.sh [--libraries] PROGRAM NAME:TAG OUT.tar [ARGUMENT...]
#
# ARGUMENT: the program's, in a container. --libraries: without the program, as a base for it.
set -euo pipefail

with_program=yes
if [ "${1:-}" = --libraries ]; then
    with_program=
    shift
fi
[ "$#" -ge 3 ] || { sed -nE 's/^# (usage: .*)/\1/p' "$0" >&2; exit 2; }
program=$1 tag=$2 out=$3
shift 3
name=$(basename "$program")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{usr/bin,usr/lib,usr/lib64,etc,tmp}
# As in Debian's base: the loader's path leads into /usr.
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
chmod 1777 "$root/tmp"
[ -z "$with_program" ] || install -m 0755 "$program" "$root/usr/bin/$name"

# NAME => PATH (ADDRESS), and PATH (ADDRESS) for the loader itself.
if libraries=$(ldd "$program" 2>/dev/null); then
    while read -r library; do
        install -D -m 0644 "$library" "$root$library"
        chmod +x "$root$library"
    done < <(sed -nE 's/^\s*(.* => )?(\/[^ ]+) \(0x[0-9a-f]+\)$/\2/p' <<<"$libraries")
fi
# What glibc loads while it runs, to look up names.
if [ -n "${libraries:-}" ]; then
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
fi
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
echo 'rollcall:x:65532:65532:rollcall:/:/usr/sbin/nologin' >"$root/etc/passwd"
echo 'rollcall:x:65532:' >"$root/etc/group"

tar --directory "$root" --create --file "$work/layer.tar" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 .
layer=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
jq --null-input --arg program "/usr/bin/$name" --arg layer "sha256:$layer" --arg architecture "$(dpkg --print-architecture)" '{
    architecture: $architecture, os: "linux",
    config: {User: "65532:65532", Entrypoint: [$program], Cmd: $ARGS.positional, WorkingDir: "/"},
    rootfs: {type: "layers", diff_ids: [$layer]},
    history: [{created_by: "tests/cluster/image.sh"}]
}' --args "$@" >"$work/config.json"
jq --null-input --arg tag "$tag" '[{Config: "config.json", RepoTags: [$tag], Layers: ["layer.tar"]}]' >"$work/manifest.json"
tar --directory "$work" --create --file "$out" manifest.json config.json layer.tar
