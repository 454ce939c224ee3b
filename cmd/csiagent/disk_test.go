//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// disk is a loop device, which the test's machine shows to the driver as a disk of Google's that is attached.
type disk struct {
	t      *testing.T
	loop   *os.File // the kernel frees the device with its last user
	number int      // /dev/loopNUMBER
	inode  uint64   // of the file behind it
}

const (
	diskName    = "sandgate"
	diskProject = "projects/p/zones/z/disks/"
	loopMajor   = 7
)

func newDisk(t *testing.T) *disk {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs loop devices: there is no /dev/loop-control")
	}
	require.NoError(t, err)
	defer func() { _ = control.Close() }()
	file, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC) // in memory: how fast this machine's disk is at the moment does not matter
	require.NoError(t, err)
	defer func() { _ = unix.Close(file) }()
	require.NoError(t, unix.Ftruncate(file, 64<<20))
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(file, &st))
	d := &disk{t: t, inode: st.Ino}
	require.Eventually(t, func() bool { // somebody else may take the free one first
		d.number, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		require.NoError(t, err)
		d.loop = d.open()
		err = unix.IoctlLoopConfigure(int(d.loop.Fd()), &unix.LoopConfig{Fd: uint32(file), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
		if errors.Is(err, unix.EBUSY) {
			_ = d.loop.Close()
			return false
		}
		require.NoError(t, err)
		return true
	}, 10*time.Second, 10*time.Millisecond)
	t.Cleanup(func() { _ = d.loop.Close() })
	return d
}

// open opens the device at a node of its own: /dev need not have one.
func (d *disk) open() *os.File {
	d.t.Helper()
	path := filepath.Join(d.t.TempDir(), "loop")
	require.NoError(d.t, unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(d.number)))))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(d.t, err)
	return f
}

// free lets go of the device, and says whether nobody else has it.
func (d *disk) free() bool {
	_ = d.loop.Close()
	f := d.open()
	defer func() { _ = f.Close() }()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	return errors.Is(err, unix.ENXIO) || err == nil && info.Inode != d.inode
}

// machine is a program that starts the agent as if on a virtual machine of Google's that has the disk. The agent gets a mount namespace
// of its own, in which nothing is the machine's that the driver would look for in vain:
//
//   - a /dev with the disk as a SCSI one, which is all that the driver takes, and the link that udev would have made;
//   - scsi_id and google_nvme_id where the driver's image has them: stand-ins, the first of which tells the disk's serial number;
//   - the directories of mkfs.ext4 and blkid on the PATH, which is that of whoever runs the tests: not everybody's has them.
func (d *disk) machine() string {
	d.t.Helper()
	dir := d.t.TempDir()
	program := func(path, text string) string {
		path = filepath.Join(dir, path)
		require.NoError(d.t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(d.t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
		return path
	}
	program("lib/udev_containerized/scsi_id", "echo '0Google  PersistentDisk  "+diskName+"'\n")
	program("lib/udev_containerized/google_nvme_id", "exit 1\n")
	agent, err := os.Executable()
	require.NoError(d.t, err)
	return program("machine", fmt.Sprintf(`set -e
[ "$1" = inside ] || exec unshare --mount --propagation private "$0" inside "$@"
shift
mount -t overlay -o lowerdir='%s':"$(readlink -f /lib)" none /lib
mount -t tmpfs -o mode=755 none /dev
mknod -m 666 /dev/null c 1 3
mknod /dev/sda b %d %d
mkdir -p /dev/disk/by-id
ln -s ../../sda /dev/disk/by-id/google-%s
export PATH="$PATH:/usr/sbin:/sbin"
exec '%s' "$@"
`, filepath.Join(dir, "lib"), loopMajor, d.number, diskName, agent))
}

// mounts are the places at which a process sees the disk's file system.
func (d *disk) mounts(pid int) (at []string) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	require.NoError(d.t, err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[2] == fmt.Sprintf("%d:%d", loopMajor, d.number) {
			at = append(at, f[4])
		}
	}
	return at
}

// metadata is what the driver asks Google's metadata server for.
func metadata(t *testing.T) {
	t.Helper()
	answers := map[string]string{
		"instance/zone": "projects/1/zones/z", "project/project-id": "p", "instance/name": "n", "instance/machine-type": "projects/1/machineTypes/e2-small",
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, there := answers[strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/")]
		if !there {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(server.URL, "http://"))
}

// The node plugin of Google's Persistent Disk makes a file system on a block device, mounts it when the volume is staged, and binds it to
// each place. It wants a disk that its controller has attached: here that is done before.
func TestPersistentDiskPlugin(t *testing.T) {
	const driver = "pd.csi.storage.gke.io"
	p := withPlugin(t, driver, "gce-pd-csi-driver", "--endpoint=$(CSI_ENDPOINT)", "--run-controller-service=false")
	d := newDisk(t)
	metadata(t)
	p.program = d.machine()
	p.run()
	b := p.container()
	p.ready(true)
	m := p.mount("v", driver, nil)
	m.VolumeHandle, m.AccessMode, m.FSType = diskProject+diskName, mount.ReadWriteOnce, "ext4"
	p.works(b, m)
	require.Empty(t, d.mounts(p.process.Process.Pid))

	one, two := p.at(m, "one"), p.at(m, "two")
	require.NoError(t, p.agent.Publish(t.Context(), one), p.log)
	text, err := os.ReadFile(p.in(b, "one", "f"))
	require.NoError(t, err)
	require.Equal(t, "written", string(text), "it was on the disk meanwhile")
	require.NoError(t, p.agent.Publish(t.Context(), two), p.log)
	staged := func() (stages, places int) {
		for _, at := range d.mounts(p.process.Process.Pid) {
			switch filepath.Dir(at) {
			case filepath.Join(p.state, "csi", "stages"):
				stages++
			default:
				places++
			}
		}
		return stages, places
	}
	stages, places := staged()
	require.Equal(t, []int{1, 2}, []int{stages, places}, "staged once for both")
	require.ElementsMatch(t, []string{one.Target, two.Target}, d.mounts(b.pid))
	require.NoError(t, os.WriteFile(p.in(b, "one", "g"), []byte("both"), 0o600))
	require.FileExists(t, p.in(b, "two", "g"), "one file system")
	p.unpublish(two)
	stages, places = staged()
	require.Equal(t, []int{1, 1}, []int{stages, places}, "the other one needs it")
	p.unpublish(one)
	p.survives(b, m)

	missing := p.at(m, "missing")
	missing.VolumeHandle = diskProject + "not-attached"
	require.ErrorContains(t, p.agent.Publish(t.Context(), missing), "NodeStageVolume")
	several := p.at(m, "several")
	several.AccessMode = mount.ReadWriteMany
	require.ErrorContains(t, p.agent.Publish(t.Context(), several), "InvalidArgument", "the driver has no disk that several nodes write")
	require.Empty(t, p.below())

	require.Empty(t, d.mounts(b.pid))
	require.Empty(t, d.mounts(p.process.Process.Pid))
	require.NoError(t, p.end())
	require.Eventually(t, d.free, 10*time.Second, 50*time.Millisecond, "nothing has the disk")
}
