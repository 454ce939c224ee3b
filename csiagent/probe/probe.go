package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrHung is a file system that did not answer in time.
	ErrHung = errors.New("file system hangs")
	// ErrType is a directory of another file system type than the one that was expected.
	ErrType = errors.New("not the expected file system")
)

// DefaultTimeout bounds a probe whose Prober names no other limit.
const DefaultTimeout = 3 * time.Second

// reapGrace is how long a killed process may take to end before it is counted as stuck and left to its goroutine.
const reapGrace = 200 * time.Millisecond

// Prober starts probe processes. Fill it, then use it from any number of goroutines; do not copy it.
type Prober struct {
	// Command is the program, and the arguments before ours, whose main calls Main: {"/proc/self/exe", "probe"}.
	Command []string
	// Timeout bounds each Read; DefaultTimeout when zero. A context that ends sooner wins.
	Timeout time.Duration

	mu    sync.Mutex
	stuck map[question]int // processes that were killed and have not ended, since the kernel does not let them go
}

// question is what a process asks of a file system: where writing back hangs, reads may be answered.
type question struct {
	system uint64
	act    string
}

// Read checks that dir is on a file system of type fstype (any, when empty) and lists its first entries.
func (p *Prober) Read(ctx context.Context, dir *os.File, fstype string) error {
	timeout := p.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.run(ctx, dir, actRead, fstype)
}

// Sync writes back what the file system of dir has not written yet. Only ctx bounds it.
func (p *Prober) Sync(ctx context.Context, dir *os.File) error {
	return p.run(ctx, dir, actSync)
}

// Seal makes the file system of dir, the root of a mount, read-only in every mount namespace, with everything written back. unix.EBUSY
// says that somebody has a file of it open for writing. Only ctx bounds it.
func (p *Prober) Seal(ctx context.Context, dir *os.File) error {
	return p.run(ctx, dir, actSeal)
}

func (p *Prober) run(ctx context.Context, dir *os.File, args ...string) error {
	if len(p.Command) == 0 {
		return errors.New("probe: no command configured")
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: no time left to ask it", ErrHung)
	}
	system, err := device(dir)
	if err != nil {
		return err
	}
	asked := question{system, args[0]}
	if p.holds(asked, 0) > 0 { // another process would hang there too, and add to the memory that nobody can free
		return fmt.Errorf("%w: an earlier process still waits for its answer", ErrHung)
	}
	cmd := exec.Command(p.Command[0], append(p.Command[1:len(p.Command):len(p.Command)], args...)...)
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if _, err := cmd.StdinPipe(); err != nil { // closed with this process, which may be killed before it kills the other one
		return fmt.Errorf("start probe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start probe: %w", err)
	}
	var end error
	done := make(chan struct{}) // its goroutine ends with the process, which a stuck kernel may delay
	go func() {
		end = cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
		return verdict(end)
	case <-ctx.Done():
	}
	_ = cmd.Process.Kill()
	p.reap(done, asked)
	return fmt.Errorf("%w: no answer in time", ErrHung)
}

// reap waits briefly for a killed process; one that stays is counted until it ends.
func (p *Prober) reap(done <-chan struct{}, asked question) {
	grace := time.NewTimer(reapGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
		p.holds(asked, 1)
		go func() { <-done; p.holds(asked, -1) }()
	}
}

// holds says how many processes wait for an answer to q, after more have come.
func (p *Prober) holds(q question, more int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.stuck[q] + more
	if n == 0 {
		delete(p.stuck, q)
		return 0
	}
	if p.stuck == nil {
		p.stuck = map[question]int{}
	}
	p.stuck[q] = n
	return n
}

// device tells the file system of dir from others. It is not asked.
func device(dir *os.File) (uint64, error) {
	defer runtime.KeepAlive(dir)
	var st unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st); err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}

// verdict reads what Main said by its exit code: nothing else comes back, so that nothing can fill a pipe or memory.
func verdict(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit) || !exit.Exited():
		return fmt.Errorf("probe: %w", err)
	}
	switch code := exit.ExitCode(); code {
	case exitType:
		return ErrType
	case exitUsage:
		return errors.New("probe: the command does not speak the probe's protocol")
	default:
		return fmt.Errorf("read file system: %w", syscall.Errno(code))
	}
}
