package oss

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Exchanger gets credentials of a role for the identity of this agent, in the words of a volume's Secret, with a SecurityToken.
type Exchanger interface {
	Exchange(ctx context.Context, r Role) (mount.Secret, error)
}

// Role is what a volume wants to be mounted as, and who vouches for the agent to it.
type Role struct{ ARN, Provider string }

var errNoIdentity = invalid("the attribute authType: rrsa needs an agent that was given a service account's token; put a token into the volume's Secret")

// signIn gets the credentials of a volume that has none of its own.
func (d *Driver) signIn(ctx context.Context, v *volume) error {
	if v.role == (Role{}) {
		return nil
	}
	if d.config.Identity == nil {
		return errNoIdentity
	}
	s, err := d.config.Identity.Exchange(ctx, v.role)
	if err != nil {
		return err
	}
	c, err := keys(s)
	if err == nil && c.token == "" {
		err = errors.New("no token came of an exchange")
	}
	if err != nil {
		return fmt.Errorf("%w: credentials of the role: %w", mount.ErrUnavailable, err)
	}
	v.keys = c
	return nil
}

// refreshing is a holder whose credentials are exchanged anew before they end.
type refreshing struct {
	holder
	stop context.CancelFunc
	over *sync.WaitGroup
}

func (r refreshing) close() {
	r.stop()
	r.over.Wait() // it may be writing to what is closed now
	r.holder.close()
}

// Times between exchanges: of a token that does not say when it ends, and after one that failed.
const (
	unsaid = 15 * time.Minute
	again  = 20 * time.Second
)

// refresh exchanges before two thirds of a token's time are over, and tells of what came of it before it is used.
func (d *Driver) refresh(v volume, h holder, tell func(credentials)) holder {
	ctx, stop := context.WithCancel(context.Background())
	over := &sync.WaitGroup{}
	over.Go(func() { // ends with close
		next := due(v.keys)
		for {
			timer := time.NewTimer(next)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			err := d.signIn(ctx, &v)
			if err == nil {
				tell(v.keys)
				err = h.replace(ctx, v.keys)
			}
			if next = due(v.keys); err != nil && ctx.Err() == nil {
				d.config.Logger.WarnContext(ctx, "credentials of a role are not renewed yet", "bucket", v.bucket, "error", err)
				next = again
			}
		}
	})
	return refreshing{h, stop, over}
}

func due(c credentials) time.Duration {
	if c.expires.IsZero() {
		return unsaid
	}
	return max(time.Until(c.expires)*2/3, time.Second)
}
