# Images and templates that are not like the others: no shell, not root, a root file system that cannot be written to.
# shellcheck shell=bash
sed -e "s|<IMAGE>|$IMAGE|" e2e/kube/shapes.yaml >"$WORK/shapes.yaml"
check "pools of odd shapes apply" kubectl apply -f "$WORK/shapes.yaml"
for shape in bare nonroot readonly; do check "$shape gets ready" ready "$shape"; done
check "volumes work in each of them" sdk e2e/kube/shapes.py
tell
check "pools of odd shapes go" kubectl delete -f "$WORK/shapes.yaml"
