#!/usr/bin/env bash
# Usage: fuzz/cargo.sh SUBCOMMAND [ARGS...]
# Runs cargo on the fuzz workspace with AddressSanitizer, coverage and `cfg(fuzzing)`.
set -euo pipefail
fuzz=$(realpath "$(dirname "$0")")

# AddressSanitizer is unstable: it needs a nightly compiler, or a stable one that is told so.
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
  export RUSTUP_TOOLCHAIN=nightly
else
  export RUSTC_BOOTSTRAP=1
fi

# The flags of cargo-fuzz. With --target they spare build scripts and procedural macros.
target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"

# No target calls RocksDB, but the crates under test link it, and its C++ takes minutes to build.
# The library that a release build of the main workspace left is as good, without its debug symbols.
library=$(ls -t "$fuzz"/../target/release/build/librocksdb-sys-*/out/librocksdb.a 2>/dev/null | head -n 1 || true)
stripped=$fuzz/target/rocksdb/librocksdb.a
if [[ -n $library && ! -e $stripped ]]; then
  mkdir -p "${stripped%/*}"
  strip --strip-debug -o "$stripped.new" "$library"
  mv "$stripped.new" "$stripped"
fi
if [[ -e $stripped ]]; then
  export ROCKSDB_LIB_DIR=${stripped%/*} ROCKSDB_STATIC=1
fi

subcommand=$1
shift
exec cargo "$subcommand" --manifest-path "$fuzz/Cargo.toml" --target-dir "$fuzz/target" \
  --target "$target" --release "$@"
