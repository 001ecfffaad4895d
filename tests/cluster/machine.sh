# Machines of the bed: each is a set of namespaces with a network, processes, host name, cgroups,
# /run, /var/lib and /var/log of its own, on the kernel and the programs of this machine. What runs
# in it uses the usual ports and paths, and ends with its first process.
# shellcheck shell=bash disable=SC2154
#
# Sourced by bed.sh, and by that of ../host, which has machines of another kind in the same places;
# they set: bed (the bed's folder), here (their folder), number (the bed's).

# Prints the process of a machine's init as this machine sees it; fails where it does not run.
# The start time tells it from another process that got its number later.
machine_init() {
    local name=$1 pid started
    [ -f "$bed/machines/$name/init" ] || return 1
    read -r pid started <"$bed/machines/$name/init" || return 1
    [ "$(started_at "$pid")" = "$started" ] && echo "$pid"
}

# When a process started, in ticks since boot; proc(5), field 22. Its name, field 2, may hold anything.
started_at() {
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    # shellcheck disable=SC2086 # Fields are split.
    set -- ${stat##*) }
    echo "${20}"
}

# Makes and starts a machine: start_machine NAME MACHINE-ID
start_machine() {
    local name=$1 id=$2 folder=$bed/machines/$1
    mkdir -p "$folder"/{var-lib,var-log,processes,log}
    rm -f "$folder"/{init,ready} "$folder"/processes/*
    echo "$id" >"$folder/machine-id"
    make_cgroups "$name"
    [ -s "$folder/cgroups" ] ||
        fail "this machine has no control groups of version 1, which the kubelet of the bed needs: boot with systemd.unified_cgroup_hierarchy=0, or set ROLLCALL_TEST_KUBECONFIG to a cluster that may be used for tests"
    # It may not end with the shell that started it.
    setsid --fork bash "$here/machine-init.sh" "$name" "$folder" </dev/null >"$folder/log/init.log" 2>&1
    wait_for "machine $name" 10 test -e "$folder/ready"
}

# Ends a machine as a power failure would; its disk stays.
stop_machine() {
    local name=$1 pid
    if pid=$(machine_init "$name"); then
        kill -KILL "$pid"
        wait_for "the end of machine $name" 20 machine_is_off "$name"
    fi
    remove_cgroups "$name"
    rm -f "$bed/machines/$name"/{init,ready}
}

machine_is_off() {
    ! machine_init "$1" >/dev/null
}

# Runs a command in a machine: in_machine NAME COMMAND...
in_machine() {
    local pid
    pid=$(machine_init "$1") || fail "machine $1 does not run"
    shift
    nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup -- "$@"
}

# Starts a program in a machine and leaves it running; its output goes to machines/MACHINE/log.
# start_in MACHINE NAME COMMAND...
start_in() {
    local machine=$1 name=$2 folder=$bed/machines/$1
    shift 2
    # Entering the namespaces does not enter the control groups.
    # shellcheck disable=SC2016 # Expanded inside.
    in_machine "$machine" setsid --fork bash -c '
        for procs in /sys/fs/cgroup/*/cgroup.procs; do echo "$$" >"$procs"; done
        echo "$$" >"$1"; shift; exec "$@"' start \
        "$folder/processes/$name" "$@" </dev/null >>"$folder/log/$name.log" 2>&1
}

# Stops a program that start_in started, with a grace of 5 s: stop_in MACHINE NAME
stop_in() {
    local machine=$1 name=$2 pid
    [ -f "$bed/machines/$machine/processes/$name" ] || fail "$name was not started on $machine"
    pid=$(<"$bed/machines/$machine/processes/$name")
    in_machine "$machine" kill "$pid" || true
    if ! wait_for "" 5 process_is_over "$machine" "$pid"; then
        in_machine "$machine" kill -KILL "$pid"
        wait_for "the end of $name on $machine" 5 process_is_over "$machine" "$pid"
    fi
    rm "$bed/machines/$machine/processes/$name"
}

process_is_over() {
    ! in_machine "$1" test -e "/proc/$2"
}

# One line a hierarchy of control groups (version 1): its controllers, and where this shell is in it.
hierarchies() {
    sed -nE 's/^[0-9]+:([^:]+):(.*)$/\1 \2/p' /proc/self/cgroup
}

# Machines lie below the control groups of who starts them, so that they count there.
make_cgroups() {
    local name=$1 controllers path root
    : >"$bed/machines/$name/cgroups"
    while read -r controllers path; do
        root=$(findmnt --noheadings --raw --first-only --types cgroup --options "${controllers%%,*}" --output TARGET) ||
            root=/sys/fs/cgroup/${controllers#name=}
        make_cgroup "$name" "$controllers" "$root${path%/}"
    done < <(hierarchies)
}

# make_cgroup MACHINE CONTROLLERS PARENT
make_cgroup() {
    local group=$3/rollcall-bed$number-$1
    mkdir -p "$group"
    # Without these, nothing may enter a cpuset.
    if [ -f "$group/cpuset.cpus" ] && [ -f "$3/cpuset.cpus" ]; then
        cat "$3/cpuset.cpus" >"$group/cpuset.cpus"
        cat "$3/cpuset.mems" >"$group/cpuset.mems"
    fi
    echo "$2 $group" >>"$bed/machines/$1/cgroups"
}

remove_cgroups() {
    local name=$1 group
    [ -f "$bed/machines/$name/cgroups" ] || return 0
    while read -r _ group; do
        [ ! -d "$group" ] || wait_for "the end of all that runs in $group" 20 end_group "$group" || true
    done <"$bed/machines/$name/cgroups"
    rm "$bed/machines/$name/cgroups"
}

# Ends what runs in a control group, and removes it; a process that was killed takes a moment to leave.
end_group() {
    local pid
    while read -r pid; do
        kill -KILL "$pid" 2>/dev/null || true
    done < <(find "$1" -name cgroup.procs -exec cat {} +)
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
}
