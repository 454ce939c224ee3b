//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// containers are those of the sandbox that take mounts, as far as an agent in their pod can know of them: by the hand-overs of their
// namespaces. Each has a socket of its own, in a directory that no other container sees, and so needs not be asked who it is.
type containers struct {
	main    string                        // the first one's name; "" means the same
	by      map[string]*handover.Receiver // by name
	began   time.Time                     // when this process did
	adopted atomic.Bool                   // what an earlier process has left is known
	ending  atomic.Bool                   // this process is, and none of them was there
}

const (
	// patience is how long a call waits for the first hand-over. A starter that lives tries at least every two seconds.
	patience = 3 * time.Second
	// goodbye is how long it waits for the next one. A starter that lives is back in an instant.
	goodbye = time.Second
	// absence is how long nothing was handed over to a new agent when there is nobody left who could.
	absence = 30 * time.Second
)

// listen makes the sockets: socket itself where no names are given, for the one container that there is, else one of its name in a directory
// for each, which is made.
func listen(socket string, names []string) (*containers, error) {
	c := &containers{by: map[string]*handover.Receiver{}, began: time.Now()}
	threads := attach.NewThreads(attach.DefaultThreads)
	paths := map[string]string{"": socket}
	if len(names) > 0 {
		c.main, paths = names[0], map[string]string{}
	}
	for _, name := range names {
		if paths[name] != "" || name != filepath.Base(name) || name == "." || name == ".." {
			return nil, fmt.Errorf("containers: %q is given twice or is no name", name)
		}
		dir := filepath.Join(filepath.Dir(socket), name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil { //nolint:gosec // every user of the container connects
			return nil, fmt.Errorf("directory of hand-over socket: %w", err)
		}
		paths[name] = filepath.Join(dir, filepath.Base(socket))
	}
	for name, path := range paths {
		r, err := handover.Listen(handover.Config{Socket: path, Threads: threads})
		if err != nil {
			return nil, err
		}
		c.by[name] = r
	}
	return c, nil
}

// serve takes hand-overs until ctx ends.
func (c *containers) serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range c.by {
		group.Go(func() error { return r.Serve(ctx) })
	}
	return group.Wait()
}

// ready says whether volumes can be mounted into every one of them.
func (c *containers) ready() bool {
	for _, r := range c.by {
		if !r.State().Ready {
			return false
		}
	}
	return true
}

// alive says whether one of them runs.
func (c *containers) alive() bool {
	for _, r := range c.by {
		if r.State().Ready {
			return true
		}
	}
	return false
}

// target is the namespace of the named container; "" is the main one. It is attach.ErrGone when the container has ended, which shows in
// its starter not coming back. A tenant who ends the starter himself keeps what is mounted until his container ends, as he would by
// keeping a file open.
func (c *containers) target(ctx context.Context, name string) (node.Target, error) {
	if name == "" {
		name = c.main
	}
	receiver := c.by[name]
	if receiver == nil {
		return nil, fmt.Errorf("container %q hands no namespace over", name)
	}
	wait, over := patience, c.ending.Load() || time.Since(c.began) > absence
	switch {
	case !c.adopted.Load():
		wait, over = 0, false // nobody is served before: what cannot be seen yet is kept
	case receiver.State().Accepted > 0:
		wait, over = goodbye, true
	}
	within, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ns, err := receiver.Namespace(within)
	switch {
	case err == nil:
		return ns, nil
	case over && ctx.Err() == nil:
		return nil, fmt.Errorf("%w: its starter does not hand over any more", attach.ErrGone)
	}
	return nil, err
}
