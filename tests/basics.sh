# What the scripts of all beds do alike.
# shellcheck shell=bash disable=SC2154
#
# Sourced by cluster/bed.sh and host/bed.sh, which set: here (their folder).

fail() {
    echo "bed.sh: $*" >&2
    exit 1
}

# wait_for WHAT SECONDS COMMAND...: until the command succeeds; else fails, and says what it waited
# for unless that is empty.
wait_for() {
    local what=$1 deadline=$((SECONDS + $2))
    shift 2
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            [ -z "$what" ] || echo "bed.sh: waited in vain for $what" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Installs Debian's packages whose programs are missing: PROGRAM:PACKAGE...
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ "${#missing[@]}" = 0 ] || "$here/../install.sh" "${missing[@]}" >&2
}

# A bed's number is its own as long as the link named after it is there; its addresses are 10.NUMBER.
# take_number COMMAND: which makes the link rollcallNUMBER when it is given the number.
take_number() {
    for number in {64..250}; do
        ! ip -oneline route show table all | grep -qE "(^| )10\.$number\." || continue
        ! "$1" "$number" 2>/dev/null || return 0
    done
    fail "no network 10.64 to 10.250 is free: take beds down that are no longer used"
}
