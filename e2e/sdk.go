package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/e2e/matrix"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

// sdk runs the suites of every pin, each against a gateway of its own, and fails when a test fails, something is left behind or a
// secret shows.
func sdk(ctx context.Context, cfg config) error {
	pins, err := matrix.Pins("e2e/sdk")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.reports(), 0o755); err != nil {
		return err
	}
	var failed []error
	for _, pin := range pins {
		if (cfg.language != "" && pin.Language != cfg.language) || (cfg.pin != "" && pin.Version != cfg.pin) {
			continue
		}
		if err := suite(ctx, cfg, pin); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", pin, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

func suite(ctx context.Context, cfg config, pin matrix.SDK) (err error) {
	fmt.Printf("== SDK suite: %s\n", pin)
	w, err := world.Start(ctx, cfg.world())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWorld(ctx, w)) }()
	cmd, err := command(ctx, cfg, pin)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), w.Env()...)
	cmd.Env = append(cmd.Env, "SDK_VERSION="+pin.Version, "WORLD_SHARED="+w.Shared, "WORLD_BUCKET="+filepath.Join(w.Store.Dir, "objects", world.Bucket),
		"PYTHONDONTWRITEBYTECODE=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w; the gateway's log ends:\n%s", err, logTail(w))
	}
	return secrets(ctx, w)
}

func command(ctx context.Context, cfg config, pin matrix.SDK) (*exec.Cmd, error) {
	report := pin.File(cfg.reports())
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if pin.Language == "python" {
		args := []string{"-m", "pytest", "-p", "no:cacheprovider", "--rootdir=e2e/sdk/python", "--junitxml=" + report, "-q", "--timeout=180", "e2e/sdk/python"}
		if cfg.filter != "" {
			args = append(args, "-k", cfg.filter)
		}
		return exec.CommandContext(ctx, filepath.Join(cfg.cache, "python", pin.Version, "bin", "python"), args...), nil
	}
	files, err := filepath.Glob("e2e/sdk/js/*.test.mjs")
	if err != nil {
		return nil, err
	}
	// Node resolves imports from where a file really lies, so the suite is copied beside the SDK that it shall use.
	dir := filepath.Join(cfg.cache, "js", pin.Version)
	args := []string{"--test", "--test-concurrency=1", "--test-reporter=spec", "--test-reporter-destination=stdout", "--test-reporter=junit", "--test-reporter-destination=" + report}
	if cfg.filter != "" {
		args = append(args, "--test-name-pattern="+cfg.filter)
	}
	shared, err := filepath.Glob("e2e/sdk/js/*.mjs")
	if err != nil {
		return nil, err
	}
	for _, file := range shared {
		if err := copyFile(file, filepath.Join(dir, filepath.Base(file))); err != nil {
			return nil, err
		}
	}
	for _, file := range files {
		args = append(args, filepath.Join(dir, filepath.Base(file)))
	}
	return exec.CommandContext(ctx, node(cfg), args...), nil
}

// node is the machine's, or the one that was installed because the machine's is too old.
func node(cfg config) string {
	own := filepath.Join(cfg.cache, "node", "node_modules", ".bin", "node")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return "node"
}

// secrets keeps a sandbox with an object store's volume alive while it looks for credentials everywhere.
func secrets(ctx context.Context, w *world.World) error {
	body := `{"templateID":"base","timeout":60,"volumeMounts":[{"name":"oss-pv-sandbox-system","path":"/data-oss"}]}`
	status, answer, err := w.Call(ctx, http.MethodPost, "/v2/sandboxes", body)
	if err != nil || status != http.StatusCreated {
		return fmt.Errorf("create a sandbox to look for secrets around: %d %s %w", status, answer, err)
	}
	found, err := w.Secrets(ctx)
	if err == nil && len(found) > 0 {
		err = errors.New("secrets where they must not be:\n  " + strings.Join(found, "\n  "))
	}
	if err == nil {
		fmt.Println("no secret in an argument, environment, log, answer or readable file")
	}
	return err
}

func closeWorld(ctx context.Context, w *world.World) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
	defer cancel()
	left, err := w.Close(ctx)
	if len(left) > 0 {
		err = errors.Join(err, errors.New("left on the machine:\n  "+strings.Join(left, "\n  ")))
	}
	if err == nil {
		fmt.Println("nothing is left: no process, mount, network namespace or cgroup")
	}
	return err
}

func logTail(w *world.World) string {
	text, err := os.ReadFile(w.Log())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4096):])
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
