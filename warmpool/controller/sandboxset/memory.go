package sandboxset

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// memory is what this process knows of a set and the cache does not tell yet. Only one pass of a set runs at a time. It is lost with the
// process, which costs at the most some stock too many for a moment.
type memory struct {
	uid   types.UID
	made  map[string]*made   // by name: asked for, and not in the cache yet
	ended map[types.UID]bool // deleted, and the cache does not say so yet

	failures int                // in a row, of the template
	blamed   map[types.UID]bool // failed ones that are counted already
	failedAt time.Time
	retryAt  time.Time
	reason   string // of the last failure
	message  string
	revision string // that the failures are of

	wrote     time.Time // when the status was last written
	saidFault string    // the fault that an event has told of
}

// made is a Sandbox that was asked for.
type made struct {
	sb   *v1alpha1.Sandbox
	sure bool      // the API server has it; otherwise the answer was lost
	at   time.Time // of the last look
}

func (r *Reconciler) recall(set *v1alpha1.SandboxSet) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(set)
	m := r.sets[key]
	if m == nil || m.uid != set.UID {
		m = &memory{uid: set.UID, made: map[string]*made{}, ended: map[types.UID]bool{}, blamed: map[types.UID]bool{}}
		r.sets[key] = m
	}
	return m
}

func (r *Reconciler) forget(key client.ObjectKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sets, key)
}

// doubt is how long the cache may not know what was made, before the API server is asked.
const doubt = 10 * time.Second

// verify asks for what was made and never came: it may have been deleted before the cache saw it.
func (p *pass) verify(ctx context.Context) error {
	for name, x := range p.memory.made {
		if !x.sure {
			continue
		}
		if left := doubt - p.now.Sub(x.at); left > 0 {
			p.again(left)
			continue
		}
		var sb v1alpha1.Sandbox
		err := p.r.cfg.Live.Get(ctx, client.ObjectKeyFromObject(x.sb), &sb)
		switch {
		case apierrors.IsNotFound(err):
			delete(p.memory.made, name)
			p.stock.unseen--
		case err != nil:
			return fmt.Errorf("look for sandbox %s: %w", name, err)
		default:
			x.at = p.now
			p.again(doubt)
		}
	}
	return nil
}
