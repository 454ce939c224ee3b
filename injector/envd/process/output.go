package process

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
)

const (
	firstChunk = 4 << 10
	maxChunk   = 32 << 10
	// linger is how long after a process's exit its output may still come from children that it left behind: `tee` of
	// a process substitution needs a moment, a server in the background is not waited for. (Upstream waits until its
	// timeout.) What the process itself wrote is in the pipe by then and is sent however long that takes.
	linger = 2 * time.Second
	// lingerTold is the same for a process that was told to end: its client wants no more of it.
	lingerTold = 100 * time.Millisecond
	// maxTerminal bounds what is taken out of a terminal that others keep writing to.
	maxTerminal = 256 << 10
)

// source is one stream of a process's output.
type source struct {
	file     *os.File
	terminal bool
	wrap     func([]byte) *processpb.ProcessEvent
}

// pump publishes all that comes, until the last writer closed it, or the process is gone and only its background
// children hold it open (see cut). It returns whether the source is still open.
func (s *source) pump(out *fanout) (open bool) {
	buf := make([]byte, firstChunk)
	for {
		n, err := s.file.Read(buf)
		full := n == len(buf)
		buf = s.emit(out, buf, n)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.rest(out)
			return true
		case err != nil: // EOF; EIO from a terminal without a process
			return false
		case full && len(buf) < maxChunk:
			buf = make([]byte, 2*len(buf))
		}
	}
}

// emit publishes n bytes and returns the buffer to go on with: a new one, when a subscriber keeps the old.
func (s *source) emit(out *fanout, buf []byte, n int) []byte {
	if n == 0 || len(out.current()) == 0 {
		return buf
	}
	if n < len(buf)/2 {
		out.publish(s.wrap(append([]byte(nil), buf[:n]...)))
		return buf
	}
	out.publish(s.wrap(buf[:n:n]))
	return make([]byte, len(buf))
}

// cut makes pump end soon: at once if nobody else holds the source, else after a while.
func (s *source) cut(after time.Duration) { _ = s.file.SetReadDeadline(time.Now().Add(after)) }

// rest publishes what lies in the pipe at this moment. A slow client may have kept pump waiting past the deadline,
// and the process's last words lie behind it; what a background child adds meanwhile is not waited for.
func (s *source) rest(out *fanout) {
	if s.file.SetReadDeadline(time.Time{}) != nil {
		return
	}
	limit := s.pending()
	if s.terminal {
		limit = maxTerminal // a terminal hands its queue over in small parts
	}
	for buf := make([]byte, maxChunk); limit > 0; {
		ready := min(s.pending(), limit, len(buf))
		if ready == 0 {
			return
		}
		n, err := s.file.Read(buf[:ready])
		if err != nil {
			return
		}
		limit -= n
		buf = s.emit(out, buf, n)
	}
}

// pending is how many bytes can be read without waiting.
func (s *source) pending() (n int) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if err != nil {
		return 0
	}
	return n
}

// discard reads on for those who hold the pipe after the end was sent: closing it would kill a background server at
// its next line of output.
func (s *source) discard() {
	buf := make([]byte, firstChunk)
	for {
		if _, err := s.file.Read(buf); err != nil {
			return
		}
	}
}

func stdoutEvent(b []byte) *processpb.ProcessEvent {
	return dataEvent(&processpb.ProcessEvent_DataEvent{Output: &processpb.ProcessEvent_DataEvent_Stdout{Stdout: b}})
}

func stderrEvent(b []byte) *processpb.ProcessEvent {
	return dataEvent(&processpb.ProcessEvent_DataEvent{Output: &processpb.ProcessEvent_DataEvent_Stderr{Stderr: b}})
}

func ptyEvent(b []byte) *processpb.ProcessEvent {
	return dataEvent(&processpb.ProcessEvent_DataEvent{Output: &processpb.ProcessEvent_DataEvent_Pty{Pty: b}})
}

func dataEvent(d *processpb.ProcessEvent_DataEvent) *processpb.ProcessEvent {
	return &processpb.ProcessEvent{Event: &processpb.ProcessEvent_Data{Data: d}}
}
