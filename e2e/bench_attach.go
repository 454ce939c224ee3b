package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

// attachment measures what putting a volume that is up into a running sandbox takes, alone: the clone and the attach.
func attachment(ctx context.Context, w *world.World, n int) (err error) {
	sandbox, err := w.Create(ctx, "bench", lifetime)
	if err != nil {
		return err
	}
	defer func() {
		if end := w.Kill(ctx, sandbox); err == nil {
			err = end
		}
	}()
	pids, err := w.Processes("envd")
	if err != nil || len(pids) == 0 {
		return fmt.Errorf("no sandbox runs: %w", err)
	}
	handle, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pids[0]))
	if err != nil {
		return err
	}
	space, err := attach.NewNamespace(handle, attach.NewThreads(attach.DefaultThreads))
	if err != nil {
		return err
	}
	defer func() { _ = space.Close() }()
	volume, err := (&tmpfs.Driver{}).Mount(ctx, mount.Mount{Attributes: map[string]string{tmpfs.AttrSize: "1Mi"}}, "")
	if err != nil {
		return err
	}
	defer func() { _ = volume.Root.Close() }()
	took := make([]time.Duration, 0, n)
	for range n {
		begin := time.Now()
		id, err := place(ctx, space, volume.Root)
		if err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		if err := space.Detach(ctx, "/bench", id, false); err != nil {
			return err
		}
	}
	report("attach alone", took)
	return nil
}

func place(ctx context.Context, space *attach.Namespace, root *os.File) (uint64, error) {
	tree, err := attach.Clone(root, attach.CloneOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tree.Close() }()
	return space.Attach(ctx, tree, "/bench", attach.AttachOptions{})
}
