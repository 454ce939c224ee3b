// Package envd is the daemon inside a sandbox: commands, files, watches and terminals over E2B's envd wire, so that
// unmodified E2B SDKs work. It is written for wire compatibility with upstream's daemon and may be swapped for it.
// The package assembles the services below it behind one handler and guards them with the sandbox's access token; it
// knows neither volumes nor the cluster, opens no connection and writes no file that nobody asked for.
package envd

//go:generate buf generate

import (
	"context"
	"log/slog"
	"net/http"
	"os"

	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/files"
	"github.com/sandgate-dev/sandgate/injector/envd/filesystem"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/injector/envd/process"
	"github.com/sandgate-dev/sandgate/injector/envd/tunnel"
)

// Version is the version of upstream's envd whose features this daemon has. SDKs ask it what they may use: file
// metadata since 0.6.2, entries in watch events since 0.6.3, watches on network mounts since 0.6.4.
const Version = "0.6.4"

// Port is where the daemon listens unless told otherwise; it is part of the wire.
const Port = 49983

// Config is what the daemon is started with. Its zero value is upstream's behaviour: whoever comes first may
// initialise it, and until then everybody may use it.
type Config struct {
	// InitKey is an Ed25519 public key in base64. With it, nothing but /health is served before an /init that is
	// signed by the key's holder for SandboxID.
	InitKey   string
	SandboxID string
	// Path is where commands are searched.
	Path string
	// Container are the container's own variables, NAME=value, that commands get: its image's and its template's.
	Container []string
	Clock     clock.PassiveClock
	Log       *slog.Logger
}

// Server is the daemon.
type Server struct {
	handler    http.Handler
	processes  *process.Service
	filesystem *filesystem.Service
	idle       *idle
}

// New assembles a daemon; Close ends it.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Path == "" {
		cfg.Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	var verifier *initialize.Verifier
	if cfg.InitKey != "" {
		v, err := initialize.NewVerifier(cfg.InitKey, cfg.SandboxID, cfg.Clock)
		if err != nil {
			return nil, err
		}
		verifier = v
	}
	state := &initialize.State{}
	accounts := &account.Directory{DefaultUser: state.DefaultUser, DefaultDir: state.DefaultDir}
	if !canSwitchUser() {
		self := account.Current(os.Getuid(), os.Getgid())
		accounts.Self = &self
		cfg.Log.Warn("single-user mode: without root, or without the right to change users, all runs as the daemon's own user", "user", self.Name)
	}
	s := &Server{
		processes:  process.New(process.Config{Accounts: accounts, Env: state.Env, Container: cfg.Container, Path: cfg.Path, Clock: cfg.Clock, Log: cfg.Log}),
		filesystem: filesystem.New(accounts, cfg.Log),
		idle:       newIdle(),
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+initialize.Path, &initialize.Handler{State: state, Verifier: verifier, Version: Version, Log: cfg.Log})
	mux.Handle(s.processes.Handler())
	mux.Handle(s.filesystem.Handler())
	(&files.Handler{Accounts: accounts, Token: state.Token, Clock: cfg.Clock, Log: cfg.Log}).Register(mux)
	(&status{env: state.Env, meter: &meter{clock: cfg.Clock}}).register(mux)
	s.handler = cors(s.idle.track(guard(state, verifier != nil, tunnel.Or(crowds(withoutZeroTimeout(mux))))))
	return s, nil
}

// ServeHTTP serves the wire.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Reap collects children of processes that ended, until ctx ends. It is for a daemon that is its container's first
// process, which inherits them.
func (s *Server) Reap(ctx context.Context) { s.processes.Reap(ctx) }

// Close ends all commands and watches. Commands are asked to end and have until ctx ends to do so.
func (s *Server) Close(ctx context.Context) {
	s.filesystem.Close()
	s.processes.Close(ctx)
	s.idle.close()
}
