#!/usr/bin/env bash
# Checks the systemd units with systemd's own verifier, on a staged root.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v systemd-analyze >/dev/null || tests/install.sh systemd

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{usr/bin,usr/lib/sysusers.d,etc/rollcall,etc/systemd/system}
# The verifier wants the programs to exist, not to run.
install -m 0755 /bin/true "$root/usr/bin/rollcall-agent"
install -m 0755 /bin/true "$root/usr/bin/rollcall-aggregator"
install -m 0644 systemd/*.env "$root/etc/rollcall/"
install -m 0644 systemd/*.service "$root/etc/systemd/system/"
# Units of the system that ours name.
cp -r /usr/lib/systemd "$root/usr/lib/" 2>/dev/null || cp -r /lib/systemd "$root/usr/lib/"

failed=0
for unit in systemd/*.service; do
    name=$(basename "$unit")
    # It also tells what it thinks of the system's own units; ours must not be named.
    said=$(systemd-analyze verify --root="$root" "$root/etc/systemd/system/$name" 2>&1 | grep -F rollcall || true)
    exposure=$(systemd-analyze security --offline=true --root="$root" "$name" 2>/dev/null |
        sed -nE 's/.*exposure level for [^:]*: ([0-9.]+).*/\1/p')
    if [ -n "$said" ]; then
        printf '%s: %s\n' "$name" "$said"
        failed=1
    else
        printf '%s: verified, exposure %s\n' "$name" "${exposure:-unknown}"
    fi
done
exit "$failed"
