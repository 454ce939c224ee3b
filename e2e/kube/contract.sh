# The seed's manifests with their placeholders filled in, the real SDKs, and who may do what.
# shellcheck shell=bash
check "helm test" helm test sandgate --timeout 120s
check "the seed's SandboxSet applies" kubectl apply -f "$WORK/sandboxset.yaml"
# The seed asks for 4 whole CPUs, which this machine may not have: what fits gets ready, the rest waits.
check "a sandbox gets ready" ready "$TEMPLATE"
check "the seed's example, Python" sdk e2e/demo/example.py
tell
check "its file is an object of the bucket" grep -q "written by a command" "$WORK/objects/$BUCKET/data-subPath/hello.txt"
check "a sandbox gets ready again" ready "$TEMPLATE"
check "several volumes, refusals, kill, Python" sdk e2e/kube/volumes.py
check "a sandbox gets ready again" ready "$TEMPLATE"
check "a team's directory is all that it sees of a volume" grep -qx mine "$WORK/objects/$BUCKET/tenants/admin/a/file"
check "the same by the JS SDK" js e2e/kube/volumes.mjs
check "a sandbox gets ready again" ready "$TEMPLATE"
check "the default pool is full" ready base 2
check "volumes come and go in a running sandbox" sdk e2e/kube/live.py
tell
check "volumes go on when their agent, their client or what hangs is killed" sdk e2e/kube/heal.py
tell

may() { [ "$("$CLUSTER" exec kubectl auth can-i "$3" "$4" -n "$2" --as="system:serviceaccount:sandgate:sandgate-$1" 2>/dev/null)" = "$5" ]; }
while read -r who namespace verb what answer; do
  check "$who, $namespace: $verb $what: $answer" may "$who" "$namespace" "$verb" "$what" "$answer"
done <<'TABLE'
gateway sandbox-system get secrets yes
gateway sandbox-system list secrets no
gateway sandbox-system watch secrets no
gateway sandbox-system create configmaps no
gateway sandbox-system update configmaps/sandgate-injection-in-force no
gateway default get secrets no
gateway default create pods no
gateway default get persistentvolumeclaims yes
gateway default list persistentvolumeclaims no
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
controller sandbox-system update configmaps/sandbox-injection-config no
controller sandbox-system update configmaps/sandgate-injection-in-force yes
controller sandgate get configmaps no
controller kube-system create pods no
controller kube-system get secrets no
TABLE

foreign() { # NAME ANNOTATIONS: a pod that no controller of ours makes
  kubectl create -f - <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: default, labels: {agents.kruise.io/sandbox-id: i$1}, annotations: {$2}}
spec: {nodeSelector: {nowhere: "true"}, containers: [{name: main, image: "$IMAGE"}]}
YAML
}
fitted() { [ "$(kubectl get pod "$1" -o 'jsonpath={.spec.initContainers[*].name} {.spec.containers[0].lifecycle.postStart.exec.command[0]}')" = "$2" ]; }
answered() { grep -q "$1" <("${@:2}" 2>&1); }
check "the webhook fits out a pod that asks" foreign asks "sandgate.dev/inject-runtimes: agent-runtime"
check "it has what the runtime injects" fitted asks "sandgate-install-envd /.sandgate/bin/starter"
check "it leaves a pod alone that does not ask" foreign other "a: b"
check "nothing is injected there" fitted other " "
check "it refuses what it does not know, and says what it knows" answered "agent-runtime, csi" foreign wrong "sandgate.dev/inject-runtimes: nonsense"
kubectl delete pod asks other wrong --ignore-not-found --wait=false >/dev/null
