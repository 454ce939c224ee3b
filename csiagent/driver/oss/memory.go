package oss

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// logSize bounds what is kept of a client's output; what comes later is refused by the kernel.
const logSize = 64 << 10

// secretFile is a sealed file in memory without a name, mode 0600: nobody can change it, and it ends with its last reader.
func secretFile(content string) (*os.File, error) {
	f, err := memory("credentials")
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteString(content); err == nil {
		err = seal(f, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write credentials: %w", err)
	}
	return f, nil
}

// logFile is a file in memory without a name that cannot grow beyond logSize.
func logFile() (*os.File, error) {
	f, err := memory("output")
	if err != nil {
		return nil, err
	}
	if err = f.Truncate(logSize); err == nil {
		err = seal(f, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make client's log: %w", err)
	}
	return f, nil
}

func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("sandgate-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Chmod(0o600); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func seal(f *os.File, seals int) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	return err
}

// output is what the client has written so far.
func output(log *os.File) string {
	b := make([]byte, logSize)
	n, err := log.ReadAt(b, 0)
	if err != nil && n == 0 {
		return ""
	}
	return string(bytes.TrimRight(b[:n], "\x00"))
}
