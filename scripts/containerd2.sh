#!/bin/sh
# containerd2.sh FOLDER: builds containerd 2.4 with its ctr and its shim for runc, and crictl, from Go
# modules into FOLDER, which must not be there before or be its own. Needs Go; takes some minutes.
set -eu
folder=${1:?usage: containerd2.sh FOLDER}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# build PROGRAM MODULE@VERSION
build() {
    [ -x "$folder/${1##*/}" ] ||
        GOBIN=$folder GOFLAGS=-buildvcs=false CGO_ENABLED=0 go install "${2%@*}/$1@${2#*@}"
}

for program in containerd ctr containerd-shim-runc-v2; do
    build "cmd/$program" github.com/containerd/containerd/v2@v2.4.2
done
build cmd/crictl sigs.k8s.io/cri-tools@v1.37.0
"$folder/containerd" --version
