// Command envd is the daemon inside a sandbox. It speaks E2B's envd wire on one port and serves until SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/oklog/run"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/injector/envd"
)

// farewell is how long commands have to end after SIGTERM.
const farewell = 2 * time.Second

// spare is how many threads are kept, so that the daemon survives commands that leave no process to be had.
const spare = 16

func main() {
	// Most sandboxes wait most of the time, so a small heap counts for more than few collections.
	debug.SetGCPercent(50)
	spareThreads(spare)
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := serve(log); err != nil {
		log.Error("envd ended", "error", err)
		os.Exit(1)
	}
}

func serve(log *slog.Logger) error {
	cfg := envd.Config{Path: os.Getenv("PATH"), Log: log}
	flag.StringVar(&cfg.InitKey, "init-key", "", "Ed25519 public key in base64; only /init signed with it is believed")
	flag.StringVar(&cfg.SandboxID, "sandbox-id", "", "this sandbox's id, for which /init must be signed")
	addr := flag.String("addr", "0.0.0.0", "address to listen on")
	port := flag.Int("port", envd.Port, "port to listen on")
	inherit := flag.Bool("inherit-env", false, "commands get this program's environment, where it is the container's")
	version := flag.Bool("version", false, "print the version of the wire and exit")
	into := flag.String("install", "", "put this program and the starter into a directory and exit")
	flag.Parse()
	if *into != "" {
		return boot.Install(*into, "envd", "starter")
	}
	if *version {
		fmt.Println(envd.Version)
		return nil
	}
	if *inherit {
		cfg.Container = os.Environ()
	}
	daemon, err := envd.New(cfg)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(*addr, strconv.Itoa(*port)))
	if err != nil {
		return err
	}
	log.Info("serving", "address", listener.Addr().String(), "version", envd.Version, "keyed", cfg.InitKey != "")

	var group run.Group
	term, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	group.Add(func() error { <-term.Done(); return nil }, func(error) { stop() })
	if os.Getpid() == 1 {
		reap, stop := context.WithCancel(context.Background())
		group.Add(func() error { daemon.Reap(reap); return nil }, func(error) { stop() })
	}
	server := newServer(daemon, log)
	group.Add(func() error { return server.Serve(listener) }, func(error) { end(daemon, server) })
	if err := group.Run(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newServer sets no limit to the length of a request or an answer: streams last as long as commands do.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 30 * time.Second,
		// Longer than the gateway's, so that it is not the daemon who closes a connection in use.
		IdleTimeout:    640 * time.Second,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// end lets commands end and their streams tell of it, then closes what is still open.
func end(daemon *envd.Server, server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	daemon.Close(ctx)
	_ = server.Shutdown(ctx)
}
