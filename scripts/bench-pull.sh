#!/usr/bin/env bash
# bench-pull.sh [RUNS]: pull and run of IMAGE (in a registry on loopback) by containerd 2.4, until COMMAND has ended:
# with overlayfs, and lazily with nacre at 20 ms for each request to the store. Each run starts with an empty node,
# an empty containerd and no page caches. What the first of nacre's read is known to those after it, on whatever
# node, so it is told apart. Needs root, Go, jq, bc, and a build of nacre.
set -euo pipefail
runs=${1:-3} # two at least
image=${IMAGE:-127.0.0.1:5000/pyapp:v1}
command=${COMMAND:-import numpy, pandas, sklearn}
cd "$(dirname "$0")/.."
nacre=${NACRE:-$PWD/target/release/nacre}
scripts/containerd2.sh target/containerd2
export PATH=$PWD/target/containerd2:$PATH
work=$(mktemp -d /var/tmp/nacre-bench.XXXXXX)
export NACRE_ROOT=$work/node
. scripts/daemon.sh
containerd=
c() { ctr --address "$work/c/sock" "$@" 2>> "$work/log"; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
stop_all() {
    [ -z "$containerd" ] || kill "$containerd"
    while [ -n "$containerd" ] && kill -0 "$containerd" 2>/dev/null; do sleep 0.1; done
    containerd=
    stop_daemon
}
trap 'stop_all; rm -rf --one-file-system "$work"' EXIT

# start_all: both, with nothing in them.
start_all() {
    rm -rf "$work/c" "$work/node"
    mkdir "$work/c"
    cat > "$work/c/config.toml" <<END
version = 3
root = "$work/c/root"
state = "$work/c/state"
grpc = { address = "$work/c/sock" }
plugins."io.containerd.internal.v1.opt" = { path = "$work/c/opt" }
END
    "$nacre" daemon 2>> "$work/log" &
    "$nacre" containerd setup --write "$work/c/config.toml" 2>> "$work/log"
    containerd --config "$work/c/config.toml" 2>> "$work/log" &
    containerd=$!
    for _ in $(seq 200); do
        c version > /dev/null && [ -S "$NACRE_ROOT/snapshotter-directories.sock" ] && return
        sleep 0.1
    done
    return 1
}

# start SNAPSHOTTER: the seconds until the command has ended.
start() {
    local from
    sync
    echo 3 > /proc/sys/vm/drop_caches
    from=$(date +%s.%N)
    c image pull --plain-http --snapshotter "$1" "$image" > /dev/null
    c run --rm --snapshotter "$1" "$image" bench python3 -c "$command"
    echo "$(date +%s.%N) - $from" | bc >> "$work/$1"
}

NACRE_STORE=file://$work/store "$nacre" image add "docker://$image" --progress none
export NACRE_STORE="file://$work/store?delay_ms=20"
for _ in $(seq "$runs"); do
    for snapshotter in overlayfs nacre; do
        start_all
        start "$snapshotter"
        stop_all
    done
done
full=$(median < "$work/overlayfs")
of() { echo "$1 s ($(echo "scale=3; $1 / $full" | bc))"; }
echo "overlayfs: $full s; nacre: the first $(of "$(head -n 1 "$work/nacre")"), others $(of "$(tail -n +2 "$work/nacre" | median)")"
