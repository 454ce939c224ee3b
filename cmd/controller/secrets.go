package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/csiagent/driver/hostpath"
	"github.com/sandgate-dev/sandgate/csiagent/driver/nas"
	"github.com/sandgate-dev/sandgate/csiagent/driver/oss"
	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

// secrets are the installation's own, and who the controller is to the agents.
type secrets struct {
	keys      keyring.Keys
	authority *channel.Authority

	mu     sync.Mutex
	client channel.Identity
}

const secretsPause = 2 * time.Second

// awaitSecrets reads the installation's Secrets or makes them, and tries for as long as the API server does not let it.
func (p *process) awaitSecrets(ctx context.Context) (*secrets, error) {
	ticker := time.NewTicker(secretsPause)
	defer ticker.Stop()
	for said := ""; ; {
		s, err := p.secrets(ctx)
		if err == nil {
			return s, nil
		}
		if text := err.Error(); text != said {
			said = text
			p.log.Warn("waiting for the installation's keys", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
	}
}

func (p *process) secrets(ctx context.Context) (*secrets, error) {
	keys, err := keyring.Ensure(ctx, p.live, p.cfg.ReleaseNamespace)
	if err != nil {
		return nil, err
	}
	authority, err := keyring.EnsureAuthority(ctx, p.live, p.cfg.ReleaseNamespace, time.Now())
	if err != nil {
		return nil, err
	}
	return &secrets{keys: keys, authority: authority}, nil
}

// identity is who the controller is to the agents. It is nobody else's business and stays in memory.
func (s *secrets) identity() (channel.Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.client.Cert != nil && !s.client.Stale(now) {
		return s.client, nil
	}
	made, err := s.authority.Client(channel.Controller, now)
	if err != nil {
		return channel.Identity{}, err
	}
	s.client = made
	return made, nil
}

// renewPause is between two tries to renew the gateway's certificate.
const renewPause = 10 * time.Second

// renewGateway keeps the gateway's certificate for the agents good.
func (p *process) renewGateway(s *secrets) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		for {
			wait := renewPause
			next, err := keyring.EnsureGateway(ctx, p.live, p.cfg.ReleaseNamespace, s.authority, time.Now())
			if err != nil {
				p.log.Error("the gateway's certificate cannot be renewed", "error", err)
			} else {
				wait = max(time.Until(next), renewPause)
			}
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
			}
		}
	}
}

// rules are those for mounts that nobody asked for over the API: the same as the gateway's.
func rules(hostPaths, foreign []string, g mount.Guard) (mount.Policy, func(mount.Mount) error) {
	checks := map[string]func(mount.Mount) error{
		mount.DriverTmpfs: (&tmpfs.Driver{}).Check, mount.DriverEphemeral: (&tmpfs.Driver{}).Check,
		mount.DriverHostPath: hostpath.Allowed(hostPaths).Check,
		mount.DriverOSS:      func(m mount.Mount) error { return oss.Check(m, g) },
		mount.DriverNAS:      func(m mount.Mount) error { return nas.Check(m, g) },
		mount.DriverPool:     func(mount.Mount) error { return nil }, // the kubelet has mounted it
	}
	policy := mount.DefaultPolicy()
	policy.Drivers = nil
	for _, driver := range mount.DefaultPolicy().Drivers {
		if checks[driver] != nil {
			policy.Drivers = append(policy.Drivers, driver)
		}
	}
	policy = policy.With(foreign...)
	for _, driver := range foreign {
		if checks[driver] == nil { // what it refuses only its plugin knows
			checks[driver] = func(mount.Mount) error { return nil }
		}
	}
	return policy, func(m mount.Mount) error {
		check := checks[m.Driver]
		if check == nil {
			return fmt.Errorf("%w: no driver %q is installed here", mount.ErrInvalid, m.Driver)
		}
		return check(m)
	}
}
