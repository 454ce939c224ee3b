package nas

import (
	"encoding/json"
	"errors"
	"os"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// inherited is the descriptor on which Main finds its socket.
const inherited = 3

// Main is the process that mounts one export. What it does it reads from its socket; its exit code says nothing.
func Main() int { return serve(kernel) }

// mounter mounts a directory of t's server and returns the detached mount.
type mounter func(t task, path string) (int, error)

func serve(mount mounter) int {
	runtime.LockOSThread()
	unix.Umask(0) // modes are what is stated
	unix.CloseOnExec(inherited)
	buf := make([]byte, maxAnswer)
	n, err := unix.Read(inherited, buf)
	var t task
	if err != nil || json.Unmarshal(buf[:n], &t) != nil {
		return 2
	}
	go orphaned()
	var ans answer
	var rights []byte
	if fd, err := provide(t, mount); err != nil {
		ans = refusal(err)
	} else {
		rights = unix.UnixRights(fd)
	}
	text, err := json.Marshal(ans)
	if err != nil {
		return 1
	}
	if err := unix.Sendmsg(inherited, text, rights, nil, 0); err != nil {
		return 1
	}
	return 0
}

// orphaned ends this process when whoever holds the other end of its socket has ended: nobody else would, while the kernel waits for a server.
func orphaned() {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: inherited}}, -1) // a hang-up is always told
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			os.Exit(1)
		}
	}
}

// fault is an errno with the place where it turned up.
type fault struct {
	at    step
	field string
	said  string
	err   error
}

func (f *fault) Error() string { return string(f.at) + " " + f.field + ": " + f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func failed(at step, field string, err error) error {
	if err == nil {
		return nil
	}
	return &fault{at: at, field: field, err: err}
}

func refusal(err error) answer {
	var f *fault
	ans := answer{Errno: unix.EIO}
	if errors.As(err, &f) {
		ans.Step, ans.Said, ans.Field = f.at, f.said, f.field
	}
	_ = errors.As(err, &ans.Errno)
	return ans
}

// provide is the volume as a detached mount that begins at its sub path.
func provide(t task, mount mounter) (int, error) {
	root, err := export(t, mount)
	if err != nil {
		return -1, err
	}
	if err := settle(root); err != nil {
		return -1, err
	}
	dir, err := walk(root, t.Sub, t)
	if err != nil {
		return -1, err
	}
	if t.SetMode && !t.ReadOnly {
		if err := setMode(dir, t.Mode); err != nil {
			return -1, err
		}
	}
	tree, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	return tree, failed(stepTake, "", err)
}

// settle puts a detached mount into this process's own mount table, on top of "/": before Linux 6.15 only what is in one can be taken
// a part of.
func settle(root int) error {
	return failed(stepTake, "", unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// export mounts t's path. A path that is missing is made in the nearest directory above that the server lets us mount.
func export(t task, mount mounter) (int, error) {
	root, err := mount(t, t.Path)
	if err == nil || t.ReadOnly || !missing(err) {
		return root, err
	}
	for above := t.Path; above != "/"; {
		above = path.Dir(above)
		top, e := mount(t, above)
		if missing(e) {
			continue
		}
		if e != nil {
			return -1, err // what was asked is what matters
		}
		if e := makeIn(t, top, strings.Trim(strings.TrimPrefix(t.Path, above), "/")); e != nil {
			return -1, e
		}
		return mount(t, t.Path)
	}
	return -1, err
}

func makeIn(t task, top int, rel string) error {
	if err := settle(top); err != nil {
		return err
	}
	dir, err := walk(top, rel, t)
	if err != nil {
		return err
	}
	return unix.Close(dir)
}

// missing says whether a server may mean that there is no such directory: some say that access is denied.
func missing(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.at == stepMount && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES))
}

// kernel has the kernel's client mount a directory of the server. It blocks as long as the server does, and can be killed.
func kernel(t task, dir string) (int, error) {
	fs, err := unix.Fsopen("nfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, failed(stepOpen, "", err)
	}
	defer func() { _ = unix.Close(fs) }()
	for _, o := range append([][2]string{{"source", source(t.Server, dir)}}, t.Options...) {
		if o[1] == "" {
			err = unix.FsconfigSetFlag(fs, o[0])
		} else {
			err = unix.FsconfigSetString(fs, o[0], o[1])
		}
		if err != nil {
			return -1, &fault{stepOption, o[0], said(fs), err}
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, &fault{stepMount, "", said(fs), err}
	}
	attrs := t.Attrs | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if t.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	return fd, failed(stepTake, "", err)
}

// said is what the kernel has to say about the last step, on one line.
func said(fs int) string {
	var lines []string
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			return strings.Join(lines, "; ")
		}
		lines = append(lines, strings.TrimSpace(string(buf[:n])))
	}
}
