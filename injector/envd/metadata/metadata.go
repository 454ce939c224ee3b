// Package metadata keeps what users say about a file in the file's extended attributes, in the name space user.e2b.
// It comes with an upload as X-Metadata-* headers and is shown wherever the file is described. The package does not
// decide who may write it.
package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	header = "X-Metadata-"
	space  = "user.e2b."
	// maxKey is what the kernel leaves of an attribute's name, maxTotal what any file system keeps in an inode.
	maxKey   = 255 - len(space)
	maxTotal = 4096
)

// FromHeader collects the X-Metadata-* headers, keys in lower case; of a header sent twice the first counts.
func FromHeader(h http.Header) (map[string]string, error) {
	out, total := map[string]string{}, 0
	for name, values := range h {
		key, ok := strings.CutPrefix(name, header)
		if !ok || key == "" || len(values) == 0 {
			continue
		}
		key = strings.ToLower(key)
		switch {
		case len(key) > maxKey:
			return nil, fmt.Errorf("invalid metadata: the key '%s' has %d bytes, at most %d are allowed", key, len(key), maxKey)
		case !printable(key), !printable(values[0]):
			return nil, fmt.Errorf("invalid metadata: key and value of '%s' must be printable US-ASCII", strings.ToValidUTF8(key, "?"))
		}
		out[key] = values[0]
		total += len(space) + len(key) + len(values[0])
	}
	if total > maxTotal {
		return nil, fmt.Errorf("invalid metadata: %d bytes in all, at most %d are allowed", total, maxTotal)
	}
	return out, nil
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}

// Write makes m the metadata of f: what it had before and m does not name goes. A file system without extended
// attributes is no error, and keeps nothing.
func Write(f *os.File, m map[string]string) error {
	had, err := list(func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) })
	if unsupported(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing metadata: %w", err)
	}
	for _, key := range had {
		if _, stays := m[key]; stays {
			continue
		}
		if err := unix.Fremovexattr(int(f.Fd()), space+key); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("removing metadata '%s': %w", key, err)
		}
	}
	for key, value := range m {
		if err := unix.Fsetxattr(int(f.Fd()), space+key, []byte(value), 0); err != nil && !unsupported(err) {
			return fmt.Errorf("writing metadata '%s': %w", key, err)
		}
	}
	return nil
}

// Read is the metadata of the file at path, nil when there is none or it cannot be had. Of a symbolic link it is the
// target's.
func Read(path string) map[string]string {
	keys, err := list(func(b []byte) (int, error) { return unix.Listxattr(path, b) })
	if err != nil || len(keys) == 0 {
		return nil
	}
	out := map[string]string{}
	buf := make([]byte, maxTotal)
	for _, key := range keys {
		if n, err := unix.Getxattr(path, space+key, buf); err == nil {
			out[key] = strings.ToValidUTF8(string(buf[:n]), "\uFFFD")
		}
	}
	return out
}

// list returns the keys in our name space. The size can grow between asking for it and reading, so it asks again.
func list(read func([]byte) (int, error)) ([]string, error) {
	for {
		size, err := read(nil)
		if err != nil || size == 0 {
			return nil, err
		}
		buf := make([]byte, size)
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var keys []string
		for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
			if key, ok := strings.CutPrefix(string(name), space); ok && key != "" {
				keys = append(keys, key)
			}
		}
		return keys, nil
	}
}

// unsupported is how file systems say that they keep no such attributes: EPERM is for special files.
func unsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM)
}
