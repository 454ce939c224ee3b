package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb"
)

// ListDir lists a directory down to a depth, in lexical order. Symbolic links below it are not followed.
func (s *Service) ListDir(ctx context.Context, req *connect.Request[filesystempb.ListDirRequest]) (*connect.Response[filesystempb.ListDirResponse], error) {
	_, path, err := s.locate(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	root, err := directory(path)
	if err != nil {
		return nil, err
	}
	entries, err := list(ctx, path, root, int(max(1, req.Msg.GetDepth())))
	if err != nil {
		return nil, fault(err)
	}
	return connect.NewResponse(&filesystempb.ListDirResponse{Entries: entries}), nil
}

// directory is where path leads, which must be a directory.
func directory(path string) (string, error) {
	root, err := filepath.EvalSymlinks(path)
	if err != nil && strings.Contains(err.Error(), "too many links") { // the library has no value for it
		return "", fault(&os.PathError{Op: "stat", Path: path, Err: syscall.ELOOP})
	}
	if err != nil {
		return "", fault(err)
	}
	info, err := os.Stat(root)
	if err != nil {
		return "", fault(err)
	}
	if !info.IsDir() {
		return "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("path is not a directory: %s", path))
	}
	return root, nil
}

// list walks root and names what it finds as if it lay below path. What vanishes on the way is left out, and so is
// what lies in a directory below that may not be read. Of what cannot be described, as the root of a volume whose server
// has died, there is what its directory says.
func list(ctx context.Context, path, root string, depth int) (entries []*filesystempb.EntryInfo, err error) {
	known := newNames()
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && p == root:
			return err
		case err != nil, p == root:
			return nil //nolint:nilerr // see above
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		e, err := known.describe(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			e = &filesystempb.EntryInfo{Name: d.Name(), Type: kind(d.Type())}
		}
		e.Path = filepath.Join(path, rel)
		entries = append(entries, e)
		if d.IsDir() && strings.Count(rel, string(filepath.Separator))+1 >= depth {
			return fs.SkipDir
		}
		return nil
	})
	return entries, err
}
