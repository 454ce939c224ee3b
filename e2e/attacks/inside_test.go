package attacks_test

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/canary"
)

// syscalls tries what only the machine's owner may do, and prints the names of what went through.
const syscalls = `
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
buf = ctypes.create_string_buffer(4096)
tries = {
    "mount": (165, b"none", b"/mnt", b"tmpfs", 0, 0), "umount2": (166, b"/usr", 2), "pivot_root": (155, b"/mnt", b"/mnt"),
    "chroot": (161, b"/tmp"), "open_tree": (428, -100, b"/usr", 1), "move_mount": (429, -100, b"/usr", -100, b"/mnt", 0),
    "fsopen": (430, b"tmpfs", 0), "fspick": (433, -100, b"/", 0), "mount_setattr": (442, -100, b"/usr", 0, buf, 32),
    "unshare mounts": (272, 0x20000), "unshare users": (272, 0x10000000), "unshare net": (272, 0x40000000), "unshare pids": (272, 0x20000000),
    "clone users": (56, 0x10000000 | 17, 0, 0, 0, 0), "clone mounts": (56, 0x20000 | 17, 0, 0, 0, 0),
    "bpf": (321, 0, buf, 72), "perf_event_open": (298, buf, 0, -1, -1, 0), "userfaultfd": (323, 0),
    "open_by_handle_at": (304, -100, buf, 0), "init_module": (175, buf, 10, b""), "finit_module": (313, 0, b"", 0), "delete_module": (176, b"x", 0),
    "kexec_load": (246, 0, 0, 0, 0), "reboot": (169, 0xfee1dead, 672274793, 0x89abcdef, 0), "swapon": (167, b"/tmp/x", 0),
    "sethostname": (170, b"x", 1), "settimeofday": (164, buf, 0), "clock_settime": (227, 0, buf), "iopl": (172, 3), "ioperm": (173, 0, 1, 1),
    "acct": (163, b"/tmp/x"), "quotactl": (179, 0x800007, b"/", 0, buf), "syslog": (103, 3, buf, 4096), "vhangup": (153,),
    "add_key": (248, b"user", b"x", b"x", 1, -3), "request_key": (249, b"user", b"x", 0, -3), "keyctl": (250, 0, -3, 1), "nfsservctl": (180, 0, 0, 0),
    "personality": (135, 0x0040000), "mknod block": (133, b"/tmp/b", 0o60666, 0x800), "mknod char": (133, b"/tmp/c", 0o20666, 0x101),
    "io_uring_setup": (425, 1, buf), "process_vm_writev of 1": (311, 1, buf, 0, buf, 0, 99), "lookup_dcookie": (212, 0, buf, 10),
    "setdomainname": (171, b"x", 1), "fanotify_init": (300, 0, 0), "name_to_handle_at of /": (304, -100, buf, 0),
}
for name, args in tries.items():
    r = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if r == 0 and name.startswith("clone"):
        os._exit(0)
    if r != -1:
        print("went through:", name, r)
for ns in ("mnt", "net", "pid", "user", "ipc", "uts", "cgroup"):
    try:
        fd = os.open("/proc/1/ns/" + ns, os.O_RDONLY)
    except OSError:
        continue
    if libc.syscall(308, fd, 0) != -1:
        print("went through: setns", ns)
for family, kind, proto in ((socket.AF_INET, socket.SOCK_RAW, 1), (17, socket.SOCK_RAW, 0x300), (40, socket.SOCK_STREAM, 0), (38, 5, 0)):
    try:
        s = socket.socket(family, kind, proto)
        if family == 40:
            s.connect((2, 1))
        if family == 38:
            s.bind(("hash", "sha256"))
            continue
        print("went through: socket", family, kind)
    except OSError:
        pass
`

func TestRootOfASandboxIsNotRootOfTheMachine(t *testing.T) {
	s := begin(t)
	sb := s.sandbox(t)
	for _, user := range []string{"root", "user"} {
		require.Empty(t, s.python(t, sb, user, syscalls), user)
	}
	for _, try := range []string{
		"echo x > /proc/sys/kernel/core_pattern", "echo 1 > /proc/sys/net/ipv4/ip_forward", "echo 3 > /proc/sys/vm/drop_caches", "echo h > /proc/sysrq-trigger",
		"echo -1000 > /proc/1/oom_score_adj", "echo 1 > /sys/kernel/mm/ksm/run", "mkdir /sys/fs/cgroup/x", "mkdir /sys/fs/cgroup/*/x", "mount -t cgroup2 none /mnt",
		"mount -t proc none /mnt", "mount -t sysfs none /mnt", "mount -t overlay none /mnt", "mount -o remount,rw /proc/sys", "umount /proc/sys",
		"mknod /dev/sda b 8 0", "cat /dev/mem", "cat /dev/kmsg", "cat /dev/fuse", "dmesg", "test -n \"$(cat /proc/kcore)\"", "test -n \"$(cat /proc/keys)\"",
		"test -n \"$(cat /proc/timer_list)\"", "ls /sys/firmware/* | grep .", "find /sys -writable -type f | grep .", "ip link add x type dummy",
		"iptables -L", "setcap cap_sys_admin+ep /bin/true", "su -c 'mount -t tmpfs none /mnt' root", "chroot / true", "hostname other", "swapon /dev/zero",
		"touch /.sandgate/x", "touch /.sandgate/run/x", "rm -f /.sandgate/run/handover.sock", "cp /bin/true /.sandgate/bin/envd", "mount -o remount,rw /.sandgate/bin",
		"mv /.sandgate /moved", "umount /.sandgate/bin", "umount -l /.sandgate/run", "ls /dev/sd* /dev/vd* /dev/nvme* /dev/loop*",
	} {
		if out, err := s.RunAs(t.Context(), sb, "root", try); err == nil {
			t.Errorf("root may: %s\n%s", try, out)
		}
	}
	require.NoError(t, s.Kill(t.Context(), sb))
	s.settled(t)
}

func TestASandboxSeesNothingOfTheMachineOrItsSecrets(t *testing.T) {
	s := begin(t)
	sb := s.sandbox(t, mount{Volume: bucket, Target: "/data"}, mount{Volume: "shared", Target: "/host"})
	other := s.sandbox(t, mount{Volume: bucket, Target: "/data"})
	names := strings.Fields(s.sh(t, sb, "root", "cat /proc/[0-9]*/comm"))
	require.Contains(t, names, "starter")
	for _, name := range names {
		require.NotContains(t, []string{"sandgate", "s3fs", "versitygw", "runc", "systemd", "attacks.test"}, name)
	}
	for _, pid := range strings.Fields(s.sh(t, sb, "root", "cd /proc && echo [0-9]*")) {
		n, err := strconv.Atoi(pid)
		require.NoError(t, err)
		require.Less(t, n, 1000, "a process of the machine")
	}
	for _, link := range []string{"/proc/1/root", "/proc/1/cwd", "/proc/self/root/..", "/proc/1/root/../.."} {
		require.NotContains(t, s.sh(t, sb, "root", "ls "+link+"/"), "forbidden")
		_, err := s.RunAs(t.Context(), sb, "root", "cat "+link+s.forbidden+"/who")
		require.Error(t, err)
	}
	require.NotContains(t, s.sh(t, sb, "root", "cat /proc/self/mountinfo"), other.ID)

	search := s.canary(t)
	text := s.sh(t, sb, "root", `for f in /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo /etc/* /home/user/.* /root/.*; do [ -f $f ] && cat $f; done 2>/dev/null; env; true`)
	require.Empty(t, search.Text("the inside of a sandbox", []byte(text)))
	s.sh(t, sb, "root", "echo "+s.Store.Secret+" > /etc/planted")
	text = s.sh(t, sb, "root", "cat /etc/planted")
	require.NotEmpty(t, search.Text("the inside of a sandbox", []byte(text)), "a planted secret must be found")
	s.sh(t, sb, "root", "rm /etc/planted")

	found, err := s.Secrets(t.Context())
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "planted"), []byte(s.Store.Secret), 0o644))
	found, err = s.Secrets(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, found, "a planted secret must be found")
	require.NoError(t, os.Remove(filepath.Join(s.Dir, "planted")))
}

// canary knows every secret of this world, those that the gateway made included.
func (s *stage) canary(t *testing.T) canary.Search {
	t.Helper()
	search := canary.Search{Secrets: map[string]string{"the API key": s.Key, "the bucket's secret": s.Store.Secret, "the bucket's key": s.Store.Access}}
	keys, err := filepath.Glob(filepath.Join(s.State(), "keys", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, file := range keys {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		search.Secrets[filepath.Base(file)] = string(raw)
		search.Secrets[filepath.Base(file)+" as hex"] = hex.EncodeToString(raw)
	}
	return search
}

func TestAForkBombAndAHogStayInTheirSandbox(t *testing.T) {
	s := begin(t)
	bomb, hog, other := s.sandbox(t), s.sandbox(t), s.sandbox(t)
	out := s.python(t, bomb, "user", `
import os, time
n = 0
try:
    for n in range(100000):
        if os.fork() == 0:
            while n % 50 == 0: # as soon as there is room, also while the sandbox is being ended
                time.sleep(0.2)
                try:
                    os.fork()
                except OSError:
                    pass
            time.sleep(600)
except OSError as e:
    print(n, e.errno, flush=True)
os._exit(0)
`)
	fields := strings.Fields(out)
	require.Len(t, fields, 2, out)
	forks, err := strconv.Atoi(fields[0])
	require.NoError(t, err)
	require.Less(t, forks, 1100)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = s.RunAs(ctx, hog, "user", pythonCommand("x = bytearray(700 << 20)\nprint(len(x))"))
	require.Error(t, err, "700 MiB in a sandbox of 256")
	require.Equal(t, "fine\n", s.sh(t, other, "user", "echo fine"))
	again, err := s.Create(ctx, "pool", `,"timeout":60`)
	require.NoError(t, err)
	require.Equal(t, "fine\n", s.sh(t, again, "user", "echo fine"))
	require.NoError(t, s.Kill(ctx, bomb))
	require.NoError(t, s.Kill(ctx, other))
	s.settled(t)
}
