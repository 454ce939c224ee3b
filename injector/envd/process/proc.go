package process

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
)

// errGone says that the process has exited, so that its pid may be another's.
var errGone = errors.New("the process has ended")

// proc is one started command: the leader of its own session, its ends of the pipes, and who listens.
type proc struct {
	fanout
	pid     uint32
	tag     *string
	config  *processpb.ProcessConfig
	cmd     *exec.Cmd
	outputs []*source
	input   *input // nil: standard input is /dev/null
	tty     *os.File

	expire  *time.Timer // kills it at its timeout; set before run, or never
	expired atomic.Bool
	told    atomic.Bool // to end, by a signal

	life    sync.Mutex // held while it is signalled or reaped, so that no signal can reach a successor of its pid
	reaped  bool
	exited  chan struct{} // closed once it is reaped
	done    chan struct{} // closed once all output is published and end is set
	end     *processpb.ProcessEvent
	freeing sync.Once
}

// run sees a started process through. It owns everything of p.
func (s *Service) run(p *proc) {
	defer s.work.Done()
	var pumps sync.WaitGroup
	for _, out := range p.outputs {
		s.work.Add(1)
		pumps.Add(1)
		go func() {
			defer s.work.Done()
			open := out.pump(&p.fanout)
			pumps.Done()
			if open && !out.terminal && s.linger(p, out) {
				out.discard()
				s.leave(out)
			}
			_ = out.file.Close()
		}()
	}
	p.await()
	if p.expire != nil {
		p.expire.Stop()
	}
	after := linger
	if p.told.Load() {
		after = lingerTold
	}
	for _, out := range p.outputs {
		out.cut(after)
	}
	pumps.Wait()
	if p.input != nil {
		p.input.abandon()
	}
	close(p.done)
	s.retire(p)
	s.cfg.Log.Debug("process ended", "pid", p.pid, "status", p.end.GetEnd().GetStatus())
}

// await waits for the process's exit and reaps it under the lock: until then its pid is certainly its own.
func (p *proc) await() {
	for {
		err := unix.Waitid(unix.P_PID, int(p.pid), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.life.Lock()
	err := p.cmd.Wait()
	p.reaped = true
	p.life.Unlock()
	p.end = endEvent(p.cmd.ProcessState, err)
	close(p.exited)
}

func endEvent(state *os.ProcessState, err error) *processpb.ProcessEvent {
	end := &processpb.ProcessEvent_EndEvent{ExitCode: -1, Status: "unknown"}
	if state != nil {
		end.ExitCode, end.Exited, end.Status = int32(state.ExitCode()), state.Exited(), state.String()
	}
	if err != nil {
		text := err.Error()
		end.Error = &text
	}
	return &processpb.ProcessEvent{Event: &processpb.ProcessEvent_End{End: end}}
}

func (p *proc) gone() bool {
	p.life.Lock()
	defer p.life.Unlock()
	return p.reaped
}

// signal reaches the process and its group; SIGKILL reaches its whole session, with the jobs of a shell.
func (p *proc) signal(sig syscall.Signal) error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.reaped {
		return errGone
	}
	p.told.Store(true)
	err := unix.Kill(-int(p.pid), sig)
	if sig == syscall.SIGKILL {
		killSession(int(p.pid))
	}
	return err
}

// release lets go of pipes that others hold, when the daemon ends.
func (p *proc) release() {
	p.freeing.Do(func() {
		for _, out := range p.outputs {
			_ = out.file.Close()
		}
	})
}
