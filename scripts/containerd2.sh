#!/bin/sh
# containerd2.sh FOLDER: builds containerd 2.4 with its ctr and its shim for runc from Go modules into
# FOLDER. Needs Go; takes some minutes.
set -eu
version=v2.4.2
folder=${1:?usage: containerd2.sh FOLDER}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
for program in containerd ctr containerd-shim-runc-v2; do
    [ -x "$folder/$program" ] ||
        GOBIN=$folder GOFLAGS=-buildvcs=false CGO_ENABLED=0 \
            go install "github.com/containerd/containerd/v2/cmd/$program@$version"
done
"$folder/containerd" --version
