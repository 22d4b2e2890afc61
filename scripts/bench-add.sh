#!/usr/bin/env bash
# bench-add.sh [RUNS]: `nacre image add` of IMAGE beside `ctr image pull`, in turns, page caches dropped before each. Needs
# root, jq, bc, containerd's ctr with a containerd of its own (CONTAINERD_ADDRESS), and a registry that holds IMAGE.
set -euo pipefail
runs=${1:-3}
image=${IMAGE:-127.0.0.1:5000/pyapp:v1}
nacre=${NACRE:-$(dirname "$0")/../target/release/nacre}
work=$(mktemp -d /var/tmp/nacre-bench.XXXXXX)
export NACRE_ROOT=$work/node NACRE_STORE=file://$work/store
. "$(dirname "$0")/measure.sh"
trap 'rm -rf "$work"' EXIT

for _ in $(seq "$runs"); do
  ctr image rm --sync "$image" >/dev/null 2>&1 || true
  drop_caches
  from=$(date +%s.%N)
  ctr image pull --plain-http "$image" > "$work/out"
  seconds_since "$from" >> "$work/ctr"
  rm -rf "$work/store" "$work/node"
  drop_caches
  from=$(date +%s.%N)
  /usr/bin/time -o "$work/time" -f %M "$nacre" image add "docker://$image" --json > "$work/out"
  seconds_since "$from" >> "$work/nacre"
  tail -n 1 "$work/time" >> "$work/rss"
  cp "$work/out" "$work/added"
done
ctr=$(median < "$work/ctr") ours=$(median < "$work/nacre")
echo "ctr image pull: $ctr s; nacre image add: $ours s; ratio $(echo "scale=2; $ours / $ctr" | bc)"
echo "peak RSS of nacre: $(median < "$work/rss") KiB"
jq -r '"stored \(.bytes_stored) bytes of \(.bytes_compressed) compressed: ratio \(.bytes_stored / .bytes_compressed * 1000 | floor / 1000)"' "$work/added"
