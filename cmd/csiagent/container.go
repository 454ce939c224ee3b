//go:build linux

package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/attach"
	"github.com/sandgate-dev/sandgate/csiagent/handover"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// container is the sandbox's main container, as far as an agent in its pod can know of it: by the hand-over of its namespace.
type container struct {
	receiver *handover.Receiver
	began    time.Time   // when this process did
	adopted  atomic.Bool // what an earlier process has left is known
}

const (
	// patience is how long a call waits for the first hand-over. A starter that lives tries at least every two seconds.
	patience = 3 * time.Second
	// goodbye is how long it waits for the next one. A starter that lives is back in an instant.
	goodbye = time.Second
	// absence is how long nothing was handed over to a new agent when there is nobody left who could.
	absence = 30 * time.Second
)

// ready says whether volumes can be mounted.
func (c *container) ready() bool { return c.receiver.State().Ready }

// target is the namespace of the named container; "" is the main one. It is attach.ErrGone when the container has ended, which shows in
// its starter not coming back. A tenant who ends the starter himself keeps what is mounted until his container ends, as he would by
// keeping a file open.
func (c *container) target(ctx context.Context, name string) (node.Target, error) {
	if name != "" {
		return nil, fmt.Errorf("container %q hands no namespace over; only the first container can have mounts", name)
	}
	wait, over := patience, time.Since(c.began) > absence
	switch {
	case !c.adopted.Load():
		wait, over = 0, false // nobody is served before: what cannot be seen yet is kept
	case c.receiver.State().Accepted > 0:
		wait, over = goodbye, true
	}
	within, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ns, err := c.receiver.Namespace(within)
	switch {
	case err == nil:
		return ns, nil
	case over && ctx.Err() == nil:
		return nil, fmt.Errorf("%w: its starter does not hand over any more", attach.ErrGone)
	}
	return nil, err
}
