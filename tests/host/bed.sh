#!/usr/bin/env bash
# Real machines for tests, as far as systemd goes: Debian with its init, journal, users and packages,
# booted with systemd-nspawn on this machine's kernel and hardware. They have a network of their own,
# which reaches this machine and nothing else; any number of beds run side by side, and nothing of
# them stays. All state is in one folder. Root on Debian 12; programs that are missing are installed.
#
# A machine's disk outlasts `halt` and `kill`, and is clean again after `remove`. Machines are called
# head, node and spare, are at 10.NUMBER.0.1 to .3 and know each other by name; this machine is at
# 10.NUMBER.0.254, which they know as `world`. DIR/machines/MACHINE/log tells what the console showed.
# shellcheck source-path=SCRIPTDIR disable=SC2154
set -euo pipefail

usage() {
    cat >&2 <<'EOT'
usage: bed.sh up DIR                         set a bed up, without machines
       bed.sh down DIR                       take it down, whatever is left of it, and remove DIR
       bed.sh address DIR                    print this machine's address, as machines reach it
       bed.sh boot DIR MACHINE               start a machine, and wait until it is up
       bed.sh halt DIR MACHINE               shut it down in order
       bed.sh kill DIR MACHINE               end it as a power failure would
       bed.sh remove DIR MACHINE             the same, its disk too
       bed.sh cut DIR MACHINE [silently]     take its network away, running or not; silently: its link
                                             stays up, and nothing comes through
       bed.sh mend DIR MACHINE               give it back
       bed.sh run DIR MACHINE COMMAND...     run a command in it, as root
EOT
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
names=(head node spare)
# shellcheck source=../basics.sh
. "$here/../basics.sh"
# shellcheck source=../cluster/machine.sh
. "$here/../cluster/machine.sh"

up() {
    [ ! -e "$bed/settings" ] || fail "$bed holds a bed already: take it down first (bed.sh down $bed)"
    [ "$(id -u)" = 0 ] || fail "a machine is booted by root only"
    need ip:iproute2 nsenter:util-linux pgrep:procps findmnt:util-linux debootstrap:debootstrap \
        systemd-nspawn:systemd-container
    mkdir -p "$bed/machines"
    trap down EXIT
    image=$("$here/image.sh")
    take_number make_link
    cat >"$bed/settings" <<EOT
number=$number
image=$(printf %q "$image")
EOT
    ip address add "10.$number.0.254/24" dev "rollcall$number"
    ip link set "rollcall$number" up
    trap - EXIT
}

make_link() {
    ip link add "rollcall$1" type bridge
}

read_settings() {
    [ -f "$bed/settings" ] || fail "$bed holds no bed"
    # shellcheck source=/dev/null
    . "$bed/settings"
}

down() {
    local folder
    if [ -f "$bed/settings" ]; then
        read_settings
        for folder in "$bed"/machines/*/; do
            [ ! -d "$folder" ] || remove "$(basename "$folder")"
        done
        ! ip link show "rollcall$number" >/dev/null 2>&1 || ip link delete "rollcall$number"
    fi
    rm -rf "${bed:?}"/{machines,settings}
    [ ! -d "$bed" ] || rmdir --ignore-fail-on-non-empty "$bed"
}

# The last number of a machine's address.
place() {
    local index
    for index in "${!names[@]}"; do
        [ "${names[index]}" != "$1" ] || {
            echo "$((index + 1))"
            return
        }
    done
    fail "machines are called ${names[*]}, not $1"
}

boot() {
    local name=$1 folder=$bed/machines/$1
    machine_is_off "$name" || fail "machine $name runs already"
    place "$name" >/dev/null
    [ -d "$folder/disk" ] || make_disk "$name"
    [ -d "$folder/root/etc" ] ||
        mount -t overlay -o "lowerdir=$image,upperdir=$folder/disk,workdir=$folder/work" overlay "$folder/root"
    make_cgroups "$name"
    make_unified_cgroup "$name"
    # It may not end with the shell that started it.
    # shellcheck disable=SC2016 # Expanded inside.
    setsid --fork bash -c '
        while read -r _ group; do echo "$$" >"$group/cgroup.procs"; done <"$1/cgroups"
        echo "$$" >"$1/nspawn"
        exec systemd-nspawn --quiet --boot --directory="$1/root" --register=no --keep-unit --link-journal=no \
            --machine="$2" --hostname="$3" --network-veth-extra="$4:host0" --console=read-only' \
        boot "$folder" "rollcall$number-$name" "$name" "$(link_of "$name")" \
        </dev/null >>"$folder/log/console.log" 2>&1
    wait_for "the start of machine $name" 20 found_init "$name" || gave_up "$name"
    if [ -e "$folder/cut" ]; then set_link "$name"; else mend "$name"; fi
    wait_for "machine $name to be up" 60 is_up "$name" || gave_up "$name"
}

gave_up() {
    tail -n 20 "$bed/machines/$1/log/console.log" >&2
    exit 1
}

# The disk of a machine, as after its installation.
make_disk() {
    local name=$1 folder=$bed/machines/$1 index
    mkdir -p "$folder"/{disk,work,root,log}
    mount -t overlay -o "lowerdir=$image,upperdir=$folder/disk,workdir=$folder/work" overlay "$folder/root"
    echo "$name" >"$folder/root/etc/hostname"
    tr -d - </proc/sys/kernel/random/uuid >"$folder/root/etc/machine-id"
    {
        echo "127.0.0.1 localhost"
        for index in "${!names[@]}"; do
            echo "10.$number.0.$((index + 1)) ${names[index]}"
        done
        echo "10.$number.0.254 world"
    } >"$folder/root/etc/hosts"
    cat >"$folder/root/etc/systemd/network/10-host0.network" <<EOT
[Match]
Name=host0
[Network]
Address=10.$number.0.$(place "$name")/24
LinkLocalAddressing=no
IPv6AcceptRA=no
EOT
}

# Where control groups of version 2 are used, alone or beside those of version 1.
make_unified_cgroup() {
    local root path
    root=$(findmnt --noheadings --raw --first-only --types cgroup2 --output TARGET) || return 0
    path=$(sed -n 's/^0:://p' /proc/self/cgroup)
    make_cgroup "$1" unified "$root${path%/}"
}

# The machine's init is the one child of systemd-nspawn that has processes of its own.
found_init() {
    local folder=$bed/machines/$1 pid
    [ -s "$folder/nspawn" ] || return 1
    pid=$(pgrep --parent "$(<"$folder/nspawn")" | head -n 1) && [ -n "$pid" ] || return 1
    [ "$(readlink "/proc/$pid/ns/pid")" != "$(readlink /proc/self/ns/pid)" ] || return 1
    echo "$pid $(started_at "$pid")" >"$folder/init"
}

is_up() {
    local state
    # What was taken for its init may have been a process on the way there.
    found_init "$1" || return 1
    # It fails for a machine that is up and has a unit that has failed.
    state=$(in_machine "$1" systemctl is-system-running 2>/dev/null) || true
    [ "$state" = running ] || [ "$state" = degraded ]
}

halt() {
    in_machine "$1" systemctl poweroff
    wait_for "machine $1 to shut down" 60 nspawn_has_ended "$1" || gave_up "$1"
    kill_machine "$1"
}

kill_machine() {
    local name=$1 pid
    if pid=$(machine_init "$name"); then
        kill -KILL "$pid"
        wait_for "the end of machine $name" 20 nspawn_has_ended "$name"
    fi
    # What has not come to an init, or outlived it.
    remove_cgroups "$name"
    rm -f "$bed/machines/$name"/{init,nspawn}
}

nspawn_has_ended() {
    [ ! -s "$bed/machines/$1/nspawn" ] || [ ! -d "/proc/$(<"$bed/machines/$1/nspawn")" ]
}

remove() {
    local folder=$bed/machines/$1
    kill_machine "$1"
    # Somebody may just look at what is on it.
    ! mountpoint --quiet "$folder/root" || wait_for "" 5 umount "$folder/root" || umount --lazy "$folder/root"
    rm -rf "$folder"
}

link_of() {
    echo "rc$number-$1"
}

cut_off() {
    mkdir -p "$bed/machines/$1"
    echo "${2:-}" >"$bed/machines/$1/cut"
    ! ip link show "$(link_of "$1")" >/dev/null 2>&1 || set_link "$1"
}

# A new link is down, and nobody's.
set_link() {
    local state=down
    [ "$(<"$bed/machines/$1/cut")" != silently ] || state=up
    ip link set "$(link_of "$1")" "$state" nomaster
}

mend() {
    rm -f "$bed/machines/$1/cut"
    ip link set "$(link_of "$1")" master "rollcall$number" up
}

[ "$#" -ge 2 ] || usage
PATH=$PATH:/usr/sbin:/sbin
command=$1
bed=$(realpath --canonicalize-missing "$2")
shift 2
case $command in
up | down) "$command" ;;
address)
    read_settings
    echo "10.$number.0.254"
    ;;
boot | halt | kill | remove | cut | mend | run)
    read_settings
    machine=${1:?the machine}
    shift
    case $command in
    boot | halt | remove | mend) "$command" "$machine" ;;
    kill) kill_machine "$machine" ;;
    cut) cut_off "$machine" "$@" ;;
    run) in_machine "$machine" env -i HOME=/root LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" ;;
    esac
    ;;
*) usage ;;
esac
