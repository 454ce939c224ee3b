// Package retire ends the care of sandboxes before their controller goes: what is claimed goes on without it, what is not goes, and
// nothing is left that only a controller could finish.
package retire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Config is what Run works on.
type Config struct {
	// Client reads and writes the API server without a cache.
	Client client.Client
	// Namespace is the release's, with the Deployments.
	Namespace string
	// Gateway and Controller are the Deployments' names.
	Gateway, Controller string
	// Pools are the namespaces of sandboxes.
	Pools []string
	// Patience is how long deletions under way, and pods of ours that end, are waited for each. 60 s.
	Patience time.Duration
	Log      *slog.Logger
}

// between two looks at what is waited for.
const between = 200 * time.Millisecond

// Run stops the gateway, lets the controller finish the deletions under way, stops it, and then lets go of every Sandbox: unclaimed stock
// of a pool is deleted, every other one loses the finalizer and keeps its pod. Running it again changes nothing more.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	if err := cfg.stop(ctx, cfg.Gateway); err != nil {
		return err
	}
	if err := cfg.await(ctx, "deleted sandboxes to end", cfg.noneEnding); err != nil {
		cfg.Log.Warn("goes on without", "error", err) // the controller may be dead: that must not keep anybody from uninstalling
	}
	if err := cfg.stop(ctx, cfg.Controller); err != nil {
		return err
	}
	return cfg.letGo(ctx)
}

// stop scales a Deployment to zero and waits for its pods to be gone.
func (cfg Config) stop(ctx context.Context, name string) error {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: cfg.Namespace, Name: name}}
	none := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`))
	err := cfg.Client.SubResource("scale").Patch(ctx, d, none, client.WithSubResourceBody(&autoscalingv1.Scale{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("stop Deployment %s: %w", name, err)
	}
	cfg.Log.Info("stopped", "deployment", name)
	return cfg.await(ctx, "pods of "+name+" to end", func(ctx context.Context) (bool, error) {
		var now autoscalingv1.Scale
		err := cfg.Client.SubResource("scale").Get(ctx, d, &now)
		return err != nil || now.Status.Replicas == 0 && cfg.gone(ctx, now.Status.Selector), client.IgnoreNotFound(err)
	})
}

// gone is whether no pod is left that the selector means: a Deployment does not count those that are ending.
func (cfg Config) gone(ctx context.Context, selector string) bool {
	ours, err := labels.Parse(selector)
	if err != nil || ours.Empty() {
		return false
	}
	var pods corev1.PodList
	err = cfg.Client.List(ctx, &pods, client.InNamespace(cfg.Namespace), client.MatchingLabelsSelector{Selector: ours})
	return err == nil && len(pods.Items) == 0
}

func (cfg Config) await(ctx context.Context, what string, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, cfg.Patience)
	defer cancel()
	tick := time.NewTicker(between)
	defer tick.Stop()
	for {
		ok, err := holds(ctx)
		if ok || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", cfg.Patience, what, ctx.Err())
		case <-tick.C:
		}
	}
}

func (cfg Config) sandboxes(ctx context.Context) (all []v1alpha1.Sandbox, err error) {
	for _, ns := range cfg.Pools {
		var list v1alpha1.SandboxList
		if err := cfg.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			return nil, fmt.Errorf("list sandboxes in %s: %w", ns, err)
		}
		all = append(all, list.Items...)
	}
	return all, nil
}

func (cfg Config) noneEnding(ctx context.Context) (bool, error) {
	all, err := cfg.sandboxes(ctx)
	return !slices.ContainsFunc(all, func(sb v1alpha1.Sandbox) bool { return sb.DeletionTimestamp != nil }), err
}

// letGo frees every Sandbox from the controller that there is no more. One that fails does not keep the others.
func (cfg Config) letGo(ctx context.Context) error {
	all, err := cfg.sandboxes(ctx)
	deleted, kept := 0, 0
	for i := range all {
		sb := &all[i]
		if stock(sb) {
			deleted++
			err = errors.Join(err, client.IgnoreNotFound(cfg.Client.Delete(ctx, sb, client.Preconditions{UID: &sb.UID})))
		} else if sb.DeletionTimestamp == nil {
			kept++
		}
		err = errors.Join(err, cfg.free(ctx, sb))
	}
	cfg.Log.Info("let go of sandboxes", "kept", kept, "deleted", deleted)
	return err
}

// stock is whether sb waits in a pool for a claim.
func stock(sb *v1alpha1.Sandbox) bool {
	owner := metav1.GetControllerOf(sb)
	return sb.Spec.Claim == nil && owner != nil && owner.Kind == "SandboxSet"
}

// free takes our finalizer off, and leaves those of others.
func (cfg Config) free(ctx context.Context, sb *v1alpha1.Sandbox) error {
	if !slices.Contains(sb.Finalizers, v1alpha1.FinalizerMounts) {
		return nil
	}
	before := sb.DeepCopy()
	sb.Finalizers = slices.DeleteFunc(sb.Finalizers, func(f string) bool { return f == v1alpha1.FinalizerMounts })
	if err := cfg.Client.Patch(ctx, sb, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("free sandbox %s/%s: %w", sb.Namespace, sb.Name, err)
	}
	return nil
}
