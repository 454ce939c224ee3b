package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

var (
	_ volume.Reader   = (*Reader)(nil)
	_ volume.Rereader = (*Reader)(nil)
)

// secretAge is how long a Secret is good for without another look.
const secretAge = 10 * time.Second

// Reader brings the objects that volumes are made of: PersistentVolumes from a cache, with a look at the API server for those that
// are not in it yet, and the Secrets of one namespace by name, never as a list.
type Reader struct {
	cached, live client.Reader
	clock        clock.PassiveClock

	mu      sync.Mutex
	secrets map[string]kept
}

type kept struct {
	secret *corev1.Secret
	until  time.Time
}

// NewReader makes a Reader. cached watches PersistentVolumes; live asks the API server itself. A nil clock is the real one.
func NewReader(cached, live client.Reader, c clock.PassiveClock) (*Reader, error) {
	if cached == nil || live == nil {
		return nil, errors.New("kube: a Reader needs a cache and a client")
	}
	if c == nil {
		c = clock.RealClock{}
	}
	return &Reader{cached: cached, live: live, clock: c, secrets: map[string]kept{}}, nil
}

// PersistentVolume finds a volume by name.
func (r *Reader) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	var pv corev1.PersistentVolume
	err := r.cached.Get(ctx, client.ObjectKey{Name: name}, &pv)
	if apierrors.IsNotFound(err) { // it may have been made a moment ago
		return r.RereadPersistentVolume(ctx, name)
	}
	if err != nil {
		return nil, missing(err, "PersistentVolume %s", name)
	}
	return &pv, nil
}

// RereadPersistentVolume finds a volume by name as the API server has it now.
func (r *Reader) RereadPersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	var pv corev1.PersistentVolume
	if err := r.live.Get(ctx, client.ObjectKey{Name: name}, &pv); err != nil {
		return nil, missing(err, "PersistentVolume %s", name)
	}
	return &pv, nil
}

// PersistentVolumeClaim finds a claim by name.
func (r *Reader) PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	var pvc corev1.PersistentVolumeClaim
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &pvc); err != nil {
		return nil, missing(err, "PersistentVolumeClaim %s/%s", namespace, name)
	}
	return &pvc, nil
}

// Secret finds a Secret of the system namespace by name. One that is not there is looked for each time.
func (r *Reader) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	if namespace != v1alpha1.SystemNamespace {
		return nil, warmpool.Errorf(warmpool.NotFound, "Secrets of volumes are read in namespace %s only", v1alpha1.SystemNamespace)
	}
	now := r.clock.Now()
	r.mu.Lock()
	have := r.secrets[name]
	r.mu.Unlock()
	if have.secret != nil && now.Before(have.until) {
		return have.secret, nil
	}
	secret := &corev1.Secret{}
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret); err != nil {
		r.mu.Lock()
		delete(r.secrets, name)
		r.mu.Unlock()
		return nil, missing(err, "Secret %s/%s", namespace, name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, k := range r.secrets {
		if !now.Before(k.until) {
			delete(r.secrets, other)
		}
	}
	r.secrets[name] = kept{secret, now.Add(secretAge)}
	return secret, nil
}

// missing is a read's error in the words of volume.Reader.
func missing(err error, what string, args ...any) error {
	what = fmt.Sprintf(what, args...)
	if apierrors.IsNotFound(err) {
		return warmpool.Errorf(warmpool.NotFound, "no %s", what)
	}
	return fmt.Errorf("read %s: %w", what, err)
}
