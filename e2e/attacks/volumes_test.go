package attacks_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const bucket = "oss-pv-sandbox-system"

func TestALinkThatAnEarlierSandboxPlantedIsNoSubPath(t *testing.T) {
	s := begin(t)
	for _, volume := range []string{"shared", bucket} {
		sb := s.sandbox(t, mount{Volume: volume, Target: "/data"})
		s.sh(t, sb, "root", `mkdir -p /data/dir && cd /data && ln -s /etc absolute && ln -s `+s.forbidden+` marker && ln -s ../../../../../etc dir/relative &&
			ln -s /proc/1/root process && ln -s dir inner && ln -s `+s.forbidden+`/who file && ln -s /nowhere dangling && ln -s /proc/self/fd/3 descriptor`)
		require.NoError(t, s.Kill(t.Context(), sb))
		subs := []string{"absolute", "marker", "dir/relative", "process", "inner", "file", "dangling", "descriptor"}
		if volume == "shared" {
			subs = append(subs, "dir/relative/new", "process/etc", "dangling/new", "marker/new")
		}
		for _, sub := range subs {
			sb, err := s.Create(t.Context(), "pool", asking(t, mount{Volume: volume, Target: "/data", SubPath: sub}))
			if err == nil && volume == bucket {
				// Keys of a store have no links: the sub path is the keys that begin with this name, of which there are none.
				out, _ := s.RunAs(t.Context(), sb, "root", "ls -A /data; cat /data/who /data/passwd 2>/dev/null; touch /data/new")
				require.Empty(t, out, sub)
				require.NoError(t, s.Kill(t.Context(), sb))
				continue
			}
			require.Error(t, err, "%s of %s", sub, volume)
			message := refused(t, err, http.StatusBadRequest, http.StatusForbidden)
			require.Contains(t, message, volume, sub)
			require.NotContains(t, message, s.Dir, "no path of the host is told")
		}
		sb = s.sandbox(t, mount{Volume: volume, Target: "/data", SubPath: "dir"}) // what is no link still is a sub path
		require.NoError(t, s.Kill(t.Context(), sb))
	}
	ids, err := s.Listed(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	s.settled(t)
}

// exchange swaps a directory with a link of the same name for ever.
const exchange = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs("/data/race/inner", exist_ok=True)
open("/data/race/who", "w").write("inside")
os.path.islink("/data/link") or os.symlink(sys.argv[1], "/data/link")
pid = os.fork()
if pid:
    sys.exit(0)
os.setsid()
for fd in range(3):
    os.close(fd)
n = 0
while True:
    if libc.syscall(316, -100, b"/data/race", -100, b"/data/link", 2) == 0:
        n += 1
    if n % 1000 == 0:
        open("/data/rounds", "w").write(str(n))
`

func TestALinkThatIsSwappedInDuringCreatesLeadsNowhere(t *testing.T) {
	s := begin(t)
	attacker := s.sandbox(t, mount{Volume: "shared", Target: "/data"})
	s.python(t, attacker, "user", exchange, s.forbidden)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var made, denied atomic.Int64
	var all sync.WaitGroup
	for worker := range 3 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				mounts := []mount{
					{Volume: "shared", Target: "/a", SubPath: "race"},
					{Volume: "shared", Target: "/b", SubPath: "race/inner"},
					{Volume: "shared", Target: "/c", SubPath: fmt.Sprintf("race/new%d-%d/deep", worker, i)},
				}
				// All three at once seldom pass; one alone does half of the time.
				sb, err := s.Create(t.Context(), "pool", asking(t, mounts[i%3:][:1+i%2*min(1, 2-i%3)]...))
				if err != nil {
					denied.Add(1)
					continue
				}
				made.Add(1)
				out, _ := s.RunAs(t.Context(), sb, "root", "cat /a/who /b/who /b/../a/who /c/who 2>/dev/null; for d in a b c; do touch /$d/escaped 2>/dev/null; done; true")
				if strings.Contains(out, marker) {
					t.Errorf("a sandbox reads the host: %s", out)
				}
				if err := s.Kill(t.Context(), sb); err != nil {
					t.Errorf("kill: %v", err)
				}
			}
		})
	}
	all.Wait()
	rounds, err := os.ReadFile(filepath.Join(s.Shared, "rounds"))
	require.NoError(t, err)
	t.Logf("%d creates passed, %d were refused, %s swaps", made.Load(), denied.Load(), rounds)
	require.Positive(t, made.Load(), "the race must be one: some creates meet the directory")
	require.Positive(t, denied.Load(), "and some the link")
	s.untouched(t)
	require.NoError(t, s.Kill(t.Context(), attacker))
	s.settled(t)
}

func TestSetuidProgramsAndDevicesOnAVolumeHaveNoEffect(t *testing.T) {
	s := begin(t)
	shell, err := os.ReadFile("/bin/bash")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.Shared, "suid"), shell, 0o755))
	require.NoError(t, os.Chmod(filepath.Join(s.Shared, "suid"), 0o755|os.ModeSetuid))
	require.NoError(t, unix.Mknod(filepath.Join(s.Shared, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	for _, volume := range []string{"shared", "scratch", bucket} {
		sb := s.sandbox(t, mount{Volume: volume, Target: "/data"})
		s.sh(t, sb, "root", "[ -e /data/suid ] || cp /bin/bash /data/suid; chown root /data/suid; chmod 4755 /data/suid")
		require.Equal(t, "1000\n", s.sh(t, sb, "user", "/data/suid -p -c 'id -u'"), volume)
		for _, user := range []string{"user", "root"} {
			out := s.sh(t, sb, user, "head -c 1 /data/zero 2>&1 >/dev/null; mknod /data/null-$$ c 1 3 2>&1; mknod /tmp/null-$$ c 1 3 2>&1; mknod /data/disk-$$ b 8 0 2>&1; true")
			require.Equal(t, 3, strings.Count(out, "Operation not permitted"), "%s %s: %s", volume, user, out)
			if volume == "shared" {
				require.Contains(t, out, "Permission denied", "a device that is on the volume cannot be opened")
			}
		}
		options := s.sh(t, sb, "user", "grep ' /data ' /proc/self/mountinfo")
		require.Contains(t, options, "nosuid")
		require.Contains(t, options, "nodev")
		require.NoError(t, s.Kill(t.Context(), sb))
	}
	s.settled(t)
}

func TestAReadOnlyMountIsReadOnlyForRootWhateverRootTries(t *testing.T) {
	s := begin(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.Shared, "file"), []byte("as it was"), 0o666))
	require.NoError(t, os.Chmod(filepath.Join(s.Shared, "file"), 0o666))
	sb := s.sandbox(t, mount{Volume: "shared", Target: "/host", ReadOnly: true}, mount{Volume: "scratch", Target: "/mem", ReadOnly: true},
		mount{Volume: bucket, Target: "/data", ReadOnly: true}, mount{Volume: "shared", Target: "/rw", SubPath: "rw"})
	for _, dir := range []string{"/host", "/mem", "/data"} {
		for _, try := range []string{
			"touch D/new", "mkdir D/new", "echo x > D/file", "rm D/file", "chmod 777 D", "chown 1000 D", "ln -s /etc D/link",
			"mount -o remount,rw D", "mount -o remount,rw,bind D", "mount --bind D /mnt", "mount -t tmpfs none D", "umount D", "umount -l D",
			"unshare -m true", "unshare -Urm true", "unshare -Urm sh -c 'mount -o remount,rw,bind D && touch D/new'", "nsenter -t 1 -m umount D",
			"mv D /moved", "rmdir D", "mount --move D /mnt",
		} {
			try = strings.ReplaceAll(try, "D", dir)
			_, err := s.RunAs(t.Context(), sb, "root", try)
			require.Error(t, err, try)
		}
		line := s.sh(t, sb, "root", "grep ' "+dir+" ' /proc/self/mountinfo")
		fields := strings.Fields(line)
		require.Contains(t, strings.Split(fields[5], ","), "ro", line)
	}
	for _, try := range []string{"umount /rw", "umount -l /rw", "mount -o remount,suid,dev /rw", "mount --bind /etc /rw", "rm -rf /rw", "mv /rw /moved"} {
		_, err := s.RunAs(t.Context(), sb, "root", try)
		require.Error(t, err, try)
	}
	s.sh(t, sb, "root", "echo works > /rw/f")
	text, err := os.ReadFile(filepath.Join(s.Shared, "file"))
	require.NoError(t, err)
	require.Equal(t, "as it was", string(text))
	require.NoError(t, s.Kill(t.Context(), sb))
	s.settled(t)
}

func TestAbsurdRequestsForVolumesAreRefusedBeforeASandboxIsTaken(t *testing.T) {
	s := begin(t)
	s.settled(t)
	before, err := os.ReadDir(filepath.Join(s.State(), "sandboxes"))
	require.NoError(t, err)
	long := strings.Repeat("a", 10_000)
	deep := strings.Repeat("/a", 5_000)
	many := make([]mount, 100)
	for i := range many {
		many[i] = mount{Volume: "scratch", Target: fmt.Sprintf("/data%d", i)}
	}
	for name, mounts := range map[string][]mount{
		"a target of 10,000 bytes":       {{Volume: "scratch", Target: "/" + long}},
		"a target 5,000 deep":            {{Volume: "scratch", Target: deep}},
		"a sub path of 10,000 bytes":     {{Volume: "shared", Target: "/data", SubPath: long}},
		"a sub path 5,000 deep":          {{Volume: "shared", Target: "/data", SubPath: deep[1:]}},
		"a volume's name of 10,000":      {{Volume: long, Target: "/data"}},
		"a component of 300 bytes":       {{Volume: "shared", Target: "/data", SubPath: long[:300]}},
		"a climb":                        {{Volume: "shared", Target: "/data", SubPath: "../forbidden"}},
		"a hidden climb":                 {{Volume: "shared", Target: "/data", SubPath: "a/../../forbidden"}},
		"an absolute sub path":           {{Volume: "shared", Target: "/data", SubPath: "/etc"}},
		"a target in /proc":              {{Volume: "scratch", Target: "/proc/self"}},
		"a target in /.sandgate":         {{Volume: "scratch", Target: "/.sandgate/run"}},
		"a target that climbs to /etc":   {{Volume: "scratch", Target: "/data/../etc"}},
		"100 mounts":                     many,
		"twice the same target":          {{Volume: "scratch", Target: "/data"}, {Volume: "shared", Target: "/data"}},
		"a directory outside":            {{Volume: "outside", Target: "/data"}},
		"a control character":            {{Volume: "scratch", Target: "/data\n/etc"}},
		"a target with a nul byte":       {{Volume: "scratch", Target: "/data\x00/etc"}},
		"somebody's claim":               {{Volume: "claimed", Target: "/data"}},
		"a target below another":         {{Volume: "scratch", Target: "/data"}, {Volume: "shared", Target: "/data/in"}},
		"a colon, which mounts split at": {{Volume: "scratch", Target: "/data:rw"}},
	} {
		_, err := s.Create(t.Context(), "pool", asking(t, mounts...))
		require.Error(t, err, name)
		message := refused(t, err, http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge)
		require.Less(t, len(message), 64<<10, name)
	}
	after, err := os.ReadDir(filepath.Join(s.State(), "sandboxes"))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(before), fmt.Sprint(after), "a sandbox was spent")
}

func TestALinkAtATargetsPlaceIsOfNoUse(t *testing.T) {
	// The template is the machine's own; what lies at a target before tenants run is the image's. A target whose place the image
	// made a link leads nowhere else: /var/run and /bin are links in every userland.
	s := begin(t)
	for _, target := range []string{"/bin/x", "/var/run/x", "/lib/x", "/dev/fd/3/x", "/proc/self/cwd/x"} {
		_, err := s.Create(t.Context(), "pool", asking(t, mount{Volume: "scratch", Target: target}))
		refused(t, err, http.StatusBadRequest, http.StatusForbidden)
	}
}
