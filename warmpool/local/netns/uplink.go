package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/local/process"
)

// Nameserver is the address that the uplink answers DNS on, from whatever resolver the machine itself uses. It is of a block
// reserved for documentation, so it hides no real host.
const Nameserver = "198.51.100.53"

// barred are destinations that a sandbox with an uplink must not reach through it: where no volume's server may be either, of which an
// uplink carries IPv4. This machine's own addresses come on top.
func barred() []netip.Prefix {
	return slices.DeleteFunc(mount.Never(), func(p netip.Prefix) bool { return !p.Addr().Is4() })
}

// Connect gives the namespace an IPv4 uplink through pasta, which runs as a process of its own and outlives this one.
// What the namespace may not reach is barred by routes before the sandbox gets to run its owner's programs; it cannot remove
// them without CAP_NET_ADMIN. fence holds it from then on. dir is a private directory for pasta's log.
func (n *Namespace) Connect(ctx context.Context, dir string, fence *Fence) (mount.Process, error) {
	path, err := exec.LookPath("pasta")
	if err != nil {
		return mount.Process{}, fmt.Errorf("network pasta: pasta is needed; install it (Debian: apt-get install passt) or set the pool's network to none: %w", err)
	}
	pidFile := filepath.Join(dir, "pasta.pid")
	out, err := os.OpenFile(filepath.Join(dir, "pasta.log"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return mount.Process{}, fmt.Errorf("network pasta: %w", err)
	}
	defer func() { _ = out.Close() }()
	// It returns when the interface is up and the daemon has detached itself.
	cmd := exec.CommandContext(ctx, path, "--ipv4-only", "--config-net", "--ns-ifname", "eth0", "--no-map-gw",
		"--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
		"--no-dhcp", "--dns-forward", Nameserver, "--no-netns-quit", "--pid", pidFile,
		// As another user it may not enter the namespace. It keeps two capabilities, in namespaces and a system call filter of its own.
		"--runas", "0:0", "--netns", "/proc/self/fd/3")
	cmd.Stdout, cmd.Stderr = out, out
	// By descriptor, since it has given up the right to look through /proc/PID by the time it opens the path.
	cmd.ExtraFiles = []*os.File{n.file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return mount.Process{}, fmt.Errorf("network pasta: %w: %s", err, lastLine(string(text)))
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return mount.Process{}, fmt.Errorf("network pasta: %w", err)
	}
	daemon, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return mount.Process{}, fmt.Errorf("network pasta: its PID file: %w", err)
	}
	p, err := process.Identify(daemon)
	if err != nil {
		return mount.Process{}, fmt.Errorf("network pasta: %w", err)
	}
	if err := fence.Hold(n); err != nil {
		return mount.Process{}, errors.Join(err, Disconnect(ctx, p))
	}
	return p, nil
}

// Disconnect ends an uplink; its interface goes with it. One that has ended is fine.
func Disconnect(ctx context.Context, uplink mount.Process) error {
	if uplink.PID == 0 {
		return nil
	}
	w, err := process.Open(uplink)
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	return w.Kill(ctx)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
