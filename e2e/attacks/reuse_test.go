package attacks_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

// plant leaves what a tenant can leave: files wherever root can write, in a volume too, and a process. Its variable and its volume are asked for.
const plant = `set -e
for d in /home/user /root /tmp /var/tmp /dev/shm /etc /opt /srv /usr/local/bin /of-a-tenant; do echo DIRT-OF-A-TENANT > $d/DIRT-OF-A-TENANT; done
setsid bash -c 'exec -a DIRT-OF-A-TENANT sleep 1000' >/dev/null 2>&1 </dev/null &
until grep -qsa 'DIRT-OF-A-[T]ENANT' /proc/$!/cmdline; do kill -0 $!; done`

// search tells where something of it is. It does not find itself.
const search = `grep -rls 'DIRT-OF-A-[T]ENANT' / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr
find /usr/local -name 'DIRT-OF-A-[T]ENANT'
cd /proc && grep -lsa 'DIRT-OF-A-[T]ENANT' [0-9]*/cmdline [0-9]*/environ
grep -ls '/of-a-[t]enant' self/mountinfo
true`

func TestNothingOfASandboxIsInALaterOne(t *testing.T) {
	s := begin(t)
	seen := map[string]bool{}
	create := func(more string) world.Sandbox {
		sb, err := s.Create(t.Context(), "pool", more)
		require.NoError(t, err)
		require.False(t, seen[sb.ID], "%s was handed out before", sb.ID)
		seen[sb.ID] = true
		return sb
	}
	for range 5 { // more sandboxes than the pool has
		sb := create(asking(t, mount{Volume: "scratch", Target: "/of-a-tenant"}) + `,"envVars":{"OF_A_TENANT":"DIRT-OF-A-TENANT"}`)
		s.sh(t, sb, "root", plant)
		found := s.sh(t, sb, "root", search)
		for _, of := range []string{"/home/user/", "/root/", "/tmp/", "/dev/shm/", "/etc/", "/usr/local/bin/", "/of-a-tenant/", "/cmdline", "/environ", "self/mountinfo"} {
			require.Contains(t, found, of)
		}
		require.NoError(t, s.Kill(t.Context(), sb))
		for range 2 {
			sb := create(`,"timeout":120`)
			require.Empty(t, s.sh(t, sb, "root", search))
			require.NoError(t, s.Kill(t.Context(), sb))
		}
	}
	s.settled(t)
}
