package nas

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fenced raises a fence where it is, as processes do that follow each other, and says what passes.
func fenced() int {
	lo, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	fmt.Printf("lo %s %v\n", lo, err)
	fmt.Println("before", reach("127.0.0.1:2049"))
	f, err := Raise()
	if err != nil {
		fmt.Println("no fence:", err)
		return 1
	}
	kubelets := "rw,vers=3,rsize=1048576,hard,proto=tcp,port=13049,timeo=600,sec=sys,mountaddr=10.0.0.7,mountvers=3,mountport=13048,addr=10.0.0.7"
	err = errors.Join(f.cover(12049, 12049), New(Config{Fence: f}).FenceMounted(example(), kubelets))
	passed := besiege(func() {
		for range 50 {
			_, again := Raise()
			err = errors.Join(err, again)
		}
	})
	fmt.Println("raised again", err, "passed meanwhile", passed)
	for _, to := range []string{
		"127.0.0.1:2049", "[::1]:2049", "127.0.0.1:111", "127.0.0.1:20048", "127.0.0.1:12049", "127.0.0.1:13049", "127.0.0.1:13048", "127.0.0.1:2050",
	} {
		fmt.Println(to, reach(to))
	}
	return 0
}

// besiege sends to a usual and to an unusual port while f runs, and counts what passes.
func besiege(f func()) (passed int) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, to := range []string{"127.0.0.1:2049", "127.0.0.1:12049"} {
				u, err := net.Dial("udp", to)
				if err != nil {
					continue
				}
				if _, err := u.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
					passed++
				}
				_ = u.Close()
			}
		}
	}()
	f()
	close(stop)
	<-ended
	return passed
}

// reach says whether a server at an address of this machine can be spoken to, over TCP and UDP.
func reach(to string) string {
	l, err := net.Listen("tcp", to)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = l.Close() }()
	answer := "tcp"
	c, err := net.DialTimeout("tcp", to, 300*time.Millisecond)
	if err != nil {
		answer = "-"
	} else {
		_ = c.Close()
	}
	if u, err := net.Dial("udp", to); err == nil {
		if _, err := u.Write([]byte("x")); err == nil {
			answer += " udp"
		}
		_ = u.Close()
	}
	return answer
}

func TestTheFenceKeepsProcessesFromNFSServersAndFromNothingElse(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	for name, own := range map[string]uintptr{"in the tree's cgroup namespace": 0, "in one of its own": unix.CLONE_NEWCGROUP} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "fenced")
			cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: own, UseCgroupFD: true, CgroupFD: group(t)}
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			err := cmd.Run()
			if bytes.Contains(said.Bytes(), []byte("no fence")) {
				t.Skip(said.String())
			}
			require.NoError(t, err, said.String())
			for _, line := range []string{
				"before tcp udp", "raised again <nil> passed meanwhile 0", "127.0.0.1:2049 -", "[::1]:2049 -", "127.0.0.1:111 -", "127.0.0.1:20048 -",
				"127.0.0.1:12049 -", "127.0.0.1:13049 -", "127.0.0.1:13048 -", "127.0.0.1:2050 tcp udp",
			} {
				require.Contains(t, said.String(), line+"\n")
			}
		})
	}
}

// group is a cgroup of the tree that has them all, as containers are in one.
func group(t *testing.T) int {
	t.Helper()
	tree := t.TempDir()
	if err := unix.Mount("cgroup2", tree, "cgroup2", 0, ""); err != nil {
		t.Skip("needs the second version of cgroups: ", err)
	}
	dir := filepath.Join(tree, fmt.Sprintf("sandgate-fence-%d", os.Getpid()))
	require.NoError(t, os.Mkdir(dir, 0o755))
	f, err := os.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, f.Close())
		require.Eventually(t, func() bool { return os.Remove(dir) == nil }, 20*time.Second, 10*time.Millisecond)
		require.NoError(t, unix.Unmount(tree, unix.MNT_DETACH))
	})
	return int(f.Fd())
}
