#!/usr/bin/env bash
# bench-pull.sh [RUNS]: pull and run of IMAGE (in a registry on loopback) by containerd 2.4, or the system's 1.6 with
# CONTAINERD=1.6: with overlayfs, and lazily with nacre at 20 ms for each request to the store. BY=ctr: `ctr image pull`
# and `ctr run`, until COMMAND has ended. BY=crictl: PullImage, RunPodSandbox, CreateContainer and StartContainer, as the
# kubelet asks for them, until the first output of COMMAND, and of that what comes after the pull; the pod's own image is
# there before. COMMAND is for sh -c. Each run starts with an empty node, an empty containerd and no page caches. What
# the first of nacre's read is known to those after it, on whatever node, so it is told apart. Needs root, Go, jq, bc,
# and a build of nacre; crictl also busybox-static.
set -euo pipefail
runs=${1:-3} # two at least
by=${BY:-ctr}
image=${IMAGE:-127.0.0.1:5000/pyapp:v1}
command=${COMMAND:-"exec python3 -uc \"import numpy, pandas, sklearn; print('up')\""}
pause=pause.invalid/pause:v1
cd "$(dirname "$0")/.."
nacre=${NACRE:-$PWD/target/release/nacre}
scripts/containerd2.sh target/containerd2
if [ "${CONTAINERD:-2.4}" = 1.6 ]; then
    cri="version = 2
plugins.'io.containerd.grpc.v1.cri' = { sandbox_image = '$pause', restrict_oom_score_adj = true }"
    mkdir -p target/crictl
    ln -sf ../containerd2/crictl target/crictl/
    export PATH=$PWD/target/crictl:$PATH
else
    cri="version = 3
plugins.'io.containerd.nri.v1.nri' = { disable = true }
plugins.'io.containerd.cri.v1.images' = { pinned_images = { sandbox = '$pause' } }
plugins.'io.containerd.cri.v1.runtime' = { restrict_oom_score_adj = true }"
    export PATH=$PWD/target/containerd2:$PATH
fi
work=$(mktemp -d /var/tmp/nacre-bench.XXXXXX)
export NACRE_ROOT=$work/node
. scripts/measure.sh
containerd=
container=
c() { ctr --address "$work/c/sock" "$@" 2>> "$work/log"; }
cri() { crictl --timeout 300s --runtime-endpoint "unix://$work/c/sock" --image-endpoint "unix://$work/c/sock" "$@"; }
stop_all() {
    [ -z "$containerd" ] || kill "$containerd"
    while [ -n "$containerd" ] && kill -0 "$containerd" 2>/dev/null; do sleep 0.1; done
    containerd=
    stop_daemon
}
trap 'stop_all; rm -rf --one-file-system "$work"' EXIT

# write_pause: an archive of an image that sleeps, for pods.
write_pause() {
    local blobs=$work/pause/blobs/sha256
    mkdir -p "$blobs" "$work/rootfs/bin"
    cp /bin/busybox "$work/rootfs/bin/sh"
    tar -C "$work/rootfs" -cf "$work/layer" .
    # blob FILE TYPE: stores it, and prints its descriptor.
    blob() {
        local digest
        digest=$(sha256sum < "$1" | cut -d ' ' -f 1)
        cp "$1" "$blobs/$digest"
        jq -nc --arg type "$2" --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$1")" \
            '{mediaType: $type, digest: $digest, size: $size}'
    }
    local layer config oci=application/vnd.oci.image
    layer=$(blob "$work/layer" $oci.layer.v1.tar)
    jq -nc --argjson layer "$layer" '{architecture: "amd64", os: "linux", rootfs: {type: "layers", diff_ids:
        [$layer.digest]}, config: {Entrypoint: ["/bin/sh", "-c", "sleep 100000"]}}' > "$work/config"
    config=$(blob "$work/config" $oci.config.v1+json)
    jq -nc --argjson config "$config" --argjson layer "$layer" --arg type $oci.manifest.v1+json \
        '{schemaVersion: 2, mediaType: $type, config: $config, layers: [$layer]}' > "$work/manifest"
    blob "$work/manifest" $oci.manifest.v1+json | jq -c --arg name $pause '{schemaVersion: 2, manifests:
        [. + {annotations: {"io.containerd.image.name": $name}}]}' > "$work/pause/index.json"
    echo '{"imageLayoutVersion": "1.0.0"}' > "$work/pause/oci-layout"
    tar -C "$work/pause" -cf "$work/pause.tar" .
    jq -nc --arg logs "$work/logs" '{metadata: {name: "bench", uid: "bench", namespace: "default"}, log_directory: $logs,
        linux: {security_context: {namespace_options: {network: 2}}}}' > "$work/pod.json"
    jq -nc --arg image "$image" --arg command "$command" '{metadata: {name: "bench"}, image: {image: $image},
        command: ["/bin/sh", "-c", $command], log_path: "log"}' > "$work/container.json"
}

# start_all SNAPSHOTTER: containerd, and with nacre its daemon, with nothing in them.
start_all() {
    rm -rf "$work/c" "$work/node" "$work/logs"
    mkdir "$work/c" "$work/logs"
    cat > "$work/c/config.toml" <<END
$cri
root = "$work/c/root"
state = "$work/c/state"
grpc = { address = "$work/c/sock" }
plugins."io.containerd.internal.v1.opt" = { path = "$work/c/opt" }
END
    if [ "$1" = nacre ]; then
        "$nacre" daemon 2>> "$work/log" &
        "$nacre" containerd setup --write "$work/c/config.toml" 2>> "$work/log"
        until [ -S "$NACRE_ROOT/snapshotter.sock" ]; do sleep 0.1; done
    fi
    containerd --config "$work/c/config.toml" 2>> "$work/log" &
    containerd=$!
    for _ in $(seq 200); do
        if c version > /dev/null; then
            [ "$by" = ctr ] || c -n k8s.io image import --snapshotter "$1" "$work/pause.tar" > /dev/null
            return
        fi
        sleep 0.1
    done
    return 1
}

# by_ctr SNAPSHOTTER: until the command has ended.
by_ctr() {
    c image pull --plain-http --snapshotter "$1" "$image" > /dev/null
    c run --rm --snapshotter "$1" "$image" bench /bin/sh -c "$command" > /dev/null
}

# by_crictl: until the command has written.
by_crictl() {
    local pod
    cri pull "$image" > /dev/null
    date +%s.%N > "$work/pulled"
    pod=$(cri runp "$work/pod.json")
    container=$(cri create --no-pull "$pod" "$work/container.json" "$work/pod.json")
    cri start "$container" > /dev/null
    until [ -s "$work/logs/log" ]; do sleep 0.005; done
}

# start SNAPSHOTTER: the seconds of one start.
start() {
    local from to
    drop_caches
    from=$(date +%s.%N)
    "by_$by" "$1"
    to=$(date +%s.%N)
    echo "$to - $from" | bc >> "$work/$1"
    if [ "$by" = crictl ]; then
        echo "$to - $(cat "$work/pulled")" | bc >> "$work/$1-pulled"
        grep -q ' stdout ' "$work/logs/log" || cat "$work/logs/log" >&2
        # Some commands do not end when they are asked to, and then containerd gives up.
        c -n k8s.io tasks kill -s KILL "$container" || true
        for _ in 1 2 3 4 5; do ! cri rmp -af > /dev/null || break; done
        [ -z "$(cri pods -q)" ]
    fi
}

[ "$by" = ctr ] || write_pause
NACRE_STORE=file://$work/store "$nacre" image add "docker://$image" --progress none
export NACRE_STORE="file://$work/store?delay_ms=20"
for _ in $(seq "$runs"); do
    for snapshotter in overlayfs nacre; do
        start_all "$snapshotter"
        start "$snapshotter"
        stop_all
    done
done
full=$(median < "$work/overlayfs")
of() { echo "$1 s ($(echo "scale=3; $1 / $full" | bc))"; }
echo "overlayfs: $full s; nacre: the first $(of "$(head -n 1 "$work/nacre")"), others $(of "$(tail -n +2 "$work/nacre" | median)")"
if [ "$by" = crictl ]; then
    echo "of that from RunPodSandbox on: nacre, the first $(of "$(head -n 1 "$work/nacre-pulled")"), others $(of "$(tail -n +2 "$work/nacre-pulled" | median)")"
fi
echo "all: overlayfs $(paste -sd ' ' "$work/overlayfs"); nacre $(paste -sd ' ' "$work/nacre")"
