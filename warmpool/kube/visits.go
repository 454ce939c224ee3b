package kube

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// visits are the sandboxes whose agents this replica is speaking to: their connections are not to be dropped.
type visits struct {
	mu sync.Mutex
	n  map[types.UID]int
}

func (v *visits) enter(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.n == nil {
		v.n = map[types.UID]int{}
	}
	v.n[uid]++
}

// leave ends a visit; drop is called when it was the last one, and nobody enters meanwhile.
func (v *visits) leave(uid types.UID, drop func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.n[uid]--; v.n[uid] <= 0 {
		delete(v.n, uid)
		drop()
	}
}

// unless calls drop when there is no visit.
func (v *visits) unless(uid types.UID, drop func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.n[uid] == 0 {
		drop()
	}
}
