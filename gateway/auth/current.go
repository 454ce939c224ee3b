package auth

import (
	"net/http"
	"sync/atomic"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// Current are the keys of now, replaced as a whole while requests go on. The zero value knows none.
type Current struct{ keys atomic.Pointer[Keys] }

// Set makes keys count from the next request on.
func (c *Current) Set(keys *Keys) { c.keys.Store(keys) }

// Len is how many keys are known.
func (c *Current) Len() int {
	if keys := c.keys.Load(); keys != nil {
		return len(keys.Records())
	}
	return 0
}

// Authenticate is the principal of a request.
func (c *Current) Authenticate(r *http.Request) (warmpool.Principal, bool) {
	keys := c.keys.Load()
	if keys == nil {
		return warmpool.Principal{}, false
	}
	return keys.Authenticate(r)
}
