package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// allowed are the only host paths that a sandbox sees outside /usr, as patterns of path.Match. A pattern matches files and
// links, never a tree. What it matches is still refused unless root owns it and everybody may read it; a link is refused
// unless it stays within its own directory, /usr or another allowed path.
var allowed = []string{
	"bin", "sbin", "lib", "lib32", "lib64", "libx32", // links into /usr
	"etc/alternatives/*",
	"etc/bash.bashrc",
	"etc/debian_version",
	"etc/ethertypes",
	"etc/fonts/fonts.conf", "etc/fonts/conf.d/*",
	"etc/gai.conf", "etc/host.conf", "etc/inputrc",
	"etc/java-*-openjdk/*.cfg", "etc/java-*-openjdk/*.properties", "etc/java-*-openjdk/security/java.*",
	"etc/java-*-openjdk/security/default.policy", "etc/java-*-openjdk/security/policy/*/*.policy",
	"etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d/*.conf",
	"etc/localtime", "etc/timezone", "etc/locale.alias",
	"etc/login.defs", "etc/magic", "etc/magic.mime", "etc/mime.types",
	"etc/os-release", "etc/protocols", "etc/rpc", "etc/services", "etc/shells",
	"etc/ssl/certs/*", "etc/ssl/openssl.cnf",
	"etc/vim/vimrc", "etc/wgetrc",
}

// maxFile bounds a copied file: a list entry that has become something else must not fill every sandbox.
const maxFile = 4 << 20

// Allowed says whether a path (no leading slash) is on the list of host paths that a sandbox may see.
func Allowed(name string) bool {
	for _, pattern := range allowed {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

func fromHost(host string) ([]Entry, error) {
	var out []Entry
	for _, pattern := range allowed {
		matches, err := filepath.Glob(filepath.Join(host, pattern))
		if err != nil {
			return nil, fmt.Errorf("allow-list pattern %q: %w", pattern, err)
		}
		for _, m := range matches {
			rel, err := filepath.Rel(host, m)
			if err != nil {
				return nil, fmt.Errorf("allow-list: %w", err)
			}
			e, ok, err := take(m, rel)
			if err != nil {
				return nil, fmt.Errorf("allow-list: %s: %w", rel, err)
			}
			if ok {
				out = append(out, e)
			}
		}
	}
	for _, name := range []string{"bin", "lib"} {
		if info, err := os.Lstat(filepath.Join(host, name)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return nil, fmt.Errorf("/%s of this machine is no link into /usr: sandboxes need a merged-/usr system (Debian 12, Ubuntu 20.04, Fedora or newer)", name)
		}
	}
	return out, nil
}

// take turns one matched path into an entry; not ok means that it stays outside.
func take(file, rel string) (Entry, bool, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return Entry{}, false, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 {
		return Entry{}, false, nil
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(file)
		if err != nil {
			return Entry{}, false, err
		}
		return Entry{Path: rel, Kind: Link, Target: target, Host: true}, stays(rel, target), nil
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o004 == 0 || info.Size() > maxFile:
		return Entry{}, false, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return Entry{}, false, err
	}
	return Entry{Path: rel, Kind: File, Mode: info.Mode().Perm() & 0o755, Content: content, Host: true}, true, nil
}

// stays says whether a link at rel that points to target leads to something a sandbox may see anyway.
func stays(rel, target string) bool {
	to := target
	if !path.IsAbs(to) {
		to = path.Join("/", path.Dir(rel), to)
	}
	to = strings.TrimPrefix(path.Clean(to), "/")
	return to == "usr" || strings.HasPrefix(to, "usr/") || Allowed(to)
}
