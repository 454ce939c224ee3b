# Rolling update, a broken ConfigMap, a killed sandbox container; upgrade and uninstall with a claimed sandbox.
# shellcheck shell=bash
kubectl delete sbs "$TEMPLATE" --ignore-not-found >/dev/null # its requests leave no room
check "the default pool is full" ready base 2
upgraded() { [ "$(kubectl get pods -l agents.kruise.io/sandbox-pool=base,agents.kruise.io/sandbox-claimed!=true -o jsonpath="{.items[*].spec.initContainers[?(@.name==\"sandgate-csiagent\")].resources.limits.memory}")" = "300Mi 300Mi" ]; }
check "rolling update, broken ConfigMap, killed container" sdk e2e/kube/rolling.py
tell

check "a sandbox with a volume" sdk e2e/kube/claimed.py create "$WORK/claimed"
check "helm upgrade" helm upgrade sandgate charts/sandgate "${VALUES[@]}" --set agent.resources.limits.memory=300Mi --wait --timeout 120s
check "the claimed sandbox is as it was" sdk e2e/kube/claimed.py same "$WORK/claimed"
check "new stock has what was upgraded" until_ok 90 upgraded
check "helm uninstall" helm uninstall sandgate --wait --timeout 200s
check "the claimed pod runs on with its volume" sdk e2e/kube/claimed.py alone "$WORK/claimed"
check "no stock and no finalizer is left" sdk e2e/kube/claimed.py released
check "helm install again" helm install sandgate charts/sandgate "${VALUES[@]}" --wait --timeout 120s
access
check "the claimed sandbox is there again, and ends" sdk e2e/kube/claimed.py end "$WORK/claimed"
check "the default pool is full again" ready base 2
