//go:build linux

package handover_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
)

// The test binary is its own container: with this argument it hands itself over.
const containerArgument = "act-as-container"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == containerArgument {
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }() // ends with the test
		handover.Keep(context.Background(), os.Args[2], clock.RealClock{}, func() {})
	}
	os.Exit(m.Run())
}

// start runs a process in namespaces of its own; it ends when its stdin is closed, at the latest with the test.
func start(t *testing.T, flags uintptr, uid uint32, name string, args ...string) (pid int, stop func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes mount namespaces")
	}
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags, Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	runtime.LockOSThread() // the process dies with the thread that made it
	require.NoError(t, cmd.Start())
	ended := false
	stop = func() {
		if !ended {
			ended = true
			_ = in.Close()
			_ = cmd.Wait()
			runtime.UnlockOSThread()
		}
	}
	t.Cleanup(stop)
	return cmd.Process.Pid, stop
}

// foreign is the mount namespace of a process that does nothing.
func foreign(t *testing.T) *os.File {
	t.Helper()
	pid, _ := start(t, syscall.CLONE_NEWNS, 0, "cat")
	return open(t, fmt.Sprintf("/proc/%d/ns/mnt", pid))
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// receiver serves at a socket of its own until the test ends.
func receiver(t *testing.T, change ...func(*handover.Config)) (*handover.Receiver, string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	cfg := handover.Config{Socket: filepath.Join(dir, "handover.sock"), Threads: attach.NewThreads(2)}
	for _, c := range change {
		c(&cfg)
	}
	r, err := handover.Listen(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- r.Serve(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	return r, cfg.Socket
}

func dial(t *testing.T, socket string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func send(t *testing.T, c *net.UnixConn, data string, files ...*os.File) {
	t.Helper()
	var oob []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		oob = unix.UnixRights(fds...)
	}
	if data == "" {
		sendEmpty(t, c, oob)
		return
	}
	_, _, err := c.WriteMsgUnix([]byte(data), oob, nil)
	require.NoError(t, err)
}

// sendEmpty sends a message without a byte, which package net does not.
func sendEmpty(t *testing.T, c *net.UnixConn, oob []byte) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	hdr := unix.Msghdr{Control: &oob[0]}
	hdr.SetControllen(len(oob))
	var errno syscall.Errno
	require.NoError(t, raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&hdr)), 0)
	}))
	require.Zero(t, errno)
}

// answered says whether the receiver accepted; otherwise it has closed the connection.
func answered(t *testing.T, c *net.UnixConn) bool {
	t.Helper()
	buf := make([]byte, 1)
	n, err := c.Read(buf)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	return n == 1 && err == nil
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAHandOverIsAccepted(t *testing.T) {
	r, socket := receiver(t)
	require.False(t, r.State().Ready)
	c := dial(t, socket)
	send(t, c, "\x00", foreign(t))
	require.True(t, answered(t, c))
	ns, err := r.Namespace(soon(t))
	require.NoError(t, err)
	<-r.Ready()
	require.Equal(t, handover.State{Ready: true, Accepted: 1}, r.State())

	require.NoError(t, c.Close())
	<-ns.Gone()
	_, err = ns.Live(soon(t), "/x", 1)
	require.ErrorIs(t, err, attach.ErrGone, "the descriptor is dropped with its connection")
	require.Eventually(t, func() bool { return !r.State().Ready }, 20*time.Second, time.Millisecond)
}

func TestAHandOverIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		files func(t *testing.T) []*os.File
		data  string
		want  error
	}{
		"without a descriptor": {nil, "\x00", handover.ErrMessage},
		"of two descriptors":   {func(t *testing.T) []*os.File { f := foreign(t); return []*os.File{f, f} }, "\x00", handover.ErrMessage},
		"of 100 descriptors": {func(t *testing.T) (out []*os.File) {
			f := foreign(t)
			for range 100 {
				out = append(out, f)
			}
			return out
		}, "\x00", handover.ErrMessage},
		"in an empty message":       {func(t *testing.T) []*os.File { return []*os.File{foreign(t)} }, "", handover.ErrMessage},
		"in a long message":         {func(t *testing.T) []*os.File { return []*os.File{foreign(t)} }, "hello", handover.ErrMessage},
		"of a directory":            {func(t *testing.T) []*os.File { return []*os.File{open(t, "/")} }, "\x00", handover.ErrKind},
		"of a device":               {func(t *testing.T) []*os.File { return []*os.File{open(t, "/dev/null")} }, "\x00", handover.ErrKind},
		"of a file named like one":  {func(t *testing.T) []*os.File { return []*os.File{lookalike(t)} }, "\x00", handover.ErrKind},
		"of a network namespace":    {func(t *testing.T) []*os.File { return []*os.File{open(t, "/proc/self/ns/net")} }, "\x00", handover.ErrKind},
		"of a user namespace":       {func(t *testing.T) []*os.File { return []*os.File{open(t, "/proc/self/ns/user")} }, "\x00", handover.ErrKind},
		"of a path to a namespace":  {func(t *testing.T) []*os.File { return []*os.File{pathOnly(t)} }, "\x00", handover.ErrType},
		"of the agent's own":        {func(t *testing.T) []*os.File { return []*os.File{open(t, "/proc/self/ns/mnt")} }, "\x00", handover.ErrOwn},
		"of another user namespace": {func(t *testing.T) []*os.File { return []*os.File{usurped(t)} }, "\x00", handover.ErrUserSpace},
	} {
		t.Run(name, func(t *testing.T) {
			var files []*os.File
			if c.files != nil {
				files = c.files(t)
			}
			r, socket := receiver(t)
			conn := dial(t, socket)
			before := descriptors(t)
			send(t, conn, c.data, files...)
			require.False(t, answered(t, conn))
			require.Eventually(t, func() bool { return r.State().Refused == 1 }, 20*time.Second, time.Millisecond)
			require.ErrorIs(t, r.State().LastRefusal, c.want)
			require.False(t, r.State().Ready)
			require.Eventually(t, func() bool { return descriptors(t) <= before }, 20*time.Second, time.Millisecond, "all are closed")
		})
	}
}

// lookalike is a file whose name begins as a mount namespace's does.
func lookalike(t *testing.T) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mnt:[4026531841]")
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	return open(t, path)
}

// pathOnly is an O_PATH descriptor, on which nothing can be asked.
func pathOnly(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", foreign(t).Fd()), unix.O_PATH|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "path")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// usurped is a namespace in which its maker is root.
func usurped(t *testing.T) *os.File {
	t.Helper()
	pid, _ := start(t, 0, 0, "unshare", "-Urm", "cat")
	own, err := os.Readlink("/proc/self/ns/user")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
		mnt, merr := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		ours, _ := os.Readlink("/proc/self/ns/mnt")
		return err == nil && merr == nil && link != own && mnt != ours
	}, 20*time.Second, time.Millisecond)
	return open(t, fmt.Sprintf("/proc/%d/ns/mnt", pid))
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestASecondMessageEndsTheHandOver(t *testing.T) {
	for name, files := range map[string]bool{"empty-handed": false, "with a descriptor": true} {
		t.Run(name, func(t *testing.T) {
			r, socket := receiver(t)
			c := dial(t, socket)
			f := foreign(t)
			send(t, c, "\x00", f)
			require.True(t, answered(t, c))
			ns, err := r.Namespace(soon(t))
			require.NoError(t, err)
			if files {
				send(t, c, "\x00", f)
			} else {
				send(t, c, "\x00")
			}
			<-ns.Gone()
			require.False(t, answered(t, c))
		})
	}
}

func TestASecondHandOverIsRefusedWhileTheFirstLives(t *testing.T) {
	r, socket := receiver(t)
	first := dial(t, socket)
	send(t, first, "\x00", foreign(t))
	require.True(t, answered(t, first))
	second := dial(t, socket)
	_, _, _ = second.WriteMsgUnix([]byte{0}, unix.UnixRights(int(foreign(t).Fd())), nil)
	require.False(t, answered(t, second))
	require.Eventually(t, func() bool { return r.State().Refused == 1 }, 20*time.Second, time.Millisecond)
	require.ErrorIs(t, r.State().LastRefusal, handover.ErrTaken)
	ns, err := r.Namespace(soon(t))
	require.NoError(t, err)
	select {
	case <-ns.Gone():
		t.Fatal("the first hand-over was ended by the second")
	default:
	}
	require.NoError(t, first.Close())
	<-ns.Gone()
	f := foreign(t)
	require.Eventually(t, func() bool {
		third := dial(t, socket)
		_, _, _ = third.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
		return answered(t, third)
	}, 20*time.Second, 5*time.Millisecond, "its place is free again")
}

func TestOfManyAtOnceOneIsAccepted(t *testing.T) {
	r, socket := receiver(t, func(c *handover.Config) { c.Pending = 32 })
	f := foreign(t)
	results := make(chan bool)
	for range 16 {
		c := dial(t, socket)
		go func() {
			_, _, _ = c.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
			buf := make([]byte, 1)
			n, _ := c.Read(buf)
			results <- n == 1
		}()
	}
	won := 0
	for range 16 {
		if <-results {
			won++
		}
	}
	require.Equal(t, 1, won)
	require.EqualValues(t, 1, r.State().Accepted)
}

func TestASilentClientIsDropped(t *testing.T) {
	r, socket := receiver(t, func(c *handover.Config) { c.Silence = 20 * time.Millisecond })
	require.False(t, answered(t, dial(t, socket)))
	require.Eventually(t, func() bool { return r.State().Refused == 1 }, 20*time.Second, time.Millisecond)
	require.ErrorIs(t, r.State().LastRefusal, handover.ErrSilent)
}

func TestAFloodOfSilentClientsIsBounded(t *testing.T) {
	r, socket := receiver(t, func(c *handover.Config) { c.Pending = 4; c.Silence = 500 * time.Millisecond })
	before := descriptors(t)
	var conns []*net.UnixConn
	for range 64 {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN, "the kernel's own queue is bounded too")
			continue
		}
		conns = append(conns, c)
	}
	require.Eventually(t, func() bool { return r.State().Refused >= uint64(len(conns)-4) }, 20*time.Second, time.Millisecond)
	require.Greater(t, len(conns), 4)
	require.LessOrEqual(t, descriptors(t), before+64+4)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	f := foreign(t)
	require.Eventually(t, func() bool {
		c := dial(t, socket)
		_, _, _ = c.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
		return answered(t, c)
	}, 10*time.Second, 10*time.Millisecond, "and an honest one is served afterwards")
}

func TestAContainerThatConnectsWithoutEndIsServedSlowly(t *testing.T) {
	r, socket := receiver(t, func(c *handover.Config) { c.Pending = 2 })
	f := foreign(t)
	try := func(message func(*net.UnixConn) bool) bool {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			return false
		}
		t.Cleanup(func() { _ = c.Close() })
		return message(c)
	}
	flood := func(message func(*net.UnixConn) bool) (refusalsPerSecond float64) {
		before, begun := r.State().Refused, time.Now()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range 1000 {
			<-tick.C
			try(message)
		}
		return float64(r.State().Refused-before) / time.Since(begun).Seconds()
	}
	require.Less(t, flood(func(c *net.UnixConn) bool { _, _ = c.Write([]byte{0}); return c.Close() == nil }), 100.0, "with messages that are none")
	require.Eventually(t, func() bool {
		return try(func(c *net.UnixConn) bool {
			_, _, _ = c.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
			return answered(t, c)
		})
	}, 10*time.Second, 10*time.Millisecond)
	require.Less(t, flood(func(c *net.UnixConn) bool { return c.Close() == nil }), 50.0, "while its hand-over is in force")
	require.True(t, r.State().Ready)
}

func TestAnUnprivilegedContainerHandsItselfOver(t *testing.T) {
	r, socket := receiver(t)
	exe := copyOfTest(t)
	pid, stop := start(t, syscall.CLONE_NEWNS, 1000, exe, containerArgument, socket)
	ns, err := r.Namespace(soon(t))
	require.NoError(t, err)
	require.NotZero(t, pid)
	live, err := ns.Live(soon(t), "/nothing/there", 1<<40)
	require.NoError(t, err)
	require.False(t, live)
	stop()
	<-ns.Gone()
}

func TestAHandOverEndsWithItsSenderWhoeverHoldsItsConnection(t *testing.T) {
	r, socket := receiver(t)
	if _, err := unix.GetsockoptInt(socketOf(t, os.Getpid()), unix.SOL_SOCKET, unix.SO_PEERPIDFD); errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("needs Linux 6.5: SO_PEERPIDFD")
	}
	pid, stop := start(t, syscall.CLONE_NEWNS, 0, "/proc/self/exe", containerArgument, socket)
	dead, err := r.Namespace(soon(t))
	require.NoError(t, err)
	socketOf(t, pid) // as if it were given to another container
	stop()
	select {
	case <-dead.Gone():
	case <-soon(t).Done():
		t.Fatal("the namespace of a dead container is in force")
	}
	start(t, syscall.CLONE_NEWNS, 0, "/proc/self/exe", containerArgument, socket)
	_, err = r.Namespace(soon(t))
	require.NoError(t, err, "its successor is taken")
}

// socketOf is a descriptor of this process for the socket that another process has.
func socketOf(t *testing.T, pid int) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		process, err := unix.PidfdOpen(pid, 0)
		require.NoError(t, err)
		defer func() { _ = unix.Close(process) }()
		number, err := strconv.Atoi(e.Name())
		require.NoError(t, err)
		fd, err := unix.PidfdGetfd(process, number, 0)
		require.NoError(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	t.Fatal("the process has no socket")
	return -1
}

// copyOfTest is this binary where every user may run it.
func copyOfTest(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "handover-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	b, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	path := filepath.Join(dir, "container")
	require.NoError(t, os.WriteFile(path, b, 0o755))
	return path
}

func TestAContainerFindsARestartedAgent(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "handover.sock")
	start(t, syscall.CLONE_NEWNS, 0, "/proc/self/exe", containerArgument, socket) // before there is an agent
	for range 3 {
		r, err := handover.Listen(handover.Config{Socket: socket, Threads: attach.NewThreads(1)})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error)
		go func() { served <- r.Serve(ctx) }()
		ns, err := r.Namespace(soon(t))
		require.NoError(t, err)
		cancel()
		require.NoError(t, <-served)
		<-ns.Gone()
		_, err = r.Namespace(soon(t))
		require.ErrorIs(t, err, attach.ErrGone)
		_, err = os.Lstat(socket)
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestTheSocket(t *testing.T) {
	t.Run("is open to every user and nothing else is changed", func(t *testing.T) {
		_, socket := receiver(t)
		st, err := os.Lstat(socket)
		require.NoError(t, err)
		require.Equal(t, os.ModeSocket|0o666, st.Mode())
	})
	t.Run("may have a long path", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
		require.NoError(t, os.Mkdir(dir, 0o755))
		r, err := handover.Listen(handover.Config{Socket: filepath.Join(dir, "s"), Threads: attach.NewThreads(1)})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, r.Serve(ctx))
	})
	t.Run("replaces one that was left behind", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		require.NoError(t, err)
		l.SetUnlinkOnClose(false)
		require.NoError(t, l.Close())
		_, _ = receiver(t, func(c *handover.Config) { c.Socket = path })
	})
	t.Run("replaces nothing but a socket", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		require.NoError(t, os.Symlink("/etc/passwd", path))
		_, err := handover.Listen(handover.Config{Socket: path, Threads: attach.NewThreads(1)})
		require.ErrorContains(t, err, "is no socket")
	})
}

func TestSendSaysThatItWasRefused(t *testing.T) {
	r, socket := receiver(t)
	require.ErrorIs(t, handover.Send(soon(t), socket), handover.ErrRefused, "its namespace is the receiver's own")
	require.Eventually(t, func() bool { return r.State().Refused == 1 }, 20*time.Second, time.Millisecond)
	require.ErrorIs(t, r.State().LastRefusal, handover.ErrOwn)
	require.ErrorIs(t, handover.Send(soon(t), socket+"x"), os.ErrNotExist)
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	r, _ := receiver(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := r.Namespace(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
