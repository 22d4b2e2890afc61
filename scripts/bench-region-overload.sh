#!/bin/bash
# Fills an empty region member whose origin carries 500 requests a second (20 at a time, 40 ms each)
# for many more clients than that serves.
#
#   scripts/bench-region-overload.sh [CLIENTS] [OBJECTS]     needs curl
#
# Each client asks for the next block that nobody asked for, and comes back when it is told to. An
# object has 1,024 blocks of 64 KiB; 32 of them take a minute. Prints requests served in each 10 s,
# how many were turned away, and the most memory that the member used.
set -euo pipefail
cd "$(dirname "$0")/.."
CLIENTS=${1:-2000} OBJECTS=${2:-32}
WORK=${WORK:-$(mktemp -d)}
MEMBER=18383
OBJECT_BYTES=$((64 << 20))
ulimit -n 16384
if [ -z "${NACRE:-}" ]; then
	cargo build --release --locked -q --workspace --bin nacre --bench ranges
	NACRE=$PWD/target/release/nacre
fi
# shellcheck disable=SC2012 # the newest by time
RANGES=$(ls -t target/release/deps/ranges-* | grep -v '\.d$' | head -1)

member='' watch=''
cleanup() {
	[ -z "$watch" ] || kill "$watch" 2>/dev/null || true
	[ -z "$member" ] || kill "$member" 2>/dev/null || true
	[ -n "${KEEP:-}" ] || rm -rf "$WORK"
}
trap cleanup EXIT
mkdir -p "$WORK/store"
[ -d "$WORK/store/packs" ] || "$RANGES" make "$WORK/store" "$OBJECTS" "$OBJECT_BYTES"
rm -rf "$WORK/cold"
"$NACRE" -q --root "$WORK/root" --store "file://$WORK/store?delay_ms=40" region serve \
	--listen "127.0.0.1:$MEMBER" --disk "$WORK/cold" --disk-size 8G --memory 256M \
	--block-size 64K --origin-requests 20 >"$WORK/member.log" &
member=$!
until curl -sf "127.0.0.1:$MEMBER/readyz" >"$WORK/ready"; do kill -0 "$member"; done
while curl -sf "127.0.0.1:$MEMBER/metrics"; do sleep 1; done | grep -E '^nacre_region_memory_bytes' >"$WORK/memory" &
watch=$!
"$RANGES" run "127.0.0.1:$MEMBER" "$OBJECTS" "$OBJECT_BYTES" $((64 << 10)) "$CLIENTS" 0
curl -s "127.0.0.1:$MEMBER/metrics" | grep -E '^nacre_region_(origin_gets_total|origin_errors|disk_unstored|memory_limit)'
awk '{ if ($2 > most) most = $2 } END { print "most of it in use", most }' "$WORK/memory"
grep VmHWM "/proc/$member/status"
