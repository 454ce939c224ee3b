package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

type assertT = assert.CollectT

// errStays is a publish that changes nothing.
var errStays = errors.New("it stays as it is")

// fitter is every daemon and every agent.
type fitter struct {
	mu      sync.Mutex
	agents  map[types.UID]*agent
	fail    error                     // of every call to an agent
	hang    bool                      // agents do not answer
	publish func(m mount.Mount) error // of publishes
	leave   func(handle string) error // of unpublishes
	calls   []string                  // "publish pv /data"
	inits   map[types.UID]int         // by sandbox
	initErr error
}

// agent is that of one sandbox: what is mounted, and what is wrong with it.
type agent struct{ mounts map[string]string }

func newFitter() *fitter { return &fitter{agents: map[types.UID]*agent{}, inits: map[types.UID]int{}} }

func (f *fitter) agent(ctx context.Context, sb *v1alpha1.Sandbox, call string) (*agent, error) {
	f.mu.Lock()
	f.calls = append(f.calls, call)
	hang, fail := f.hang, f.fail
	a := f.agents[sb.UID]
	if a == nil {
		a = &agent{mounts: map[string]string{}}
		f.agents[sb.UID] = a
	}
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return a, fail
}

func (f *fitter) Init(_ context.Context, sb *v1alpha1.Sandbox, _ map[string]string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.initErr != nil {
		return f.initErr
	}
	f.inits[sb.UID]++
	return nil
}

func (f *fitter) Env(*v1alpha1.Sandbox) (map[string]string, error) { return nil, nil }

func (f *fitter) Publish(ctx context.Context, sb *v1alpha1.Sandbox, m mount.Mount) error {
	a, err := f.agent(ctx, sb, "publish "+m.Volume+" "+m.Target)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.publish != nil {
		if err := f.publish(m); errors.Is(err, errStays) {
			return nil
		} else if err != nil {
			return err
		}
	}
	a.mounts[m.VolumeHandle+" "+m.Target] = ""
	return nil
}

func (f *fitter) Unpublish(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) error {
	a, err := f.agent(ctx, sb, "unpublish "+m.VolumeHandle+" "+m.Path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leave != nil {
		if err := f.leave(m.VolumeHandle); err != nil {
			return err
		}
	}
	delete(a.mounts, m.VolumeHandle+" "+m.Path)
	return nil
}

func (f *fitter) Health(ctx context.Context, sb *v1alpha1.Sandbox, m v1alpha1.MountStatus) (node.Health, error) {
	a, err := f.agent(ctx, sb, "health "+m.VolumeHandle+" "+m.Path)
	if err != nil {
		return node.Health{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	message, ok := a.mounts[m.VolumeHandle+" "+m.Path]
	if !ok {
		return node.Health{}, mount.ErrNotFound
	}
	verdict, _, _ := strings.Cut(message, ":")
	switch v := node.Verdict(verdict); {
	case v == node.VerdictSlow, v == node.VerdictHung:
		return node.Health{Verdict: v, Message: message}, nil
	case message == "", strings.HasPrefix(verdict, "healed"):
		return node.Health{Verdict: node.VerdictLive, Message: message}, nil
	}
	return node.Health{Verdict: node.VerdictDead, Message: message}, nil
}

func (f *fitter) Drop(*v1alpha1.Sandbox) {}

// with changes the fitter.
func (f *fitter) with(change func(f *fitter)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// mounted are the mounts of a sandbox.
func (f *fitter) mounted(sb *v1alpha1.Sandbox) (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.agents[sb.UID]; a != nil {
		for m := range a.mounts {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

// count is how many calls there were of that beginning.
func (f *fitter) count(call string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

// volumes are the PersistentVolumes that there are.
type volumes struct {
	mu  sync.Mutex
	all map[string]*corev1.PersistentVolume
	err error

	reads int
}

func newVolumes() *volumes {
	v := &volumes{all: map[string]*corev1.PersistentVolume{}}
	for _, name := range []string{"pv-a", "pv-b", "pv-red", "pv-blue"} {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
		pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{
			Driver: mount.DriverTmpfs, VolumeHandle: "h-" + name, VolumeAttributes: map[string]string{"size": "1Mi"},
		}
		v.all[name] = pv
	}
	v.all["pv-red"].Annotations[v1alpha1.AnnotationTeams] = "red"
	v.all["pv-blue"].Annotations[v1alpha1.AnnotationTeams] = "blue"
	return v
}

func (v *volumes) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reads++
	if v.err != nil {
		return nil, v.err
	}
	if pv := v.all[name]; pv != nil {
		return pv, nil
	}
	return nil, warmpool.Errorf(warmpool.NotFound, "no PersistentVolume %s", name)
}

func (v *volumes) PersistentVolumeClaim(_ context.Context, ns, name string) (*corev1.PersistentVolumeClaim, error) {
	return nil, fmt.Errorf("no claim %s/%s", ns, name)
}

func (v *volumes) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	return nil, warmpool.Errorf(warmpool.NotFound, "no Secret %s/%s", ns, name)
}

func clientKey(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
