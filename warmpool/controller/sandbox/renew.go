package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// given are the credentials that a sandbox's mounts were last given from here, as digests. Those of a mount that has none are zero. A
// controller that starts knows of none, and gives them all once more: an agent that has them does nothing.
type given struct {
	mu   sync.Mutex
	sums map[string][sha256.Size]byte
	told map[string][sha256.Size]byte // that could not be given, or why there are none
}

// bare says whether all of these mounts are known to have no credentials.
func (g *given) bare(mounts []v1alpha1.MountStatus) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !slices.ContainsFunc(mounts, func(m v1alpha1.MountStatus) bool {
		sum, known := g.sums[m.ID]
		return !known || sum != [sha256.Size]byte{}
	})
}

// is says whether a mount was given these. What else could not be given before is news when it comes again.
func (g *given) is(id string, sum [sha256.Size]byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	have, known := g.sums[id]
	if known && have == sum {
		delete(g.told, id)
		return true
	}
	return false
}

// none says whether a mount is known to have no credentials.
func (g *given) none(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum, known := g.sums[id]
	return known && sum == [sha256.Size]byte{}
}

func (g *given) put(id string, sum [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sums == nil {
		g.sums = map[string][sha256.Size]byte{}
	}
	g.sums[id] = sum
	delete(g.told, id)
}

// tell says whether nobody was told yet that these could not be given, or that there are none for this reason.
func (g *given) tell(id string, sum [sha256.Size]byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if had, known := g.told[id]; known && had == sum {
		return false
	}
	if g.told == nil {
		g.told = map[string][sha256.Size]byte{}
	}
	g.told[id] = sum
	return true
}

// digest tells one Secret from another, without keeping it.
func digest(s mount.Secret) (sum [sha256.Size]byte) {
	if len(s) == 0 {
		return sum
	}
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(s)) {
		for _, text := range []string{k, s[k]} {
			one := sha256.Sum256([]byte(text))
			h.Write(one[:])
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// renewAll looks up the credentials of mounts that all work.
func (j *job) renewAll(ctx context.Context, out *report) {
	if j.given.bare(out.mounts) {
		return
	}
	asked, err := j.resolve(ctx)
	if err != nil {
		j.cfg.Log.Warn("volumes cannot be looked up", "sandbox", j.sb.Name, "namespace", j.sb.Namespace, "error", err)
		return
	}
	for _, w := range asked {
		out.notes = append(out.notes, j.renew(ctx, w)...)
	}
}

// renew gives a mount that works the credentials of its volume, when they are others than before. A mount that cannot take them goes on
// with what it has, and is tried again at the next look.
func (j *job) renew(ctx context.Context, w wanted) []note {
	if w.fault != "" {
		return j.bereft(w)
	}
	sum := digest(w.Secret)
	if j.given.is(w.ID, sum) {
		return nil
	}
	if len(w.Secret) > 0 {
		err := j.cfg.Fitter.Publish(ctx, j.sb, w.Mount)
		if err != nil && !errors.Is(err, node.ErrConflict) { // what the volume was when it was mounted is not known any more
			if !j.given.tell(w.ID, sum) {
				return nil
			}
			j.cfg.Log.Warn("volume keeps its earlier credentials", "sandbox", j.sb.Name, "namespace", j.sb.Namespace, "mount", w.ID, "error", err)
			return []note{{"CredentialsKept", "volume " + w.source() + " at " + w.Target + " keeps its earlier credentials: " + words(err)}}
		}
	}
	j.given.put(w.ID, sum)
	return nil
}

// bereft tells once that a mount that works has no volume any more from which it could be mounted again, as when its Secret is gone.
func (j *job) bereft(w wanted) []note {
	if j.given.none(w.ID) || !j.given.tell(w.ID, sha256.Sum256([]byte(w.fault))) {
		return nil
	}
	j.cfg.Log.Warn("volume of a mount that works cannot be had any more", "sandbox", j.sb.Name, "namespace", j.sb.Namespace, "mount", w.ID, "fault", w.fault)
	return []note{{"CredentialsKept", "volume " + w.source() + " at " + w.Target + " goes on with what it has, and cannot be mounted again: " + w.fault}}
}
