#!/bin/bash
# Measures the tiers of a region member beside foyer, a hybrid cache of memory and disk.
#
#   scripts/bench-foyer.sh [ROUNDS [DISK_MIB [CACHE...]]]
#
# Each round gives every CACHE (region-cache/benches/foyer/src/main.rs lists them) an empty folder
# below WORK with a quota of DISK_MIB, and an eighth of that in memory. Prints medians of the rounds.
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${1:-3} DISK_MIB=${2:-1024}
shift $(($# < 2 ? $# : 2))
WORK=${WORK:-$(mktemp -d)}
trap 'rm -rf "$WORK"' EXIT

if [ -z "${BENCH_FOYER:-}" ]; then
	# RocksDB is only linked. What a build of the workspace left is as good as another.
	# shellcheck disable=SC2012 # the newest by time
	library=$(ls -t target/release/build/librocksdb-sys-*/out/librocksdb.a 2>/dev/null | head -1 || true)
	if [ -n "$library" ]; then
		export ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR=$PWD/${library%/*}
	fi
	# A target folder of its own: in the workspace's RocksDB would count as changed.
	cargo build --release --locked -q --target-dir target/bench-foyer \
		--manifest-path region-cache/benches/foyer/Cargo.toml
	BENCH_FOYER=target/bench-foyer/release/nacre-bench-foyer
fi
"$BENCH_FOYER" run "$WORK" "$ROUNDS" "$DISK_MIB" "$@"
