package attacks_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// misuse talks to the agent's socket in every way that it must not take, and prints what was accepted.
const misuse = `
import array, os, socket, sys, time
path = "/.sandgate/run/handover.sock"
def talk(name, data, fds):
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        s = socket.socket(socket.AF_UNIX, kind)
        s.settimeout(5)
        try:
            s.connect(path)
            s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
            got = s.recv(100)
            if got:
                print("accepted:", name, got)
        except OSError:
            pass
        finally:
            s.close()
def opened(path):
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return os.open("/", os.O_RDONLY)
own = opened("/proc/self/ns/mnt")
for data in (b"x", b"\x00", b"\x01", b"ns", b"x" * 100000):
    talk("own namespace again", data, [own])
    talk("first process's namespace", data, [opened("/proc/1/ns/mnt")])
    talk("a directory", data, [opened("/")])
    talk("a user namespace", data, [opened("/proc/self/ns/user")])
    talk("a network namespace", data, [opened("/proc/self/ns/net")])
    talk("two namespaces", data, [own, own])
    talk("200 descriptors", data, [own] * 200)
    talk("a pipe", data, [os.pipe()[0]])
    talk("nothing", data, [])
flood = []
for i in range(400):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.setblocking(False)
    try:
        s.connect(path)
        flood.append(s)
    except OSError:
        pass
print("done")
`

func TestTheHandOverSocketTakesNothingFromATenant(t *testing.T) {
	s := begin(t)
	sb := s.sandbox(t, mount{Volume: "shared", Target: "/data"}, mount{Volume: bucket, Target: "/bucket"})
	for _, user := range []string{"root", "user"} {
		require.Equal(t, "done\n", s.python(t, sb, user, misuse))
	}
	require.Equal(t, "kept\n", s.sh(t, sb, "user", "echo kept > /data/f; echo kept > /bucket/f; cmp /data/f /bucket/f && cat /data/f"))
	next := s.sandbox(t, mount{Volume: "shared", Target: "/data"}, mount{Volume: bucket, Target: "/bucket"})
	require.Equal(t, "kept\n", s.sh(t, next, "user", "cmp /data/f /bucket/f && cat /data/f"))
	_, err := s.RunAs(t.Context(), sb, "root", "unshare -Urm sleep 1")
	require.Error(t, err, "there is no namespace of a tenant's own to hand over")
	require.NoError(t, s.Kill(t.Context(), sb))
	require.NoError(t, s.Kill(t.Context(), next))
	s.settled(t)
}

// queue keeps the socket busy for ever.
const queue = `
import os, socket, sys, time
if os.fork():
    sys.exit(0)
os.setsid()
for fd in range(3):
    os.close(fd)
held = []
while True:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(1)
    try:
        s.connect("/.sandgate/run/handover.sock")
        held.append(s)
    except OSError:
        time.sleep(0.001)
    held = held[-64:]
`

func TestATenantCannotHoldUpTheStartOfAGateway(t *testing.T) {
	s := begin(t)
	kept := s.sandbox(t, mount{Volume: bucket, Target: "/data"})
	s.sh(t, kept, "user", "echo kept > /data/f")
	flooding, stopped := s.sandbox(t, mount{Volume: "shared", Target: "/data"}), s.sandbox(t, mount{Volume: bucket, Target: "/data"})
	s.python(t, flooding, "root", queue)
	// The daemon of a sandbox is its owner's to stop.
	_, _ = s.RunAs(t.Context(), stopped, "root", "(sleep 0.2; pkill -STOP envd) >/dev/null 2>&1 &")
	<-time.After(time.Second)
	require.NoError(t, s.Crash(t.Context()))
	began := time.Now()
	require.NoError(t, s.Serve(t.Context()))
	took := time.Since(began)
	require.Less(t, took, 12*time.Second)
	t.Logf("a start took %s", took)
	require.Equal(t, "kept\n", s.sh(t, kept, "user", "cat /data/f"))
	next := s.sandbox(t, mount{Volume: "shared", Target: "/data"})
	s.sh(t, next, "user", "true")
	ids, err := s.Listed(t.Context())
	require.NoError(t, err)
	require.Contains(t, ids, stopped.ID, "a sandbox that was handed out is its owner's, whatever he does with it")
	require.NoError(t, s.Kill(t.Context(), stopped))
	for _, id := range ids {
		if id == flooding.ID {
			require.NoError(t, s.Kill(t.Context(), flooding))
		}
	}
	s.settled(t)
}
