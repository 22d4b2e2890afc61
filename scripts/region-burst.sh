#!/bin/sh
# Starts an image on one node, then on many at once, each time through empty members of a region's
# cache, counts what the store is asked for, and compares what all nodes show.
#
#   region-burst.sh SOURCE [NODES [MEMBERS [COMMAND]]]     e.g. region-burst.sh oci:DIR:v1 16 3 'python3 -c "import numpy"'
#
# Fails unless the many cost the store the blocks that the one does, each once. COMMAND is for sh -c.
# Needs root, runc, and room below TMPDIR for four copies of the image's store and for one
# unpacked image.
set -eu

if [ $# -eq 0 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
NACRE_BURST_SOURCE=$1 NACRE_BURST_NODES=${2:-16} NACRE_BURST_MEMBERS=${3:-3} NACRE_BURST_COMMAND=${4:-true} \
    exec cargo test --release --quiet --workspace --test cli -- \
    --nocapture --exact region_burst::a_burst_costs_the_store_what_one_start_does
