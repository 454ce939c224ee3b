# FUSE clients that have little memory, and a program in a sandbox that makes one of them use more.
# shellcheck shell=bash
sed -e "s|<IMAGE>|$IMAGE|" e2e/kube/memory.yaml >"$WORK/memory.yaml"
check "a runtime whose FUSE clients have little memory" sdk e2e/kube/memory.py runtime
check "a pool of it applies" kubectl apply -f "$WORK/memory.yaml"
check "it gets ready" ready tight
check "a client that runs out of memory is replaced, says why, and disturbs nobody" sdk e2e/kube/memory.py drill
tell
check "the pool with little memory goes" kubectl delete -f "$WORK/memory.yaml" --wait=false
check "and its runtime" sdk e2e/kube/memory.py away
