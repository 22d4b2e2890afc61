#!/usr/bin/env bash
# measure-sizes.sh REPOSITORY [NACRE]: the table of docs/FORMAT.md, "How the sizes were chosen".
# REPOSITORY is docker://HOST/REPO with the tags v1, v2 and v3. Needs root, FUSE, runc and jq.
set -euo pipefail
repository=${1:?a repository, such as docker://127.0.0.1:5000/pyapp}
nacre=${2:-$(dirname "$0")/../target/release/nacre}
root=$(mktemp -d /var/tmp/nacre-sizes.XXXXXX)
export NACRE_ROOT=$root/none NACRE_STORE=file://$root/none

. "$(dirname "$0")/measure.sh"
trap 'stop_daemon; rm -rf "$root"' EXIT

echo "| frame | average chunk | v1 stored | cold start: requests | fetched | v3 stored | v2 stored |"
for sizes in 1048576:262144 524288:262144 262144:262144 131072:262144 262144:65536 262144:524288; do
  frame=${sizes%:*} chunk=${sizes#*:}
  export NACRE_STORE=file://$root/store-$frame-$chunk NACRE_ROOT=$root/node-$frame-$chunk
  add() { "$nacre" image add "$repository:$1" --frame-bytes "$frame" --chunk-bytes "$chunk" --json | jq .bytes_stored; }
  v1=$(add v1)
  "$nacre" run --rm "${repository##*/}:v1" python3 -c 'import numpy, pandas, sklearn' >/dev/null
  start=$("$nacre" cache stats --json | jq -r '"\(.origin.reads) | \(.origin.bytes)"')
  v3=$(add v3) v2=$(add v2)
  echo "| $frame | $chunk | $v1 | $start | $v3 | $v2 |"
  stop_daemon
  rm -rf "$root"/store-* "$root"/node-*
done
