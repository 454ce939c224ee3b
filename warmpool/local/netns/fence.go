package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fenceAgain is when addresses that could not be barred are tried again.
const fenceAgain = 5 * time.Second

// Fence keeps this machine's addresses out of the reach of namespaces that have an uplink, those that it gets later included. The zero value
// holds none. Safe for concurrent use.
type Fence struct {
	mu    sync.Mutex // guards what follows
	held  map[*Namespace]struct{}
	known []netip.Prefix // addresses that every held namespace is barred from
}

// Hold bars from n what an uplink must not reach, and from then on each address that Watch finds, also after an error. Again is fine.
func (f *Fence) Hold(n *Namespace) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	machine, err := addresses()
	if err != nil {
		return err
	}
	if f.held == nil {
		f.held = map[*Namespace]struct{}{}
	}
	f.held[n] = struct{}{}
	if err := n.bar(append(machine, barred()...)); err != nil {
		f.known = nil // Watch tries again
		return err
	}
	// What the machine has lost meanwhile it may get again.
	f.known = slices.DeleteFunc(f.known, func(p netip.Prefix) bool { return !slices.Contains(machine, p) })
	return nil
}

// Drop lets go of n, before it is closed. It stays as it is.
func (f *Fence) Drop(n *Namespace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, n)
}

// Watch bars addresses as the machine gets them, until ctx ends. It tells report what goes wrong, and tries again.
func (f *Fence) Watch(ctx context.Context, report func(error)) {
	for ctx.Err() == nil {
		err := f.listen(ctx, report)
		if err == nil {
			return
		}
		report(err)
		wait := time.NewTimer(fenceAgain)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
}

// listen is Watch as long as the kernel tells of changes.
func (f *Fence) listen(ctx context.Context, report func(error)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	changes := os.NewFile(uintptr(fd), "netlink")
	defer func() { _ = changes.Close() }()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR}); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = changes.Close() })
	defer stop()
	message := make([]byte, 4096)
	for {
		var again time.Time
		if err := f.renew(); err != nil {
			report(err)
			again = time.Now().Add(fenceAgain)
		}
		err := changes.SetReadDeadline(again)
		if err == nil {
			_, err = changes.Read(message) // that something has changed is enough to know
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ENOBUFS): // more changes than the socket holds
			return fmt.Errorf("watch addresses: %w", err)
		}
	}
}

// renew bars addresses that are new from all namespaces.
func (f *Fence) renew() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	machine, err := addresses()
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(slices.Clone(machine), func(p netip.Prefix) bool { return slices.Contains(f.known, p) })
	if len(fresh) == 0 {
		return nil
	}
	var errs []error
	for n := range f.held {
		errs = append(errs, n.bar(fresh))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	f.known = machine
	return nil
}
