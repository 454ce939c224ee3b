package clients

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/accept"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/mount/process"
)

// Source starts clients and ends them. Its methods are those of the same names of node's Driver, Explainer and Renewer.
type Source interface {
	Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error)
	Unmount(ctx context.Context, dir string, client mount.Process) error
	Explain(ctx context.Context, client mount.Process) error
	Renew(ctx context.Context, client mount.Process, m mount.Mount) error
}

// Config is what a Server needs; every field is required.
type Config struct {
	// Socket is where the agent connects, in a directory that only the two share.
	Socket string
	// Dir is where clients mount, for the moment until their mount is handed over.
	Dir    string
	Source Source
	Log    *slog.Logger
}

// Server starts clients for an agent in another container.
type Server struct {
	cfg      Config
	listener *net.UnixListener
	calls    sync.WaitGroup

	mu    sync.Mutex
	alive map[mount.Process]*os.File // descriptors of the clients
	dirs  map[string]mount.Process   // those that the agent may not have written down yet
}

// Listen makes the socket, mode 0600.
func Listen(cfg Config) (*Server, error) {
	if !filepath.IsAbs(cfg.Socket) || !filepath.IsAbs(cfg.Dir) || cfg.Source == nil || cfg.Log == nil {
		return nil, errors.New("clients: Socket, Dir (absolute paths), Source and Log are needed")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	if err := os.Remove(cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) { // of a server that has ended
		return nil, fmt.Errorf("clients: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: cfg.Socket})
	if err == nil {
		err = os.Chmod(cfg.Socket, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	return &Server{cfg: cfg, listener: l, alive: map[mount.Process]*os.File{}, dirs: map[string]mount.Process{}}, nil
}

// Serve answers until ctx ends, and then goes on until the clients have ended, for linger at the most: they end by themselves once nobody
// has their mounts and they have uploaded what was written.
func (s *Server) Serve(ctx context.Context, linger time.Duration) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go func() { // ends with ctx, which ends with the process
		<-ctx.Done()
		s.await(linger)
		stop()
		_ = s.listener.Close()
	}()
	for {
		conn, err := accept.Next(serving, s.listener)
		switch {
		case errors.Is(err, accept.ErrOver):
			s.calls.Wait()
			return nil
		case err != nil:
			return fmt.Errorf("clients: %w", err)
		}
		c := conn.(*net.UnixConn)
		s.calls.Go(func() {
			defer func() { _ = c.Close() }()
			if !ours(c) {
				s.cfg.Log.Warn("somebody else than the agent has connected")
				return
			}
			s.answer(serving, c)
		})
	}
}

// ours says whether the other end runs as the user of this process. A sandbox may run as that one, too: what keeps it away is that it does
// not see the socket's directory.
func ours(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	if e := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return false
	}
	return int(peer.Uid) == os.Geteuid()
}

func (s *Server) answer(ctx context.Context, c *net.UnixConn) {
	var r request
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	f, err := receive(c, &r)
	if f != nil {
		_ = f.Close() // nobody was asked for one
	}
	if err != nil {
		s.cfg.Log.Warn("a request that cannot be read", "error", err)
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.Do == doUnmount { // an agent that dies meanwhile wants its data all the same
		ctx, cancel = context.WithTimeout(ctx, r.Within)
		defer cancel()
	} else {
		go func() { // ends with the connection
			_, _ = c.Read(make([]byte, 1))
			cancel()
		}()
	}
	a, f := s.do(ctx, r)
	if f != nil {
		defer func() { _ = f.Close() }() // the agent has its own
	}
	if err := send(c, a, f); err != nil {
		s.cfg.Log.Warn("an answer was not taken", "do", r.Do, "error", err)
		if r.Do == doMount {
			s.sweep(context.WithoutCancel(ctx), r.Dir)
		}
	}
}

// do does what is asked.
func (s *Server) do(ctx context.Context, r request) (a answer, f *os.File) {
	var err error
	switch r.Do {
	case doMount:
		f, err = s.mount(ctx, r, &a)
	case doUnmount:
		err = s.unmount(ctx, r.Client)
	case doExplain:
		err = s.cfg.Source.Explain(ctx, r.Client)
	case doRenew:
		err = s.cfg.Source.Renew(ctx, r.Client, r.Mount.mount())
	case doOpen:
		f, err = s.open(r.Client)
	case doSweep:
		s.sweep(ctx, r.Dir)
	default:
		err = fmt.Errorf("the request %q is not known", r.Do)
	}
	if err != nil {
		a.fail(err)
	}
	return a, f
}

// mount starts a client. Its mount is nowhere but in the descriptor once it is handed over: who drops that ends the client.
func (s *Server) mount(ctx context.Context, r request, a *answer) (*os.File, error) {
	dir, err := os.MkdirTemp(s.cfg.Dir, "client-")
	if err != nil {
		return nil, err
	}
	bare := func() {
		for unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
		_ = os.Remove(dir)
	}
	src, err := s.cfg.Source.Mount(ctx, r.Mount.mount(), dir)
	if err != nil {
		bare()
		return nil, err
	}
	defer func() { _ = src.Root.Close() }()
	fd, err := unix.OpenTree(int(src.Root.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	bare()
	tree := os.NewFile(uintptr(fd), "tree") // nil when there is none
	if err == nil {
		err = s.keep(r.Dir, src.Client)
	}
	if err != nil {
		_ = tree.Close()
		over, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancel()
		return nil, errors.Join(err, s.cfg.Source.Unmount(over, dir, src.Client))
	}
	a.SubPath, a.FSType, a.Client, a.StoresOnClose = src.SubPath, src.FSType, src.Client, src.StoresOnClose
	return tree, nil
}

// keep watches a client until it ends.
func (s *Server) keep(dir string, p mount.Process) error {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("%w: the client ended at once", mount.ErrUnavailable)
	}
	// The kernel takes clients before this process when the container has no memory left. (With cgroup v2 the kubelet has it take all of the
	// container; to be exempt would need SYS_RESOURCE.)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID), []byte("1000"), 0o600); err != nil {
		s.cfg.Log.Debug("the client's place in the order of those that are killed for memory is as it was", "error", err)
	}
	f := os.NewFile(uintptr(fd), "client")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive[p], s.dirs[dir] = f, p
	return nil
}

// open returns a descriptor of a client for the agent.
func (s *Server) open(p mount.Process) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.alive[p]
	if f == nil {
		return nil, errEnded
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "client"), nil
}

var errEnded = errors.New("the client has ended")

func (s *Server) unmount(ctx context.Context, p mount.Process) error {
	s.mu.Lock()
	known := s.alive[p] != nil
	s.mu.Unlock()
	if !known { // of a server before this one, with which it has ended
		return nil
	}
	err := s.cfg.Source.Unmount(ctx, filepath.Join(s.cfg.Dir, "none"), p)
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.alive[p].Close()
	delete(s.alive, p)
	for dir, of := range s.dirs {
		if of == p {
			delete(s.dirs, dir)
		}
	}
	return err
}

// sweep ends the client of a mount that an agent was killed over.
func (s *Server) sweep(ctx context.Context, dir string) {
	s.mu.Lock()
	p, ok := s.dirs[dir]
	s.mu.Unlock()
	if !ok {
		return
	}
	now, cancel := context.WithCancel(ctx)
	cancel()
	_ = s.unmount(now, p) // that it had to be killed is what was wanted
}

// await waits until every client has ended.
func (s *Server) await(linger time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), linger)
	defer cancel()
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.alive))
	s.mu.Unlock()
	for _, f := range all {
		if !process.Wait(ctx, f) && ctx.Err() != nil { // else the agent has ended it meanwhile
			s.cfg.Log.Warn("a volume's client has not ended in time: last writes of the sandbox may be missing")
			return
		}
	}
}
