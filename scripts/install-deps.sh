#!/bin/sh
# Installs what builds, tests and the demo need on Debian 12. Silent when all is there.
#
# Packages that are named as arguments are installed as well: the tests want chromium, which shows a
# member's status page, and is larger than all that a demo needs.
#
# The Rust toolchain is not installed: rustup or any cargo of the version in Cargo.toml will do.
set -eu

# Build: RocksDB needs a C++ compiler and libclang.
PACKAGES='clang libclang-dev g++ cmake pkg-config'
# Sandboxes and mounts.
PACKAGES="$PACKAGES fuse3 runc crun runsc busybox-static iproute2 containerd"
# What the tests compare with, and what they prepare files with.
PACKAGES="$PACKAGES umoci skopeo docker-registry attr erofs-utils btrfs-progs xfsprogs libcap2-bin zstd
  curl xz-utils"
# S3 servers for the tests, and the demo's root file system.
PACKAGES="$PACKAGES python3 python3-venv mmdebstrap ca-certificates $*"

command -v cargo >/dev/null || {
    echo 'install-deps.sh: cargo is not there; install it from https://rustup.rs' >&2
    exit 1
}
missing=
for package in $PACKAGES; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = 'install ok installed' ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "install-deps.sh: these packages are missing, and only root can install them:$missing" >&2
    exit 1
fi
echo "installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# Daemons that come with a package are not to start.
if ! {
    apt-get update && RUNLEVEL=1 apt-get install -y --no-install-recommends $missing
} >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    exit 1
fi
