//go:build linux

package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/csiagent/clients"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// clientsCommand serves FUSE clients to the agent in the container beside this one, until a signal and until they have ended.
func clientsCommand(args []string) error {
	var cfg config
	fs := flag.NewFlagSet("csiagent clients", flag.ContinueOnError)
	socket := fs.String("socket", "/clients/clients.sock", "socket at which the agent asks")
	cfg.bucketFlags(fs)
	format := fs.String("log-format", "json", "text or json")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		return err
	}
	log, err := boot.Logger(os.Stderr, *format, *level)
	if err != nil {
		return err
	}
	frugal()
	s, err := clients.Listen(clients.Config{Socket: *socket, Dir: filepath.Join(os.TempDir(), "clients"), Source: bucket(cfg, log), Log: log})
	if err != nil {
		return err
	}
	log.Info("serving FUSE clients", "socket", *socket, "version", boot.Version)
	var group boot.Group
	group.Add("clients", func(ctx context.Context) error { return s.Serve(ctx, uploadTime) })
	group.Add("rest", rest)
	return group.Run()
}

// buckets is the driver for object stores: in this process, or in the container of the FUSE clients.
func buckets(cfg config, log *slog.Logger) node.Driver {
	if cfg.Clients == "" {
		return bucket(cfg, log)
	}
	return &clients.Driver{Socket: cfg.Clients, Checks: func(m mount.Mount) error { return oss.Check(m, cfg.Endpoints) }}
}
