package kube

import (
	"context"
	"errors"
	"fmt"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Agent is the way to the agent of one sandbox.
type Agent interface {
	Publish(ctx context.Context, m mount.Mount) error
	Unpublish(ctx context.Context, id node.Identity) error
	UnpublishIdle(ctx context.Context, id node.Identity) error
	Health(ctx context.Context, id node.Identity) (node.Health, error)
}

// Agents are the ways to all agents, with connections that are kept. Errors are those of package channel.
type Agents interface {
	// Agent is the one of the sandbox object of that UID, at host:port.
	Agent(uid, addr string) Agent
	// Warm connects ahead of time. What fails is found out when it matters.
	Warm(ctx context.Context, uid, addr string)
	// Drop closes the connection to a sandbox that is not needed any more.
	Drop(uid string)
}

// Channel are the agents that a pool of publish channels reaches.
func Channel(p *channel.Pool) Agents { return pooled{p} }

type pooled struct{ pool *channel.Pool }

// Agent implements Agents.
func (p pooled) Agent(uid, addr string) Agent { return p.pool.Agent(uid, addr) }

// Warm implements Agents.
func (p pooled) Warm(ctx context.Context, uid, addr string) { _, _ = p.pool.Warm(ctx, uid, addr) }

// Drop implements Agents.
func (p pooled) Drop(uid string) { p.pool.Drop(uid) }

// published gives an error of a publish the form that package start knows. An agent that is too old is nobody's fault who could take
// another sandbox: all of its pool are.
func published(err error) error {
	switch {
	case errors.Is(err, channel.ErrTooOld):
		return &warmpool.Error{Code: warmpool.Unavailable, Message: "volumes cannot be mounted: " + channel.ErrTooOld.Error(), Final: true, Err: err}
	case errors.Is(err, channel.ErrUnreachable):
		return fmt.Errorf("%w: %w", warmpool.ErrUnreachable, err)
	}
	return err
}
