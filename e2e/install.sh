#!/usr/bin/env bash
# Installs what a target of the Makefile needs and the machine lacks. Each part checks first and is quick when nothing is missing.
#   install.sh system           programs that sandboxes and volumes need, from apt
#   install.sh nfs              the emulator in which NFS is tried, from apt
#   install.sh fio              what verifies data on volumes, from apt
#   install.sh ext4             what makes file systems on disks, from apt
#   install.sh go               says so when there is no Go
#   install.sh tool NAME        an external tool, built from its own module e2e/tools/NAME at the version pinned there
#   install.sh python PIN...    a virtual environment per SDK pin, from e2e/sdk/python/pins/PIN/requirements.txt
#   install.sh js PIN...        node_modules per SDK pin, from e2e/sdk/js/pins/PIN/package-lock.json
# Everything that is not from apt lies in $CACHE.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sandgate}
mkdir -p "$CACHE/bin"

say() { printf '>> %s\n' "$*" >&2; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo -E "$@"
  else die "root is needed to install packages, and there is no sudo: run make as root"
  fi
}

# apt COMMAND=PACKAGE...: installs the packages whose command is not there.
apt() {
  local missing=() pair
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "these packages are missing and this is no Debian: ${missing[*]}"
  say "installing ${missing[*]} with apt"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >&2
}

system() {
  apt runc=runc s3fs=s3fs pasta=passt fusermount3=fuse3 ip=iproute2 mount=mount sudo=sudo git=git \
    gcc=gcc python3=python3 update-ca-certificates=ca-certificates
  [ -e /usr/include/stdlib.h ] || { say "installing libc6-dev with apt"; as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libc6-dev </dev/null >&2; }
}

nfs() { apt qemu-system-x86_64=qemu-system-x86; }

fio() { apt fio=fio; }

ext4() { apt mkfs.ext4=e2fsprogs; }

# Any Go of 1.21 or newer fetches the version that go.mod asks for by itself.
go_() {
  command -v go >/dev/null && [[ "$(go env GOVERSION)" =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 21 ] ||
    die "Go 1.21 or newer is needed (go.dev/doc/install); it fetches the version in go.mod by itself"
}

tool() {
  local name=$1 into="$CACHE/bin/$1" module="$here/tools/$1" pkg version
  read -r pkg version < <(cd "$module" && go list -f '{{.ImportPath}} {{.Module.Version}}' tool)
  say "building $name (once per version; a large one takes minutes)"
  (cd "$module" && CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$version" -o "$into" "$pkg") # a CSI driver does not start without one
  touch "$into"
}

python() {
  local pin dir want
  python3 -c 'import ensurepip' 2>/dev/null || apt ensurepip=python3-venv
  for pin in "$@"; do
    dir="$CACHE/python/$pin" want="$here/sdk/python/pins/$pin/requirements.txt"
    cmp -s "$want" "$dir/installed.txt" && continue
    say "installing the Python SDK $pin"
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --no-input --disable-pip-version-check --no-deps -r "$want" </dev/null
    cp "$want" "$dir/installed.txt"
  done
}

# The JS SDK wants Node 20.18 or newer, which Debian 12 lacks; npm serves Node itself as a package.
js() {
  local pin dir from
  apt node=nodejs npm=npm
  if ! node -e 'const [a,b]=process.versions.node.split(".").map(Number);process.exit(a>20||a===20&&b>=18?0:1)'; then
    [ -x "$CACHE/node/node_modules/.bin/node" ] || { say "installing Node 22 with npm"; npm install --silent --no-audit --no-fund --prefix "$CACHE/node" node@22 </dev/null; }
  fi
  for pin in "$@"; do
    dir="$CACHE/js/$pin" from="$here/sdk/js/pins/$pin"
    cmp -s "$from/package-lock.json" "$dir/installed.json" && continue
    say "installing the JS SDK $pin"
    rm -rf "$dir" && mkdir -p "$dir"
    cp "$from/package.json" "$from/package-lock.json" "$dir/"
    npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" </dev/null
    cp "$from/package-lock.json" "$dir/installed.json"
  done
}

what=${1:?expected system, nfs, fio, ext4, go, tool, python or js}
shift
case $what in
  system) system ;;
  nfs) nfs ;;
  fio) fio ;;
  ext4) ext4 ;;
  go) go_ ;;
  tool) tool "$@" ;;
  python) python "$@" ;;
  js) js "$@" ;;
  *) die "unknown part $what: expected system, nfs, fio, ext4, go, tool, python or js" ;;
esac
