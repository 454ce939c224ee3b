//go:build linux

package attach

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount/subdir"
)

// Everything here runs in the namespace, on paths relative to its "/".

// slash opens the root directory of the namespace, which is this thread's own since it entered.
func slash() (int, error) {
	return unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// parent opens the directory that holds the last component of rel, name. Those above are opened by next.
func parent(rel string, next subdir.Opener) (dir int, name string, err error) {
	root, err := slash()
	if err != nil {
		return -1, "", err
	}
	defer closeFD(root)
	above, name := "", rel
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		above, name = rel[:i], rel[i+1:]
	}
	dir, err = walk(root, above, next)
	return dir, name, err
}

// look returns the mount at rel, and whether rel is its root. Missing parents are ErrNotFound.
func look(rel string) (id uint64, mounted bool, err error) {
	dir, name, err := parent(rel, existing)
	if err != nil {
		return 0, false, err
	}
	defer closeFD(dir)
	id, mounted, err = identity(dir, name)
	if err != nil {
		return 0, false, fault(fmt.Sprintf("%q", name), err)
	}
	return id, mounted, nil
}

// at says whether the mount id is the one at rel.
func at(rel string, id uint64) (bool, error) {
	got, mounted, err := look(rel)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && mounted && got == id, err
}

// openRoot opens the root of the mount id at name in dir, or returns ErrNotFound.
func openRoot(dir int, name string, id uint64) (int, error) {
	fd, err := subdir.Open(dir, name, unix.O_PATH, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return -1, fault(fmt.Sprintf("%q", name), err)
	}
	got, mounted, err := identity(fd, "")
	if err == nil && (!mounted || got != id) {
		err = ErrNotFound
	}
	if err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// find returns where the mount id is: at rel, or, since a directory above it may have been renamed, where the namespace's mount
// table has it. "" says that it is nowhere.
func find(rel string, id uint64) (string, error) {
	if there, err := at(rel, id); err == nil && there {
		return rel, nil
	}
	listed, there, err := tableID(id)
	if err != nil || !there {
		return "", err
	}
	return mountPoint(listed)
}

// proc is this process's own /proc, opened before any thread enters a container: that of the container is no use, its processes are others.
var proc struct {
	sync.Mutex

	fd int // 0 until it was opened
}

func procs() (int, error) {
	proc.Lock()
	defer proc.Unlock()
	if proc.fd == 0 {
		fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open /proc: %w", err)
		}
		proc.fd = fd
	}
	return proc.fd, nil
}

// mountPoint is where the mount table that this thread can see has the mount listed, relative to "/"; "" when it has it not.
func mountPoint(listed uint64) (string, error) {
	own, err := procs()
	if err != nil {
		return "", err
	}
	fd, err := unix.Openat(own, "thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open mount table: %w", err)
	}
	f := os.NewFile(uintptr(fd), "mountinfo")
	defer func() { _ = f.Close() }()
	lines := bufio.NewReaderSize(f, longestLine)
	for begins := true; ; {
		line, cut, err := lines.ReadLine()
		if errors.Is(err, io.EOF) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("read mount table: %w", err)
		}
		if id, point, ok := parseLine(string(line)); begins && id == listed {
			if cut || len(point) > unix.PathMax {
				return "", errDeep
			}
			if ok {
				return point, nil
			}
		}
		begins = !cut
	}
}

// longestLine has room for two paths in which every character is escaped; what a container makes longer is not read.
const longestLine = 64 << 10

// errDeep is a mount that the container has moved deeper than a path can say. It is there; to walk to it could take for ever.
var errDeep = fmt.Errorf("%w: the container has moved the mount deeper than a path can say", ErrBusy)

// parseLine takes the ID and the mount point, relative to "/", from a line of mountinfo, whose fields are parted by one blank each; any
// other blank is part of a name.
func parseLine(line string) (id uint64, point string, ok bool) {
	fields := strings.SplitN(line, " ", 6)
	id, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil || len(fields) < 6 {
		return id, "", false
	}
	point, ok = strings.CutPrefix(unescape(fields[4]), "/")
	return id, point, ok
}

// unescape undoes the kernel's \ooo for blanks and backslashes.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
