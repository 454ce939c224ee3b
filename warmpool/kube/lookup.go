package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Get returns a claimed sandbox.
func (b *Backend) Get(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error) {
	sb, err := b.find(ctx, id)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	return b.view(sb), nil
}

// Reread is Get as the API server has it now.
func (b *Backend) Reread(ctx context.Context, id warmpool.ID) (warmpool.Sandbox, error) {
	sb, err := b.find(ctx, id)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	if sb, err = b.reread(ctx, sb); err != nil {
		return warmpool.Sandbox{}, err
	}
	return b.view(sb), nil
}

// find returns the Sandbox of a claimed sandbox that has not ended. What the informer does not know as claimed may have been
// claimed over another replica a moment ago: then the API server is asked.
func (b *Backend) find(ctx context.Context, id warmpool.ID) (*v1alpha1.Sandbox, error) {
	if err := b.Ready(); err != nil {
		return nil, err
	}
	if _, ok := warmpool.ParseID(string(id)); !ok {
		return nil, notFound(id)
	}
	sb, released := b.shelf.find(id)
	if released {
		return nil, notFound(id)
	}
	if sb == nil || sb.Spec.Claim == nil {
		var err error
		if sb, err = b.readThrough(ctx, id, sb); err != nil {
			return nil, err
		}
	}
	if sb == nil || sb.Spec.Claim == nil || ended(sb, b.cfg.Clock.Now()) {
		return nil, notFound(id)
	}
	return sb, nil
}

// readThrough asks the API server for a sandbox: by name when the object is known, by its label otherwise. IDs cannot be guessed,
// so that one which is unknown is not asked for again soon, and all together only so often. nil: there is none.
func (b *Backend) readThrough(ctx context.Context, id warmpool.ID, known *v1alpha1.Sandbox) (*v1alpha1.Sandbox, error) {
	if known == nil && b.unknown.has(id) {
		return nil, nil
	}
	if !b.live.Allow() {
		return nil, &warmpool.Error{Code: warmpool.Unavailable, Message: "too many unknown sandboxes are being asked for; try again", RetryAfter: time.Second}
	}
	found, err, _ := b.reads.Do(string(id), func() (any, error) {
		if known != nil {
			return b.readByName(ctx, known)
		}
		return b.readByLabel(ctx, id)
	})
	if err != nil {
		return nil, &warmpool.Error{Code: warmpool.Unavailable, Message: "the cluster's API server does not answer; try again", RetryAfter: time.Second, Err: err}
	}
	sb, _ := found.(*v1alpha1.Sandbox)
	if sb == nil {
		if known == nil {
			b.unknown.add(id)
		}
		return nil, nil
	}
	b.shelf.put(sb, false)
	return sb, nil
}

func (b *Backend) readByName(ctx context.Context, known *v1alpha1.Sandbox) (*v1alpha1.Sandbox, error) {
	var sb v1alpha1.Sandbox
	err := b.cfg.Client.Get(ctx, client.ObjectKeyFromObject(known), &sb)
	if apierrors.IsNotFound(err) || err == nil && sb.UID != known.UID {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sb.ManagedFields = nil
	return &sb, nil
}

func (b *Backend) readByLabel(ctx context.Context, id warmpool.ID) (*v1alpha1.Sandbox, error) {
	var found *v1alpha1.Sandbox
	for _, ns := range b.cfg.Namespaces {
		var list v1alpha1.SandboxList
		if err := b.cfg.Client.List(ctx, &list, client.InNamespace(ns), client.MatchingLabels{v1alpha1.LabelSandboxID: string(id)}); err != nil {
			return nil, fmt.Errorf("look for sandbox %s in %s: %w", id, ns, err)
		}
		for i := range list.Items {
			if sb := &list.Items[i]; found == nil || earlier(sb, found) {
				sb.ManagedFields = nil
				found = sb
			}
		}
	}
	return found, nil
}

// List returns the claimed sandboxes that the filter chooses.
func (b *Backend) List(_ context.Context, f warmpool.Filter) ([]warmpool.Sandbox, error) {
	if err := b.Ready(); err != nil {
		return nil, err
	}
	now := b.cfg.Clock.Now()
	var out []warmpool.Sandbox
	for _, sb := range b.shelf.claimed(f.Team) {
		if ended(sb, now) {
			continue
		}
		if s := b.view(sb); matches(s, f) {
			out = append(out, s)
		}
	}
	return out, nil
}

// SetDeadline moves a sandbox's end.
func (b *Backend) SetDeadline(ctx context.Context, id warmpool.ID, d warmpool.Deadline) (warmpool.Sandbox, error) {
	sb, err := b.find(ctx, id)
	if err != nil {
		return warmpool.Sandbox{}, err
	}
	for range tries {
		now := b.cfg.Clock.Now()
		at := deadline(d.At, now)
		has := sb.Spec.ShutdownTime
		if d.OnlyLater && (has == nil || !at.After(has.Time)) {
			return b.view(sb), nil
		}
		version := ""
		if d.OnlyLater { // compared with what it was
			version = sb.ResourceVersion
		}
		moved, err := b.patchEnd(ctx, sb, at, version)
		if err == nil {
			return b.view(moved), nil
		}
		if !errors.Is(err, errTaken) {
			return warmpool.Sandbox{}, err
		}
		if sb, err = b.readByName(ctx, sb); err != nil {
			return warmpool.Sandbox{}, unwritable(err)
		}
		if sb == nil || ended(sb, now) {
			return warmpool.Sandbox{}, notFound(id)
		}
	}
	return warmpool.Sandbox{}, beset()
}

// tries bounds the writes of one change that others get in the way of.
const tries = 8

// patchEnd writes a deadline. With a version, errTaken says that the object has another one.
func (b *Backend) patchEnd(ctx context.Context, sb *v1alpha1.Sandbox, at metav1.Time, version string) (*v1alpha1.Sandbox, error) {
	about := map[string]any{"uid": sb.UID}
	if version != "" {
		about["resourceVersion"] = version
	}
	body, err := json.Marshal(map[string]any{"metadata": about, "spec": map[string]any{"shutdownTime": at}})
	if err != nil {
		return nil, err
	}
	moved := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: sb.Namespace, Name: sb.Name}}
	for range tries {
		err = b.cfg.Client.Patch(ctx, moved, client.RawPatch(types.MergePatchType, body))
		if version != "" || !apierrors.IsConflict(err) { // without a version the store only gives up when many write at once
			break
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, notFound(idOf(sb))
	case apierrors.IsConflict(err) && version != "":
		return nil, errTaken
	case apierrors.IsConflict(err): // another object by now has its name
		return nil, notFound(idOf(sb))
	case err != nil:
		return nil, unwritable(err)
	}
	moved.ManagedFields = nil
	b.shelf.put(moved, false)
	if moved.DeletionTimestamp != nil {
		return nil, notFound(idOf(sb))
	}
	return moved, nil
}

func notFound(id warmpool.ID) error {
	return warmpool.Errorf(warmpool.NotFound, "sandbox %s not found", id)
}

const (
	// unknownFor is how long an ID that nobody has is not asked for again. IDs are made at random and told with the answer to the
	// create, so that none is asked for before it is there.
	unknownFor  = 5 * time.Second
	unknownMost = 10_000
)

// unknown are IDs that the API server did not know.
type unknown struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	until map[warmpool.ID]time.Time
}

func newUnknown(c clock.PassiveClock) *unknown {
	return &unknown{clock: c, until: map[warmpool.ID]time.Time{}}
}

func (u *unknown) has(id warmpool.ID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.until[id]
	return ok && u.clock.Now().Before(until)
}

func (u *unknown) add(id warmpool.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.until) < unknownMost {
		u.until[id] = u.clock.Now().Add(unknownFor)
	}
}

func (u *unknown) tidy() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, until := range u.until {
		if !u.clock.Now().Before(until) {
			delete(u.until, id)
		}
	}
}
