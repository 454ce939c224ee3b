// Package filesystem serves a sandbox's directories over the filesystem.Filesystem wire: what lies where, changes to
// it, and watching for changes, on network mounts, too. Contents of files are not its business, nor are tokens.
package filesystem

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"syscall"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb/filesystempbconnect"
	"github.com/sandgate-dev/sandgate/injector/envd/wire"
)

// Service is the filesystem.Filesystem service.
type Service struct {
	accounts *account.Directory
	log      *slog.Logger

	beginning chan struct{} // holds one for each watch that is about to begin

	mu       sync.Mutex
	watchers map[string]*mailbox
}

var _ filesystempbconnect.FilesystemHandler = (*Service)(nil)

// New makes a Service; Close ends its watchers.
func New(accounts *account.Directory, log *slog.Logger) *Service {
	return &Service{accounts: accounts, log: log, beginning: make(chan struct{}, maxBeginning), watchers: map[string]*mailbox{}}
}

// Handler is the service's path and its HTTP handler.
func (s *Service) Handler() (string, http.Handler) {
	return filesystempbconnect.NewFilesystemHandler(s, wire.Options()...)
}

// Close ends the watchers that clients left behind.
func (s *Service) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, m := range s.watchers {
		m.close()
		delete(s.watchers, id)
	}
}

// locate says who asks and which path is meant.
func (s *Service) locate(h http.Header, path string) (account.Account, string, error) {
	who, err := s.accounts.Caller(h)
	if err != nil {
		return who, "", connect.NewError(connect.CodeUnauthenticated, err)
	}
	full, err := s.accounts.Resolve(path, who)
	if err != nil {
		return who, "", connect.NewError(connect.CodeInvalidArgument, err)
	}
	return who, full, nil
}

// fault gives an error of the file system its code on the wire.
func fault(err error) error {
	code := connect.CodeInternal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = connect.CodeNotFound
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		code = connect.CodeInvalidArgument
	case errors.Is(err, syscall.ELOOP):
		code = connect.CodeFailedPrecondition
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		code = connect.CodeResourceExhausted
	case errors.Is(err, fs.ErrPermission):
		code = connect.CodePermissionDenied
	}
	return connect.NewError(code, err)
}
