#!/usr/bin/env bash
# Makes the container images of rollcall's programs as they were built here, with the Dockerfile that
# users get, under the names that the manifests use. The base is made here, of the libraries that the
# programs are linked to; what only debuggers read is left out.
#
# usage: images.sh FOLDER-OF-PROGRAMS OUT-FOLDER
set -euo pipefail

[ "$#" = 2 ] || { sed -nE 's/^# (usage: .*)/\1/p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$(dirname "$here")")
programs=$1 out=$2
command -v buildah >/dev/null || "$here/../install.sh" buildah >&2
version=$(sed -nE '/^\[workspace\.package\]/,/^\[/s/^version = "(.*)"$/\1/p' "$repository/Cargo.toml")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Layers are copied, which works everywhere; commands run without a container, for there are none.
engine=(buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs)

mkdir -p "$work/context/programs" "$out"
cp "$repository/LICENSE" "$work/context"
for part in agent aggregator; do
    name=rollcall-$part
    image=rollcall.dev/$name:$version
    strip --strip-debug -o "$work/context/programs/$name" "$programs/$name"
    "$here/image.sh" --libraries "$work/context/programs/$name" "localhost/$name-base:1" "$work/$name-base.tar"
    {
        "${engine[@]}" pull "docker-archive:$work/$name-base.tar"
        "${engine[@]}" build --isolation chroot --pull-never --target "$part-prebuilt" \
            --build-arg BASE="localhost/$name-base:1" --build-arg PROGRAMS=programs --build-arg VERSION="$version" \
            --file "$repository/packaging/container/Dockerfile" --tag "$image" "$work/context"
        # An archive is not added to.
        rm -f "$out/$name.tar"
        "${engine[@]}" push "$image" "docker-archive:$out/$name.tar:$image"
    } >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
done
