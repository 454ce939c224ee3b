// Package world starts what an end-to-end run needs on one machine: a real S3 server with a bucket, a directory of manifests, and
// the real gateway on a free port with a state directory of its own. When it ends, nothing of it is left, and it proves that:
// Close reports leaks, Secrets reports secrets in the wrong place. It does not know what the suites test.
package world

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sandgate-dev/sandgate/e2e/leak"
)

// Config says where programs and manifests are.
type Config struct {
	// Bin holds sandgate, envd, starter and versitygw.
	Bin string
	// Manifests are YAML files, or directories of them, that are copied with their placeholders filled in.
	Manifests []string
	// Args are further arguments of the gateway, such as other limits.
	Args []string
}

// World is a running gateway and its object store.
type World struct {
	// URL is the gateway's, for API and data plane.
	URL string
	// Key is the API key.
	Key string
	// Dir is removed at the end; Shared below it is the directory that host-path volumes may use.
	Dir, Shared string
	// Store is the object store and its one bucket.
	Store *Store

	cfg     Config
	gateway *program
	before  leak.Snapshot
	env     map[string]string
}

// Start brings everything up and returns when the gateway serves. On an error nothing is left.
func Start(ctx context.Context, cfg Config) (*World, error) {
	dir, err := os.MkdirTemp("", "sandgate-e2e-")
	if err != nil {
		return nil, err
	}
	w := &World{Dir: dir, Shared: filepath.Join(dir, "shared"), cfg: cfg}
	if err := w.start(ctx); err != nil {
		_, closing := w.Close(context.WithoutCancel(ctx))
		return nil, errors.Join(err, closing)
	}
	return w, nil
}

func (w *World) start(ctx context.Context) error {
	// Sandboxes run as another user and must be able to walk to what is shared with them.
	if err := errors.Join(os.Chmod(w.Dir, 0o755), os.Mkdir(w.Shared, 0o755), os.Chown(w.Shared, 1000, 1000)); err != nil {
		return err
	}
	before, err := w.scope(nil).Take()
	if err != nil {
		return err
	}
	w.before = before
	if w.Store, err = StartStore(ctx, filepath.Join(w.cfg.Bin, "versitygw"), filepath.Join(w.Dir, "store")); err != nil {
		return err
	}
	if err := w.manifests(); err != nil {
		return err
	}
	return w.Serve(ctx)
}

// State is the gateway's state directory.
func (w *World) State() string { return filepath.Join(w.Dir, "state") }

// Manifests is the directory that the gateway reads, and reads again when it changes.
func (w *World) Manifests() string { return filepath.Join(w.Dir, "manifests") }

// Log is the file that holds what the gateway printed.
func (w *World) Log() string { return filepath.Join(w.Dir, "gateway.log") }

// Serve starts the gateway; again after Stop it must adopt what it left.
func (w *World) Serve(ctx context.Context) error {
	addr, err := freeAddr(ctx)
	if err != nil {
		return err
	}
	// The file of an earlier start stays: the key in it is the one that users have. A new start tells by its address.
	envFile := filepath.Join(w.State(), "env")
	args := append([]string{"run", "-addr", addr, "-state", w.State(), "-manifests", w.Manifests(),
		"-allow-host-paths", w.Shared, "-loopback-endpoints", "-bin", w.cfg.Bin}, w.cfg.Args...)
	w.gateway, err = launch(w.Log(), nil, filepath.Join(w.cfg.Bin, "sandgate"), args...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ready := func() bool { return w.readEnv(envFile) && w.URL == "http://"+addr && w.healthy(ctx) }
	if err := poll(ctx, w.gateway, ready); err != nil {
		return fmt.Errorf("the gateway does not get ready: %w\n%s", err, tail(w.Log()))
	}
	return nil
}

// Stop interrupts the gateway as Ctrl-C does and waits for it; sandboxes go on.
func (w *World) Stop(ctx context.Context) error {
	if w.gateway == nil {
		return nil
	}
	err := w.gateway.stop(ctx, os.Interrupt)
	w.gateway = nil
	return err
}

// Crash kills the gateway as a lack of memory would.
func (w *World) Crash(ctx context.Context) error {
	if err := w.gateway.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = w.gateway.wait(ctx) // killed, as asked
	w.gateway = nil
	return ctx.Err()
}

// Close ends everything, cleans the state with the product's own command and returns what is left on the machine all the same.
func (w *World) Close(ctx context.Context) (left []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ids := w.sandboxIDs()
	if stopping := w.Stop(ctx); stopping != nil {
		err = fmt.Errorf("the gateway did not stop cleanly: %w\n%s", stopping, tail(w.Log()))
	}
	if _, missing := os.Stat(w.State()); missing == nil {
		err = errors.Join(err, w.clean(ctx))
	}
	if w.Store != nil {
		err = errors.Join(err, w.Store.stop(ctx))
	}
	if w.before != nil {
		waiting, done := context.WithTimeout(ctx, 10*time.Second)
		defer done()
		var looking error
		left, looking = w.scope(ids).Wait(waiting, w.before)
		err = errors.Join(err, looking)
	}
	// With something still mounted below, removing the directory would remove what is mounted.
	if len(left) == 0 {
		err = errors.Join(err, os.RemoveAll(w.Dir))
	}
	return left, err
}

func (w *World) clean(ctx context.Context) error {
	log := filepath.Join(w.Dir, "clean.log")
	p, err := launch(log, nil, filepath.Join(w.cfg.Bin, "sandgate"), "clean", "-state", w.State())
	if err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("sandgate clean: %w\n%s", err, tail(log))
	}
	return nil
}

// scope sees what bears our directory's name or a sandbox's.
func (w *World) scope(ids []string) leak.Scope {
	return leak.Scope{Marks: append([]string{w.Dir}, ids...)}
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
