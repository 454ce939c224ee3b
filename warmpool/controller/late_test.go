package controller_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// late keeps from the controller's cache what is written to a sandbox, from its next status on, until over says that it was long enough.
func (w *world) late(over func() bool) {
	var mu sync.Mutex
	var old *v1alpha1.Sandbox
	w.between.Store(&interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			before := &v1alpha1.Sandbox{}
			if err := w.client.Get(ctx, client.ObjectKeyFromObject(o), before); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			err := c.SubResource(name).Patch(ctx, o, p, opts...)
			if err == nil && old == nil {
				old = before
			}
			return err
		},
		Get: reads(func() *v1alpha1.Sandbox {
			mu.Lock()
			defer mu.Unlock()
			if over() {
				return nil
			}
			return old
		}),
	})
}

// reads answers with a sandbox as it was, unless that is nil.
func reads(old func() *v1alpha1.Sandbox) func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
	return func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		was := old()
		if sb, ok := o.(*v1alpha1.Sandbox); ok && was != nil && key == client.ObjectKeyFromObject(was) {
			was.DeepCopyInto(sb)
			return nil
		}
		return c.Get(ctx, key, o, opts...)
	}
}

// meanwhile changes a sandbox while a chore publishes a volume that was added to it.
func (w *world) meanwhile(sb *v1alpha1.Sandbox, add v1alpha1.Mount, change func(*v1alpha1.Sandbox)) (proceed func()) {
	begun, wait := make(chan struct{}), make(chan struct{})
	w.fitter.with(func(f *fitter) {
		f.publish = func(m mount.Mount) error {
			if m.ID == add.ID {
				f.publish = nil
				f.mu.Unlock() // others are not held up
				close(begun)
				<-wait
				f.mu.Lock()
			}
			return nil
		}
	})
	edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = append(sb.Spec.Mounts, add) })
	<-begun
	edit(w, sb, change)
	w.eventually(func(c *assertT) { require.Equal(c, sb.Generation, w.get(sb).Status.ObservedGeneration) })
	return func() { close(wait) }
}

func TestAMountThatTheCacheHasNotHeardOfYetIsNotForgotten(t *testing.T) {
	b := v1alpha1.Mount{ID: "b", Volume: "pv-b", Path: "/data/b"}
	for name, c := range map[string]struct {
		change func(sb *v1alpha1.Sandbox)
		want   []string
	}{
		"it is taken out":    {func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = sb.Spec.Mounts[:1] }, []string{"h-pv-a /data/a"}},
		"it is moved":        {func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts[1].Path = "/data/c" }, []string{"h-pv-a /data/a", "h-pv-b /data/c"}},
		"its volume changes": {func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts[1].Volume = "pv-red" }, []string{"h-pv-a /data/a", "h-pv-red /data/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(w *world) { w.times.Look = time.Hour })
			sb := w.handedOut("pool", dataA())
			w.phases(sb, "a Mounted")
			proceed := w.meanwhile(sb, b, c.change)
			looks := w.fitter.count("health h-pv-a /data/a")
			w.late(func() bool { return w.fitter.count("health h-pv-a /data/a") > looks })
			proceed()
			w.eventually(func(c2 *assertT) {
				require.Greater(c2, w.fitter.count("health h-pv-a /data/a"), looks)
				require.Equal(c2, c.want, w.fitter.mounted(sb))
			})
		})
	}
}

func TestAnotherControllerWhoseCacheIsLateForgetsNoMount(t *testing.T) {
	w := newWorld(t, func(w *world) { w.times.Look = time.Hour })
	sb := w.handedOut("pool", dataA())
	old := w.phases(sb, "a Mounted").DeepCopy()
	edit(w, sb, func(sb *v1alpha1.Sandbox) {
		sb.Spec.Mounts = append(sb.Spec.Mounts, v1alpha1.Mount{ID: "b", Volume: "pv-b", Path: "/data/b"})
	})
	w.phases(sb, "a Mounted", "b Mounted")
	w.stop()
	looks := w.fitter.count("health h-pv-a /data/a")
	w.between.Store(&interceptor.Funcs{Get: reads(func() *v1alpha1.Sandbox {
		if w.fitter.count("health h-pv-a /data/a") > looks {
			return nil
		}
		return old
	})})
	edit(w, sb, func(sb *v1alpha1.Sandbox) { sb.Spec.Mounts = sb.Spec.Mounts[:1] })
	old.Spec, old.Generation = sb.Spec, sb.Generation // and the status before b
	w.control()
	w.eventually(func(c *assertT) { require.Equal(c, []string{"h-pv-a /data/a"}, w.fitter.mounted(sb)) })
	w.phases(sb, "a Mounted")
}

func TestAMountThatWasBeingMadeWhenItsSandboxWasDeletedIsDetached(t *testing.T) {
	for name, first := range map[string][]v1alpha1.Mount{"beside another": {dataA()}, "alone": nil} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(w *world) { w.times.Look, w.times.Detach = time.Hour, 20*time.Second })
			sb := w.handedOut("pool", first...)
			w.eventually(func(c *assertT) { require.Equal(c, "running", w.get(sb).Status.State) })
			proceed := w.meanwhile(sb, v1alpha1.Mount{ID: "b", Volume: "pv-b", Path: "/data/b"}, func(sb *v1alpha1.Sandbox) {
				sb.Spec.Mounts = sb.Spec.Mounts[:len(first)]
			})
			require.NoError(t, w.client.Delete(t.Context(), sb))
			w.eventually(func(c *assertT) { require.Equal(c, "terminating", w.get(sb).Status.State) })
			proceed()
			w.gone(sb)
			require.Empty(t, w.fitter.mounted(sb))
		})
	}
}
