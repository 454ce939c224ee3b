#!/usr/bin/env bash
# A real single-node Kubernetes for end-to-end tests, without an image
# registry, a systemd or a container engine on the machine.
#
#   cluster.sh build            build the binaries (cached by content)
#   cluster.sh up               build if needed, start, wait until the node is Ready
#   cluster.sh status           what runs; exit 0 if the node is Ready
#   cluster.sh env              shell lines to eval: KUBECONFIG, PATH, ...
#   cluster.sh exec CMD...      run CMD inside the cluster's network namespace
#   cluster.sh node CMD...      run CMD as on the node (all of its namespaces)
#   cluster.sh import TAR...    import image archives
#   cluster.sh restart NAME     kill one component; the node's init starts it again
#   cluster.sh stop NAME | start NAME   hold a component down, let it run again
#   cluster.sh down [--purge]   stop and remove everything (--purge: binaries too)
#
# The whole node (etcd, control plane, containerd, kubelet, kube-proxy, pods)
# lives in network, mount, process, UTS and IPC namespaces of its own, whose
# process 1 is this script. `down` kills that one process: the kernel then
# ends every process, mount and interface of the node with it.
set -euo pipefail

SELF=$(readlink -f "${BASH_SOURCE[0]}")
HERE=$(dirname "$SELF")

: "${SANDGATE_CLUSTER_STATE:=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sandgate}/cluster}"
: "${SANDGATE_CLUSTER_NODE:=e2e-node}"
: "${SANDGATE_CLUSTER_NODE_IP:=198.18.0.1}"          # RFC 2544 range; nothing leaves the namespace
: "${SANDGATE_CLUSTER_POD_CIDR:=198.18.4.0/22}"
: "${SANDGATE_CLUSTER_SVC_CIDR:=198.18.128.0/20}"
: "${SANDGATE_CLUSTER_SVC_IP:=198.18.128.1}"         # first address of SVC_CIDR
: "${SANDGATE_CLUSTER_DNS_IP:=$SANDGATE_CLUSTER_NODE_IP}"     # where pods ask; served by coredns on the node, if built
: "${SANDGATE_CLUSTER_MAX_PODS:=250}"
: "${SANDGATE_CLUSTER_PROXY_MODE:=nftables}"         # nftables | iptables
: "${SANDGATE_CLUSTER_FEATURE_GATES:=}"              # e.g. ImageVolume=true
: "${SANDGATE_CLUSTER_CNI_BIN:=/usr/lib/cni}"
: "${SANDGATE_CLUSTER_WITH:=}"                       # further modules to build: helm kwok containerd coredns
: "${SANDGATE_CLUSTER_READY_TIMEOUT:=180}"
: "${SANDGATE_CLUSTER_BUILD_P:=2}"
export SANDGATE_CLUSTER_STATE SANDGATE_CLUSTER_NODE SANDGATE_CLUSTER_NODE_IP SANDGATE_CLUSTER_POD_CIDR SANDGATE_CLUSTER_SVC_CIDR SANDGATE_CLUSTER_SVC_IP \
  SANDGATE_CLUSTER_DNS_IP SANDGATE_CLUSTER_MAX_PODS SANDGATE_CLUSTER_PROXY_MODE SANDGATE_CLUSTER_FEATURE_GATES SANDGATE_CLUSTER_CNI_BIN SANDGATE_CLUSTER_WITH

STATE=$SANDGATE_CLUSTER_STATE
BIN=$STATE/bin
IMG=$STATE/images
RUN=$STATE/run
PKI=$RUN/pki
LOG=$RUN/log
CONF=$RUN/conf
CG=sandgate-cluster-$(printf %s "$STATE" | cksum | cut -d' ' -f1)
# A running cluster keeps the settings it was started with.
case ${1:-} in
  up | build | __node) ;;
  *) [[ ! -s $RUN/settings ]] || . "$RUN/settings" ;;
esac
# What `SANDGATE_CLUSTER_WITH` built comes first, so a containerd of ours wins over the machine's.
for m in $SANDGATE_CLUSTER_WITH; do PATH=$BIN/$m.d:$PATH; done
PAUSE=sandgate.local/pause:1
BUSYBOX=sandgate.local/busybox:1

lock() { # one up, down or build at a time; the daemons must not inherit it (9>&-)
  mkdir -p "$STATE"
  exec 9>"$STATE/.lock"
  flock 9
}
say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# --- namespaces ------------------------------------------------------------

starttime() { # of process $1, so that a reused pid is never taken for ours
  local s
  s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  set -- ${s##*) }
  echo "${20}"
}

init_pid() { # pid of the node's process 1, or fails
  local pid t
  [[ -s $RUN/init.pid ]] || return 1
  read -r pid t <"$RUN/init.pid"
  [[ -n ${t:-} && $(starttime "$pid") == "$t" ]] || return 1
  echo "$pid"
}

enter() { # NSENTER-FLAGS... -- CMD...
  local p
  p=$(init_pid) || die "not running"
  ${ENTER_EXEC:-} nsenter -t "$p" "$@"
}
in_net()  { enter -n -- "$@"; }
on_node() { enter -n -m -p -u -i -- "$@"; }

# --- build -----------------------------------------------------------------

need_packages() {
  local missing=() c
  for c in containerd:containerd ctr:containerd runc:runc nft:nftables iptables:iptables \
    conntrack:conntrack socat:socat ip:iproute2 nsenter:util-linux busybox:busybox-static; do
    command -v "${c%%:*}" >/dev/null || missing+=("${c##*:}")
  done
  # The other busybox package is dynamically linked: no use in an image of its own.
  if command -v busybox >/dev/null && ldd "$(command -v busybox)" >/dev/null 2>&1; then missing+=(busybox-static); fi
  [[ -x $SANDGATE_CLUSTER_CNI_BIN/bridge ]] || missing+=(containernetworking-plugins)
  [[ ${#missing[@]} -eq 0 ]] && return
  command -v apt-get >/dev/null || die "missing packages: ${missing[*]}"
  say "installing ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
}

version_flags() { # what `kubectl version` and chart constraints see; run inside the module
  local v
  v=$(sed -n 's#^.*k8s.io/kubernetes v\([0-9.]*\).*#\1#p' go.mod)
  [[ -n $v ]] || return 0
  local x="-X k8s.io/component-base/version"
  echo "$x.gitVersion=v$v $x.gitMajor=${v%%.*} $x.gitMinor=$(cut -d. -f2 <<<"$v") $x.gitTreeState=clean"
}

build() {
  mkdir -p "$BIN" "$IMG"
  local m out stamp t0
  for m in tool k8s; do
    out=$BIN/$m
    stamp=$(cd "$HERE/$m" && { go version; cat ./*.go go.mod; } | sha256sum | cut -d' ' -f1)
    [[ -x $out && $(cat "$out.stamp" 2>/dev/null) == "$stamp" ]] && continue
    say "building $m"
    t0=$SECONDS
    (cd "$HERE/$m" && CGO_ENABLED=0 GOWORK=off go build -p "$SANDGATE_CLUSTER_BUILD_P" -buildvcs=false -trimpath -ldflags "-s -w $(version_flags)" -o "$out.new" .)
    mv -f "$out.new" "$out"
    echo "$stamp" >"$out.stamp"
    say "built $m in $((SECONDS - t0)) s, $(stat -c %s "$out") bytes"
  done
  local what
  for m in $SANDGATE_CLUSTER_WITH; do # a module with a main package, or one of `tool` lines only
    what=tool
    [[ ! -e $HERE/$m/main.go ]] || what=.
    stamp=$(cd "$HERE/$m" && { go version; find . -name '*.go' -exec cat {} +; cat go.mod; } | sha256sum | cut -d' ' -f1)
    [[ $(cat "$BIN/$m.stamp" 2>/dev/null) == "$stamp" ]] && continue
    say "building $m"
    t0=$SECONDS
    mkdir -p "$BIN/$m.d"
    (cd "$HERE/$m" && CGO_ENABLED=0 GOWORK=off go build -p "$SANDGATE_CLUSTER_BUILD_P" -buildvcs=false -trimpath \
      -tags no_btrfs,no_zfs,no_devmapper -ldflags '-s -w' -o "$BIN/$m.d/" "$what")
    echo "$stamp" >"$BIN/$m.stamp"
    say "built $m in $((SECONDS - t0)) s, $(du -sb "$BIN/$m.d" | cut -f1) bytes"
  done
  for m in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    ln -sfn k8s "$BIN/$m"
  done
  "$BIN/tool" mkimage -o "$IMG/pause.tar" -ref "$PAUSE" -file "$BIN/tool:/pause" -entrypoint /pause
  local links=() a
  for a in $(busybox --list); do [[ $a == busybox ]] || links+=(-link "/bin/$a=busybox"); done
  "$BIN/tool" mkimage -o "$IMG/busybox.tar" -ref "$BUSYBOX" -file "$(readlink -f "$(command -v busybox)"):/bin/busybox" \
    "${links[@]}" -mkdir /tmp:1777 -mkdir /etc -mkdir /root:700 -mkdir /mnt -mkdir /var -link /var/run=/run -cmd /bin/sh
}

# --- configuration files ---------------------------------------------------

gates_yaml() { # SANDGATE_CLUSTER_FEATURE_GATES as a YAML map at the top level
  [[ -n $SANDGATE_CLUSTER_FEATURE_GATES ]] || return 0
  echo "featureGates:"
  tr ',' '\n' <<<"$SANDGATE_CLUSTER_FEATURE_GATES" | sed -n 's/^\([A-Za-z0-9]*\)=\(.*\)$/  \1: \2/p'
}

write_config() {
  mkdir -p "$CONF/cni" "$LOG" "$RUN/pids"
  local snapshotter=overlayfs
  cat >"$CONF/containerd.toml" <<TOML
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  max_concurrent_downloads = 3
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$SANDGATE_CLUSTER_CNI_BIN"
    conf_dir = "$CONF/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    default_runtime_name = "runc"
    discard_unpacked_layers = true
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
TOML
  cat >"$CONF/cni/10-e2e.conflist" <<JSON
{
  "cniVersion": "1.0.0",
  "name": "e2e",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni/ipam",
        "ranges": [[{"subnet": "$SANDGATE_CLUSTER_POD_CIDR"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
  printf 'nameserver %s\n' "$SANDGATE_CLUSTER_DNS_IP" >"$CONF/resolv.conf"
  { cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $PKI/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
imageServiceEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$CG
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
failSwapOn: false
oomScoreAdj: 0
failCgroupV1: false
maxPods: $SANDGATE_CLUSTER_MAX_PODS
clusterDomain: cluster.local
clusterDNS: [$SANDGATE_CLUSTER_DNS_IP]
resolvConf: $CONF/resolv.conf
volumePluginDir: /var/lib/kubelet/volumeplugins
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard:
  memory.available: 100Mi
  nodefs.available: 0%
  nodefs.inodesFree: 0%
  imagefs.available: 0%
  imagefs.inodesFree: 0%
kubeAPIQPS: 500
kubeAPIBurst: 1000
eventRecordQPS: 0
registryPullQPS: 0
serializeImagePulls: false
syncFrequency: 30s
nodeStatusUpdateFrequency: 5s
logging: {verbosity: 1}
YAML
    gates_yaml
  } >"$CONF/kubelet.yaml"
  { cat <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
mode: $SANDGATE_CLUSTER_PROXY_MODE
clusterCIDR: $SANDGATE_CLUSTER_POD_CIDR
hostnameOverride: $SANDGATE_CLUSTER_NODE
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {syncPeriod: 30s, minSyncPeriod: 200ms}
iptables: {syncPeriod: 30s, minSyncPeriod: 200ms}
metricsBindAddress: 127.0.0.1:10249
YAML
  } >"$CONF/kube-proxy.yaml"
  cat >"$CONF/scheduler.yaml" <<YAML
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: $PKI/scheduler.kubeconfig, qps: 500, burst: 1000}
YAML
  cat >"$CONF/Corefile" <<COREFILE
cluster.local in-addr.arpa {
  bind $SANDGATE_CLUSTER_DNS_IP
  errors
  cache 2
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $PKI/admin.kubeconfig
    pods insecure
  }
}
. {
  bind $SANDGATE_CLUSTER_DNS_IP
  errors
  template ANY ANY {
    rcode NXDOMAIN
  }
}
COREFILE
  "$BIN/tool" pki -dir "$PKI" -node "$SANDGATE_CLUSTER_NODE" -server "https://$SANDGATE_CLUSTER_NODE_IP:6443" \
    -sans "$SANDGATE_CLUSTER_NODE_IP,$SANDGATE_CLUSTER_SVC_IP"
}

# --- the node (process 1 of the namespaces) --------------------------------

cgroup_roots() {
  if [[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]]; then
    echo /sys/fs/cgroup
  else
    local d
    for d in /sys/fs/cgroup/*/; do
      d=${d%/}
      [[ -L $d || $(stat -f -c %T "$d") == cgroup2fs ]] || echo "$d"
    done
  fi
}

cgroup_up() {
  local d
  for d in $(cgroup_roots); do
    local c=$d/$CG
    mkdir -p "$c/system"
    if [[ -f $d/cpuset.cpus && -f $d/cgroup.clone_children ]]; then # v1: a new cpuset is empty
      cat "$d/cpuset.cpus" >"$c/cpuset.cpus"; cat "$d/cpuset.mems" >"$c/cpuset.mems"
      cat "$d/cpuset.cpus" >"$c/system/cpuset.cpus"; cat "$d/cpuset.mems" >"$c/system/cpuset.mems"
    elif [[ -f $d/cgroup.controllers ]]; then # v2
      local k
      for k in $(cat "$d/cgroup.controllers"); do
        echo "+$k" >"$d/cgroup.subtree_control" 2>/dev/null || true
        echo "+$k" >"$c/cgroup.subtree_control" 2>/dev/null || true
      done
    fi
    local p
    for p in "$@"; do echo "$p" >"$c/system/cgroup.procs"; done
  done
}

cgroup_down() {
  local d i
  for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do # also the hybrid layout's unified one, where runc makes groups
    d=${d%/}
    [[ -d $d/$CG ]] || continue
    for i in 1 2 3 4 5 6 7 8 9 10; do
      find "$d/$CG" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [[ -d $d/$CG ]] || break
      sleep 0.3
    done
    [[ ! -d $d/$CG ]] || say "left: $d/$CG"
  done
}

# What the kubelet sets for the whole kernel, and what many pods need: kept
# aside by the first cluster that starts, put back by the last that ends.
TUNABLES=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes
  fs/inotify/max_user_instances fs/inotify/max_user_watches kernel/pid_max)
TUNABLES_KEPT=/run/sandgate-cluster.tunables

tunables_save() {
  local t
  if [[ ! -s $TUNABLES_KEPT ]]; then
    for t in "${TUNABLES[@]}"; do echo "$t $(cat "/proc/sys/$t")"; done >"$TUNABLES_KEPT"
  fi
  raise() { (($(cat "/proc/sys/$1") >= $2)) || echo "$2" >"/proc/sys/$1"; }
  raise fs/inotify/max_user_instances 8192
  raise fs/inotify/max_user_watches 524288
  raise kernel/pid_max 131072
}

tunables_restore() { # after our own cgroups are gone: any other is another cluster's
  local t v
  [[ -s $TUNABLES_KEPT ]] || return 0
  [[ -z $(find /sys/fs/cgroup -maxdepth 2 -type d -name 'sandgate-cluster-*' -print -quit) ]] || return 0
  while read -r t v; do [[ $(cat "/proc/sys/$t") == "$v" ]] || echo "$v" >"/proc/sys/$t" || true; done <"$TUNABLES_KEPT"
  rm -f "$TUNABLES_KEPT"
}

daemon() { # NAME CMD...: keep CMD running; log and pid files by NAME
  local name=$1 pid
  shift
  (
    while :; do
      while [[ -e $RUN/pids/$name.hold ]]; do sleep 0.2; done
      "$@" >>"$LOG/$name.log" 2>&1 </dev/null &
      pid=$!
      echo "$pid" >"$RUN/pids/$name"
      wait "$pid" || echo "--- $name ended: $?" >>"$LOG/$name.log"
      sleep 0.3
    done
  ) &
}

wait_for() { # SECONDS CMD...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

node_main() {
  trap 'exit 0' TERM INT
  while [[ ! -e $RUN/go ]]; do sleep 0.05; done # until we are in our cgroups
  hostname "$SANDGATE_CLUSTER_NODE"
  # Mounts: fresh /sys for the new network namespace, private /run, /var/lib
  # and /var/log; everything shared within, nothing towards the host.
  local cg
  cg=$(mktemp -d)
  mount --rbind /sys/fs/cgroup "$cg"
  mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
  mount --rbind "$cg" /sys/fs/cgroup
  umount -l "$cg"; rmdir "$cg"
  mkdir -p "$RUN/var/lib/"{kubelet,containerd,cni} "$RUN/var/log/"{pods,containers}
  mount --bind "$RUN/var/lib" /var/lib
  mount --bind "$RUN/var/log" /var/log
  mount -t tmpfs -o mode=755,size=512m tmpfs /run
  mkdir -p /run/netns /run/lock /run/containerd
  mount --make-rshared /

  ip link set lo up
  ip link add node0 type bridge
  ip addr add "$SANDGATE_CLUSTER_NODE_IP/32" dev node0
  ip link set node0 up
  ip route add "$SANDGATE_CLUSTER_SVC_CIDR" dev node0 # no default route: the address is translated only once a route is found
  echo 1 >/proc/sys/net/ipv4/ip_forward
  echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || true

  export PATH=$BIN:$PATH
  ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  local gates=()
  [[ -z $SANDGATE_CLUSTER_FEATURE_GATES ]] || gates=(--feature-gates="$SANDGATE_CLUSTER_FEATURE_GATES")

  daemon etcd "$BIN/etcd" --name e2e --data-dir "$RUN/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster e2e=http://127.0.0.1:2380
  daemon containerd containerd --config "$CONF/containerd.toml"
  daemon kube-apiserver "$BIN/kube-apiserver" "${gates[@]}" \
    --etcd-servers=http://127.0.0.1:2379 --advertise-address="$SANDGATE_CLUSTER_NODE_IP" --secure-port=6443 \
    --service-cluster-ip-range="$SANDGATE_CLUSTER_SVC_CIDR" --allow-privileged=true --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --client-ca-file="$PKI/ca.crt" \
    --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --kubelet-client-certificate="$PKI/apiserver-kubelet.crt" --kubelet-client-key="$PKI/apiserver-kubelet.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$PKI/front-proxy.crt" --proxy-client-key-file="$PKI/front-proxy.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file="$PKI/sa.key" --service-account-key-file="$PKI/sa.key" \
    --max-requests-inflight=1000 --max-mutating-requests-inflight=500 --event-ttl=30m --profiling=false
  wait_for 60 "$BIN/kubectl" --kubeconfig "$PKI/admin.kubeconfig" get --raw /livez || say "API server is slow"
  daemon kube-controller-manager "$BIN/kube-controller-manager" "${gates[@]}" \
    --kubeconfig="$PKI/controller-manager.kubeconfig" --authentication-kubeconfig="$PKI/controller-manager.kubeconfig" \
    --authorization-kubeconfig="$PKI/controller-manager.kubeconfig" --client-ca-file="$PKI/ca.crt" \
    --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
    --use-service-account-credentials=true --leader-elect=false --bind-address=127.0.0.1 \
    --kube-api-qps=500 --kube-api-burst=1000 --node-monitor-grace-period=40s
  daemon kube-scheduler "$BIN/kube-scheduler" "${gates[@]}" --config="$CONF/scheduler.yaml" --bind-address=127.0.0.1 \
    --authentication-kubeconfig="$PKI/scheduler.kubeconfig" --authorization-kubeconfig="$PKI/scheduler.kubeconfig"
  wait_for 60 ctr -a /run/containerd/containerd.sock version || say "containerd is slow"
  local t
  for t in "$IMG"/*.tar; do
    ctr -a /run/containerd/containerd.sock -n k8s.io images import "$t" >>"$LOG/import.log" 2>&1 || say "import of $t failed"
  done
  daemon kubelet "$BIN/kubelet" --config="$CONF/kubelet.yaml" --kubeconfig="$PKI/kubelet.kubeconfig" \
    --hostname-override="$SANDGATE_CLUSTER_NODE" --node-ip="$SANDGATE_CLUSTER_NODE_IP" --root-dir=/var/lib/kubelet
  daemon kube-proxy "$BIN/kube-proxy" --config="$CONF/kube-proxy.yaml"
  if [[ " $SANDGATE_CLUSTER_WITH " == *" coredns "* ]]; then daemon coredns coredns -conf "$CONF/Corefile"; fi
  echo ok >"$RUN/started"
  while :; do wait -n 2>/dev/null || sleep 1; done # reap whatever the node leaves us
}

# --- commands --------------------------------------------------------------

node_ready() {
  [[ $(in_net "$BIN/kubectl" --kubeconfig "$PKI/admin.kubeconfig" get node "$SANDGATE_CLUSTER_NODE" \
    -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null) == True ]]
}

up() {
  ((EUID == 0)) || die "needs root"
  need_packages
  build
  if init_pid >/dev/null; then
    say "already up"
  else
    case $STATE in /run/* | /var/run/* | /var/lib/* | /var/log/*) die "state directory $STATE: choose one elsewhere" ;; esac
    [[ ! -e $RUN ]] || down
    mkdir -p "$RUN"
    write_config
    tunables_save
    declare -p ${!SANDGATE_CLUSTER_*} | grep -v '^declare [^ ]* SANDGATE_CLUSTER_STATE=' >"$RUN/settings"
    local outer pid
    # A session of its own, so that the caller's terminal or job does not end it.
    setsid unshare --net --mount --pid --uts --ipc --fork --mount-proc --propagation private \
      bash "$SELF" __node >"$LOG/node.log" 2>&1 </dev/null 9>&- &
    outer=$!
    for _ in $(seq 50); do
      pid=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null | tr -d ' ') && [[ -n $pid ]] && break
      sleep 0.1
    done
    [[ -n ${pid:-} ]] || die "could not start; see $LOG/node.log"
    echo "$pid $(starttime "$pid")" >"$RUN/init.pid"
    cgroup_up "$pid" "$outer"
    : >"$RUN/go"
  fi
  wait_for "$SANDGATE_CLUSTER_READY_TIMEOUT" node_ready || { status || true; die "node is not Ready after $SANDGATE_CLUSTER_READY_TIMEOUT s; logs in $LOG"; }
  wait_for 30 in_net "$BIN/kubectl" --kubeconfig "$PKI/admin.kubeconfig" -n default get serviceaccount default || die "no default service account"
  say "node $SANDGATE_CLUSTER_NODE is Ready"
}

in_ns() { # pids, but this script's, whose network namespace is $1
  local p n
  for p in /proc/[0-9]*; do
    n=$(readlink "$p/ns/net" 2>/dev/null) || continue
    [[ $n != "$1" || ${p#/proc/} == "$$" || ${p#/proc/} == "$BASHPID" ]] || echo "${p#/proc/}"
  done
}

down() {
  local pid ns left
  if pid=$(init_pid); then
    ns=$(readlink "/proc/$pid/ns/net")
    kill -KILL "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
      [[ -e /proc/$pid ]] || break
      sleep 0.1
    done
    [[ ! -e /proc/$pid ]] || say "process $pid does not end"
    # What `exec` left in the network namespace, which is ours alone.
    left=$(in_ns "$ns")
    if [[ -n $left && $ns != "$(readlink /proc/$$/ns/net)" ]]; then
      say "ending what exec left running: $(echo $left)"
      kill -TERM $left 2>/dev/null || true
      for _ in $(seq 20); do left=$(in_ns "$ns"); [[ -n $left ]] || break; sleep 0.1; done
      [[ -z $left ]] || kill -KILL $left 2>/dev/null || true
    fi
  fi
  cgroup_down
  tunables_restore
  rm -rf --one-file-system "$RUN"
  if [[ ${1:-} == --purge ]]; then rm -rf "$STATE"; fi
}

status() {
  local pid f p
  pid=$(init_pid) || { say "down"; return 1; }
  echo "node process 1: pid $pid, state $STATE"
  for f in "$RUN"/pids/*; do
    [[ $f == *.hold ]] && continue
    p=$(<"$f")
    if on_node kill -0 "$p" 2>/dev/null; then p="runs (pid $p on the node)"; else p="is down"; fi
    printf '  %-24s %s\n' "$(basename "$f")" "$p"
  done
  node_ready && echo "node is Ready" || { echo "node is not Ready"; return 1; }
}

cmd=${1:-}
[[ $# -eq 0 ]] || shift
case $cmd in
  build) lock; need_packages; build ;;
  up) lock; up ;;
  down) lock; down "$@" ;;
  status) status ;;
  env)
    pid=$(init_pid) || die "not running"
    printf 'export KUBECONFIG=%q\nexport PATH=%q:"$PATH"\nexport SANDGATE_CLUSTER_STATE=%q\nexport SANDGATE_CLUSTER_INIT_PID=%q\nexport SANDGATE_CLUSTER_CA=%q\n' \
      "$PKI/admin.kubeconfig" "$BIN" "$STATE" "$pid" "$PKI/ca.crt"
    ;;
  exec | node)
    export KUBECONFIG=$PKI/admin.kubeconfig PATH=$BIN:$PATH ENTER_EXEC=exec # our pid becomes the command's
    if [[ $cmd == exec ]]; then in_net "$@"; else on_node "$@"; fi
    ;;
  import)
    for t in "$@"; do
      on_node ctr -a /run/containerd/containerd.sock -n k8s.io images import - <"$t"
    done
    ;;
  restart) on_node kill -KILL "$(<"$RUN/pids/$1")" ;;
  stop) : >"$RUN/pids/$1.hold"; on_node kill -KILL "$(<"$RUN/pids/$1")" ;;
  start) rm -f "$RUN/pids/$1.hold" ;;
  __node) node_main ;;
  *) sed -n '2,17p' "$SELF" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
