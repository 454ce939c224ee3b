//go:build linux

package attach_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
)

// The test binary is its own sandbox: with this argument it moves into a root of its own and does what it is told.
const boxArgument = "act-as-sandbox"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == boxArgument {
		if err := live(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// order is one thing a sandbox is told to do.
type order struct {
	Do, Path, To, Data string
	UID                int
}

type result struct{ Error, Data string }

// box is a running sandbox: mount and PID namespaces of its own, a tmpfs as root, root with all capabilities as its user.
type box struct {
	t   testing.TB
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func needsRoot(t testing.TB) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes mount namespaces and moves mounts")
	}
}

func newBox(t testing.TB) *box {
	needsRoot(t)
	cmd := exec.Command("/proc/self/exe", boxArgument, t.TempDir())
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else each sandbox takes a second to end under -race
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	runtime.LockOSThread() // the sandbox dies with the thread that made it
	require.NoError(t, cmd.Start())
	b := &box{t: t, cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out)}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait(); runtime.UnlockOSThread() })
	b.must("ping", "/")
	return b
}

func (b *box) tell(o order) result {
	b.t.Helper()
	require.NoError(b.t, b.in.Encode(o))
	var r result
	require.NoError(b.t, b.out.Decode(&r))
	return r
}

func (b *box) must(do, path string, more ...string) string {
	b.t.Helper()
	o := order{Do: do, Path: path}
	if len(more) > 0 {
		o.To, o.Data = more[0], more[0]
	}
	r := b.tell(o)
	require.Empty(b.t, r.Error, "%s %s", do, path)
	return r.Data
}

// namespace is the sandbox's, as a hand-over would bring it.
func (b *box) namespace(threads *attach.Threads) *attach.Namespace {
	b.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", b.cmd.Process.Pid))
	require.NoError(b.t, err)
	n, err := attach.NewNamespace(f, threads)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { require.NoError(b.t, n.Close()) })
	return n
}

// live is the sandbox's side.
func live(dir string) error {
	if err := enterRoot(dir); err != nil {
		return err
	}
	r := resident{open: map[string]*os.File{}}
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		data, err := r.obey(o)
		res := result{Data: data}
		if err != nil {
			res.Error = name(err)
		}
		if err := out.Encode(res); err != nil {
			return err
		}
	}
}

func enterRoot(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, d := range []string{"old", "proc", "etc", "tmp", "home"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "old"); err != nil {
		return err
	}
	return errors.Join(os.Chdir("/"), unix.Mount("proc", "/proc", "proc", 0, ""), unix.Unmount("/old", unix.MNT_DETACH), os.Remove("/old"))
}

// name is the symbol of the errno in err, which is what the tests compare.
func name(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

type resident struct {
	open map[string]*os.File
	race atomic.Bool
	idle chan int
}

func (r *resident) obey(o order) (string, error) {
	switch o.Do {
	case "ping":
		return "", nil
	case "write":
		return "", as(o.UID, func() error { return os.WriteFile(o.Path, []byte(o.Data), 0o644) })
	case "read":
		b, err := os.ReadFile(o.Path)
		return string(b), err
	case "mkdir":
		return "", os.MkdirAll(o.Path, 0o755)
	case "link":
		return "", os.Symlink(o.To, o.Path)
	case "rename":
		return "", os.Rename(o.Path, o.To)
	case "mount":
		return "", unix.Mount("tmpfs", o.Path, "tmpfs", 0, "")
	case "freeze":
		return "", unix.Mount("", o.Path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	case "device":
		return "", errors.Join(ignoreExist(unix.Mknod(o.Path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))), touch(o.Path))
	case "stat":
		var st unix.Stat_t
		err := unix.Lstat(o.Path, &st)
		return fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid), err
	case "list":
		return list(o.Path)
	case "hold":
		f, err := os.Open(o.Path)
		r.open[o.Path] = f
		return "", err
	case "release":
		return "", r.open[o.Path].Close()
	case "exchange":
		r.startRace(o.Path, o.To)
		return "", nil
	case "calm":
		r.race.Store(false)
		return fmt.Sprint(<-r.idle), nil
	}
	return "", fmt.Errorf("cannot %s", o.Do)
}

func ignoreExist(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func list(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	names := ""
	for _, e := range entries {
		names += e.Name() + " "
	}
	return names, err
}

// as runs f with the file system rights of a user.
func as(uid int, f func() error) error {
	if uid == 0 {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- errors.Join(unix.Setfsgid(uid), unix.Setfsuid(uid), f())
	}()
	return <-done
}

// startRace swaps two names as fast as it can.
func (r *resident) startRace(a, b string) {
	r.race.Store(true)
	r.idle = make(chan int)
	go func() {
		n := 0
		for ; r.race.Load(); n++ {
			_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		}
		r.idle <- n
	}()
}
