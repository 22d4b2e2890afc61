#!/bin/bash
# Makes a real Debian image with Python, adds it to a store, runs Python in it while almost nothing
# of it has been fetched, and then adds the image rebuilt with one more package.
#
# The root file systems come from Debian's archive (or NACRE_DEMO_MIRROR) and stay in target/demo.
# Everything else is in a temporary directory and goes when this script ends.
set -euo pipefail
cd "$(dirname "$0")/.."

MIRROR=${NACRE_DEMO_MIRROR:-}
SUITE=bookworm
TARGET=${CARGO_TARGET_DIR:-target}
CACHE=$TARGET/demo
PROGRAM='import json, platform, sqlite3; print("hello from Python", platform.python_version())'

say() { printf '\n== %s\n' "$*"; }

# debian TAG PACKAGES: makes the image CACHE/layout:TAG, unless it is there. Its one layer is a
# whole root file system.
debian() {
    [ ! -e "$CACHE/$1.done" ] || return 0
    rm -f "$CACHE/$1.tar"
    mmdebstrap --quiet --variant=minbase --include="$2" "$SUITE" "$CACHE/$1.tar" ${MIRROR:+"$MIRROR"}
    [ -e "$CACHE/layout" ] || umoci init --layout "$CACHE/layout"
    umoci new --image "$CACHE/layout:$1"
    umoci raw add-layer --image "$CACHE/layout:$1" "$CACHE/$1.tar"
    umoci config --image "$CACHE/layout:$1" --config.cmd bash \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    rm "$CACHE/$1.tar"
    touch "$CACHE/$1.done"
}

# report FORMAT EXPRESSION...: prints values computed from the JSON on stdin, called `j`.
report() {
    python3 -c '
import json, sys
j = json.load(sys.stdin)
mb = lambda key: "%.1f MB" % (j[key] / 1e6)
values = [eval(expression) for expression in sys.argv[2:]]
print(sys.argv[1] % tuple(values))
' "$@"
}

nacre() { "$TARGET/release/nacre" --root "$root" --progress none "$@"; }

root=$(mktemp -d)
finish() {
    local daemon
    daemon=$(nacre --json info 2>/dev/null | report %s 'j["daemon"]["pid"]' 2>/dev/null) || daemon=
    if [ -n "$daemon" ]; then
        kill "$daemon"
        tail --pid="$daemon" -f /dev/null
    fi
    umount -lq "$root/content" || true
    rm -rf --one-file-system "$root"
}
trap finish EXIT
trap 'exit 130' INT TERM

scripts/install-deps.sh
if [ "$(id -u)" -ne 0 ]; then
    echo 'demo.sh: it mounts and runs containers: start it as root' >&2
    exit 1
fi

say 'build nacre'
# With a test beside it, third-party crates are built with the features that tests need, and so are
# not built again for them.
cargo build --release --locked --workspace --bin nacre --test s3

say "make two Debian images in $CACHE"
mkdir -p "$CACHE"
debian v1 python3
debian v2 python3,file

say 'add v1 to an empty store'
nacre --json image add "oci:$CACHE/layout:v1" --name debian:v1 | tee "$root/v1.json" |
    report '%s files of %s, a layer of %s; stored as %s in %.1f s' \
        'j["files"]' 'mb("bytes_plain")' 'mb("bytes_compressed")' 'mb("bytes_stored")' 'j["seconds"]'

say 'run Python in it; the node has none of its data yet'
nacre run --rm debian:v1 python3 -c "$PROGRAM"
nacre --json cache stats |
    report '%s of its %.1f MB were read, fetched as %s from the store' \
        'mb("bytes_read_by_sandbox")' 'json.load(open("'"$root"'/v1.json"))["bytes_plain"] / 1e6' \
        'mb("bytes_fetched")'

say 'run it again; now the node has what it reads'
before=$(nacre --json cache stats | report '%d' 'j["bytes_fetched"]')
nacre run --rm debian:v1 python3 -c "$PROGRAM"
nacre --json cache stats | report '%.1f MB were fetched' "(j['bytes_fetched'] - $before) / 1e6"

say 'add v2: rebuilt with one more package, so its one layer is new from end to end'
nacre --json image add "oci:$CACHE/layout:v2" --name debian:v2 |
    report 'of a layer of %s and files of %s, %s were new; stored as %s in %.1f s' \
        'mb("bytes_compressed")' 'mb("bytes_plain")' 'mb("bytes_new_plain")' 'mb("bytes_stored")' \
        'j["seconds"]'

say 'check every byte of the store'
nacre store fsck --read-data
