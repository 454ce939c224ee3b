package container

import (
	"io"
	"os/exec"

	"github.com/containerd/go-runc"
)

var _ runc.IO = ioOf{}

// ioOf is what go-runc asks of a container's standard streams: only Set and Close mean anything for a detached one.
type ioOf struct{ *output }

func (ioOf) Stdin() io.WriteCloser { return nil }
func (ioOf) Stdout() io.ReadCloser { return nil }
func (ioOf) Stderr() io.ReadCloser { return nil }

// Set gives the command the files.
func (o ioOf) Set(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.null, o.file, o.file
}
