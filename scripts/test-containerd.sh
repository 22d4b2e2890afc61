#!/usr/bin/env bash
# Runs containerd's own suite of tests for snapshotters against a daemon, where Go is installed. Needs root and
# a build of nacre.
set -euo pipefail
cd "$(dirname "$0")/.."
nacre=${NACRE:-$PWD/target/release/nacre}
if ! command -v go >/dev/null; then
    echo 'no Go: the suite of containerd is not run'
    exit 0
fi
work=$(mktemp -d)
export NACRE_ROOT=$work/node NACRE_STORE=file://$work/store
"$nacre" daemon 2> "$work/daemon.log" &
daemon=$!
finish() {
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" || true
    rm -rf "$work"
}
trap finish EXIT
for _ in $(seq 200); do
    [ -S "$NACRE_ROOT/snapshotter.sock" ] && break
    sleep 0.1
done
cd scripts/containerd
# Its log of each mount is for those that fail.
NACRE_SNAPSHOTTER_SOCKET=$NACRE_ROOT/snapshotter.sock go test -count=1 . > "$work/log" 2>&1 || {
    grep -v 'log_hook.go' "$work/log" | cut -c 1-400
    exit 1
}
tail -n 1 "$work/log"
