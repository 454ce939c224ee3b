package oss

import (
	"context"
	"errors"
	"fmt"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// holder gives a running client its credentials, and others in their place.
type holder interface {
	// replace returns when the client does not use earlier ones any more, or will not once it has looked.
	replace(ctx context.Context, c credentials) error
	close()
}

// hold makes the holder that a client needs, with the room that they share.
func (d *Driver) hold(v *volume, l launch) (h holder, r room, err error) {
	if r, err = newRoom(); err != nil {
		return nil, r, err
	}
	if l.signed {
		h, err = newSigner(r, originOf(v), v.keys, d.dialer().DialContext, d.config.Logger)
	} else {
		h, err = newTokens(r, v.keys)
	}
	if err != nil {
		r.close()
		return nil, r, err
	}
	return h, r, nil
}

// Renew gives a client that lives the credentials that m has now, without a break: also the files that are open stay. A client that was
// started with an access key keeps it; a volume's next mount uses the new one.
func (d *Driver) Renew(ctx context.Context, p mount.Process, m mount.Mount) error {
	h := d.holder(p)
	if h == nil {
		return nil
	}
	v, err := parse(m)
	if err != nil {
		return err
	}
	if err := d.signIn(ctx, &v); err != nil {
		return err
	}
	if v.keys.token == "" {
		return invalid("the volume's Secret must hold a SecurityToken, as it did when the volume was mounted; mount it again to use an access key")
	}
	if err := h.replace(ctx, v.keys); err != nil {
		return fmt.Errorf("%w: new credentials: %w", mount.ErrUnavailable, err)
	}
	return nil
}

// Adopt goes on serving a client of an earlier process, which has left in the client's room what it takes.
func (d *Driver) Adopt(_ context.Context, p mount.Process) error {
	r, err := roomOf(p)
	if errors.Is(err, errNoRoom) || errors.Is(err, errEnded) {
		return nil
	}
	if err != nil {
		return err
	}
	var h holder
	h, err = resumeSigner(r, d.dialer().DialContext, d.config.Logger)
	if errors.Is(err, errNoRoom) {
		h, err = resumeTokens(r)
	}
	if err != nil {
		r.close()
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holders[p] = h
	return nil
}

func (d *Driver) holder(p mount.Process) holder {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.holders[p]
}
