#!/usr/bin/env bash
# test-commit.sh IMAGE COMMAND [FOLDER]: commits a container of IMAGE (as for `nacre image add`) in which COMMAND
# has changed something, by containerd 2.4 and its client, and makes an image of a snapshot of it. Prints what was read
# from the store for the commit, and fails when a container of either image does not show what the first one does.
# Needs root, Go, jq, runc, and a build of nacre; FOLDER has containerd 2.4, or gets it.
set -euo pipefail
image=${1:?usage: test-commit.sh IMAGE COMMAND [FOLDER]}
command=${2:?usage: test-commit.sh IMAGE COMMAND [FOLDER]}
cd "$(dirname "$0")/.."
nacre=${NACRE:-$PWD/target/release/nacre}
work=$(mktemp -d /var/tmp/nacre-bench.XXXXXX)
containerd2=${3:-$work/containerd}
scripts/containerd2.sh "$containerd2"
export PATH=$containerd2:$PATH
(cd scripts/containerd && go build -o "$work/" ./commit)

export NACRE_ROOT=$work/node NACRE_STORE="file://$work/store?journal=$work/journal"
export NACRE_CONTAINERD_ADDRESS=$work/containerd.sock
. scripts/measure.sh
ctr() { command ctr --address "$work/containerd.sock" "$@"; }
containerd=
finish() {
    if [ -n "$containerd" ]; then
        for container in first second third; do
            ctr task kill --signal KILL "$container" && sleep 1
            ctr task rm "$container"
        done 2> /dev/null || true
        kill "$containerd" && wait "$containerd" || true
    fi
    stop_daemon
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | tac | xargs -r umount -l
    rm -rf "$work"
}
trap finish EXIT

"$nacre" image add "$image" --name subject --progress none
"$nacre" daemon 2> "$work/daemon.log" &
cat > "$work/config.toml" <<END
version = 3
root = "$work/root"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$work/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$work/opt"
END
"$nacre" containerd setup --write "$work/config.toml"
containerd --config "$work/config.toml" --log-level warn 2> "$work/containerd.log" &
containerd=$!
until ctr version > /dev/null 2>&1; do sleep 0.1; done

"$nacre" image register subject --containerd
ctr run -d --snapshotter nacre subject:latest first sleep infinity
ctr task exec --exec-id change first sh -c "$command"
lines=$(wc -l < "$work/journal")
layer=$("$work/commit" "$work/containerd.sock" default first committed:latest)
tail -n +$((lines + 1)) "$work/journal" > "$work/commit.journal"
bytes=0
while read -r verb key start end; do
    case $verb:$end in
    get:?*) bytes=$((bytes + end - start)) ;;
    # Whole objects; those that are not there are asked for, too.
    get:) bytes=$((bytes + $(stat -c %s "$work/store/$key" 2> /dev/null || echo 0))) ;;
    esac
done < "$work/commit.journal"
echo "layer: $layer bytes"
echo "read from the store for it: $bytes bytes in $(grep -c '^get' "$work/commit.journal" || true) requests"
"$nacre" snapshot create containerd:default/first --name later --json | jq -c '{added, modified, removed, frozen_ms}'
"$nacre" image register later --containerd --as later:v1
rootfs() { echo "$work/state/io.containerd.runtime.v2.task/default/$1/rootfs"; }
for run in 'committed:latest second' 'later:v1 third'; do
    read -r name container <<< "$run"
    ctr run -d --snapshotter nacre "$name" "$container" sleep infinity
    # What runtimes mount is not of the image.
    diff --recursive --brief --no-dereference --exclude=proc --exclude=sys --exclude=dev --exclude=run \
        "$(rootfs first)" "$(rootfs "$container")"
    echo "$name shows what the container does"
done
