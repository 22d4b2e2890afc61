#!/usr/bin/env bash
# bench-containerd.sh [RUNS]: the figures of docs/BENCHMARKS.md about containerd's snapshots. Needs root, Go,
# and a build of nacre. Runs alternate; what nacre is compared with is containerd's own overlayfs snapshotter,
# served on a socket of the same kind and asked by the same program.
set -euo pipefail
runs=${1:-3}
cd "$(dirname "$0")/.."
nacre=${NACRE:-$PWD/target/release/nacre}
work=$(mktemp -d /var/tmp/nacre-bench.XXXXXX)
export NACRE_ROOT=$work/node NACRE_STORE=file://$work/store
. scripts/daemon.sh
overlay=
finish() {
    [ -z "$overlay" ] || kill "$overlay"
    stop_daemon
    rm -rf "$work"
}
trap finish EXIT

(cd scripts/containerd && go build -o "$work/" ./overlay-proxy ./pairs)
"$nacre" daemon 2> "$work/daemon.log" &
"$work/overlay-proxy" "$work/overlay.sock" "$work/overlay" &
overlay=$!
for socket in "$NACRE_ROOT/snapshotter.sock" "$work/overlay.sock"; do
    until [ -S "$socket" ]; do sleep 0.1; done
done
for _ in $(seq "$runs"); do
    for setting in '32 10 0' '1 10 1000'; do
        echo "overlayfs: $("$work/pairs" "$work/overlay.sock" $setting)"
        echo "nacre:     $("$work/pairs" "$NACRE_ROOT/snapshotter.sock" $setting)"
    done
done
