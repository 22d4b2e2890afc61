#!/bin/bash
# Runs all tests: with a real S3 server beside them, and with one that is exact where requests
# race. The servers end with this script, however it ends.
set -euo pipefail
cd "$(dirname "$0")/.."

SEAWEED_PORT=18333
MOTO_PORT=18334

scratch=$(mktemp -d)
finish() {
    scripts/s3-server.sh stop "$scratch/seaweed"
    scripts/s3-server.sh stop "$scratch/moto"
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

# with_server KIND PORT COMMAND...
with_server() {
    local kind=$1 variables
    variables=$(NACRE_S3_PORT=$2 scripts/s3-server.sh start "$kind" "$scratch/$kind")
    shift 2
    (eval "$variables" && "$@")
}

# One choice of packages for all that is built here: with another, features of third-party crates
# differ, and all of nacre would be built again.
tests() {
    cargo test --release --workspace --locked --quiet "$@"
}

echo '== build'
tests --no-run
echo '== without the features of third-party crates that tests need'
cargo check --release --workspace --locked --quiet
if command -v go >/dev/null; then
    echo '== containerd 2.4'
    scripts/containerd2.sh target/containerd2
    export NACRE_TEST_CONTAINERD2=$PWD/target/containerd2
else
    echo 'no Go: nothing is tried with containerd 2.4'
fi
echo '== unit tests, integration tests and doctests'
with_server moto "$MOTO_PORT" tests
echo "== containerd's suite of tests for snapshotters"
scripts/test-containerd.sh
echo '== docs/containerd.md on a clean machine'
scripts/check-containerd-docs.sh
echo '== the object store, and images in it, over SeaweedFS'
over_seaweed() {
    tests --test s3
    tests --test cli -- stores::images_come_from_an_s3_server
}
with_server seaweed "$SEAWEED_PORT" over_seaweed
