# What a tenant's pod can do to others, and where credentials are.
# shellcheck shell=bash
kubectl delete sbs "$TEMPLATE" --ignore-not-found >/dev/null # its requests leave no room
check "the default pool is full" ready base 2
attack() { CANARIES=$access,$secret sdk e2e/kube/attacks.py; }
check "attacks from a tenant's pod; credentials are nowhere" attack
tell
