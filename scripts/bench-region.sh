#!/bin/bash
# Measures a region member beside nginx (slice + proxy_cache, sendfile) on loopback.
#
#   scripts/bench-region.sh [ROUNDS]       needs nginx, curl, jq, root (to drop the page cache)
#
# Both cache the same objects of one directory, nginx through another nginx that serves it. Each
# round asks both, in turns, for ranges of 64 KiB, 1 MiB and 16 MiB:
#   memory  random ranges of 256 MiB that were read before; nginx has them in the page cache
#   disk    every range of 2 GiB once, in random order, after both were filled and the page cache
#           was dropped; the member has 64 MiB of memory
# Prints medians of the rounds: rates, p99, CPU seconds per GB, and the ratios to nginx.
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${1:-3}
SECONDS_EACH=${SECONDS_EACH:-4}
CONNECTIONS=${CONNECTIONS:-16}
WORK=${WORK:-$(mktemp -d)}
ORIGIN=18380 NGINX=18381 MEMBER=18382
OBJECT_BYTES=$((64 << 20))
MEMORY_OBJECTS=4 DISK_OBJECTS=${DISK_OBJECTS:-32}

if [ -z "${NACRE:-}" ]; then
	cargo build --release --locked -q --workspace --bin nacre --bench ranges
	NACRE=$PWD/target/release/nacre
fi
# shellcheck disable=SC2012 # the newest by time
RANGES=${RANGES:-$(ls -t target/release/deps/ranges-* | grep -v '\.d$' | head -1)}

member=
cleanup() {
	[ -z "$member" ] || kill "$member" 2>/dev/null || true
	for name in origin cache; do
		[ ! -s "$WORK/$name.pid" ] || kill "$(cat "$WORK/$name.pid")" 2>/dev/null || true
	done
	[ -n "${KEEP:-}" ] || rm -rf "$WORK"
}
trap cleanup EXIT

mkdir -p "$WORK"/{store,nginx,disk}
chmod 755 "$WORK"
[ -d "$WORK/store/packs" ] || "$RANGES" make "$WORK/store" "$DISK_OBJECTS" "$OBJECT_BYTES"

# Workers as the machine has cores, which is what the member's threads do too.
cat >"$WORK/origin.conf" <<EOF
worker_processes 1;
pid $WORK/origin.pid;
error_log $WORK/origin.log;
events { worker_connections 1024; }
http {
	access_log off; sendfile on;
	server { listen 127.0.0.1:$ORIGIN; root $WORK/store; }
}
EOF
cat >"$WORK/cache.conf" <<EOF
user root;
worker_processes auto;
pid $WORK/cache.pid;
error_log $WORK/cache.log;
events { worker_connections 1024; }
http {
	access_log off; sendfile on; keepalive_requests 1000000;
	proxy_cache_path $WORK/nginx levels=1:2 keys_zone=c:64m max_size=20g inactive=1d use_temp_path=off;
	server {
		listen 127.0.0.1:$NGINX;
		location / {
			slice 1m;
			proxy_cache c;
			proxy_cache_key \$uri\$slice_range;
			proxy_set_header Range \$slice_range;
			proxy_http_version 1.1;
			proxy_cache_valid 200 206 1d;
			proxy_cache_lock on;
			proxy_pass http://127.0.0.1:$ORIGIN;
		}
	}
}
EOF
nginx -c "$WORK/origin.conf"
nginx -c "$WORK/cache.conf"

start_member() { # MEMORY
	if [ -n "$member" ]; then
		kill "$member"
		wait "$member" || true
	fi
	# As the unit in deploy/ has it.
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 "$NACRE" -q --root "$WORK/root" --store "file://$WORK/store" region serve \
		--listen "127.0.0.1:$MEMBER" --disk "$WORK/disk" --disk-size 16G --memory "$1" >"$WORK/member.log" &
	member=$!
	until curl -sf "127.0.0.1:$MEMBER/readyz" >"$WORK/ready"; do kill -0 "$member"; done
}

ticks() { # PIDS: CPU time used so far
	local sum=0 pid
	for pid in "$@"; do
		sum=$((sum + $(awk '{ print $14 + $15 }' "/proc/$pid/stat")))
	done
	echo "$sum"
}

measure() { # WHO TIER PORT COUNT RANGE SECONDS: one line of JSON
	local pids before after
	if [ "$1" = nginx ]; then
		# Not the cache's loader, which ends after a while.
		pids=$(pgrep -P "$(cat "$WORK/cache.pid")" -f 'worker process')
	else
		pids=$member
	fi
	# shellcheck disable=SC2086 # several
	before=$(ticks $pids)
	"$RANGES" run "127.0.0.1:$3" "$4" "$OBJECT_BYTES" "$5" "$CONNECTIONS" "$6" >"$WORK/run.json"
	# shellcheck disable=SC2086
	after=$(ticks $pids)
	jq -c --arg who "$1" --arg tier "$2" --argjson range "$5" --argjson ticks $((after - before)) \
		'. + {who: $who, tier: $tier, range: $range,
		  cpu_s_per_gb: ($ticks / 100 / (.requests * $range / 1e9))}' "$WORK/run.json" \
		>>"$WORK/all.jsonl"
}

# What serves from the disk is in memory before the page cache is dropped: a member that was just started
# would read its own program from the disk with the first requests.
drop_cache() { # PORT
	"$RANGES" run "127.0.0.1:$1" 1 "$OBJECT_BYTES" $((1 << 20)) 4 0 >"$WORK/touch.json"
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

: >"$WORK/all.jsonl"
SIZES="$((64 << 10)) $((1 << 20)) $((16 << 20))"
start_member 1G
for port in "$NGINX" "$MEMBER"; do
	# Filled once; thrice, so that the member has seen each block again.
	for _ in 1 2 3; do
		"$RANGES" run "127.0.0.1:$port" "$MEMORY_OBJECTS" "$OBJECT_BYTES" $((1 << 20)) 4 0 >"$WORK/fill.json"
	done
done
for _ in $(seq "$ROUNDS"); do
	for range in $SIZES; do
		measure nginx memory "$NGINX" "$MEMORY_OBJECTS" "$range" "$SECONDS_EACH"
		measure member memory "$MEMBER" "$MEMORY_OBJECTS" "$range" "$SECONDS_EACH"
	done
done
for port in "$NGINX" "$MEMBER"; do
	"$RANGES" run "127.0.0.1:$port" "$DISK_OBJECTS" "$OBJECT_BYTES" $((1 << 20)) 4 0 >"$WORK/fill.json"
done
for _ in $(seq "$ROUNDS"); do
	for range in $SIZES; do
		drop_cache "$NGINX"
		measure nginx disk "$NGINX" "$DISK_OBJECTS" "$range" 0
		start_member 64M
		drop_cache "$MEMBER"
		measure member disk "$MEMBER" "$DISK_OBJECTS" "$range" 0
	done
done

curl -s "127.0.0.1:$MEMBER/metrics" | grep -E 'corrupt|errors|unstored' >&2
jq -rs '
	def median: sort | .[length / 2 | floor];
	def at($key): map(.[$key]) | median;
	def round2: . * 100 | round / 100;
	"| from | range | nginx MB/s | member MB/s | ratio | nginx p99 ms | member p99 ms | ratio | CPU s/GB nginx | member |",
	"|---|---|---|---|---|---|---|---|---|---|",
	(group_by([.tier, .range]) | sort_by([(.[0].tier == "disk"), .[0].range]) | .[] |
		(map(select(.who == "nginx"))) as $n | (map(select(.who == "member"))) as $m |
		"| \(.[0].tier) | \(.[0].range / 1024) KiB | \($n | at("mb_per_s")) | \($m | at("mb_per_s")) " +
		"| **\(($m | at("mb_per_s")) / ($n | at("mb_per_s")) | round2)** " +
		"| \($n | at("p99_us") / 1000 | round2) | \($m | at("p99_us") / 1000 | round2) " +
		"| \(($m | at("p99_us")) / ($n | at("p99_us")) | round2) " +
		"| \($n | at("cpu_s_per_gb") | round2) | \($m | at("cpu_s_per_gb") | round2) |")
' "$WORK/all.jsonl"
