# What the scripts that drive the cluster share. They set CLUSTER.
# shellcheck shell=bash
say() { printf '== %s\n' "$*"; }
kubectl() { "$CLUSTER" exec kubectl "$@"; }
until_ok() { # SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do ((SECONDS < end)) || { "$@"; return 1; }; sleep 0.5; done
}
