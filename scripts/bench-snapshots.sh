#!/usr/bin/env bash
# Measures snapshots and forks, in the daemon's own time unless said otherwise.
#
#   bench-snapshots.sh small|fork|node|chain|frozen|ladder NACRE IMAGE
#
#   small   snapshots of 0, 1 and 1,000 small files written; medians of 20
#   fork    a running sandbox with 200 MB of changes, forked 100 times
#   node    a snapshot mounted on a second node, at 20 ms for every request; scripts/compare-images.sh
#           compares what it shows
#   chain   200 snapshots in a line, of one sandbox and of forks of forks
#   frozen  2 GB written on ext4, btrfs and XFS: how long the sandbox stands still
#   ladder  snapshots of 1 and 1,000 small files written, at 20 ms for every request: --wait durable and
#           local, and how long a local one takes until it is durable; medians of 20
#
# NACRE is the binary, IMAGE an image of the store that NACRE_STORE names, with sh, dd and python3.
# NACRE_ROOT is used for `small`, `fork` and `chain`; what else is needed is made below
# ${TMPDIR:-/var/tmp} and taken away. Needs root, runc and python3; `frozen` mkfs.btrfs and mkfs.xfs.
# Says what the load of the machine was, which all of it depends on.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,20s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
what=$1 nacre=$2 image=$3
root=${NACRE_ROOT:-/var/lib/nacre}
store=${NACRE_STORE:-file://$root/store}
export NACRE_ROOT="$root" NACRE_STORE="$store"
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/bench-snapshots.XXXXXX")
mounted=()

clean() {
    "$nacre" --json ps -a | json 'd["sandbox"]' | grep '^bench' |
        xargs -r -n 1 -P 4 "$nacre" rm -f > /dev/null 2>&1 || true
    for other in "$scratch"/node*; do
        [ -S "$other/nacre.sock" ] || continue
        stop_node "$other"
    done
    for place in "${mounted[@]}"; do
        umount -l "$place" 2> /dev/null || true
    done
    rm -rf "$scratch"
}
trap clean EXIT

# json EXPRESSION: of each object d of the input.
json() {
    python3 -c '
import json, sys
for line in sys.stdin:
    d = json.loads(line)
    print(eval(sys.argv[1]))' "$1"
}

median() {
    python3 -c '
import json, sys
runs = [json.loads(line) for line in sys.stdin]
middle = lambda key: sorted(run[key] for run in runs)[len(runs) // 2]
print("%-36s %8.1f ms, frozen %6.1f ms, %d bytes stored" % (
    sys.argv[1], middle("total_ms"), middle("frozen_ms"), middle("bytes_uploaded")))' "$1"
}

# write FILES: that many small files with new bytes.
write() {
    mkdir -p "$live/root/d"
    python3 -c '
import os, sys
for file in range(int(sys.argv[2])):
    with open("%s/root/d/%d" % (sys.argv[1], file), "w") as out:
        out.write(os.urandom(8).hex() + "\n")' "$live" "$1"
}

daemon_rss() { "$nacre" --json info | json 'd["daemon"]["rss_bytes"]'; }

stop_node() {
    local pid
    pid=$("$nacre" --root "$1" --json info | json 'd["daemon"]["pid"]') || return 0
    kill "$pid"
    while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
}

load() { echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"; }

small() {
    for kind in ended running; do
        case $kind in
        ended) "$nacre" run --name bench "$image" true ;;
        running) "$nacre" run -d --name bench "$image" sleep 100000 > /dev/null ;;
        esac
        live=$root/sandboxes/bench/rootfs
        for files in 0 1 1000; do
            for _ in {1..20}; do
                write "$files"
                "$nacre" --json snapshot create bench
            done | median "$kind, $files files written"
        done
        "$nacre" rm -f bench > /dev/null
    done
}

fork() {
    "$nacre" run -d --name bench "$image" sleep 100000 > /dev/null
    dd if=/dev/urandom of="$root/sandboxes/bench/rootfs/root/changes" bs=1M count=200 status=none
    before=$(daemon_rss)
    "$nacre" --json fork bench -n 100 --name bench-fork "$image_command" |
        python3 -c '
import json, os, sys
d = json.load(sys.stdin)
boxes = d["sandboxes"]
last = lambda key: max(box[key] for box in boxes)
print("captured and opened %.2f s (frozen %.1f ms), all %d roots ready %.2f s, all started %.2f s" % (
    d["prepared_ms"] / 1000, d["frozen_ms"], len(boxes), last("seconds_to_root"),
    last("seconds_to_start")))'
    after=$(daemon_rss)
    echo "memory of the daemon: $(((after - before) / 1024)) KiB more, $(((after - before) / 102400)) KiB a fork"
    for number in 1 50 100; do
        cmp "$root/sandboxes/bench/rootfs/root/changes" \
            "$root/sandboxes/bench-fork-$number/rootfs/root/changes"
    done
}
image_command=true

# other DELAY COMMAND...: nacre on the second node.
other() {
    local delay=$1
    shift
    "$nacre" --root "$scratch/node" --store "$store?delay_ms=$delay" "$@"
}

# fresh_mount NAME: mounts on an empty node at 20 ms a request.
fresh_mount() {
    mkdir -p "$scratch/mnt"
    other 20 daemon > /dev/null 2>&1 &
    until other 20 --json info | json 'd["daemon"]["pid"]' > /dev/null 2>&1; do sleep 0.1; done
    other 20 --json mount "$1" "$scratch/mnt" | json \
        '"mounted on an empty node in %.0f ms" % (d["seconds"] * 1000)'
}

fresh_umount() {
    other 20 --json cache stats | json \
        '"fetched from the origin: %d requests, %.1f MB" % (d["origin"]["reads"], d["origin"]["bytes"] / 1e6)'
    other 20 umount "$scratch/mnt" > /dev/null
    stop_node "$scratch/node"
    rm -rf "$scratch/node"
}

node() {
    "$nacre" run --name bench "$image" true
    live=$root/sandboxes/bench/rootfs
    write 1000
    dd if=/dev/urandom of="$live/root/changes" bs=1M count=20 status=none
    id=$("$nacre" --json snapshot create bench --wait durable | json 'd["snapshot"]')
    fresh_mount "$id"
    cat "$scratch/mnt/root/d/"* > /dev/null
    echo "after 1,000 small files were read:"
    fresh_umount
}

# walk DIR: seconds for an lstat of all names and a read of all small files below it, hot.
walk() {
    python3 -c '
import os, sys, time
def walk(read):
    began = time.monotonic()
    for path, folders, files in os.walk(sys.argv[1]):
        for name in files:
            name = os.path.join(path, name)
            size = os.lstat(name).st_size
            if read and size < 65536 and not os.path.islink(name):
                with open(name, "rb") as file: file.read()
    return time.monotonic() - began
walk(True)
print(walk(False), walk(True))' "$1"
}

chain() {
    steps=${STEPS:-200}
    for kind in sandbox forks; do
        "$nacre" run --name bench-0 "$image" true
        name=bench-0
        for ((step = 1; step <= steps; step++)); do
            live=$root/sandboxes/$name/rootfs
            mkdir -p "$live/root/d"
            echo "$RANDOM step $step" > "$live/root/d/$step"
            "$nacre" --json snapshot create "$name" --name "bench-chain-$step"
            if [ "$kind" = forks ]; then
                "$nacre" rm -f "$name" > /dev/null
                name=bench-$step
                "$nacre" run --name "$name" "bench-chain-$step" true
            fi
        done > "$scratch/chain"
        STEPS=$steps python3 -c '
import json, os, sys
runs = [json.loads(line)["total_ms"] for line in open(sys.argv[1])]
tenth = max(1, len(runs) // 10)
middle = lambda part: sorted(part)[len(part) // 2]
print("%s: median of the first %d %.1f ms, of the last %.1f ms, longest %.1f ms" % (
    sys.argv[2], tenth, middle(runs[:tenth]), middle(runs[-tenth:]), max(runs)))' "$scratch/chain" "$kind"
        for step in 1 "$steps"; do
            echo "step $step: $("$nacre" --json snapshot inspect "bench-chain-$step" | json 'd["packs"]') packs"
            fresh_mount "bench-chain-$step"
            fresh_umount
            mkdir -p "$scratch/mnt-$step"
            "$nacre" mount "bench-chain-$step" "$scratch/mnt-$step" > /dev/null
            mounted+=("$scratch/mnt-$step")
            findmnt -n -o OPTIONS "$scratch/mnt-$step" | tr ',' '\n' | grep lowerdir | tr ':' '\n' |
                grep -c erofs | sed 's/^/metadata layers: /'
        done
        for _ in {1..7}; do
            for step in 1 "$steps"; do
                echo "$step $(walk "$scratch/mnt-$step/usr")"
            done
        done | python3 -c '
import sys
runs = [line.split() for line in sys.stdin]
middle = lambda step, column: sorted(float(run[column]) for run in runs if run[0] == step)[3]
for column, name in (1, "lstat walk"), (2, "lstat and read of small files"):
    first, last = middle("1", column), middle(sys.argv[1], column)
    print("%s: first %.3f s, last %.3f s, %.2f times as fast" % (name, first, last, first / last))' "$steps"
        for step in 1 "$steps"; do "$nacre" umount "$scratch/mnt-$step" > /dev/null; done
        "$nacre" rm -f "$name" > /dev/null
    done
}

frozen() {
    for kind in ${DISKS:-ext4 btrfs xfs}; do
        truncate -s 6G "$scratch/$kind.disk"
        "mkfs.$kind" -q "$scratch/$kind.disk" > /dev/null
        mkdir "$scratch/node-$kind"
        mount -o loop "$scratch/$kind.disk" "$scratch/node-$kind"
        mounted+=("$scratch/node-$kind")
        export NACRE_ROOT="$scratch/node-$kind/root"
        for writer in none slow fast; do
            case $writer in
            none) command='sleep 100000' ;;
            # 8 KiB a hundred times a second, anywhere in the first file; or as fast as it goes.
            slow) command='exec python3 -c "
import os, random, time
file = os.open(\"/root/big-0\", os.O_WRONLY)
while True:
    os.pwrite(file, os.urandom(8192), random.randrange(500 << 20)); time.sleep(0.01)"' ;;
            fast) command='exec python3 -c "
import os, random
file = os.open(\"/root/big-0\", os.O_WRONLY); data = os.urandom(65536)
while True: os.pwrite(file, data, random.randrange(500 << 20))"' ;;
            esac
            "$nacre" run -d --name bench-sleep "$image" sleep 100000 > /dev/null
            # The same each time, so that the store holds them once.
            "$nacre" exec bench-sleep python3 -c '
import random
for number in range(4):
    noise = random.Random(number)
    with open("/root/big-%d" % number, "wb") as file:
        for _ in range(512): file.write(noise.randbytes(1 << 20))'
            "$nacre" exec bench-sleep sh -c "$command" > /dev/null 2>&1 &
            writing=$!
            sleep 1
            for _ in 1 2 3; do
                "$nacre" --json snapshot create bench-sleep
            done | python3 -c '
import json, sys
runs = [json.loads(line) for line in sys.stdin]
print("%s, writer %s: frozen %s ms, cloned %s, total %s ms" % (sys.argv[1], sys.argv[2],
    ", ".join("%.1f" % run["frozen_ms"] for run in runs),
    ", ".join(str(run["cloned"]) for run in runs),
    ", ".join("%.0f" % run["total_ms"] for run in runs)))' "$kind" "$writer"
            "$nacre" rm -f bench-sleep > /dev/null
            wait "$writing" || true
        done
        stop_node "$NACRE_ROOT"
        # Lazily: the kernel may still let go of what the daemon had open.
        umount -l "$scratch/node-$kind"
        rm "$scratch/$kind.disk"
    done
}

ladder() {
    other 20 daemon > /dev/null 2>&1 &
    until other 20 --json info | json 'd["daemon"]["pid"]' > /dev/null 2>&1; do sleep 0.1; done
    other 20 run --name bench "$image" true
    live=$scratch/node/sandboxes/bench/rootfs
    for files in 1 1000; do
        for wait in durable local; do
            for _ in {1..20}; do
                write "$files"
                other 20 --json snapshot create bench --wait "$wait" --name bench-ladder
                began=$(date +%s.%N)
                other 20 snapshot wait bench-ladder > /dev/null
                echo "$(date +%s.%N) $began" >> "$scratch/waits-$wait-$files"
            done | median "$wait, $files files written"
        done
        awk '{ print $1 - $2 }' "$scratch/waits-local-$files" | sort -n |
            sed -n '10s/.*/then durable after & s, of a command that waits/p'
    done
    other 20 rm -f bench > /dev/null
    stop_node "$scratch/node"
}

load
case $what in
small | fork | node | chain | frozen | ladder) "$what" ;;
*) echo "bench-snapshots.sh: $what is not measured" >&2; exit 2 ;;
esac
load
