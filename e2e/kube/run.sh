#!/usr/bin/env bash
# The contract on a real cluster: helm install, the seed's manifests with their placeholders filled in, a real object store, and the real SDKs.
# It needs root. Everything that it starts ends with it.
#   run.sh [keep] [PART...]      keep: leave the cluster up, to look around. Parts are the other scripts here; without one: all but plugins
set -euo pipefail
cd "$(dirname "$0")/../.."
export CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sandgate}
export SANDGATE_CLUSTER_WITH="helm coredns"
CLUSTER=e2e/cluster/cluster.sh
. e2e/kube/lib.sh
IMAGE=registry-cn-zhangjiakou-vpc.ack.aliyuncs.com/acs/code-interpreter:v1.6 # the seed's own reference; made here, not pulled
NODE=198.18.0.1 BUCKET=sandgate
WORK=$(mktemp -d)
TEMPLATE=code-interpreter-inject-test # the seed's pool
JS=2.51.0
node=$CACHE/node/node_modules/.bin/node # where the machine's own was too old
[ -x "$node" ] || node=node
passed=0 failed=0 store=
export CLUSTER

check() { # NAME COMMAND...: one result
  local name=$1; shift
  if "$@" >"$WORK/out" 2>&1; then passed=$((passed + 1)); echo "ok    $name"
  else failed=$((failed + 1)); echo "FAIL  $name"; tail -n 15 "$WORK/out" | sed 's/^/      /'; fi
}
finish() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ] || [ "$failed" != 0 ]; then
    kubectl get sbs,sbx,pods -A -o wide 2>/dev/null || true
    kubectl -n sandgate logs -l app.kubernetes.io/name=sandgate --tail=6 --prefix 2>/dev/null | cut -c1-400 || true
  fi
  [ -z "$store" ] || kill "$store" 2>/dev/null || true
  [ "$keep" = keep ] || "$CLUSTER" down
  rm -rf "$WORK"
  echo "kube: $passed passed, $failed failed"
  [ "$failed" = 0 ] || status=1
  exit "$status"
}
keep=
[ "${1:-}" != keep ] || { keep=keep; shift; }
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(contract shapes containers pools memory attacks lifecycle faults)

# A stand-in for the seed's image: a Debian root file system with Python and the account `user`, under the seed's reference.
sandbox_image() {
  local root=$CACHE/images/rootfs out=$CACHE/images/code-interpreter.tar packages=python3
  [ -s "$out" ] && [ "$(cat "$out.packages" 2>/dev/null)" = "$packages" ] && return
  command -v debootstrap >/dev/null || { echo ">> installing debootstrap with apt" >&2; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null || { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null; }; }
  echo ">> making the sandbox's image (once; about a minute)" >&2
  rm -rf "$root"
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Suite: bookworm' 2>/dev/null | head -n 1)
  debootstrap --variant=minbase --include=$packages bookworm "$root" ${mirror:+"$mirror"} >"$CACHE/images/debootstrap.log" 2>&1
  chroot "$root" useradd -m -u 1000 -s /bin/bash user
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/dev/*
  "$CACHE/cluster/bin/tool" mkimage -o "$out" -ref "$IMAGE" -rootfs "$root" -cmd /bin/bash -cmd -c -cmd 'trap "exit 0" TERM; sleep infinity & wait'
  rm -rf "$root"
  echo "$packages" >"$out.packages"
}

trap finish EXIT
say "cluster"
"$CLUSTER" build
e2e/images.sh
sandbox_image
"$CLUSTER" up
for image in gateway controller csiagent envd code-interpreter; do "$CLUSTER" import "$CACHE/images/$image.tar" >/dev/null; done

say "object store"
access=AK$(head -c 9 /dev/urandom | od -An -tx1 | tr -d ' \n' | tr a-f A-F) secret=$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n')
mkdir -p "$WORK/objects/$BUCKET"
ROOT_ACCESS_KEY_ID=$access ROOT_SECRET_ACCESS_KEY=$secret "$CLUSTER" exec "$CACHE/bin/versitygw" --port "$NODE:7070" posix "$WORK/objects" >"$WORK/store.log" 2>&1 &
store=$!

say "helm install"
helm() { "$CLUSTER" exec "$CACHE/cluster/bin/helm.d/helm" -n sandgate "$@"; }
# The default pool's image is the one there is here; it is small, so that several of it fit.
# The object store is on the API server's machine.
VALUES=(--set policy.barAPIServers=false --set "defaultPool.image=$IMAGE" --set defaultPool.replicas=2 --set defaultPool.resources.requests.cpu=20m --set defaultPool.resources.limits.cpu=500m
  --set controller.resources.requests.cpu=20m --set gateway.resources.requests.cpu=20m)
check "helm install gets ready" helm upgrade --install sandgate charts/sandgate --create-namespace "${VALUES[@]}" --wait --timeout 120s
for f in e2e/testdata/seed/*.yaml e2e/kube/volumes.yaml; do
  sed -e "s|<YOUR_ACCESS_KEY_ID>|$access|; s|<YOUR_ACCESS_KEY_SECRET>|$secret|; s|<OSS_BUCKET>|$BUCKET|; s|<OSS_ENDPOINT>|http://$NODE:7070|" "$f" >"$WORK/$(basename "$f")"
done
check "the seed's volumes apply" kubectl apply -f "$WORK/oss.yaml" -f "$WORK/nas.yaml" -f "$WORK/volumes.yaml"

# access finds the gateway and the first API key; sdk runs a Python program with them.
access() {
  key=$(kubectl -n sandgate get secret sandgate-admin-key -o 'jsonpath={.data.key}' | base64 -d)
  address=$(kubectl -n sandgate get service sandgate-gateway -o 'jsonpath={.spec.clusterIP}'):3000
}
in_cluster() { E2B_API_KEY=$key E2B_API_URL=http://$address E2B_SANDBOX_URL=http://$address "$CLUSTER" exec "$@"; }
js() { cp "$1" "$CACHE/js/$JS/" && in_cluster env "TEMPLATE=$TEMPLATE" "$node" "$CACHE/js/$JS/${1##*/}"; } # a module is found from where its importer lies
sdk() { in_cluster "$CACHE/python/2.63.0/bin/python" "$@"; }
tell() { sed 's/^/      /' "$WORK/out"; } # what the last check's program said
available() { [ "$(kubectl get sbs "$1" -o 'jsonpath={.status.availableReplicas}')" -ge "${2:-1}" ]; }
ready() { until_ok 90 available "$@"; }
[ "$failed" = 0 ] || exit 1
access

for part in "${parts[@]}"; do
  say "$part"
  # shellcheck source=/dev/null
  . "e2e/kube/$part.sh"
done

say "nothing is left of the sandboxes"
check "a planted leak of each kind is found" sdk e2e/kube/leaks.py planted
sdk_leaks() { sdk e2e/kube/leaks.py; }
check "no claimed sandbox, volume, process or answer of the API" until_ok 60 sdk_leaks
