# Volumes of CSI drivers that nobody here wrote, each by the driver's own node plugin in the sandbox's pod. CSI_PLUGINS is a directory with
# hostpathplugin (kubernetes-csi/csi-driver-host-path) and s3driver (yandex-cloud/k8s-csi-s3), built without cgo. They are built by hand from
# their repositories, so that this part runs only when it is asked for.
# shellcheck shell=bash
for program in hostpathplugin s3driver; do
  [ -x "${CSI_PLUGINS:-}/$program" ] || { echo "run.sh: the part plugins needs CSI_PLUGINS, a directory with $program" >&2; exit 1; }
done

# driver_image makes an image of a driver's: its plugin, the programs of this machine that it calls, and the libraries that they need.
driver_image() { # PLUGIN PROGRAM...
  local plugin=$1 files=() program path; shift
  for program; do
    program=$(command -v "$program")
    files+=(-file "$(readlink -f "$program"):/usr/bin/${program##*/}")
  done
  while read -r path; do files+=(-file "$(readlink -f "$path"):$path"); done < <(for program; do ldd "$(command -v "$program")"; done | grep -o '/[^ ]*' | sort -u)
  printf 'root:x:0:0:root:/:/\n' >"$WORK/passwd"
  "${SANDGATE_CLUSTER_STATE:-$CACHE/cluster}/bin/tool" mkimage -o "$WORK/$plugin.tar" -ref "sandgate.local/$plugin:e2e" -file "$CSI_PLUGINS/$plugin:/usr/bin/$plugin" \
    "${files[@]}" -file "$WORK/passwd:/etc/passwd" -file /etc/mime.types:/etc/mime.types -env PATH=/usr/bin -entrypoint "/usr/bin/$plugin" &&
    "$CLUSTER" import "$WORK/$plugin.tar"
}
check "an image with csi-driver-host-path" driver_image hostpathplugin mount umount
check "an image with k8s-csi-s3" driver_image s3driver mount umount s3fs

# What the drivers' controllers do in a cluster: a volume is made.
mkdir -p "$WORK/hostpath"
go build -o "$WORK/provision" ./e2e/kube/provision
provisioned() {
  "$CSI_PLUGINS/hostpathplugin" -endpoint "unix://$WORK/hostpath.sock" -nodeid "${SANDGATE_CLUSTER_NODE:-e2e-node}" -statedir "$WORK/hostpath" >"$WORK/hostpath.log" 2>&1 &
  local controller=$! ok=0
  "$WORK/provision" "$WORK/hostpath.sock" volume >"$WORK/handle" || ok=1
  kill "$controller"
  wait "$controller" || true
  return $ok
}
check "the host-path driver makes a volume" provisioned
handle=$(cat "$WORK/handle")

sed -e "s|<DIR>|$WORK/hostpath|" e2e/kube/plugins-values.yaml >"$WORK/plugins-values.yaml"
check "helm upgrade with the drivers" helm upgrade sandgate charts/sandgate "${VALUES[@]}" -f "$WORK/plugins-values.yaml" --wait --timeout 120s
sed -e "s|<IMAGE>|$IMAGE|; s|<HANDLE>|$handle|; s|<OSS_ACCESS_KEY>|$access|; s|<OSS_SECRET_KEY>|$secret|; s|<OSS_BUCKET>|$BUCKET|; s|<OSS_ENDPOINT>|http://$NODE:7070|" \
  e2e/kube/plugins.yaml >"$WORK/plugins.yaml"
check "their pools and volumes apply" kubectl apply -f "$WORK/plugins.yaml"
plugin() { CANARIES=$access,$secret sdk e2e/kube/plugins.py "$@"; }
check "the pool of the host-path driver gets ready" ready with-hostpath
check "volumes of csi-driver-host-path" plugin with-hostpath hostpath-volume hostpath-missing hostpathplugin
tell
check "what was written is the driver's" grep -qx again "$WORK/hostpath/$handle/work/second"
check "the pool of the S3 driver gets ready" ready with-s3
check "volumes of k8s-csi-s3" plugin with-s3 s3-volume s3-missing s3driver
tell
check "what was written is an object" grep -qx again "$WORK/objects/$BUCKET/work/second"
check "the pools go" kubectl delete -f "$WORK/plugins.yaml"
check "helm upgrade without the drivers" helm upgrade sandgate charts/sandgate "${VALUES[@]}" --wait --timeout 120s
check "the default pool is full" ready base 2
