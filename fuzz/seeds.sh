#!/usr/bin/env bash
# Usage: fuzz/seeds.sh STORE_DIR OCI_DIR [OUT_DIR [SEEDS_MAX [BYTES_MAX]]]
# Makes seeds from a store (the directory of a file:// store) and from the layers of an OCI layout.
# OUT_DIR is fuzz/corpus, which git ignores; a target gets at most SEEDS_MAX (200) from either, each of
# at most BYTES_MAX (16384). The committed seeds are: fuzz/seeds.sh STORE OCI fuzz/seeds 12 2560
set -euo pipefail

store=$(realpath "$1")
oci=$(realpath "$2")
fuzz=$(realpath "$(dirname "$0")")
out=${3:-$fuzz/corpus}
mkdir -p "$out"
out=$(realpath "$out")
seeds_max=${4:-200}
bytes_max=${5:-16384}

"$fuzz/cargo.sh" run --quiet --example seeds -- "$store" "$out" "$seeds_max" "$bytes_max"

# save TARGET: keeps standard input as a seed, named by its hash.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
save() {
  mkdir -p "$out/$1"
  cat >"$scratch/seed"
  mv "$scratch/seed" "$out/$1/$(sha256sum "$scratch/seed" | head -c 16)"
}

# A layer is cut where it gets too long; its first entries are whole.
for blob in $(find "$oci/blobs/sha256" -type f | sort | head -n "$seeds_max"); do
  { zcat "$blob" 2>/dev/null || zstdcat "$blob" 2>/dev/null || true; } >"$scratch/layer" &
  wait $!
  if tar tf "$scratch/layer" >/dev/null 2>&1; then
    head -c "$((bytes_max / 512 * 512))" "$scratch/layer" | save tar_layer
  fi
done

# What real layers seldom have: every dialect of tar, long names, holes, links, devices, whiteouts.
tree=$scratch/tree
long=$(printf 'n%.0s' {1..60})
mkdir -p "$tree/d/.wh..wh.plnk" "$tree/$long/$long"
echo data >"$tree/d/file"
ln "$tree/d/file" "$tree/d/link"
ln -s "../$long/$long" "$tree/d/symlink"
touch "$tree/d/.wh.gone" "$tree/d/.wh..wh..opq" "$tree/$long/$long/file"
mkfifo "$tree/d/fifo"
truncate -s 64K "$tree/holes"
printf end | dd of="$tree/holes" bs=1 seek=32768 conv=notrunc status=none
tar_of() { tar -C "$tree" --owner=root:0 --group=root:0 --sort=name --mtime=@1.5 "$@" -b1 -c; }
tar_of --format=v7 d/file d/link | save tar_layer
tar_of --format=ustar --exclude=symlink d | save tar_layer
tar_of --format=gnu "$long" | save tar_layer
tar_of --format=posix "$long" | save tar_layer
tar_of --format=posix --pax-option=globexthdr.name=g,comment=c,SCHILY.xattr.user.a:=v d/file | save tar_layer
tar_of --format=gnu --sparse holes | save tar_layer
for version in 0.0 0.1 1.0; do
  tar_of --format=posix --sparse --sparse-version="$version" holes | save tar_layer
done
