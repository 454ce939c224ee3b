package container

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/warmpool/local/process"
	"github.com/sandgate-dev/sandgate/warmpool/local/rootfs"
)

// world is a Runtime and one container of it that sleeps.
type world struct {
	*Runtime
	id, dir string
	pid     int
}

func start(t *testing.T, l Limits) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs a container")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs runc")
	}
	dir := t.TempDir()
	r, err := New(Config{Dir: filepath.Join(dir, "runc"), Group: "sandgate-test-" + filepath.Base(dir) + strconv.Itoa(os.Getpid()), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, err)
	w := &world{Runtime: r, id: "i0123456789abcdefghi", dir: dir}
	skeleton, err := rootfs.Load("/")
	require.NoError(t, err)
	for _, d := range []string{"root", "bound", "shared", "usr", "usr.work", "etc", "etc.work"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, skeleton.WriteShared(filepath.Join(dir, "shared")))
	require.NoError(t, skeleton.Write(filepath.Join(dir, "root"), filepath.Join(dir, "etc"), rootfs.Names{Hostname: "box"}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, r.Delete(ctx, w.id))
		require.NoError(t, r.Close())
		ids, err := r.IDs()
		require.NoError(t, err)
		require.Empty(t, ids)
	})
	out, err := NewOutput()
	require.NoError(t, err)
	defer func() { require.NoError(t, out.Close()) }()
	w.pid, err = r.Run(t.Context(), dir, Spec{
		ID: w.id, Hostname: "box", Root: filepath.Join(dir, "root"), Layers: []Layer{
			{Target: "/usr", Lower: "/usr", Upper: filepath.Join(dir, "usr"), Work: filepath.Join(dir, "usr.work")},
			{Target: "/etc", Lower: filepath.Join(dir, "shared"), Upper: filepath.Join(dir, "etc"), Work: filepath.Join(dir, "etc.work")},
		},
		Args: []string{"/bin/sleep", "600"}, Env: []string{"PATH=/usr/sbin:/usr/bin"}, Limits: l, Patient: true,
		Binds: []Bind{{Source: filepath.Join(dir, "bound"), Target: "/.own/bound"}},
	}, out)
	require.NoError(t, err)
	return w
}

// sh runs a script inside, as uid, and returns what it printed.
func (w *world) sh(t *testing.T, uid int, script string) (string, error) {
	t.Helper()
	cmd := exec.Command("runc", "--root", filepath.Join(w.dir, "runc"), "exec", "--user", strconv.Itoa(uid)+":"+strconv.Itoa(uid), w.id, "/bin/sh", "-c", script)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestTheWallsOfAContainer(t *testing.T) {
	w := start(t, Limits{MilliCPU: 1500, Memory: 256 << 20, PIDs: 64})
	for _, c := range []struct {
		name   string
		uid    int
		script string
		want   string // in the output
		fails  bool
		exact  bool // nothing but want
	}{
		{name: "the user is user", uid: 1000, script: "id -un; echo ~; cd ~ && touch x && echo written", want: "user\n/home/user\nwritten"},
		{name: "sudo works without a password", uid: 1000, script: "sudo id -u", want: "0"},
		{name: "sudo does not complain", uid: 1000, script: "sudo true && echo done", want: "done", exact: true},
		{name: "the machine's audit log is out of reach", uid: 0, script: "python3 -c 'import socket;socket.socket(socket.AF_NETLINK,socket.SOCK_RAW,9)'", want: "Protocol not supported", fails: true},
		{name: "addresses can be listed", uid: 1000, script: "ip -o address show lo | head -1 | cut -d' ' -f2", want: "lo"},
		{name: "su works for root", uid: 0, script: "su user -c 'id -u'", want: "1000"},
		{name: "root writes below /usr, in its own layer", uid: 0, script: "echo x >/usr/local/planted && cat /usr/local/planted", want: "x"},
		{name: "no mount", uid: 0, script: "mount -t tmpfs none /mnt", want: "denied", fails: true},
		{name: "no new namespaces with new privileges", uid: 1000, script: "unshare -Urm true", want: "unshare", fails: true},
		{name: "no device nodes", uid: 0, script: "mknod /tmp/disk b 254 0", want: "not permitted", fails: true},
		{name: "no raw sockets", uid: 0, script: "python3 -c 'import socket;socket.socket(socket.AF_INET,socket.SOCK_RAW,1)'", want: "not permitted", fails: true},
		{name: "no capabilities beyond the list", uid: 0, script: "grep CapBnd /proc/self/status", want: "00000000000004fb"},
		{name: "a seccomp filter is on", uid: 0, script: "grep Seccomp: /proc/self/status", want: "2"},
		{name: "sysctls are read-only", uid: 0, script: "echo 1 >/proc/sys/kernel/panic", want: "ead-only", fails: true},
		{name: "what is bound is read-only", uid: 0, script: "touch /.own/bound/x", want: "ead-only", fails: true},
		{name: "nothing can be put beside it", uid: 0, script: "touch /.own/x", want: "ead-only", fails: true},
		{name: "nor in its place", uid: 0, script: "mv /.own /other", want: "busy", fails: true},
		{name: "sysfs is read-only", uid: 0, script: "touch /sys/x", want: "ead-only", fails: true},
		{name: "the machine's interrupts are masked", uid: 0, script: "wc -c </proc/interrupts", want: "0"},
		{name: "the route table has loopback only", uid: 0, script: "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '", want: "lo"},
		{name: "it sees its own processes only", uid: 0, script: "ls /proc | grep -c '^[0-9]' ; cat /proc/1/comm", want: "sleep"},
		{name: "it sees no path of the host's cgroups", uid: 0, script: "cat /proc/self/cgroup | grep -c sandgate; true", want: "0"},
		{name: "its host name is its own", uid: 0, script: "cat /proc/sys/kernel/hostname", want: "box"},
		{name: "what it prints is no file of the machine", uid: 0, script: "readlink /proc/1/fd/1 /proc/1/fd/2 | sort -u | cut -d' ' -f1", want: "/memfd:output", exact: true},
		{name: "what it prints is bounded", uid: 0, script: "head -c 1000000 /dev/zero >>/proc/1/fd/1", want: "", fails: true},
		{name: "processes are limited", uid: 0, script: "for i in $(seq 100); do sleep 5 & done 2>&1; wait", want: "fork", fails: false},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := w.sh(t, c.uid, c.script)
			require.Contains(t, out, c.want)
			if c.exact {
				require.Equal(t, c.want, out)
			}
			if c.fails {
				require.Error(t, err, out)
			}
		})
	}
	_, err := os.Stat("/usr/local/planted")
	require.ErrorIs(t, err, os.ErrNotExist, "what is written below /usr stays in the container")
}

func TestTheHostHasNoMountOfARunningContainer(t *testing.T) {
	w := start(t, Limits{})
	text, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(text), w.dir)
}

func TestTooMuchMemoryEndsTheProcessThatWantsIt(t *testing.T) {
	w := start(t, Limits{Memory: 64 << 20})
	_, err := w.sh(t, 1000, "head -c 200000000 /dev/zero | tail")
	require.Error(t, err)
	_, err = process.Identify(w.pid)
	require.NoError(t, err, "the container lives on")
	u, err := w.Usage(w.id)
	require.NoError(t, err)
	require.Positive(t, u.CPU)
	require.Less(t, u.Memory, int64(64<<20))
}

func TestDeleteLeavesNeitherProcessNorGroup(t *testing.T) {
	w := start(t, Limits{})
	out, err := w.sh(t, 0, "setsid sleep 600 >/dev/null 2>&1 & echo ok")
	require.NoError(t, err, out)
	require.NoError(t, w.Delete(t.Context(), w.id))
	require.NoError(t, w.Delete(t.Context(), w.id), "again is fine")
	_, err = process.Identify(w.pid)
	require.ErrorIs(t, err, process.ErrGone)
	require.Empty(t, w.groups.list())
}

func TestAFailedStartSaysWhatRuncSaid(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs runc")
	}
	dir := t.TempDir()
	r, err := New(Config{Dir: filepath.Join(dir, "runc"), Group: "sandgate-test-" + strconv.Itoa(os.Getpid()), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, err)
	out, err := NewOutput()
	require.NoError(t, err)
	defer func() { require.NoError(t, out.Close()) }()
	_, err = r.Run(t.Context(), dir, Spec{ID: "x1", Root: filepath.Join(dir, "missing"), Args: []string{"true"}}, out)
	require.ErrorContains(t, err, "missing")
	require.NoError(t, r.Delete(t.Context(), "x1"))
	require.NoError(t, r.Close())
}

func TestAContainerMadePatientlyIsHurriedInTheEnd(t *testing.T) {
	w := start(t, Limits{})
	nice := func() string {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(w.pid) + "/stat")
		require.NoError(t, err)
		return strings.Fields(string(text[strings.LastIndex(string(text), ") ")+2:]))[16]
	}
	require.Equal(t, "10", nice())
	w.Hurry(w.id)
	require.Equal(t, "0", nice())
}
