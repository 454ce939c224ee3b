package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// What a record of an Idempotency-Key consists of: a ConfigMap of the release namespace, whose name is the principal's and the key's
// digest. That it can be made only once is what keeps replicas apart.
const (
	recordPrefix   = "idempotency-"
	recordLabel    = v1alpha1.LabelIdempotency
	recordTime     = "sandgate.dev/time" // annotation: when its request began
	fieldRequest   = "request"           // digest of what was asked for
	fieldSandbox   = "sandbox"           // what was made, once it was
	recordLife     = 24 * time.Hour
	recordAttempts = 4
)

// digest is the name of a principal's key, which says nothing of either.
func (b *Backend) digest(p warmpool.Principal, key string) string {
	return b.cfg.Keys.Digest("idempotency key", p.Team+"\n"+p.Key+"\n"+key)
}

// Remember takes a principal's key for one request, or tells what an earlier one with it has made.
func (b *Backend) Remember(ctx context.Context, p warmpool.Principal, key, request string) (warmpool.Record, error) {
	if b.cfg.ReleaseNamespace == "" {
		return warmpool.Record{}, warmpool.Errorf(warmpool.Unsupported, "this gateway does not support Idempotency-Key; a repeated create makes another sandbox")
	}
	digest := b.digest(p, key)
	request = b.cfg.Keys.Digest("idempotency request", request) // it is of the caller's variables, too
	for range recordAttempts {
		made, err := b.newRecord(ctx, digest, request)
		if err == nil {
			return b.record(made), nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return warmpool.Record{}, unwritable(err)
		}
		r, err := b.known(ctx, digest, request)
		if !errors.Is(err, errAgain) {
			return r, err
		}
	}
	return warmpool.Record{}, inFlight
}

// errAgain says that what was there is gone.
var errAgain = errors.New("the record has changed")

var inFlight error = &warmpool.Error{
	Code: warmpool.Conflict, RetryAfter: time.Second, Message: "a request with this Idempotency-Key is being served; ask again when it has been",
}

func (b *Backend) newRecord(ctx context.Context, digest, request string) (*corev1.ConfigMap, error) {
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: b.cfg.ReleaseNamespace, Name: recordPrefix + digest, Labels: map[string]string{recordLabel: "true"},
			Annotations: map[string]string{recordTime: b.cfg.Clock.Now().UTC().Format(time.RFC3339Nano)},
		},
		Data: map[string]string{fieldRequest: request},
	}
	return cm, b.cfg.Client.Create(ctx, cm)
}

// known is what the record that is there says.
func (b *Backend) known(ctx context.Context, digest, request string) (warmpool.Record, error) {
	cm := &corev1.ConfigMap{}
	err := b.cfg.Client.Get(ctx, client.ObjectKey{Namespace: b.cfg.ReleaseNamespace, Name: recordPrefix + digest}, cm)
	if apierrors.IsNotFound(err) {
		return warmpool.Record{}, errAgain
	}
	if err != nil {
		return warmpool.Record{}, unwritable(err)
	}
	age := b.cfg.Clock.Since(recorded(cm))
	switch {
	case age >= recordLife:
		if err := b.cfg.Client.Delete(ctx, cm, exactly(cm)...); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return warmpool.Record{}, unwritable(err)
		}
		return warmpool.Record{}, errAgain
	case cm.Data[fieldRequest] != request:
		return warmpool.Record{}, warmpool.Errorf(warmpool.Mismatch, "this Idempotency-Key was used for another request; take a new key, or send the same request")
	case cm.Data[fieldSandbox] != "":
		return warmpool.Record{Made: warmpool.ID(cm.Data[fieldSandbox])}, nil
	case age < b.cfg.Lease:
		return warmpool.Record{}, inFlight
	}
	return b.inherit(ctx, cm, digest)
}

// inherit takes over from a request that ended without a word, as when its gateway was killed. What it may have claimed is ended.
func (b *Backend) inherit(ctx context.Context, cm *corev1.ConfigMap, digest string) (warmpool.Record, error) {
	cm.Annotations[recordTime] = b.cfg.Clock.Now().UTC().Format(time.RFC3339Nano)
	err := b.cfg.Client.Update(ctx, cm) // of the version that was read: only one inherits
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return warmpool.Record{}, inFlight
	}
	if err != nil {
		return warmpool.Record{}, unwritable(err)
	}
	for _, ns := range b.cfg.Namespaces {
		var left v1alpha1.SandboxList
		if err := b.cfg.Client.List(ctx, &left, client.InNamespace(ns), client.MatchingLabels{v1alpha1.LabelIdempotency: digest}); err != nil {
			return warmpool.Record{}, unwritable(err)
		}
		for i := range left.Items {
			b.cfg.Log.Warn("a create was cut short and is made again; what it had claimed is ended", "sandbox", idOf(&left.Items[i]))
			if err := b.delete(ctx, &left.Items[i]); client.IgnoreNotFound(err) != nil {
				return warmpool.Record{}, unwritable(err)
			}
			b.gone(&left.Items[i])
		}
	}
	return b.record(cm), nil
}

// record is the caller's to fill.
func (b *Backend) record(cm *corev1.ConfigMap) warmpool.Record {
	return warmpool.Record{
		Keep: func(ctx context.Context, id warmpool.ID) error {
			body, err := json.Marshal(map[string]any{
				"metadata": map[string]any{"uid": cm.UID, "resourceVersion": cm.ResourceVersion}, "data": map[string]string{fieldSandbox: string(id)},
			})
			if err != nil {
				return err
			}
			kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: cm.Namespace, Name: cm.Name}}
			if err := b.cfg.Client.Patch(ctx, kept, client.RawPatch(types.MergePatchType, body)); err != nil {
				return fmt.Errorf("remember sandbox %s: %w", id, err)
			}
			return nil
		},
		Forget: func(ctx context.Context) error {
			err := b.cfg.Client.Delete(ctx, cm, exactly(cm)...)
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // somebody else's by now
				return nil
			}
			return err
		},
	}
}

// exactly makes a deletion that of this very state of an object.
func exactly(o client.Object) []client.DeleteOption {
	uid, version := o.GetUID(), o.GetResourceVersion()
	return []client.DeleteOption{client.Preconditions{UID: &uid, ResourceVersion: &version}}
}

// recorded is when a record's request began.
func recorded(cm *corev1.ConfigMap) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, cm.Annotations[recordTime]); err == nil {
		return at
	}
	return cm.CreationTimestamp.Time
}

// Records removes the records of Idempotency-Keys that nobody may count on any more. One process of an installation runs it.
type Records struct {
	// Client, Namespace (the release's) and Log are required.
	Client    client.Client
	Namespace string
	Log       *slog.Logger
	// Clock is the real one when nil.
	Clock clock.WithTicker
}

// recordPause is between two looks at the records.
const recordPause = 30 * time.Minute

// Start removes old records until ctx ends.
func (r Records) Start(ctx context.Context) error {
	if r.Clock == nil {
		r.Clock = clock.RealClock{}
	}
	ticker := r.Clock.NewTicker(recordPause)
	defer ticker.Stop()
	for {
		if n, err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
			r.Log.Error("records of idempotency keys could not be removed; it is tried again", "error", err)
		} else if n > 0 {
			r.Log.Info("records of idempotency keys removed", "records", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

// Sweep removes the records that are too old now, and says how many.
func (r Records) Sweep(ctx context.Context) (int, error) {
	now := time.Now
	if r.Clock != nil {
		now = r.Clock.Now
	}
	var list corev1.ConfigMapList
	if err := r.Client.List(ctx, &list, client.InNamespace(r.Namespace), client.MatchingLabels{recordLabel: "true"}); err != nil {
		return 0, fmt.Errorf("list records: %w", err)
	}
	n := 0
	for i := range list.Items {
		cm := &list.Items[i]
		if now().Sub(recorded(cm)) < recordLife {
			continue
		}
		if err := r.Client.Delete(ctx, cm, exactly(cm)...); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return n, fmt.Errorf("remove record %s: %w", cm.Name, err)
		}
		n++
	}
	return n, nil
}
