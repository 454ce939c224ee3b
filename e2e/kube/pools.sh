# Volumes that every sandbox of a pool has, and a claim that a request names.
# shellcheck shell=bash
mkdir -p "$WORK/pool/models" "$WORK/pool/newer" "$WORK/pool/data"
chmod 755 "$WORK/pool"
printf weights >"$WORK/pool/models/model"
printf newer >"$WORK/pool/newer/model"
sed -e "s|<IMAGE>|$IMAGE|; s|<DIR>|$WORK/pool|" e2e/kube/pools.yaml >"$WORK/pools.yaml"
check "a pool with volumes applies" kubectl apply -f "$WORK/pools.yaml"
check "it gets full" ready furnished 2
check "its sandboxes have them" sdk e2e/kube/pools.py weights
tell
check "what they wrote is on the node, each in a directory of its own" [ "$(find "$WORK/pool/work" -name f | wc -l)" = 2 ]
wrong() { sed -e "s|path: $WORK/pool, |path: /var/lib/kubelet, |" "$WORK/pools.yaml" | kubectl apply -f - >/dev/null; }
faulty() { kubectl get sbs furnished -o 'jsonpath={.status.conditions[?(@.type=="Filled")].message}' | grep -q "must not be the node's own"; }
check "its host path becomes one of the node's own" wrong
check "it is refused, and says why" until_ok 30 faulty
check "the pool with volumes goes" kubectl delete -f "$WORK/pools.yaml" --wait=false
