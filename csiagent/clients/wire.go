package clients

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// What can be asked.
const (
	doMount   = "mount"
	doUnmount = "unmount"
	doExplain = "explain"
	doRenew   = "renew"
	doOpen    = "open"
	doSweep   = "sweep"
)

// request is all that one connection asks. Closing the connection takes it back.
type request struct {
	Do     string        `json:"do"`
	Dir    string        `json:"dir,omitempty"` // the agent's name for a mount that it is making
	Client mount.Process `json:"client,omitzero"`
	Mount  asked         `json:"mount,omitzero"`
	Within time.Duration `json:"within,omitempty"`
}

// asked is a mount that can travel: a mount.Secret does not let itself be encoded.
type asked struct {
	mount.Mount
	Secret      map[string]string
	StageSecret struct{} `json:",omitzero"`
}

func ask(m mount.Mount) asked {
	out := asked{Mount: m, Secret: m.Secret}
	out.Mount.Secret, out.Mount.StageSecret = nil, nil
	return out
}

func (a asked) mount() mount.Mount {
	m := a.Mount
	m.Secret = a.Secret
	return m
}

// answer comes with a descriptor where one was asked for: of a mount's root, or of a process.
type answer struct {
	SubPath       string        `json:"subPath,omitempty"`
	FSType        string        `json:"fsType,omitempty"`
	Client        mount.Process `json:"client,omitzero"`
	StoresOnClose bool          `json:"storesOnClose,omitempty"`
	Error         string        `json:"error,omitempty"`
	Kind          int           `json:"kind,omitempty"` // of the error, from 1; 0 is none of these
}

var kinds = []error{mount.ErrInvalid, mount.ErrDenied, mount.ErrNotFound, mount.ErrUnavailable}

// told is an error of the other side: its text has the kind's already.
type told struct {
	text string
	kind error
}

func (t told) Error() string { return t.text }
func (t told) Unwrap() error { return t.kind }

func (a *answer) fail(err error) {
	a.Error = err.Error()
	for i, k := range kinds {
		if errors.Is(err, k) {
			a.Kind = i + 1
			return
		}
	}
}

func (a answer) err() error {
	switch {
	case a.Error == "":
		return nil
	case a.Kind > 0 && a.Kind <= len(kinds):
		return told{a.Error, kinds[a.Kind-1]}
	}
	return errors.New(a.Error)
}

// longest bounds a message: a token and its company take a few KiB.
const longest = 256 << 10

// send writes v in a line, with f where that is not nil.
func send(c *net.UnixConn, v any, f *os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	b = append(b, '\n')
	n, _, err := c.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	if err != nil {
		return fmt.Errorf("clients: %w", err)
	}
	return nil
}

// receive reads a line into v, and returns the descriptor that came along, nil when none did.
func receive(c *net.UnixConn, v any) (f *os.File, err error) {
	var text []byte
	buf, rights := make([]byte, 16<<10), make([]byte, unix.CmsgSpace(4*4))
	defer func() {
		if err != nil && f != nil {
			_ = f.Close()
			f = nil
		}
	}()
	for {
		n, r, _, _, err := c.ReadMsgUnix(buf, rights)
		if got := descriptor(rights[:max(r, 0)]); got != nil {
			if f != nil {
				_ = f.Close()
			}
			f = got
		}
		text = append(text, buf[:max(n, 0)]...)
		switch {
		case len(text) > longest:
			return f, errors.New("clients: the message is too long")
		case err != nil:
			return f, fmt.Errorf("clients: %w", err)
		case bytes.HasSuffix(text, []byte{'\n'}):
			return f, json.Unmarshal(text, v)
		case n == 0:
			return f, fmt.Errorf("clients: %w", io.ErrUnexpectedEOF)
		}
	}
}

// descriptor is the first one of a control message; others are closed.
func descriptor(control []byte) (f *os.File) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if f != nil {
				_ = unix.Close(fd)
				continue
			}
			f = os.NewFile(uintptr(fd), "received")
		}
	}
	return f
}
