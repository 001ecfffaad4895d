#!/usr/bin/env bash
# Makes the disk of a small Debian with systemd, once a machine, and prints the folder that holds it.
# Whoever uses it lays something over it, and does not write to it.
#
# usage: image.sh    (about a minute; at once when it is there already)
set -euo pipefail

# What a server has that a container's base does not: an init, a bus, man pages and shells that look
# completions up.
packages=(systemd systemd-sysv dbus init-system-helpers iproute2 procps man-db bash-completion zsh fish)
suite=bookworm

sum=$({ echo "$suite ${packages[*]}" && cat "$0"; } | sha256sum | cut -c1-16)
image=${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/host-$sum

make_image() {
    local mirror
    # shellcheck disable=SC2016 # Expanded by apt.
    # The mirror that this machine uses; without one, debootstrap's own.
    mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        sed -n "s/^$suite main //p" | head -n 1)
    rm -rf "$image" "$image.new"
    debootstrap --variant=minbase --include="$(tr ' ' , <<<"${packages[*]}")" "$suite" "$image.new" ${mirror:+"$mirror"}
    # Each machine gets its own.
    : >"$image.new/etc/machine-id"
    rm -f "$image.new"/var/lib/dbus/machine-id "$image.new"/etc/{hostname,resolv.conf}
    rm -rf "$image.new"/var/cache/apt/archives/*.deb "$image.new"/var/lib/apt/lists/* "$image.new"/var/log/*.log
    # What waits for the network at boot, so that it is seen who waits for it.
    chroot "$image.new" systemctl enable systemd-networkd
    mv "$image.new" "$image"
}

mkdir -p "$(dirname "$image")"
exec 9>"$image.lock"
flock 9
if [ ! -d "$image" ]; then
    make_image >"$image.log" 2>&1 &
    wait "$!" || {
        tail -n 20 "$image.log" >&2
        exit 1
    }
fi
echo "$image"
