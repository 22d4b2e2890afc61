#!/usr/bin/env bash
# Usage: fuzz/run.sh [SECONDS] [TARGET...]
# Builds the fuzz targets and runs each (all, if none is named) for SECONDS (60) from its seeds.
# Prints a line per target and exits with 1 if any found something. Found inputs are kept in
# fuzz/artifacts/TARGET, new coverage in fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")"

# Resident memory of the process, where AddressSanitizer and the corpus take most, and the largest
# allocation of one input: room for a frame and nothing else.
RSS_LIMIT_MB=1024
MALLOC_LIMIT_MB=64
INPUT_SECONDS_MAX=10

seconds=${1:-60}
shift || true
if [[ $# -gt 0 ]]; then
  targets=("$@")
else
  targets=(fuzz_targets/*.rs)
  targets=("${targets[@]##*/}")
  targets=("${targets[@]%.rs}")
fi

./cargo.sh build "${targets[@]/#/--bin=}"
binaries=target/$(rustc -vV | sed -n 's/^host: //p')/release

# value LOG NAME: a final statistic of libFuzzer.
value() { sed -n "s/^stat::$2: *//p" "$1"; }
# progress LOG EVENT: "cov ft" of the last line of EVENT.
progress() { sed -nE "s/^#[0-9]+\s+$2\s+cov: ([0-9]+) ft: ([0-9]+).*/\1 \2/p" "$1" | tail -n 1; }

failed=()
format='%-16s %-7s %12s %8s %15s %17s %7s\n'
# shellcheck disable=SC2059
printf "$format" target result executions exec/s edges features 'rss MB'
for target in "${targets[@]}"; do
  mkdir -p "corpus/$target" "artifacts/$target"
  log=artifacts/$target.log
  result=ok
  "$binaries/$target" "corpus/$target" "seeds/$target" \
    -max_total_time="$seconds" -timeout="$INPUT_SECONDS_MAX" \
    -rss_limit_mb="$RSS_LIMIT_MB" -malloc_limit_mb="$MALLOC_LIMIT_MB" \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1 >"$log" 2>&1 || result=FAILED
  read -r edges_before features_before <<<"$(progress "$log" INITED)"
  read -r edges features <<<"$(progress "$log" '[A-Zp][A-Za-z]+')"
  # shellcheck disable=SC2059
  printf "$format" "$target" "$result" "$(value "$log" number_of_executed_units)" \
    "$(value "$log" average_exec_per_sec)" "${edges_before:-?} -> ${edges:-?}" \
    "${features_before:-?} -> ${features:-?}" "$(value "$log" peak_rss_mb)"
  if [[ $result != ok ]]; then
    failed+=("$target")
    grep -m 3 -E 'panicked at|ERROR:|Test unit written' -A 1 "$log" >&2 || tail -n 5 "$log" >&2
  fi
done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "findings in: ${failed[*]}; run fuzz/cargo.sh run --bin TARGET -- INPUT to repeat one" >&2
  exit 1
fi
