//go:build linux

package clients_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/clients"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// source starts clients that serve nothing, when the test lets it.
type source struct {
	t       *testing.T
	asked   chan struct{} // for one
	proceed chan struct{} // closed: go on
	begun   chan mount.Process
	unmount chan mount.Process
	brief   bool // clients end at once
}

func (s *source) Mount(_ context.Context, _ mount.Mount, dir string) (mount.Source, error) {
	s.asked <- struct{}{}
	<-s.proceed
	if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
		return mount.Source{}, err
	}
	root, err := os.Open(dir)
	if err != nil {
		return mount.Source{}, err
	}
	client := exec.Command("sleep", "60")
	if err := client.Start(); err != nil {
		return mount.Source{}, err
	}
	if s.brief {
		_ = client.Process.Kill()
		_ = client.Wait()
	}
	s.t.Cleanup(func() { _ = client.Process.Kill(); _ = client.Wait() })
	p := mount.Process{PID: client.Process.Pid, Start: 1}
	s.begun <- p
	return mount.Source{Root: root, FSType: "tmpfs", Client: p}, nil
}

func (s *source) Unmount(ctx context.Context, _ string, p mount.Process) error {
	s.unmount <- p
	<-ctx.Done()
	return errors.New("it was killed")
}

func (s *source) Explain(context.Context, mount.Process) error { return nil }

func (s *source) Renew(context.Context, mount.Process, mount.Mount) error { return nil }

// begin serves a source's clients until stop is called, and then for linger.
func begin(t *testing.T, linger time.Duration) (s *source, d *clients.Driver, stop func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	s = &source{t: t, asked: make(chan struct{}, 1), proceed: make(chan struct{}), begun: make(chan mount.Process, 1), unmount: make(chan mount.Process, 1)}
	dir := t.TempDir()
	d = &clients.Driver{Socket: filepath.Join(dir, "s")}
	server, err := clients.Listen(clients.Config{Socket: d.Socket, Dir: filepath.Join(dir, "clients"), Source: s, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- server.Serve(ctx, linger) }()
	stop = func() { cancel(); require.NoError(t, <-over); over <- nil }
	t.Cleanup(stop)
	return s, d, stop
}

func TestAClientWhoseMountNobodyTakesIsEnded(t *testing.T) {
	s, d, _ := begin(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { _, err := d.Mount(ctx, mount.Mount{}, "/a"); failed <- err }()
	<-s.asked
	cancel()
	require.ErrorIs(t, <-failed, mount.ErrUnavailable)
	close(s.proceed) // the client is up after all
	require.Equal(t, <-s.begun, <-s.unmount)
}

func TestAServerThatHangsIsNotWaitedForByWhoOnlyLooks(t *testing.T) {
	d := &clients.Driver{Socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", d.Socket) // which takes connections and says nothing
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	opened, swept := make(chan error, 1), make(chan error, 1)
	began := time.Now()
	go func() { _, err := d.Open(context.Background(), mount.Process{PID: 1}); opened <- err }()
	go func() { swept <- d.Sweep(context.Background(), "/a") }()
	for _, done := range []chan error{opened, swept} {
		err := <-done
		require.ErrorIs(t, err, context.DeadlineExceeded, "it is not said to have ended")
		require.ErrorIs(t, err, mount.ErrUnavailable)
	}
	require.Less(t, time.Since(began), 30*time.Second)
}

func TestAClientWhoseContainerHasEndedHasLostWhatItHad(t *testing.T) {
	s, d, stop := begin(t, 0)
	close(s.proceed)
	src, err := d.Mount(t.Context(), mount.Mount{}, "/a")
	require.NoError(t, err)
	require.NoError(t, src.Root.Close())
	stop()
	require.ErrorIs(t, d.Unmount(t.Context(), "", src.Client), mount.ErrUnavailable)
}

func TestAServerDoesNotWaitForClientsThatTheAgentHasEndedMeanwhile(t *testing.T) {
	s, d, stop := begin(t, time.Hour)
	close(s.proceed)
	var all []mount.Process
	for _, dir := range []string{"/a", "/b"} {
		src, err := d.Mount(t.Context(), mount.Mount{}, dir)
		require.NoError(t, err)
		require.NoError(t, src.Root.Close())
		<-s.asked
		all = append(all, <-s.begun)
	}
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		require.Fail(t, "it waits for its clients")
	case <-time.After(50 * time.Millisecond):
	}
	for _, p := range all {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		require.Error(t, d.Unmount(ctx, "", p), "it was killed")
		cancel()
		<-s.unmount
	}
	<-stopped
}

func TestAClientThatEndsAtOnceLeavesNothingOpen(t *testing.T) {
	s, d, _ := begin(t, 0)
	s.brief = true
	close(s.proceed)
	trees := func() (n int) {
		all, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range all {
			if at, _ := os.Readlink(fd); at == "/" { // where a tree is that is mounted nowhere
				n++
			}
		}
		return n
	}
	before := trees()
	for range 3 {
		_, err := d.Mount(t.Context(), mount.Mount{}, "/a")
		require.ErrorIs(t, err, mount.ErrUnavailable)
		<-s.asked
		require.Equal(t, <-s.begun, <-s.unmount)
	}
	require.Equal(t, before, trees())
}

func TestAServerLivesOnWhileThereAreNoDescriptors(t *testing.T) {
	dir := t.TempDir()
	server, err := clients.Listen(clients.Config{Socket: filepath.Join(dir, "s"), Dir: filepath.Join(dir, "clients"), Source: &source{t: t}, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	c, err := net.Dial("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 3
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- server.Serve(ctx, 0) }()
	select {
	case err = <-over:
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	require.NoError(t, err, "with it all volumes would end")
	_, err = c.Write([]byte(`{"do":"explain"}` + "\n"))
	require.NoError(t, err)
	n, err := c.Read(make([]byte, 100))
	require.NoError(t, err)
	require.Positive(t, n)
	cancel()
	require.NoError(t, <-over)
}
