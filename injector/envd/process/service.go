// Package process runs a sandbox's commands and serves them over the process.Process wire: their output in order and
// whole, their input, their terminals, their end. A command lives on when its client goes, and dies with everything
// it started when it is killed. The package knows neither tokens nor files.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb/processpbconnect"
	"github.com/sandgate-dev/sandgate/injector/envd/wire"
)

// Config is what commands start with.
type Config struct {
	Accounts *account.Directory
	// Env gives the sandbox's variables, asked at each start.
	Env func() map[string]string
	// Container are variables, NAME=value, that every command gets unless something else says otherwise.
	Container []string
	// Path is where commands are searched, unless the sandbox's or the command's own variables say otherwise.
	Path  string
	Clock clock.PassiveClock
	Log   *slog.Logger
}

// Service is the process.Process service.
type Service struct {
	cfg Config

	// forking is held for reading from fork to registration, for writing by Reap: what is not registered is not ours.
	forking sync.RWMutex

	launching chan struct{} // holds one for each start that is under way

	mu      sync.Mutex
	running map[uint32]*proc
	ended   map[uint32]ending
	lingers map[*source]*proc // pipes that background children hold after their process ended
	closed  bool

	work sync.WaitGroup // one per process, and one per pipe that outlives its process
}

var _ processpbconnect.ProcessHandler = (*Service)(nil)

// New makes a Service; Close ends it.
func New(cfg Config) *Service {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Service{
		cfg: cfg, launching: make(chan struct{}, maxLaunching),
		running: map[uint32]*proc{}, ended: map[uint32]ending{}, lingers: map[*source]*proc{},
	}
}

// maxLaunching is how many starts are under way at once. One in a directory whose volume hangs keeps a thread.
const maxLaunching = 128

// Handler is the service's path and its HTTP handler.
func (s *Service) Handler() (string, http.Handler) {
	return processpbconnect.NewProcessHandler(s, wire.Options()...)
}

// ending is kept for a while after a process ended, so that a client that lost its stream at the wrong moment can
// still learn how.
type ending struct {
	tag     *string
	event   *processpb.ProcessEvent
	expires time.Time
}

const (
	keepEndings = 30 * time.Second
	maxEndings  = 512
)

func (s *Service) register(p *proc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return connect.NewError(connect.CodeUnavailable, errors.New("the sandbox is shutting down"))
	}
	// A process that takes over a pid or a tag takes over its name, too.
	delete(s.ended, p.pid)
	maps.DeleteFunc(s.ended, func(_ uint32, e ending) bool { return p.tag != nil && e.tag != nil && *e.tag == *p.tag })
	s.running[p.pid] = p
	s.work.Add(1)
	return nil
}

func (s *Service) retire(p *proc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[p.pid] != p {
		return // the pid is another's by now
	}
	delete(s.running, p.pid)
	now := s.cfg.Clock.Now()
	maps.DeleteFunc(s.ended, func(_ uint32, e ending) bool { return !now.Before(e.expires) })
	if len(s.ended) == maxEndings {
		delete(s.ended, s.oldest())
	}
	s.ended[p.pid] = ending{tag: p.tag, event: p.end, expires: now.Add(keepEndings)}
}

// oldest is the pid of the process that ended first, of those that are kept.
func (s *Service) oldest() (pid uint32) {
	first := time.Time{}
	for id, e := range s.ended {
		if first.IsZero() || e.expires.Before(first) {
			pid, first = id, e.expires
		}
	}
	return pid
}

// find names the running process of a selector. Of several with one tag, any.
func (s *Service) find(selector *processpb.ProcessSelector) (*proc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch by := selector.GetSelector().(type) {
	case *processpb.ProcessSelector_Pid:
		if p, ok := s.running[by.Pid]; ok {
			return p, nil
		}
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("process with pid %d not found", by.Pid))
	case *processpb.ProcessSelector_Tag:
		for _, p := range s.running {
			if p.tag != nil && *p.tag == by.Tag {
				return p, nil
			}
		}
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("process with tag %s not found", by.Tag))
	default:
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("process: name it by pid or by tag"))
	}
}

// findEnded names the process of a selector that ended a moment ago.
func (s *Service) findEnded(selector *processpb.ProcessSelector) (uint32, ending, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Clock.Now()
	for pid, e := range s.ended {
		byTag, isTag := selector.GetSelector().(*processpb.ProcessSelector_Tag)
		matches := isTag && e.tag != nil && *e.tag == byTag.Tag
		if !isTag {
			matches = pid == selector.GetPid()
		}
		if matches && now.Before(e.expires) {
			return pid, e, true
		}
	}
	return 0, ending{}, false
}

// List names the processes that run, in the order of their pids.
func (s *Service) List(_ context.Context, req *connect.Request[processpb.ListRequest]) (*connect.Response[processpb.ListResponse], error) {
	if _, err := s.caller(req.Header()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	res := &processpb.ListResponse{}
	for _, pid := range slices.Sorted(maps.Keys(s.running)) {
		if p := s.running[pid]; !p.gone() {
			res.Processes = append(res.Processes, &processpb.ProcessInfo{Pid: pid, Tag: p.tag, Config: p.config})
		}
	}
	return connect.NewResponse(res), nil
}

func (s *Service) caller(h http.Header) (account.Account, error) {
	a, err := s.cfg.Accounts.Caller(h)
	if err != nil {
		return a, connect.NewError(connect.CodeUnauthenticated, err)
	}
	return a, nil
}

// linger notes that a pipe outlives its process, unless the service has been closed.
func (s *Service) linger(p *proc, out *source) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.lingers[out] = p
	return true
}

func (s *Service) leave(out *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lingers, out)
}

// Close asks every process to end, kills what has not ended when ctx does, and what ended processes left in the
// background, and waits until all is reaped. No process starts after it.
func (s *Service) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	all := slices.Collect(maps.Values(s.running))
	left := maps.Clone(s.lingers)
	s.mu.Unlock()
	for _, p := range all {
		_ = p.signal(syscall.SIGTERM) // it may have ended by itself
	}
	for _, p := range all {
		select {
		case <-p.exited:
		case <-ctx.Done():
			_ = p.signal(syscall.SIGKILL)
			<-p.exited
		}
		killSession(int(p.pid)) // then nobody holds the pipes
		select {
		case <-p.done:
		case <-ctx.Done():
		}
		p.release()
	}
	for out, p := range left {
		killSession(int(p.pid))
		_ = out.file.Close()
	}
	s.work.Wait()
}
