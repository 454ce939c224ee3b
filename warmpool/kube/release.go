package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// usageTime bounds the question to one sandbox; a list asks many.
const usageTime = 2 * time.Second

// Release ends a sandbox. It returns when the object is marked as deleted; the controller flushes and detaches its volumes and
// ends the pod after that, within its own bounds.
func (b *Backend) Release(ctx context.Context, id warmpool.ID) error {
	sb, err := b.find(ctx, id)
	if err != nil {
		return err
	}
	if err := b.delete(ctx, sb); err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			b.gone(sb)
			return notFound(id)
		}
		return unwritable(err)
	}
	b.gone(sb)
	return nil
}

// gone makes a sandbox unknown here at once, and ends its start.
func (b *Backend) gone(sb *v1alpha1.Sandbox) {
	b.shelf.release(idOf(sb))
	b.starts.drop(idOf(sb))
}

// delete marks a Sandbox as deleted, that very one.
func (b *Backend) delete(ctx context.Context, sb *v1alpha1.Sandbox) error {
	var opts []client.DeleteOption
	if sb.UID != "" {
		opts = append(opts, client.Preconditions{UID: &sb.UID})
	}
	if err := b.cfg.Client.Delete(ctx, sb, opts...); err != nil {
		return fmt.Errorf("delete sandbox %s: %w", sb.Name, err)
	}
	return nil
}

// Usage asks the sandbox what it uses now. A sandbox that does not answer has no sample.
func (b *Backend) Usage(ctx context.Context, id warmpool.ID) ([]warmpool.Usage, error) {
	sb, err := b.find(ctx, id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, usageTime)
	defer cancel()
	u, err := b.cfg.Fitter.Usage(ctx, sb)
	if err != nil {
		b.cfg.Log.Debug("no metrics of a sandbox", "sandbox", id, "error", err)
		return nil, nil // there is nothing to tell now; the daemon may be restarting
	}
	return []warmpool.Usage{u}, nil
}
