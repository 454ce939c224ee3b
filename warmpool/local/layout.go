package local

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/local/rootfs"
)

// layout is the state directory: where everything of this backend lies.
type layout string

func (l layout) runc() string                         { return filepath.Join(string(l), "runc") }
func (l layout) programs() string                     { return filepath.Join(string(l), "bin") }
func (l layout) etc() string                          { return filepath.Join(string(l), "etc") }
func (l layout) sandboxes() string                    { return filepath.Join(string(l), "sandboxes") }
func (l layout) sandbox(id warmpool.ID) string        { return filepath.Join(l.sandboxes(), string(id)) }
func (l layout) volumes() string                      { return filepath.Join(string(l), "volumes") }
func (l layout) volumesOf(id warmpool.ID) string      { return filepath.Join(l.volumes(), string(id)) }
func (l layout) part(id warmpool.ID, p string) string { return filepath.Join(l.sandbox(id), p) }

// group names the cgroup of this state directory, so that what belongs to it can be found without it.
func (l layout) group() string {
	sum := sha256.Sum256([]byte(l))
	return "sandgate-" + hex.EncodeToString(sum[:])[:12]
}

// lock takes the directory for this process. The kernel gives it back when the process ends in whatever way.
func (l layout) lock() (func(), error) {
	if err := os.MkdirAll(string(l), 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := os.Chmod(string(l), 0o700); err != nil { //nolint:gosec // directories need x
		return nil, fmt.Errorf("state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(string(l), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := flock(f, lockPatience); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		_ = f.Close()
		return nil, fmt.Errorf("state directory: process %s is using it; stop that process first", strings.TrimSpace(string(holder)))
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return sync.OnceFunc(func() { _ = f.Close() }), nil
}

// lockPatience is how long a lock may be held by nobody. A process that is killed while it starts another leaves it a copy of all
// descriptors, until that one executes its program.
const lockPatience = 2 * time.Second

func flock(f *os.File, patience time.Duration) error {
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-end.C:
			return err
		case <-tick.C:
		}
	}
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// prepare makes the directories and refuses a file system that cannot hold the private layers of sandboxes.
func (l layout) prepare() error {
	for _, dir := range []string{l.runc(), l.programs(), l.etc(), l.sandboxes(), l.volumes(), filepath.Join(string(l), "keys")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	if l == "/usr" || strings.HasPrefix(string(l), "/usr/") {
		return errors.New("state directory: it lies below /usr, which sandboxes see; choose another place")
	}
	if strings.ContainsAny(string(l), ":,\\\n") {
		return errors.New("state directory: its path holds a colon, comma, backslash or line break, which overlay mounts cannot name; choose another place")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(string(l), &st); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	switch uint32(st.Type) {
	case unix.OVERLAYFS_SUPER_MAGIC, unix.NFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.MSDOS_SUPER_MAGIC:
		return fmt.Errorf("state directory: its file system (type 0x%x) cannot hold the private layer of an overlay; choose a place on ext4, xfs, btrfs or tmpfs", uint32(st.Type))
	}
	return nil
}

// install copies programs into a directory named by their content, so that a new version never pulls the file from under a
// sandbox that runs the old one.
func (l layout) install(files map[string]string) (string, error) {
	sum := sha256.New()
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	content := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile(files[name])
		if err != nil {
			return "", fmt.Errorf("program %s for the sandboxes: %w", name, err)
		}
		content[name] = text
		_, _ = fmt.Fprintf(sum, "%s %d\n", name, len(text))
		_, _ = sum.Write(text)
	}
	return once(filepath.Join(l.programs(), hex.EncodeToString(sum.Sum(nil))[:16]), func(dir string) error {
		for name, text := range content {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.WriteFile(path, text, 0o600), os.Chmod(path, 0o755)); err != nil { //nolint:gosec // programs are executed by every user of a sandbox
				return fmt.Errorf("program %s for the sandboxes: %w", name, err)
			}
		}
		return nil
	})
}

// share makes what every sandbox's /etc begins as, in a directory named by its content, for the reason that install has.
func (l layout) share(s *rootfs.Skeleton) (string, error) {
	return once(filepath.Join(l.etc(), s.Digest()), s.WriteShared)
}

// once makes a directory and fills it, whole or not at all, unless it is there.
func once(dir string, fill func(dir string) error) (string, error) {
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	next, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	if err := fill(next); err != nil {
		return "", err
	}
	if err := errors.Join(os.Chmod(next, 0o755), os.Rename(next, dir)); err != nil { //nolint:gosec // sandboxes' users see it
		return "", fmt.Errorf("state directory: %w", err)
	}
	return dir, nil
}

// keys are those of the tokens and of the daemons' initialisation, made once.
func (l layout) keys() (token []byte, initial ed25519.PrivateKey, err error) {
	token, err = l.key("token", 32)
	if err != nil {
		return nil, nil, err
	}
	seed, err := l.key("init", ed25519.SeedSize)
	if err != nil {
		return nil, nil, err
	}
	return token, ed25519.NewKeyFromSeed(seed), nil
}

func (l layout) key(name string, size int) ([]byte, error) {
	path := filepath.Join(string(l), "keys", name)
	key, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key = make([]byte, size)
		_, _ = rand.Read(key) // never fails (crypto/rand)
		if err := errors.Join(os.WriteFile(path+".new", key, 0o600), os.Rename(path+".new", path)); err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	if len(key) != size {
		return nil, fmt.Errorf("key %s has %d bytes, expected %d; remove the file to have a new one made (running sandboxes are lost with it)", name, len(key), size)
	}
	return key, nil
}

// removeAll removes everything that this backend has made in the directory, and the directory when nobody else has anything in it.
func (l layout) removeAll() error {
	var errs []error
	for _, dir := range []string{l.sandboxes(), l.volumes(), l.runc(), l.programs(), l.etc(), filepath.Join(string(l), "keys")} {
		errs = append(errs, rootfs.Remove(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(string(l), "lock")); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := os.Remove(string(l)); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}
