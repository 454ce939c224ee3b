package process

import (
	"fmt"
	"math"
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
)

// openTerminal makes a terminal of a size. The master can be waited for without holding a thread, and its reads and
// writes know deadlines; the library leaves it blocking, so it is opened a second time over the same description.
func openTerminal(size *processpb.PTY_Size, owner account.Account) (master, slave *os.File, err error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	defer func() { _ = blocking.Close() }()
	if master, err = pollable(blocking); err == nil {
		err = resize(master, size)
	}
	if err != nil {
		_ = slave.Close()
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	// A login gives the terminal to its user; without root it is the user's already.
	_ = owner.Own(slave)
	_ = slave.Chmod(0o620)
	return master, slave, nil
}

func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func resize(tty *os.File, size *processpb.PTY_Size) error {
	raw, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	ws := &unix.Winsize{Col: uint16(min(size.GetCols(), math.MaxUint16)), Row: uint16(min(size.GetRows(), math.MaxUint16))}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, ws) }); err != nil {
		return err
	}
	return failed
}
