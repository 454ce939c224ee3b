package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// outputSize bounds what a container's first process can print; the kernel refuses what comes later.
const outputSize = 64 << 10

// Output is where runc and a container's first process print. A detached process needs a descriptor of its own: a pipe of ours
// would keep it tied to us, and a file on disk could be filled and read through /proc by the tenant. So it is memory without a
// name, that cannot grow.
type Output struct {
	null, file *os.File
}

// NewOutput makes an Output; Close it when nobody needs to be told any more why the container ended. The container keeps its own.
func NewOutput() (*Output, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("memfd: %w", err), null.Close())
	}
	o := &Output{null: null, file: os.NewFile(uintptr(fd), "output")}
	err = o.file.Truncate(outputSize)
	if err == nil {
		_, err = unix.FcntlInt(o.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Tail is the end of what was printed, where programs say why they gave up; at most 500 bytes.
func (o *Output) Tail() string {
	const most = 500
	end, err := o.file.Seek(0, io.SeekCurrent) // shared with those who print
	if err != nil || end == 0 {
		return "its programs said nothing"
	}
	buf := make([]byte, min(end, most))
	n, _ := o.file.ReadAt(buf, end-int64(len(buf)))
	return fmt.Sprintf("its programs said: %q", buf[:n])
}

// Close lets go of the memory.
func (o *Output) Close() error { return errors.Join(o.null.Close(), o.file.Close()) }

var _ runc.IO = streams{}

// streams is what go-runc asks of a container's standard streams: only Set and Close mean anything for a detached one.
type streams struct{ *Output }

func (streams) Stdin() io.WriteCloser { return nil }
func (streams) Stdout() io.ReadCloser { return nil }
func (streams) Stderr() io.ReadCloser { return nil }

// Close leaves the files to their owner.
func (streams) Close() error { return nil }

// Set gives the command the files.
func (s streams) Set(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.null, s.file, s.file
}
