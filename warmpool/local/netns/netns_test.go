package netns

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// namespace makes a network namespace with loopback up, held by a process of its own.
func namespace(t *testing.T) *Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	n, err := Of(cmd.Process.Pid)
	require.NoError(t, err)
	t.Cleanup(n.Close)
	require.NoError(t, n.inside(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		ifr, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	}))
	return n
}

// echo serves on address inside the namespace and returns its port.
func echo(t *testing.T, n *Namespace, address string) uint16 {
	t.Helper()
	var l net.Listener
	require.NoError(t, n.inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestADialReachesAServiceThatListensOnlyOnTheLoopbackInside(t *testing.T) {
	n := namespace(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		port := echo(t, n, address)
		conn, err := n.Dial(t.Context(), port)
		require.NoError(t, err, address)
		_, err = conn.Write([]byte("hello"))
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = io.ReadFull(conn, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.NoError(t, conn.Close())
	}
}

func TestADialToAClosedPortIsRefused(t *testing.T) {
	_, err := namespace(t).Dial(t.Context(), 9)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
}

func TestADialEndsWithItsContext(t *testing.T) {
	n := namespace(t)
	// A listener whose queue is full answers no further connection.
	var fd int
	require.NoError(t, n.inside(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	defer func() { _ = unix.Close(fd) }()
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(fd, 0))
	name, err := unix.Getsockname(fd)
	require.NoError(t, err)
	port := uint16(name.(*unix.SockaddrInet4).Port)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for range 8 {
		conn, err := n.Dial(ctx, port)
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return
		}
		defer func() { _ = conn.Close() }()
	}
	t.Fatal("the full listener took every connection")
}

func TestTheMachinesOwnNamespaceIsRefused(t *testing.T) {
	_, err := Of(os.Getpid())
	require.ErrorContains(t, err, "no sandbox")
}

func BenchmarkDial(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: it makes a network namespace")
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	require.NoError(b, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	n, err := Of(cmd.Process.Pid)
	require.NoError(b, err)
	defer n.Close()
	for b.Loop() {
		fd, err := n.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		require.NoError(b, err)
		_ = unix.Close(fd)
	}
}
