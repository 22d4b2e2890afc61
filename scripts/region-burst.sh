#!/bin/bash
# Starts one image on one node, then on many at once, each time through three empty members of a
# region's cache, and counts what the store is asked for: the same, however many nodes there are.
#
# region-burst.sh NACRE SOURCE NODES COMMAND...      e.g. region-burst.sh target/release/nacre oci:DIR:v1 16 true
# STORE=DIR keeps the store between runs. Needs root, runc and some GB below TMPDIR.
set -euo pipefail
nacre=$(realpath "$1") source=$2 nodes=$3
shift 3
MEMBERS=3
DELAY_MS=40
PORT=${PORT:-17070}
# Trees, names and attributes of what the start may read, and all bytes below it.
COMPARED=${COMPARED:-/etc}

scratch=$(mktemp -d --tmpdir nacre-burst-XXXXXX)
store=${STORE:-$scratch/store}
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for mount in $(awk -v below="$scratch/" 'index($2, below) == 1 {print $2}' /proc/self/mounts | tac); do
        umount -lq "$mount" || true
    done
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

wait_for() { # COMMAND...: until it succeeds
    for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
    echo "gave up waiting for: $*" >&2
    return 1
}

"$nacre" --root "$scratch/add" --store "file://$store" --progress none --json \
    image add "$source" --name burst >/dev/null

burst() { # NAME NODES: leaves the journals of members and nodes in $scratch/NAME
    local name=$1 count=$2 list= out=$scratch/$1 member node
    shift 2
    mkdir "$out"
    pids=()
    for member in $(seq $MEMBERS); do
        "$nacre" --root "$out/member-$member" \
            --store "file://$store?delay_ms=$DELAY_MS&journal=$out/members.journal" \
            region serve --listen "127.0.0.1:$((PORT + member))" --memory 768M 2>>"$out/members.log" &
        pids+=($!)
        list+=${list:+,}127.0.0.1:$((PORT + member))
        wait_for curl -sf "http://127.0.0.1:$((PORT + member))/readyz"
    done
    for node in $(seq "$count"); do
        "$nacre" --root "$out/node-$node" --region-cache "$list" \
            --store "file://$store?delay_ms=$DELAY_MS&journal=$out/nodes.journal" \
            daemon 2>>"$out/nodes.log" &
        pids+=($!)
    done
    for node in $(seq "$count"); do wait_for test -S "$out/node-$node/nacre.sock"; done
    : >"$out/nodes.journal"
    local runs=() began ended
    began=$(date +%s.%N)
    for node in $(seq "$count"); do
        on "$node" run --rm burst "$@" >"$out/node-$node.out" 2>&1 &
        runs+=($!)
    done
    for run in "${runs[@]}"; do wait "$run" || { tail "$out"/*.log "$out"/node-*.out >&2; return 1; }; done
    ended=$(date +%s.%N)
    # Members go on with what was asked ahead.
    sleep 1
    cp "$out/members.journal" "$out/start.journal"
    grep -E '^get (packs|trees|index|records|metadata)/' "$out/nodes.journal" >"$out/past.journal" || true
    grep '^get' "$out/start.journal" | sort >"$out/gets"
    printf '%s: %d nodes, %.1f s; members asked the store %d times, %d of them again, %.1f MB; nodes past them %d times\n' \
        "$name" "$count" "$(echo "$ended - $began" | bc)" "$(wc -l <"$out/gets")" \
        "$(uniq -d "$out/gets" | wc -l)" \
        "$(awk 'NF == 4 {bytes += $4 - $3} END {print bytes / 1e6}' "$out/gets")" "$(wc -l <"$out/past.journal")"
    for node in $(seq "$count"); do
        mkdir "$out/mount-$node"
        on "$node" mount burst "$out/mount-$node" >/dev/null
        (cd "$out/mount-$node" && find . -xdev -printf '%P %y %m %U %G %s %T@ %l\n' | sort \
            && find ".$COMPARED" -xdev -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum
        on "$node" umount "$out/mount-$node" >/dev/null
    done >"$out/sums"
    on 1 --json cache stats | sed "s/^/$name, node 1: /"
    for pid in "${pids[@]}"; do kill "$pid"; done
    wait
}

on() { # NODE ARGUMENTS...
    local node=$1
    shift
    "$nacre" --root "$out/node-$node" --region-cache "$list" \
        --store "file://$store?delay_ms=$DELAY_MS&journal=$out/nodes.journal" --progress none "$@"
}

burst one 1 "$@"
burst many "$nodes" "$@"
echo "different nodes: $(($(cat "$scratch"/{one,many}/sums | sort -u | wc -l) - 1))"
# Blocks, for one request may bring several.
for name in one many; do
    awk 'NF == 4 {for (block = int($3 / 1048576); block * 1048576 < $4; block++) print $2, block} NF == 2 {print $2}' \
        "$scratch/$name/gets" | sort >"$scratch/$name/blocks"
    echo "$name: $(wc -l <"$scratch/$name/blocks") blocks, $(uniq -d "$scratch/$name/blocks" | wc -l) of them more than once"
done
echo "blocks of one start that the burst did not read, and the other way round: $(
    comm -3 <(sort -u "$scratch/one/blocks") <(sort -u "$scratch/many/blocks") | awk -F'\t' '{n[NF]++} END {print n[1] + 0, n[2] + 0}')"
