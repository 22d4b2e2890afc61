#!/bin/sh
# Compares what umoci unpacks with what nacre mounts, for every image of some OCI layouts; and for
# one of each what a sandbox wrote with what another node shows of its snapshot. Then containerd, and
# containerd 2.4 where NACRE_TEST_CONTAINERD2 names it, pull and run that one without its layers.
#
#   compare-images.sh LAYOUT...
#
# Prints the number of differences of each image, and each difference. Needs root, umoci, and
# disk below TMPDIR for one unpacked image and a store of all of them.
set -eu

if [ $# -eq 0 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
corpus=
for layout; do
    corpus=${corpus:+$corpus:}$(realpath "$layout")
done
cd "$(dirname "$0")/.."
NACRE_CORPUS=$corpus exec cargo test --release --quiet --workspace --test cli -- \
    --nocapture --exact corpus::real_images_are_mounted_as_umoci_unpacks_them \
    corpus::snapshots_of_real_images_are_the_same_on_another_node \
    containerd::real::no_layer_of_a_stored_image_is_asked_for
