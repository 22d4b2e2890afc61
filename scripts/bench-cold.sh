#!/usr/bin/env bash
# bench-cold.sh [RUNS]: the start of an image on an empty node, at 20 ms for each request to the store, with a trace
# of that start and without, in turns; and on the same node the same start again, and then once more without page
# caches, as on a node that did other things since. Its daemon runs before. The node's folder is on a new ext4 in a loop
# device, as mkfs.ext4 makes it.
#
# IMAGE is anything that `nacre image add` takes, COMMAND is for sh -c in it. Needs root, jq, bc, and room below
# TMPDIR for the image's store and twice what a start reads.
set -euo pipefail
runs=${1:-5}
image=${IMAGE:?what to add, such as oci:DIR:TAG}
command=${COMMAND:-"exec python3 -c 'import numpy, pandas, sklearn'"}
nacre=$(realpath "${NACRE:-$(dirname "$0")/../target/release/nacre}")
work=$(mktemp -d "${TMPDIR:-/var/tmp}/nacre-bench.XXXXXX")
export NACRE_ROOT=$work/node/root

. "$(dirname "$0")/measure.sh"
end_node() {
  if ! mountpoint -q "$work/node"; then return; fi
  stop_daemon
  umount "$work/node"
}
trap 'end_node; rm -rf --one-file-system "$work"' EXIT

new_node() {
  rm -f "$work/disk"
  truncate -s 8G "$work/disk"
  mkfs.ext4 -q "$work/disk"
  mount -o loop "$work/disk" "$work/node"
  "$nacre" cache stats > "$work/out" # starts the daemon
}
# start FILE: adds the seconds of one start to it.
start() {
  local from
  from=$(date +%s.%N)
  "$nacre" run --rm image sh -c "$command" > "$work/out"
  seconds_since "$from" >> "$work/$1"
}
of() { median < "$work/$1"; }
ratio() { echo "$(echo "scale=2; $(of "$1") / $(of "$2")" | bc) ($(of "$2") s)"; }

mkdir "$work/node"
export NACRE_STORE=file://$work/store
new_node
"$nacre" image add "$image" --name image > "$work/out"
"$nacre" trace record image sh -c "$command" > "$work/out"
end_node
mv "$work/store/refs/traces" "$work/traces"

NACRE_STORE="file://$work/store?delay_ms=20"
for _ in $(seq "$runs"); do
  for trace in none trace; do
    rm -rf "$work/store/refs/traces"
    if [ "$trace" = trace ]; then cp -a "$work/traces" "$work/store/refs/traces"; fi
    new_node
    drop_caches
    start "$trace"
    "$nacre" cache stats --json | jq -r '"\(.origin.reads) \(.bytes_fetched)"' >> "$work/$trace-fetched"
    start "$trace-again"
    drop_caches
    start "$trace-there"
    end_node
  done
done
for trace in none trace; do
  echo "$trace: $(of $trace) s, $(ratio $trace $trace-there) of the same start without page caches, $(ratio $trace $trace-again) of one right after it"
  echo "  all: $(paste -sd ' ' "$work/$trace"); there $(paste -sd ' ' "$work/$trace-there"); requests and bytes $(paste -sd ',' "$work/$trace-fetched")"
done
