#!/usr/bin/env bash
# Checks the systemd units on a staged root: systemd's own verifier, the exposure that it finds, and that each
# setting that is left open has its reason in the unit.
set -euo pipefail
cd "$(dirname "$0")/.."

# The highest exposure that a unit may have, in tenths.
threshold=15

missing=()
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v python3 >/dev/null || missing+=(python3)
[ ${#missing[@]} = 0 ] || tests/install.sh "${missing[@]}"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,usr/bin,usr/lib,etc/default,etc/systemd/system}
# The verifier wants the programs to exist, not to run.
for program in bin/sh usr/bin/rollcall-agent usr/bin/rollcall-aggregator; do
    install -m 0755 /bin/true "$root/$program"
done
for settings in systemd/*.default; do
    install -m 0644 "$settings" "$root/etc/default/$(basename "$settings" .default)"
done
install -m 0644 systemd/*.service "$root/etc/systemd/system/"
# Units of the system that ours name; a system whose /lib is not /usr/lib has them there.
mkdir -p "$root/usr/lib/systemd/system"
for units in /lib/systemd/system /usr/lib/systemd/system; do
    [ ! -d "$units" ] || cp -r "$units/." "$root/usr/lib/systemd/system/"
done

failed=0
for unit in systemd/*.service; do
    name=$(basename "$unit")
    # It also tells what it thinks of the system's own units; ours must not be named.
    said=$(systemd-analyze verify --man=no --root="$root" "$root/etc/systemd/system/$name" 2>&1 | grep -F rollcall || true)
    if [ -n "$said" ]; then
        printf '%s: %s\n' "$name" "$said"
        failed=1
    fi
    overall=$(systemd-analyze security --offline=true --root="$root" "$name" --no-pager |
        sed -nE 's/.*exposure level for [^:]*: ([0-9]+)\.([0-9]).*/\1\2/p')
    if [ -z "$overall" ] || [ "$((10#$overall))" -gt "$threshold" ]; then
        printf '%s: exposure %s tenths, at most %s are allowed\n' "$name" "${overall:-unknown}" "$threshold"
        failed=1
    fi
    systemd-analyze security --offline=true --root="$root" "$name" --json=short |
        python3 tests/units-reasons.py "$unit" || failed=1
    [ "$failed" != 0 ] || printf '%s: verified, exposure %s tenths, each open setting has its reason\n' "$name" "$overall"
done
exit "$failed"
