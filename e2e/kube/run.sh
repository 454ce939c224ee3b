#!/usr/bin/env bash
# The contract on a real cluster: helm install, the seed's manifests with their placeholders filled in, a real object store, and the real SDKs.
# It needs root. Everything that it starts ends with it.
#   run.sh [keep]      keep: leave the cluster up, to look around
set -euo pipefail
cd "$(dirname "$0")/../.."
export CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sandgate}
export SANDGATE_CLUSTER_WITH="helm"
CLUSTER=e2e/cluster/cluster.sh
IMAGE=registry-cn-zhangjiakou-vpc.ack.aliyuncs.com/acs/code-interpreter:v1.6 # the seed's own reference; made here, not pulled
NODE=198.18.0.1 BUCKET=sandgate
WORK=$(mktemp -d)
passed=0 failed=0 store=

say() { printf '== %s\n' "$*"; }
kubectl() { "$CLUSTER" exec kubectl "$@"; }
check() { # NAME COMMAND...: one result
  local name=$1; shift
  if "$@" >"$WORK/out" 2>&1; then passed=$((passed + 1)); echo "ok    $name"
  else failed=$((failed + 1)); echo "FAIL  $name"; tail -n 15 "$WORK/out" | sed 's/^/      /'; fi
}
until_ok() { # SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do ((SECONDS < end)) || { "$@"; return 1; }; sleep 0.5; done
}
finish() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ] || [ "$failed" != 0 ]; then
    kubectl get sbs,sbx,pods -A -o wide 2>/dev/null || true
    kubectl -n sandgate logs -l app.kubernetes.io/name=sandgate --tail=15 --prefix 2>/dev/null | cut -c1-400 || true
  fi
  [ -z "$store" ] || kill "$store" 2>/dev/null || true
  [ "${keep:-}" = keep ] || "$CLUSTER" down
  rm -rf "$WORK"
  echo "kube: $passed passed, $failed failed"
  [ "$failed" = 0 ] || status=1
  exit "$status"
}
keep=${1:-}

# A stand-in for the seed's image: a Debian root file system with Python and the account `user`, under the seed's reference.
sandbox_image() {
  local root=$CACHE/images/rootfs out=$CACHE/images/code-interpreter.tar
  [ -s "$out" ] && return
  command -v debootstrap >/dev/null || { echo ">> installing debootstrap with apt" >&2; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null || { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null; }; }
  echo ">> making the sandbox's image (once; about a minute)" >&2
  rm -rf "$root"
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Suite: bookworm' 2>/dev/null | head -n 1)
  debootstrap --variant=minbase --include=python3-minimal bookworm "$root" ${mirror:+"$mirror"} >"$CACHE/images/debootstrap.log" 2>&1
  chroot "$root" useradd -m -u 1000 -s /bin/bash user
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/dev/*
  "$CACHE/cluster/bin/tool" mkimage -o "$out" -ref "$IMAGE" -rootfs "$root" -cmd /bin/bash -cmd -c -cmd 'trap "exit 0" TERM; sleep infinity & wait'
  rm -rf "$root"
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
HELM=$CACHE/cluster/bin/helm.d/helm
check "helm install gets ready" "$CLUSTER" exec "$HELM" install sandgate charts/sandgate -n sandgate --create-namespace --wait --timeout 120s
check "helm refuses an unknown value" bash -c "$CLUSTER exec $HELM template x charts/sandgate --kube-version 1.36.0 --set nonsense=1 2>&1 | grep nonsense"

say "the seed's manifests"
cat >"$WORK/tmpfs.yaml" <<'YAML'
apiVersion: v1
kind: PersistentVolume
metadata: {name: scratch}
spec:
  accessModes: [ReadWriteMany]
  capacity: {storage: 64Mi}
  csi: {driver: tmpfs.csi.sandgate.dev, volumeHandle: scratch, volumeAttributes: {size: 64Mi}}
  persistentVolumeReclaimPolicy: Retain
YAML
for f in e2e/testdata/seed/*.yaml; do
  sed -e "s|<YOUR_ACCESS_KEY_ID>|$access|; s|<YOUR_ACCESS_KEY_SECRET>|$secret|; s|<OSS_BUCKET>|$BUCKET|; s|<OSS_ENDPOINT>|http://$NODE:7070|" "$f" >"$WORK/$(basename "$f")"
done
check "they apply" kubectl apply -f "$WORK/oss.yaml" -f "$WORK/nas.yaml" -f "$WORK/sandboxset.yaml" -f "$WORK/tmpfs.yaml"
# The seed asks for 4 whole CPUs, which this machine may not have: what fits gets ready, the rest waits.
ready() { until_ok 90 bash -c "[ \"\$($CLUSTER exec kubectl get sbs code-interpreter-inject-test -o 'jsonpath={.status.availableReplicas}')\" -ge 1 ]"; }
check "a sandbox gets ready" ready

say "the real SDK"
key=$(kubectl -n sandgate get secret sandgate-admin-key -o 'jsonpath={.data.key}' | base64 -d)
address=$(kubectl -n sandgate get service sandgate-gateway -o 'jsonpath={.spec.clusterIP}'):3000
sdk() { E2B_API_KEY=$key E2B_API_URL=http://$address E2B_SANDBOX_URL=http://$address "$CLUSTER" exec "$CACHE/python/2.63.0/bin/python" "$@"; }
export CLUSTER
check "the seed's example, Python" sdk e2e/demo/example.py
sed 's/^/      /' "$WORK/out"
check "its file is an object of the bucket" grep -q "written by a command" "$WORK/objects/$BUCKET/data-subPath/hello.txt"
check "a sandbox gets ready again" ready
check "several volumes, refusals, kill" sdk e2e/kube/volumes.py
check "a sandbox gets ready again" ready
check "a volume comes back after its agent was killed" sdk e2e/kube/heal.py
sed 's/^/      /' "$WORK/out"

say "who may do what"
may() { [ "$("$CLUSTER" exec kubectl auth can-i "$3" "$4" -n "$2" --as="system:serviceaccount:sandgate:sandgate-$1" 2>/dev/null)" = "$5" ]; }
while read -r who namespace verb what answer; do
  check "$who, $namespace: $verb $what: $answer" may "$who" "$namespace" "$verb" "$what" "$answer"
done <<'TABLE'
gateway sandbox-system get secrets yes
gateway sandbox-system list secrets no
gateway sandbox-system watch secrets no
gateway default get secrets no
gateway default create pods no
gateway sandgate get secrets/sandgate-ca no
gateway kube-system get secrets no
controller sandbox-system get secrets yes
controller sandbox-system list secrets no
controller default get secrets no
controller default list secrets no
controller default create secrets yes
controller default create pods yes
controller default patch secrets no
controller default update sandboxes no
controller sandgate get configmaps no
controller kube-system create pods no
controller kube-system get secrets no
TABLE

say "nothing is left of the sandboxes"
clean() { [ -z "$("$CLUSTER" exec kubectl get sbx -A -o 'jsonpath={.items[?(@.spec.claim)].metadata.name}')" ]; }
check "no claimed sandbox" until_ok 60 clean
mounts() { ! "$CLUSTER" node grep -E "fuse.s3fs|/\.sandgate/.*tmpfs" /proc/1/mountinfo; }
check "no volume in the node's mount table" mounts
