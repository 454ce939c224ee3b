package kube

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/start"
)

// slack is how much of a sandbox's time its start may take without another write: the claim has set the deadline.
const slack = 2 * time.Second

// Start initialises the sandbox's daemon and publishes its mounts, together. After an error the sandbox is being deleted, and the
// controller detaches what was mounted.
func (b *Backend) Start(ctx context.Context, id warmpool.ID, st warmpool.Start) (warmpool.Sandbox, error) {
	request := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sb, err := b.find(ctx, id)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	if !b.starts.begin(id, cancel) {
		return warmpool.Sandbox{}, warmpool.Errorf(warmpool.Conflict, "sandbox %s has been started already", id)
	}
	b.visits.enter(sb.UID)
	defer b.depart(sb)
	err = b.fit(ctx, sb, st)
	if err == nil {
		sb, err = b.handOver(ctx, sb)
	}
	if err != nil {
		if ctx.Err() != nil && request.Err() == nil { // by Release
			err = notFound(id)
		}
		b.undo(ctx, sb)
		return warmpool.Sandbox{}, err
	}
	now := b.cfg.Clock.Now()
	for _, m := range sb.Spec.Mounts {
		if slices.ContainsFunc(st.Mounts, func(x mount.Mount) bool { return x.ID == m.ID }) {
			b.shelf.note(sb.UID, m, now)
		}
	}
	if !b.starts.drop(id) { // somebody has released it meanwhile
		return warmpool.Sandbox{}, notFound(id)
	}
	return b.view(sb), nil
}

// depart ends a visit at a sandbox's agent. Hardly anybody publishes there from here any more, and the connection is its agent's memory.
func (b *Backend) depart(sb *v1alpha1.Sandbox) {
	b.work.Go(func() { b.visits.leave(sb.UID, func() { b.cfg.Fitter.Drop(sb) }) })
}

func (b *Backend) fit(ctx context.Context, sb *v1alpha1.Sandbox, st warmpool.Start) error {
	result := start.Together(ctx, start.Steps{
		Mounts: st.Mounts,
		Init: func(ctx context.Context) error {
			ctx, done := b.cfg.Observer.Phase(ctx, phaseInit, "")
			err := b.cfg.Fitter.Init(ctx, sb, st.Env)
			done(err)
			return err
		},
		Publish: func(ctx context.Context, m mount.Mount) error {
			ctx, done := b.cfg.Observer.Phase(ctx, phaseMount, m.Driver)
			err := published(b.cfg.Fitter.Publish(ctx, sb, m))
			done(err)
			return err
		},
	})
	err := result.Err()
	switch {
	case errors.Is(err, initialize.ErrRefused):
		b.cfg.Log.Error("a warm sandbox belonged to somebody else already; it is ended", "sandbox", idOf(sb), "pod", sb.Namespace+"/"+sb.Name, "error", err)
		b.cfg.Observer.Compromised(sb.Labels[v1alpha1.LabelPool])
	case errors.Is(err, warmpool.ErrUnreachable):
		b.cfg.Log.Warn("sandbox unreachable", "sandbox", idOf(sb), "pod", sb.Namespace+"/"+sb.Name, "error", err)
	}
	return err
}

// handOver lets the sandbox's time begin now, where its start has taken more of it than anybody should lose: when it was made for
// its claim, or a volume was slow.
func (b *Backend) handOver(ctx context.Context, sb *v1alpha1.Sandbox) (*v1alpha1.Sandbox, error) {
	now := b.cfg.Clock.Now()
	at := now.Add(time.Duration(sb.Spec.Claim.Timeout) * time.Second)
	if has := sb.Spec.ShutdownTime; has != nil && has.Sub(at).Abs() <= slack {
		return sb, nil
	}
	moved, err := b.patchEnd(ctx, sb, deadline(at, now), "")
	if err != nil {
		return sb, err
	}
	return moved, nil
}
