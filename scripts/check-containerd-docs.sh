#!/usr/bin/env bash
# check-containerd-docs.sh: follows docs/containerd.md, command by command, as an operator would on a clean
# machine with containerd 2.4: in namespaces of its own, where what is written to /etc, /opt, /run and
# /usr/local is in memory. Ends with a container that was started lazily. Needs root, Go, umoci, skopeo,
# docker-registry, and a build of nacre.
set -euo pipefail
cd "$(dirname "$0")/.."
nacre=$(realpath "${NACRE:-target/release/nacre}")
if [ -z "${NACRE_CLEAN_MACHINE:-}" ]; then
    if ! command -v go >/dev/null; then
        echo 'no Go: docs/containerd.md is not tried'
        exit 0
    fi
    scripts/containerd2.sh target/containerd2 >/dev/null
    work=$(mktemp -d /var/tmp/nacre-docs.XXXXXX)
    trap 'rm -rf --one-file-system "$work"' EXIT
    # All processes and mounts end with the first process of the namespace.
    NACRE_CLEAN_MACHINE=$work unshare --mount --pid --net --ipc --uts --fork --kill-child --mount-proc "$0"
    exit
fi

work=$NACRE_CLEAN_MACHINE
programs=$PWD/target/containerd2
site=127.0.0.1:5000

# clean_machine: what was installed stays, what was set up or stored is not there.
clean_machine() {
    local folder
    mkdir "$work/memory"
    mount -t tmpfs memory "$work/memory"
    for folder in /etc /opt /usr/local; do
        mkdir -p "$work/memory$folder/upper" "$work/memory$folder/work"
        mount -t overlay overlay "$folder" \
            -o "lowerdir=$folder,upperdir=$work/memory$folder/upper,workdir=$work/memory$folder/work"
    done
    mount -t tmpfs -o mode=755 run /run
    rm -rf /etc/containerd /etc/nacre /etc/systemd/system/nacre.service
    for folder in /var/lib/containerd /var/lib/nacre; do
        mkdir -p "$work$folder" "$folder"
        mount --bind "$work$folder" "$folder"
    done
    ip link set lo up
}

# install_programs: what the page takes for granted, and a stand-in for systemd that knows units.
install_programs() {
    install -m 755 "$nacre" "$programs"/* /usr/local/bin/
    mkdir -p /etc/systemd/system
    cat > /etc/systemd/system/containerd.service <<'END'
[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
END
    cat > /usr/local/bin/systemctl <<'END'
#!/usr/bin/env bash
# systemctl enable --now UNIT | restart UNIT
set -euo pipefail
unit=${!#}
file=/etc/systemd/system/$unit.service
value() { sed -n "s/^$1=-\?//p" "$file"; }
if [ -f "/run/$unit.pid" ]; then
    kill "$(cat "/run/$unit.pid")"
    while kill -0 "$(cat "/run/$unit.pid")" 2>/dev/null; do sleep 0.1; done
fi
variables=$(value Environment; cat $(value EnvironmentFile) /dev/null)
env $variables setsid $(value ExecStart) < /dev/null > "/run/$unit.log" 2>&1 &
echo $! > "/run/$unit.pid"
if [ "$(value Type)" = notify ]; then
    for _ in $(seq 300); do
        ctr version > /dev/null 2>&1 && exit
        sleep 0.1
    done
    exit 1
fi
END
    chmod 755 /usr/local/bin/systemctl
}

# offer_image: the site's registry, with an image of two layers that says that it has started.
offer_image() {
    local files=$work/files layout=$work/layout
    cat > "$work/registry.yml" <<END
version: 0.1
log: {level: error}
http: {addr: '$site'}
storage: {filesystem: {rootdirectory: '$work/registry'}}
END
    docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
    umoci init --layout "$layout"
    umoci new --image "$layout:v1"
    install -D -m 755 /bin/busybox "$files/bin/sh"
    echo started > "$files/word"
    for part in bin word; do
        tar -C "$files" --owner 0 --group 0 -cf "$work/layer.tar" "$part"
        umoci raw add-layer --image "$layout:v1" "$work/layer.tar"
    done
    umoci config --image "$layout:v1" --config.entrypoint /bin/sh --config.entrypoint -c \
        --config.cmd 'read word < /word; echo $word'
    until skopeo copy --quiet --insecure-policy --dest-tls-verify=false \
        "oci:$layout:v1" "docker://$site/team/app:v1" 2> "$work/skopeo.log"; do sleep 0.2; done
}

# commands: those of the page's set-up, with the names of this site.
commands() {
    awk '/^## Kubernetes|^### Which images/ { exit } /^```$/ { inside = 0 } inside { print } /^```sh$/ { inside = 1 }' \
        docs/containerd.md | sed "s|s3://bucket/prefix|file://$work/store|; s|registry.example:5000|$site|g"
}

mount --make-rprivate /
clean_machine
install_programs
offer_image
commands > "$work/commands"
grep -q 'systemctl restart containerd' "$work/commands"
if ! bash -eux "$work/commands" > "$work/out" 2> "$work/err"; then
    cat "$work/out" "$work/err" /run/nacre.log
    tail -n 20 /run/containerd.log
    exit 1
fi
cat "$work/out"
grep -qx started "$work/out"
grep -q 'layers: 2 attached' "$work/out"
# Each layer was fetched once: by its addition to the store.
for digest in $(skopeo inspect --format '{{range .Layers}}{{println .}}{{end}}' "oci:$work/layout:v1"); do
    [ "$(grep -c "GET /v2/team/app/blobs/$digest" "$work/registry.log")" = 1 ]
done
echo 'a container was started lazily'
