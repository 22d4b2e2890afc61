#!/usr/bin/env bash
# bench-mounts.sh [ROUNDS]: hot mounts of one image side by side, the time of a mount, and memory.
#
#   native   ext4 under overlayfs, unpacked
#   kernel   kernel mode, the contents on the node before
#   gate     kernel mode, the contents fetched by this very mount
#   held     the same, while a process has held its large files open since before they were fetched
#   fuse     the portable view
#
# IMAGE is anything that `nacre image add` takes and has python3. Needs root, and disk below TMPDIR for the
# image three times and its store. Writes OUT/hot.md, OUT/hot.json, OUT/hot.svg and OUT/mounts.md,
# and from them docs/BENCHMARKS.md.
set -euo pipefail
rounds=${1:-7}
image=${IMAGE:?what to add, such as oci:DIR:TAG}
out=${OUT:-$(dirname "$0")/../target/bench}
nacre=$(realpath "${NACRE:-$(dirname "$0")/../target/release/nacre}")
hot=$(realpath "${HOT:-$(ls -t "$(dirname "$0")"/../target/release/deps/hot-* | grep -v '\.d$' | head -n 1)}")
work=$(mktemp -d "${TMPDIR:-/var/tmp}/nacre-bench.XXXXXX")
mkdir -p "$out"

finish() {
  [ -z "${holder:-}" ] || kill "$holder" 2> /dev/null || true
  umount -q "$work"/mount/* "$work"/many/* 2> /dev/null || true
  for root in "$work"/root-*; do NACRE_ROOT=$root stop_daemon; done
  rm -rf --one-file-system "$work"
}
. "$(dirname "$0")/measure.sh"
trap finish EXIT
on() { local root=$1; shift; "$nacre" --root "$work/root-$root" --store "file://$work/store${DELAY:-}" "$@"; }
read_all() { find "$1" -type f -print0 | xargs -0 cat > /dev/null; }

on node image add "$image" --name image > /dev/null
mkdir -p "$work"/mount/{native,kernel,gate,held,fuse} "$work"/native/{upper,work,lower}
on node mount image "$work/mount/kernel" > /dev/null
cp -a "$work/mount/kernel/." "$work/native/lower"
umount "$work/mount/kernel"
mount -t overlay overlay -o "lowerdir=$work/native/lower,upperdir=$work/native/upper,workdir=$work/native/work" \
  "$work/mount/native"
on node mount --mode kernel --rw image "$work/mount/kernel" > /dev/null
on node mount --mode fuse --rw image "$work/mount/fuse" > /dev/null
# The copy above was recorded as a start by now, or will be. Streamed ahead, nothing would come through the gate.
rm -rf "$work/store/refs/traces"
on held mount --mode kernel --rw image "$work/mount/held" > /dev/null
mapfile -d '' -t large < <(find "$work/mount/held" -type f -size +1M -print0)
tail -f -n 0 -- "${large[@]}" > /dev/null 2>&1 &
holder=$!
read_all "$work/mount/held"
rm -rf "$work/store/refs/traces"
on other mount --mode kernel --rw image "$work/mount/gate" > /dev/null
read_all "$work/mount/gate"
# Until both have looked again for what is complete: after as long as they are old, at most.
sleep 100
"$hot" --rounds "$rounds" --json "$out/hot.json" --svg "$out/hot.svg" \
  native="$work/mount/native" kernel="$work/mount/kernel" gate="$work/mount/gate" \
  held="$work/mount/held" fuse="$work/mount/fuse" |
  tee "$out/hot.md"
kill "$holder"
wait "$holder" || true
umount "$work"/mount/{native,kernel,gate,held,fuse}

# The time of mounts, as the command reports it, and memory.
milliseconds() { jq -s 'map(.seconds * 1e5 | round / 100) | sort | .[length / 2 | floor]'; }
again=$(for _ in $(seq 21); do
  on node --json mount image "$work/mount/kernel"
  umount "$work/mount/kernel"
done | milliseconds)
first=$(for i in $(seq 5); do
  DELAY='?delay_ms=20' on "first-$i" cache stats > /dev/null # starts the daemon
  DELAY='?delay_ms=20' on "first-$i" --json mount image "$work/mount/kernel"
  umount "$work/mount/kernel"
  # It streams what was read of the image above: all of it.
  NACRE_ROOT=$work/root-first-$i stop_daemon
done | milliseconds)

# A thousand live mounts of 20 images: the image and parts of it.
mapfile -t parts < <(cd "$work/native/lower" && du -d 4 --inodes usr | sort -rn | awk 'NR > 1 { print $2 }' | head -n 19)
for i in "${!parts[@]}"; do
  on node image add "dir:$work/native/lower/${parts[$i]}" --name "part-$i" > /dev/null
done
mkdir "$work/many"
many=$(for i in $(seq 0 999); do
  mkdir "$work/many/$i"
  name=part-$((i % 20))
  if [ $((i % 20)) = 19 ]; then name=image; fi
  on node --json mount "$name" "$work/many/$i"
done | milliseconds)
memory=$(on node --json info | jq '.daemon | "\(.rss_bytes / 1048576 | round) MiB, \(.metadata_mounts) metadata images mounted"' -r)
umount "$work"/many/*
{
  echo "| mount | ms, median |"
  echo "|---|---|"
  echo "| again on the same node | $again |"
  echo "| first on a node, 20 ms for every request to the store | $first |"
  echo "| each of 1,000 live mounts of 20 images | $many |"
  echo
  echo "The daemon with the 1,000 mounts: $memory."
} | tee "$out/mounts.md"

# Into the document, between the marks.
docs=$(dirname "$0")/../docs
for part in hot mounts; do
  awk -v mark="<!-- $part -->" -v file="$out/$part.md" '
    $0 == mark { print; while ((getline line < file) > 0) print line; skip = 1 }
    $0 == "<!-- end -->" { skip = 0 }
    !skip && $0 != mark { print }' "$docs/BENCHMARKS.md" > "$work/document"
  cat "$work/document" > "$docs/BENCHMARKS.md"
done
cp "$out/hot.svg" "$docs/hot.svg"
