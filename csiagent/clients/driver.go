package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Driver is a node's driver whose clients a Server starts.
type Driver struct {
	// Socket is the Server's.
	Socket string
	// Checks says what is wrong with a mount that can be told from it alone.
	Checks func(mount.Mount) error
}

// patience is how long a server may be away: its container is started again after it was killed.
const patience = 5 * time.Second

// lookTime bounds what a server only has to look up. One that takes longer hangs, and its container with it.
const lookTime = 2 * time.Second

// Check is Checks.
func (d *Driver) Check(m mount.Mount) error { return d.Checks(m) }

// Mount has a client started. It waits for a server that is being started.
func (d *Driver) Mount(ctx context.Context, m mount.Mount, dir string) (mount.Source, error) {
	a, root, err := d.wait(ctx, request{Do: doMount, Dir: dir, Mount: ask(m)})
	if err != nil {
		if ctx.Err() != nil { // the answer may be on its way, and nobody takes it
			over, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			err = errors.Join(err, d.Sweep(over, dir))
		}
		return mount.Source{}, err
	}
	if root == nil {
		return mount.Source{}, errors.New("clients: a mount came without a descriptor")
	}
	return mount.Source{Root: root, SubPath: a.SubPath, FSType: a.FSType, Remote: true, Client: a.Client, StoresOnClose: a.StoresOnClose}, nil
}

// Unmount waits until client has ended, and has it killed when ctx ends first; then it returns an error. One whose container has ended has
// ended with it, which is an error too: what it had not uploaded is lost.
func (d *Driver) Unmount(ctx context.Context, _ string, client mount.Process) error {
	if client.PID == 0 {
		return nil
	}
	r := request{Do: doUnmount, Client: client, Within: time.Nanosecond}
	if at, ok := ctx.Deadline(); ok && time.Until(at) > 0 && ctx.Err() == nil {
		r.Within = time.Until(at)
	} else if !ok && ctx.Err() == nil {
		r.Within = time.Minute
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Within+10*time.Second)
	defer cancel()
	_, err := d.now(after, r)
	return err
}

// Explain says how client has ended.
func (d *Driver) Explain(ctx context.Context, client mount.Process) error {
	_, err := d.now(ctx, request{Do: doExplain, Client: client})
	if errors.Is(err, errAway) {
		return ErrContainerEnded
	}
	return err
}

// ErrContainerEnded is why a client has ended whose container is gone, as it is told to the volume's owner. Whoever can see how that has
// ended may add it.
var ErrContainerEnded = errors.New("the container of its client has ended")

// Renew gives client the credentials of m.
func (d *Driver) Renew(ctx context.Context, client mount.Process, m mount.Mount) error {
	_, err := d.now(ctx, request{Do: doRenew, Client: client, Mount: ask(m)})
	return err
}

// Open returns a descriptor of client that becomes readable when it ends. It means the same here, though its number does not. The error is
// context.DeadlineExceeded when the server does not answer.
func (d *Driver) Open(ctx context.Context, client mount.Process) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	f, err := d.now(ctx, request{Do: doOpen, Client: client})
	if err == nil && f == nil {
		err = errEnded
	}
	return f, err
}

// Sweep ends the client of a mount that an agent before this one was making on dir.
func (d *Driver) Sweep(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	_, err := d.now(ctx, request{Do: doSweep, Dir: dir})
	if errors.Is(err, errAway) {
		return nil
	}
	return err
}

// errAway is a server that is not there.
var errAway = fmt.Errorf("%w: the container of the FUSE clients is not there", mount.ErrUnavailable)

// errSlow is a server that is there and does not answer in time.
var errSlow error = slow{}

type slow struct{}

func (slow) Error() string {
	return mount.ErrUnavailable.Error() + ": no answer from the container of the FUSE clients in time"
}

func (slow) Unwrap() []error { return []error{mount.ErrUnavailable, context.DeadlineExceeded} }

// now asks a server that is there.
func (d *Driver) now(ctx context.Context, r request) (*os.File, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	_, f, err := exchange(ctx, c, r)
	return f, err
}

// wait asks, and waits for a server that is not there yet.
func (d *Driver) wait(ctx context.Context, r request) (answer, *os.File, error) {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := d.dial(within)
		if err == nil {
			return exchange(ctx, c, r)
		}
		select {
		case <-within.Done():
			return answer{}, nil, err
		case <-tick.C:
		}
	}
}

func (d *Driver) dial(ctx context.Context) (*net.UnixConn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", d.Socket)
	if err != nil {
		return nil, errAway
	}
	return c.(*net.UnixConn), nil
}

// exchange asks on c, and takes the question back when ctx ends.
func exchange(ctx context.Context, c *net.UnixConn, r request) (a answer, f *os.File, err error) {
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err = send(c, r, nil); err == nil {
		f, err = receive(c, &a)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return a, nil, errSlow
	case err != nil:
		return a, nil, errAway
	}
	if err := a.err(); err != nil {
		if f != nil {
			_ = f.Close()
		}
		return a, nil, err
	}
	return a, f, nil
}
