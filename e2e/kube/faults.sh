# What can die is killed, or held for half a minute, while sandboxes are created.
# shellcheck shell=bash
kubectl delete sbs "$TEMPLATE" --ignore-not-found >/dev/null # its requests leave no room
check "the default pool is full" ready base 2
for fault in "gateway killed" "every gateway killed" "gateway held for 30 s" "controller's leader killed" "controller's leader held for 30 s" \
  "API server killed" "API server away for 30 s" "kubelet killed" "kubelet away for 30 s"; do
  check "$fault" sdk e2e/kube/faults.py "$fault"
  tell
done
