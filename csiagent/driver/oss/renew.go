package oss

import (
	"context"
	"errors"
	"fmt"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// holder stands by a running client: it gives it credentials, and others in their place, or dials for it.
type holder interface {
	// replace returns when the client does not use earlier credentials any more, or will not once it has looked. It does nothing for a
	// client that keeps those that it was started with.
	replace(ctx context.Context, c credentials) error
	// trouble is what it knows better than its client about why that one does not work, nil when it knows nothing.
	trouble() error
	close()
}

// hold makes the holder that a client needs, with the room that they share.
func (d *Driver) hold(v *volume, l launch) (h holder, r room, err error) {
	if r, err = newRoom(); err != nil {
		return nil, r, err
	}
	if l.relayed {
		to, keys := originOf(v), v.keys
		if !l.signed {
			to.Unsigned, keys = true, credentials{}
		}
		h, err = newSigner(r, to, keys, d.dialer().DialContext, d.config.Logger)
	} else {
		h, err = newTokens(r, v.keys)
	}
	if err != nil {
		r.close()
		return nil, r, err
	}
	return h, r, nil
}

// Renew gives a client that lives the credentials that m has now, without a break: also the files that are open stay. A client that has
// an access key of its own (ossfs2, and s3fs that signs with version 1) keeps it; a volume's next mount uses the new one.
func (d *Driver) Renew(ctx context.Context, p mount.Process, m mount.Mount) error {
	d.mu.Lock()
	c, h := d.clients[p], d.holders[p]
	d.mu.Unlock()
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
	if c != nil {
		c.hide(v.keys)
	}
	if err := h.replace(ctx, v.keys); errors.Is(err, mount.ErrInvalid) {
		return err
	} else if err != nil {
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
