#!/usr/bin/env bash
# Builds the product's images as OCI archives into $CACHE/images, without a container engine: static programs, and for the agent also
# s3fs with the libraries that it needs, from this machine's packages. The same input gives the same digest.
set -euo pipefail
cd "$(dirname "$0")/.."
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sandgate}
VERSION=${VERSION:-$(sed -n 's/^appVersion: "\(.*\)"/\1/p' charts/sandgate/Chart.yaml)}
REGISTRY=${REGISTRY:-sandgate.local}
TOOL=${SANDGATE_CLUSTER_STATE:-$CACHE/cluster}/bin/tool
OUT=$CACHE/images BIN=$CACHE/images/bin
mkdir -p "$OUT" "$BIN"

echo ">> building programs for the images" >&2
# Without gRPC's trace pages, which nobody serves: they are two megabytes of each agent.
CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -ldflags="-s -w -X github.com/sandgate-dev/sandgate/cmd/internal/boot.Version=$VERSION" \
  -o "$BIN/" ./cmd/gateway ./cmd/controller ./cmd/csiagent ./cmd/envd ./cmd/starter

certificates=/etc/ssl/certs/ca-certificates.crt
image() { # NAME FLAGS...
  local name=$1; shift
  "$TOOL" mkimage -o "$OUT/$name.tar" -ref "$REGISTRY/$name:$VERSION" "$@"
  echo ">> $OUT/$name.tar ($(du -h "$OUT/$name.tar" | cut -f1))" >&2
}
image gateway -file "$BIN/gateway:/gateway" -file "$certificates:$certificates" -entrypoint /gateway -user 65532
image controller -file "$BIN/controller:/controller" -file "$certificates:$certificates" -entrypoint /controller -user 65532
image envd -file "$BIN/envd:/envd" -file "$BIN/starter:/starter" -entrypoint /envd

# s3fs as it is installed here, and every library that the loader would give it.
s3fs=$(command -v s3fs) libraries=()
while read -r path; do libraries+=(-file "$(readlink -f "$path"):$path"); done < <(ldd "$s3fs" | grep -o '/[^ ]*' | sort -u)
printf 'root:x:0:0:root:/:/\n' >"$BIN/passwd"
image csiagent -file "$BIN/csiagent:/csiagent" -file "$BIN/starter:/starter" -file "$s3fs:/usr/bin/s3fs" "${libraries[@]}" \
  -file "$certificates:$certificates" -file "$BIN/passwd:/etc/passwd" -file /etc/mime.types:/etc/mime.types \
  -mkdir /tmp:1777 -mkdir /handover -mkdir /identity -mkdir /var/lib/sandgate-agent -mkdir /run \
  -env PATH=/usr/bin:/bin -entrypoint /csiagent
