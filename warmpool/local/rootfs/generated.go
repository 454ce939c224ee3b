package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
)

// UserID is the uid and gid of the account `user`, who runs the commands of a sandbox.
const UserID = 1000

const shadowID = 42

func dir(path string, mode fs.FileMode) Entry { return Entry{Path: path, Kind: Dir, Mode: mode} }

func file(path, content string) Entry {
	return Entry{Path: path, Kind: File, Mode: 0o644, Content: []byte(content)}
}

func link(path, target string) Entry { return Entry{Path: path, Kind: Link, Target: target} }

func own(e Entry, mode fs.FileMode, uid, gid int) Entry {
	e.Mode, e.UID, e.GID = mode, uid, gid
	return e
}

// generated is the part of the skeleton that owes nothing to the host.
func generated() []Entry {
	out := []Entry{
		dir(".sandgate", 0o755), dir(".sandgate/bin", 0o755), dir(".sandgate/run", 0o755),
		dir("dev", 0o755), dir("etc", 0o755), dir("home", 0o755), dir("media", 0o755), dir("mnt", 0o755), dir("opt", 0o755),
		dir("proc", 0o555), dir("root", 0o700), dir("run", 0o755), dir("run/lock", 0o777|fs.ModeSticky), dir("srv", 0o755),
		dir("sys", 0o555), dir("tmp", 0o777|fs.ModeSticky), dir("usr", 0o755),
		dir("var", 0o755), dir("var/backups", 0o755), dir("var/cache", 0o755), dir("var/lib", 0o755), dir("var/local", 0o755),
		dir("var/log", 0o755), dir("var/mail", 0o755), dir("var/opt", 0o755), dir("var/spool", 0o755),
		dir("var/tmp", 0o777|fs.ModeSticky), link("var/lock", "/run/lock"), link("var/run", "/run"),
		dir("etc/pam.d", 0o755), dir("etc/profile.d", 0o755), dir("etc/skel", 0o755), dir("etc/opt", 0o755),
		dir("etc/sudoers.d", 0o750), link("etc/mtab", "/proc/mounts"),
		file("etc/environment", ""), file("etc/fstab", ""), file("etc/motd", ""),
		file("etc/passwd", passwd), file("etc/group", group),
		own(file("etc/shadow", shadow), 0o640, 0, shadowID),
		file("etc/nsswitch.conf", nsswitch), file("etc/profile", profile),
		own(file("etc/sudoers", sudoers), 0o440, 0, 0),
		own(file("root/.bashrc", bashrc), 0o644, 0, 0), own(file("root/.profile", dotProfile), 0o644, 0, 0),
		own(dir("home/user", 0o755), 0o755, UserID, UserID),
		own(file("home/user/.bashrc", bashrc), 0o644, UserID, UserID),
		own(file("home/user/.profile", dotProfile), 0o644, UserID, UserID),
		file("etc/skel/.bashrc", bashrc), file("etc/skel/.profile", dotProfile),
	}
	for service, rules := range pam {
		out = append(out, file("etc/pam.d/"+service, rules))
	}
	return out
}

// named are the entries that differ between sandboxes.
func named(n Names) []Entry {
	resolv := "# This sandbox has no network.\n"
	if n.Nameserver != "" {
		resolv = "nameserver " + n.Nameserver + "\n"
	}
	machine := sha256.Sum256([]byte(n.Hostname))
	return []Entry{
		file("etc/hostname", n.Hostname+"\n"),
		file("etc/hosts", "127.0.0.1\tlocalhost "+n.Hostname+"\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
		file("etc/resolv.conf", resolv),
		own(file("etc/machine-id", hex.EncodeToString(machine[:16])+"\n"), 0o444, 0, 0),
	}
}

// pam lets root and sudo through without asking the host's accounts, modules or directories anything.
var pam = map[string]string{
	"common-account":                "account required pam_unix.so\n",
	"common-auth":                   "auth required pam_unix.so\n",
	"common-password":               "password required pam_unix.so yescrypt\n",
	"common-session":                "session required pam_unix.so\n",
	"common-session-noninteractive": "session required pam_unix.so\n",
	"login":                         "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_unix.so\n",
	"other":                         "auth required pam_deny.so\naccount required pam_deny.so\npassword required pam_deny.so\nsession required pam_deny.so\n",
	"runuser":                       "auth sufficient pam_rootok.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
	"runuser-l":                     "auth sufficient pam_rootok.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
	"su":                            "auth sufficient pam_rootok.so\nauth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
	"su-l":                          "auth sufficient pam_rootok.so\nauth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
	"sudo":                          "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
	"sudo-i":                        "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
}

const passwd = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
sync:x:4:65534:sync:/bin:/bin/sync
games:x:5:60:games:/usr/games:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
proxy:x:13:13:proxy:/bin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
backup:x:34:34:backup:/var/backups:/usr/sbin/nologin
_apt:x:100:65534::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
user:x:1000:1000:user:/home/user:/bin/bash
`

const group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
proxy:x:13:
kmem:x:15:
sudo:x:27:user
www-data:x:33:
backup:x:34:
shadow:x:42:
utmp:x:43:
video:x:44:
staff:x:50:
games:x:60:
users:x:100:
nogroup:x:65534:
user:x:1000:
`

// Nobody has a password, so none can be guessed; sudo and su do not ask user and root for one.
const shadow = `root:*:19700:0:99999:7:::
daemon:*:19700:0:99999:7:::
www-data:*:19700:0:99999:7:::
nobody:*:19700:0:99999:7:::
user:*:19700:0:99999:7:::
`

const nsswitch = `passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
`

const profile = `if [ "$(id -u)" -eq 0 ]; then
  PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
else
  PATH="/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
fi
export PATH
if [ "${BASH-}" ] && [ "$BASH" != "/bin/sh" ]; then
  [ -f /etc/bash.bashrc ] && . /etc/bash.bashrc
fi
for i in /etc/profile.d/*.sh; do
  [ -r "$i" ] && . "$i"
done
unset i
`

const sudoers = `Defaults env_reset
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
root ALL=(ALL:ALL) ALL
user ALL=(ALL:ALL) NOPASSWD: ALL
@includedir /etc/sudoers.d
`

const bashrc = `case $- in *i*) ;; *) return ;; esac
HISTCONTROL=ignoreboth
PS1='\u@\h:\w\$ '
`

const dotProfile = `if [ -n "$BASH_VERSION" ] && [ -f "$HOME/.bashrc" ]; then . "$HOME/.bashrc"; fi
if [ -d "$HOME/.local/bin" ]; then PATH="$HOME/.local/bin:$PATH"; fi
`
