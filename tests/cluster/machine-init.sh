#!/usr/bin/env bash
# The first process of a machine of the bed: it makes the machine's folders, and takes leave of
# processes whose parents have ended. The machine ends with it.
#
# usage: machine-init.sh NAME FOLDER [inside]
set -euo pipefail

name=$1 folder=$2

if [ "${3:-}" != inside ]; then
    # The namespace of control groups begins at those that the process is in.
    while read -r _ group; do
        echo "$$" >"$group/cgroup.procs"
    done <"$folder/cgroups"
    exec unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child -- "$0" "$name" "$folder" inside
fi

# As the machine outside sees it: /proc is still its own.
stat=$(</proc/self/stat)
pid=${stat%% *}
# shellcheck disable=SC2086 # Fields are split.
set -- ${stat##*) }
started=${20}

hostname "$name"
mount -t proc proc /proc
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/lock
[ -L /var/run ] || mount --bind /run /var/run
mount --bind "$folder/var-lib" /var/lib
mount --bind "$folder/var-log" /var/log
for file in machine-id resolv.conf; do
    [ ! -f "/etc/$file" ] || [ ! -f "$folder/$file" ] || mount --bind "$folder/$file" "/etc/$file"
done
# Each start is a boot.
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id

mount -t tmpfs -o mode=0755 tmpfs /sys/fs/cgroup
while read -r controllers _; do
    mkdir "/sys/fs/cgroup/${controllers#name=}"
    case $controllers in
    name=*) options=none,$controllers ;;
    *) options=$controllers ;;
    esac
    mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/${controllers#name=}"
    case $controllers in
    *,*) for controller in ${controllers//,/ }; do ln -s "$controllers" "/sys/fs/cgroup/$controller"; done ;;
    esac
done <"$folder/cgroups"

# The kubelet sets these, and they are the whole kernel's: it gets files in their place.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    [ -f "/proc/sys/$setting" ] || continue
    mkdir -p "/run/sysctl/$(dirname "$setting")"
    cat "/proc/sys/$setting" >"/run/sysctl/$setting"
    mount --bind "/run/sysctl/$setting" "/proc/sys/$setting"
done

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward

echo "$pid $started" >"$folder/init"
touch "$folder/ready"
# The shell takes leave of every child while it waits, of those too that it has not started.
trap 'exit 0' TERM
while :; do
    sleep infinity &
    wait "$!" || true
done
