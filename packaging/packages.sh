#!/usr/bin/env bash
# Builds the Debian packages and RPMs of both programs.
#
# usage: packages.sh TARGET_DIR PROFILE CARGO_DEB CARGO_GENERATE_RPM
#
# From the environment:
#   PACKAGES_DIR        where they come to, without older ones of ours; else TARGET_DIR/packages
#   PACKAGE_VERSION     the packages' version; else the workspace's
#   PACKAGE_MAINTAINER  who builds them, as `Name <address>`
#   CARGO_BUILD_TARGET  another platform, for example aarch64-unknown-linux-gnu
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# = 4 ] || { sed -n '4p' "$0" >&2; exit 2; }
mkdir -p "$1"
target_dir=$(cd "$1" && pwd)
profile=$2 cargo_deb=$3 cargo_generate_rpm=$4
export CARGO_TARGET_DIR=$target_dir
cargo=${CARGO:-cargo}
packages=${PACKAGES_DIR:-$target_dir/packages}
# Where cargo puts what it builds of this profile.
[ "$profile" = dev ] && folder=debug || folder=$profile
built=$target_dir/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}$folder

# The same input makes the same packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

platform=${CARGO_BUILD_TARGET:-$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')}
if [ "$profile" = dev ]; then
    # As the tests build, so that nothing is built twice.
    "$cargo" build --locked --workspace --bins
else
    # Each by itself: built together, the agent would carry what only the aggregator asks of their libraries.
    "$cargo" build --locked --profile "$profile" --config agent/release.toml -p rollcall-agent
    for program in rollcall-aggregator rollcall-pages; do
        "$cargo" build --locked --profile "$profile" -p "$program"
    done
fi
pages=$built/rollcall-pages
if [ -n "${CARGO_BUILD_TARGET:-}" ]; then
    # The pages are made by a program of this machine's, whatever the packages are for.
    env -u CARGO_BUILD_TARGET "$cargo" build --locked --profile "$profile" -p rollcall-pages
    pages=$target_dir/$folder/rollcall-pages
fi
# What goes into the packages, where their metadata look for it, whatever the profile is.
stage=$target_dir/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release/stage
rm -rf "$stage"
"$pages" "$stage"
gzip --best --no-name "$stage"/man/*.1
for program in rollcall-agent rollcall-aggregator; do
    # The release profile strips by itself.
    if [ "$profile" = release ]; then
        install -m 0755 "$built/$program" "$stage/"
    else
        strip -o "$stage/$program" "$built/$program"
    fi
    mkdir -p "$stage/third-party/$program"
    packaging/third-party.py "$program" "$platform" >"$stage/third-party/$program/THIRD-PARTY"
    gzip --best --no-name "$stage/third-party/$program/THIRD-PARTY"
done

mkdir -p "$packages"
packages=$(cd "$packages" && pwd)
rm -f "$packages"/rollcall-{agent,aggregator}[-_]*.{deb,rpm}
version=() rpm_version=()
if [ -n "${PACKAGE_VERSION:-}" ]; then
    version=(--deb-version "$PACKAGE_VERSION-1")
    rpm_version=(--set-metadata "version = \"$PACKAGE_VERSION\"")
fi
target=() rpm_target=()
if [ -n "${CARGO_BUILD_TARGET:-}" ]; then
    target=(--target "$CARGO_BUILD_TARGET")
    rpm_target=(--target "$CARGO_BUILD_TARGET")
fi
# What is only tested need not be small.
fast=() rpm_fast=()
if [ "$profile" != release ]; then
    fast=(--fast)
    rpm_fast=(--payload-compress none)
fi
for crate in agent aggregator; do
    "$cargo_deb" --locked --no-build --no-strip --package "rollcall-$crate" --output "$packages/" \
        "${version[@]}" "${target[@]}" "${fast[@]}" ${PACKAGE_MAINTAINER:+--maintainer "$PACKAGE_MAINTAINER"}
    "$cargo_generate_rpm" generate-rpm --package "$crate" --target-dir "$target_dir" \
        --output "$packages/" "${rpm_version[@]}" "${rpm_target[@]}" "${rpm_fast[@]}"
done
ls -l "$packages"
