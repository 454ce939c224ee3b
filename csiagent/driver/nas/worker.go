package nas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// task is what the process that mounts is told. There is nothing secret in it.
type task struct {
	Server, Path, Sub string
	Options           [][2]string // of the file system; one without a value is a flag
	Attrs             int         // of the mount
	ReadOnly          bool
	Mode              uint32
	SetMode           bool
	UID, GID          uint32
}

// answer is what it says in the end. With Errno 0 the mount comes along.
type answer struct {
	Step  step
	Errno syscall.Errno
	Said  string // by the kernel, for the log
	Field string // the option that the kernel refuses, the directory that is wrong
}

// step is where the process was when it failed.
type step string

const (
	stepOpen   step = "open"   // the kernel has no NFS
	stepOption step = "option" // the kernel refuses an option
	stepMount  step = "mount"  // the server refuses the export
	stepTake   step = "take"   // the mount as a file
	stepWalk   step = "walk"   // the directories of the sub path
	stepMake   step = "make"   // a directory that is missing
	stepGive   step = "give"   // to its owner
	stepMode   step = "mode"   // of the volume's own directory
)

// errHung is a process that was killed because its time was over.
var errHung = errors.New("the server does not answer in time")

// reapGrace is how long a killed process may take to end before it is left to the kernel.
const reapGrace = 200 * time.Millisecond

// maxAnswer bounds what is read of a process that goes wrong.
const maxAnswer = 16 << 10

// run starts a process for t and waits for its answer, until ctx ends. Nothing that it has mounted outlives it but what it returns.
func run(ctx context.Context, command []string, t task) (*os.File, answer, error) {
	if len(command) == 0 {
		return nil, answer{}, errors.New("nas: no command configured")
	}
	if ctx.Err() != nil {
		return nil, answer{}, errHung
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, answer{}, err
	}
	defer func() { _ = ours.Close() }()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = []string{"GOMAXPROCS=1"}, "/", []*os.File{theirs}
	// A mount namespace of its own: whatever it mounts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: unix.CLONE_NEWNS}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, answer{}, fmt.Errorf("start the process that mounts: %w", err)
	}
	done := make(chan struct{}) // its goroutine ends with the process, which a stuck kernel may delay
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	root, ans, err := talk(ctx, ours, t)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	grace := time.NewTimer(reapGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	}
	return root, ans, err
}

// pair is a socket with two ends: ours to talk on with deadlines, theirs to hand on.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket to the process that mounts: %w", err)
	}
	end, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(end)
	_ = end.Close()
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

func talk(ctx context.Context, c *net.UnixConn, t task) (*os.File, answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request, err := json.Marshal(t)
	if err != nil {
		return nil, answer{}, err
	}
	if _, err := c.Write(request); err != nil {
		return nil, answer{}, hung(ctx, err)
	}
	text, rights := make([]byte, maxAnswer), make([]byte, unix.CmsgSpace(4))
	n, oob, _, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, answer{}, hung(ctx, err)
	}
	root, err := received(rights[:oob])
	if err != nil {
		return nil, answer{}, err
	}
	var ans answer
	err = json.Unmarshal(text[:n], &ans)
	switch {
	case err == nil && ans.Errno == 0 && root != nil:
		return root, ans, nil
	case err == nil && ans.Errno == 0:
		err = errors.New("the process that mounts has sent no mount")
	}
	if root != nil {
		_ = root.Close()
	}
	return nil, ans, err
}

func hung(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errHung
	}
	return fmt.Errorf("the process that mounts has ended without an answer: %w", err)
}

// received is the one descriptor of a control message, nil when there is none.
func received(rights []byte) (*os.File, error) {
	if len(rights) == 0 {
		return nil, nil //nolint:nilnil // a refusal brings none
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("the process that mounts has sent something else than a mount: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("the process that mounts has sent something else than a mount: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "nas"), nil
}
