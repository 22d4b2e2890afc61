#!/usr/bin/env bash
# bench-containerd.sh [RUNS [SECONDS [LIVE]]]: the figures of docs/BENCHMARKS.md about containerd's snapshots.
# Needs root, Go, jq, and a build of nacre. Runs alternate; what nacre is compared with is containerd's own
# overlayfs snapshotter, served on a socket of the same kind and asked by the same program: 32 callers, then
# one beside LIVE snapshots, for SECONDS each. Both keep their files below ${TMPDIR:-/var/tmp}; with ON=ext4,
# or another kind that mkfs makes, on a new file system of that kind in a file there.
set -euo pipefail
runs=${1:-3} seconds=${2:-10} live=${3:-1000}
cd "$(dirname "$0")/.."
nacre=${NACRE:-$PWD/target/release/nacre}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/nacre-bench.XXXXXX")
if [ -n "${ON:-}" ]; then
    disk=$work.disk
    truncate -s 6G "$disk"
    "mkfs.$ON" -q "$disk" > /dev/null
    mount -o loop "$disk" "$work"
fi
export NACRE_ROOT=$work/node NACRE_STORE=file://$work/store
. scripts/measure.sh
overlay=
finish() {
    [ -z "$overlay" ] || kill "$overlay"
    stop_daemon
    if [ -n "${ON:-}" ]; then
        umount -l "$work"
        rm "$disk"
    fi
    rm -rf "$work"
}
trap finish EXIT

(cd scripts/containerd && go build -o "$work/" ./overlay-proxy ./pairs)
"$nacre" daemon 2> "$work/daemon.log" &
"$work/overlay-proxy" "$work/overlay.sock" "$work/overlay" &
overlay=$!
for socket in "$NACRE_ROOT/snapshotter.sock" "$work/overlay.sock"; do
    for _ in $(seq 200); do
        [ -S "$socket" ] && break
        sleep 0.1
    done
done
# measure NAME SOCKET CALLERS SECONDS LIVE
measure() {
    local name=$1 line
    shift
    line=$("$work/pairs" "$@")
    printf '%-10s %s\n' "$name" "$line"
}
for _ in $(seq "$runs"); do
    for setting in "32 $seconds 0" "1 $seconds $live"; do
        measure overlayfs "$work/overlay.sock" $setting
        measure nacre "$NACRE_ROOT/snapshotter.sock" $setting
    done
done
