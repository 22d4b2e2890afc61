#!/usr/bin/env bash
# bench.sh [RUNS]: the figures of docs/BENCHMARKS.md. Needs root, FUSE, runc, jq, bc, containerd's ctr
# with a containerd of its own (CONTAINERD_ADDRESS), and a registry that holds IMAGE.
# Runs alternate (A B A B), page caches are dropped before each, medians are printed.
set -euo pipefail
runs=${1:-3}
image=${IMAGE:-127.0.0.1:5000/pyapp:v1}
command=${COMMAND:-"import numpy, pandas, sklearn"}
nacre=${NACRE:-$(dirname "$0")/../target/release/nacre}
work=$(mktemp -d /var/tmp/nacre-bench.XXXXXX)
export NACRE_ROOT=$work/node NACRE_STORE=file://$work/store

drop_caches() { sync; echo 3 > /proc/sys/vm/drop_caches; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
seconds() { local from; from=$(date +%s.%N); "$@" > "$work/out"; echo "$(date +%s.%N) - $from" | bc; }
. "$(dirname "$0")/daemon.sh"
trap 'stop_daemon; rm -rf "$work"' EXIT

echo "## Adding $image"
for _ in $(seq "$runs"); do
  ctr image rm --sync "$image" >/dev/null 2>&1 || true
  drop_caches
  seconds ctr image pull --plain-http "$image" >> "$work/ctr"
  rm -rf "$work/store" "$work/node"
  drop_caches
  seconds /usr/bin/time -o "$work/time" -f %M "$nacre" image add "docker://$image" --json >> "$work/nacre"
  tail -n 1 "$work/time" >> "$work/rss"
  cp "$work/out" "$work/added"
done
ctr=$(median < "$work/ctr") ours=$(median < "$work/nacre")
echo "ctr image pull: $ctr s; nacre image add: $ours s; ratio $(echo "scale=2; $ours / $ctr" | bc)"
echo "peak RSS of nacre: $(median < "$work/rss") KiB"
jq -r '"stored \(.bytes_stored) bytes of \(.bytes_compressed) compressed: ratio \(.bytes_stored / .bytes_compressed * 1000 | floor / 1000)"' "$work/added"

echo "## Cold start at 20 ms a request"
export NACRE_STORE="file://$work/store?delay_ms=20"
name=${image##*/}
for _ in $(seq "$runs"); do
  rm -rf "$work/node/cache" "$work"/node/index/node-*
  drop_caches
  seconds "$nacre" run --rm "$name" python3 -c "$command" >> "$work/cold"
  "$nacre" cache stats --json > "$work/stats"
  "$nacre" info --json | jq .daemon.rss_bytes >> "$work/daemon"
  seconds "$nacre" run --rm "$name" python3 -c "$command" >> "$work/warm"
  stop_daemon
done
echo "first run $(median < "$work/cold") s, second run on the node $(median < "$work/warm") s"
jq -r '"\(.origin.reads) requests, \(.bytes_fetched) bytes fetched, \(.bytes_read_by_sandbox) plain bytes read"' "$work/stats"
echo "daemon after it: $(median < "$work/daemon") bytes resident"
