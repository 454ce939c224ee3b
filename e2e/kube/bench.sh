#!/usr/bin/env bash
# Figures and herd on a real API server: three gateways and a controller as processes in the cluster's network, with the rights that the
# chart gives them, and pods that kwok says are ready. Every address of those pods leads to one stub (AnyIP), which answers as their daemons
# and agents do. It needs root. Everything that it starts ends with it.
#   bench.sh [bench|herd|serve] [ARGUMENTS of kubebench]     serve: only start everything, to look around
set -euo pipefail
cd "$(dirname "$0")/../.."
export CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sandgate}
export SANDGATE_CLUSTER_WITH="helm kwok"
CLUSTER=e2e/cluster/cluster.sh
. e2e/kube/lib.sh
BIN=$CACHE/bin/kubebench.d
PODS=198.19.0.0/16 # kwok's pods; the cluster's own addresses are in 198.18.0.0/16
GATEWAYS="1 2 3"
WORK=$(mktemp -d)
what=${1:-bench}
[ $# = 0 ] || shift
pids=()

launch() { # NAME COMMAND...: a process in the cluster's network, its log in WORK
  local name=$1; shift
  "$CLUSTER" exec "$@" >"$WORK/$name.log" 2>&1 &
  pids+=($!)
}
finish() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ]; then
    kubectl get sbs -A 2>/dev/null || true
    tail -n 5 "$WORK"/*.log 2>/dev/null | cut -c1-400 || true
  fi
  ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  "$CLUSTER" down
  rm -rf "$WORK"
  exit "$status"
}
as() { # ACCOUNT: a kubeconfig with the rights of that service account
  local file=$WORK/$1.kubeconfig token
  kubectl config view --raw --flatten >"$file"
  token=$(kubectl -n sandgate create token "$1" --duration=12h)
  kubectl --kubeconfig "$file" config set-credentials "$1" --token="$token" >/dev/null
  kubectl --kubeconfig "$file" config set-context --current --user="$1" >/dev/null
  echo "$file"
}
ready() { # PORT of a process's metrics
  "$CLUSTER" exec bash -c "exec 3<>/dev/tcp/127.0.0.1/$1 && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"
}
nodes() { # pods are not what these are short of
  for i in 1 2 3 4; do
    cat <<YAML
---
apiVersion: v1
kind: Node
metadata:
  name: fake-$i
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {type: kwok, kubernetes.io/hostname: fake-$i}
spec: {taints: [{key: kwok.x-k8s.io/node, value: fake, effect: NoSchedule}]}
status: {allocatable: {cpu: 4000, memory: 16Ti, ephemeral-storage: 100Ti, pods: 20000}, capacity: {cpu: 4000, memory: 16Ti, ephemeral-storage: 100Ti, pods: 20000}, phase: Running}
YAML
  done
}

trap finish EXIT
say "programs"
CGO_ENABLED=0 go build -trimpath -o "$BIN/" ./cmd/gateway ./cmd/controller ./e2e/kubebench
say "cluster"
"$CLUSTER" up
"$CLUSTER" exec ip route add local "$PODS" dev lo
nodes | kubectl create -f - >/dev/null
kubectl config view --raw --flatten >"$WORK/admin.kubeconfig"
launch kwok kwok --node-lease-duration-seconds 40 --cidr "${PODS%0/16}1/16" --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake --kubeconfig "$WORK/admin.kubeconfig"
until_ok 30 bash -c "[ \"\$($CLUSTER exec kubectl get nodes -l type=kwok --no-headers | grep -c ' Ready')\" = 4 ]"

say "helm install"
# The processes below stand for the chart's pods, which have no images here.
"$CLUSTER" exec helm install sandgate charts/sandgate -n sandgate --create-namespace --set fuseDevice.enabled=false,agent.fuse=false,webhook.enabled=false,defaultPool.enabled=false >/dev/null
kubectl -n sandgate scale deployment --all --replicas=0 >/dev/null
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: PersistentVolume
metadata: {name: scratch}
spec:
  accessModes: [ReadWriteMany]
  capacity: {storage: 64Mi}
  csi: {driver: tmpfs.csi.sandgate.dev, volumeHandle: scratch, volumeAttributes: {size: 64Mi}}
  persistentVolumeReclaimPolicy: Retain
YAML

say "controller, stub, gateways"
launch controller "$BIN/controller" -kubeconfig "$(as sandgate-controller)" -metrics-addr 127.0.0.1:3100
until_ok 60 ready 3100
launch stub "$BIN/kubebench" stub
gateway=$(as sandgate-gateway)
for i in $GATEWAYS; do launch "gateway-$i" "$BIN/gateway" -kubeconfig "$gateway" -addr "127.0.0.1:300$i" -metrics-addr "127.0.0.1:310$i"; done
for i in $GATEWAYS; do until_ok 60 ready "310$i"; done

git log -1 --format='commit %h' 2>/dev/null || true
case $what in
  bench | herd) "$CLUSTER" exec "$BIN/kubebench" "$what" "$@" ;;
  serve) say "it runs until this process is ended; logs in $WORK"; wait ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
