package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb"
)

// Stat tells what lies at a path.
func (s *Service) Stat(_ context.Context, req *connect.Request[filesystempb.StatRequest]) (*connect.Response[filesystempb.StatResponse], error) {
	_, path, err := s.locate(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	e, err := newNames().describe(path)
	if err != nil {
		return nil, fault(err)
	}
	return connect.NewResponse(&filesystempb.StatResponse{Entry: e}), nil
}

// MakeDir makes a directory and those above it that are missing, owned by the caller's user.
func (s *Service) MakeDir(_ context.Context, req *connect.Request[filesystempb.MakeDirRequest]) (*connect.Response[filesystempb.MakeDirResponse], error) {
	who, path, err := s.locate(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return nil, connect.NewError(connect.CodeAlreadyExists, fmt.Errorf("directory already exists: %s", path))
	case err == nil:
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("path already exists but it is not a directory: %s", path))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fault(err)
	}
	if err := who.MakeDirs(path); err != nil {
		return nil, fault(err)
	}
	e, err := newNames().describe(path)
	if err != nil {
		return nil, fault(err)
	}
	return connect.NewResponse(&filesystempb.MakeDirResponse{Entry: e}), nil
}

// Move renames, and makes the directories above the destination that are missing.
func (s *Service) Move(_ context.Context, req *connect.Request[filesystempb.MoveRequest]) (*connect.Response[filesystempb.MoveResponse], error) {
	who, from, err := s.locate(req.Header(), req.Msg.GetSource())
	if err != nil {
		return nil, err
	}
	_, to, err := s.locate(req.Header(), req.Msg.GetDestination())
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(from); err != nil {
		return nil, fault(err)
	}
	if err := who.MakeDirs(filepath.Dir(to)); err != nil {
		return nil, fault(err)
	}
	if err := os.Rename(from, to); err != nil {
		return nil, fault(err)
	}
	e, err := newNames().describe(to)
	if err != nil {
		return nil, fault(err)
	}
	return connect.NewResponse(&filesystempb.MoveResponse{Entry: e}), nil
}

// Remove deletes a file, or a directory with all it holds. What is not there is removed already. The whole file
// system and a path left out are taken for mistakes.
func (s *Service) Remove(_ context.Context, req *connect.Request[filesystempb.RemoveRequest]) (*connect.Response[filesystempb.RemoveResponse], error) {
	_, path, err := s.locate(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetPath() == "" || path == "/" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("path: name what to remove; neither nothing nor / can be"))
	}
	if err := os.RemoveAll(path); err != nil {
		return nil, fault(err)
	}
	return connect.NewResponse(&filesystempb.RemoveResponse{}), nil
}
