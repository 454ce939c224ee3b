#!/usr/bin/env bash
# Boots a kernel that has NFS, with the kernel's own NFS server in it, and runs the tests of NFS volumes there: this machine's kernel may
# have neither. Emulated by qemu, so that it needs no KVM and no root but for installing qemu.
#   guest.sh [FLAGS OF A GO TEST BINARY...]
# The Debian packages that the guest is made of lie in $CACHE/nfs; nothing of them is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sandgate}
DIR=$CACHE/nfs ROOT=$CACHE/nfs/packages LIMIT=${LIMIT:-300}
say() { printf '>> %s\n' "$*" >&2; }
die() { printf 'guest.sh: %s\n' "$*" >&2; exit 1; }
[ "$(uname -m)" = x86_64 ] || die "the guest is built for x86_64 only; this machine is $(uname -m)"
e2e/install.sh nfs

# The packages, once: a kernel with modules, and the server's programs with the libraries that they need.
if [ ! -e "$ROOT/complete" ]; then
  rm -rf "$ROOT" && mkdir -p "$ROOT/debs"
  meta=linux-image-cloud-amd64
  apt-cache show $meta >/dev/null 2>&1 || apt-get update -qq
  kernel=$(apt-cache depends $meta | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
  [ -n "$kernel" ] || die "apt knows no $meta: this is no Debian"
  say "fetching $kernel and the NFS server (30 MB, once)"
  (cd "$ROOT/debs" && apt-get download -qq "$kernel" nfs-kernel-server nfs-common rpcbind libtirpc3 libtirpc-common netbase libevent-core-2.1-7 libwrap0 \
    libnfsidmap1 libsqlite3-0 libkeyutils1 libdevmapper1.02.1 busybox-static iproute2 libbpf1 libelf1 libmnl0 2> >(grep -v unsandboxed >&2))
  for deb in "$ROOT"/debs/*.deb; do dpkg-deb -x "$deb" "$ROOT"; done
  rm -r "$ROOT/debs"
  touch "$ROOT/complete"
fi

say "building the guest"
TREE=$(mktemp -d)
trap 'rm -rf "$TREE"' EXIT
mkdir -p "$TREE"/{bin,lib64,m,etc,var,usr/sbin,sbin}
cp "$ROOT/bin/busybox" "$TREE/bin/busybox"
install -m 755 e2e/nfs/init "$TREE/init"

# Modules, each after those that it needs.
declare -A done=()
modules=$(echo "$ROOT"/lib/modules/*)
load() {
  local file need
  [ -z "${done[$1]:-}" ] || return 0
  done[$1]=1
  file=$(find "$modules" \( -name "$1.ko" -o -name "${1//_/-}.ko" \) -print -quit)
  [ -n "$file" ] || return 0 # built in
  for need in $(tr '\0' '\n' <"$file" | sed -n 's/^depends=//p' | tr ',' ' '); do load "$need"; done
  cp "$file" "$TREE/m/$1.ko"
  echo "$1" >>"$TREE/modules"
}
for m in veth nf_tables nft_socket nfsv3 nfsv4 nfsd; do load $m; done

# Programs, with their libraries from the packages or from this machine.
for program in usr/sbin/rpc.nfsd usr/sbin/rpc.mountd usr/sbin/exportfs sbin/rpcbind bin/ip; do
  cp -L "$ROOT/$program" "$TREE/sbin/"
  LD_LIBRARY_PATH=$ROOT/usr/lib/x86_64-linux-gnu:$ROOT/lib/x86_64-linux-gnu ldd "$ROOT/$program" | grep -o '/[^ ]*' |
    while read -r library; do cp -nL "$library" "$TREE/lib64/"; done
done
cp "$ROOT"/etc/{netconfig,protocols,services} "$TREE/etc/"
printf 'root:x:0:0:root:/:/bin/sh\n_rpc:x:100:100::/:/bin/sh\n' >"$TREE/etc/passwd"
printf 'root:x:0:\n' >"$TREE/etc/group"
printf '127.0.0.1 localhost guest\n' >"$TREE/etc/hosts"
date +%s >"$TREE/now"
printf '%s ' "$@" >"$TREE/flags"

CGO_ENABLED=0 go test -c -ldflags="-s -w" -o "$TREE/nfs.test" ./e2e/nfs
CGO_ENABLED=0 go test -c -ldflags="-s -w" -o "$TREE/nas.test" ./csiagent/driver/nas
(cd e2e/nfs/client && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$TREE/client" .)
(cd "$TREE" && find . | "$ROOT/bin/busybox" cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1 >"$DIR/initrd"

say "booting $(basename "$modules") under emulation, at most $LIMIT s"
log=$DIR/guest.log
timeout "$LIMIT" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 768 -nographic -no-reboot -net none \
  -kernel "$ROOT"/boot/vmlinuz-* -initrd "$DIR/initrd" -append "console=ttyS0 quiet panic=-1 mitigations=off" </dev/null 2>&1 | stdbuf -oL tr -d '\r' | tee "$log"
grep -q '^guest: over with 0$' "$log" || die "the guest failed; its words are in $log"
