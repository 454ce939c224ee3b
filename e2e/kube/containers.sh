# A pool of two containers: memory that they share, and a volume in the second one.
# shellcheck shell=bash
sed -e "s|<IMAGE>|$IMAGE|" e2e/kube/containers.yaml >"$WORK/containers.yaml"
check "a pool of two containers applies" kubectl apply -f "$WORK/containers.yaml"
check "it gets ready when both have handed over" ready two
check "they share memory, and each has its own mounts" sdk e2e/kube/containers.py
tell
check "the pool of two containers goes" kubectl delete -f "$WORK/containers.yaml" --wait=false
