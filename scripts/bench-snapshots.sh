#!/usr/bin/env bash
# Measures snapshots: medians of 20, in the daemon's own time.
#
#   bench-snapshots.sh NACRE IMAGE
#
# NACRE is the binary, IMAGE an image of the store that NACRE_ROOT and NACRE_STORE name. Needs root,
# runc and python3. Makes a sandbox `bench` and removes it.
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
nacre=$1 image=$2
live=${NACRE_ROOT:-/var/lib/nacre}/sandboxes/bench/rootfs
trap '"$nacre" rm -f bench > /dev/null 2>&1 || true' EXIT

median() {
    python3 -c '
import json, sys
runs = [json.loads(line) for line in sys.stdin]
middle = lambda key: sorted(run[key] for run in runs)[len(runs) // 2]
print("%-32s %8.1f ms, frozen %6.1f ms, %d bytes stored" % (
    sys.argv[1], middle("total_ms"), middle("frozen_ms"), middle("bytes_uploaded")))' "$1"
}

# write FILES: that many small files with new bytes.
write() {
    mkdir -p "$live/root/d"
    for ((file = 0; file < $1; file++)); do
        echo "$RANDOM$RANDOM$RANDOM $file" > "$live/root/d/$file"
    done
}

for kind in ended running; do
    case $kind in
    ended) "$nacre" run --name bench "$image" true ;;
    running) "$nacre" run -d --name bench "$image" sleep 100000 > /dev/null ;;
    esac
    for files in 0 1 1000; do
        for _ in {1..20}; do
            write "$files"
            "$nacre" --json snapshot create bench
        done | median "$kind, $files files written"
    done
    "$nacre" rm -f bench > /dev/null
done
