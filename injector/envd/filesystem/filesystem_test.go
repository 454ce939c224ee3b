package filesystem

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	pb "github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb"
	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb/filesystempbconnect"
)

type world struct {
	filesystempbconnect.FilesystemClient
	service *Service
	home    string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	self := account.Current(os.Getuid(), os.Getgid())
	self.Home = t.TempDir()
	s := New(&account.Directory{Self: &self, DefaultUser: func() string { return self.Name }}, slog.New(slog.DiscardHandler))
	mux := http.NewServeMux()
	mux.Handle(s.Handler())
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		s.Close()
		srv.CloseClientConnections()
		srv.Close()
	})
	return &world{filesystempbconnect.NewFilesystemClient(srv.Client(), srv.URL, connect.WithProtoJSON()), s, self.Home}
}

func (w *world) put(t *testing.T, path, content string) string {
	t.Helper()
	full := filepath.Join(w.home, path)
	require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
	require.NoError(t, os.WriteFile(full, []byte(content), 0o640))
	return full
}

func TestStatDescribes(t *testing.T) {
	w := newWorld(t)
	w.put(t, "f", "abc")
	require.NoError(t, os.Chmod(filepath.Join(w.home, "f"), 0o640))
	require.NoError(t, os.Symlink("f", filepath.Join(w.home, "link")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(w.home, "dangling")))
	me := account.Current(os.Getuid(), os.Getgid()).Name
	stat := func(path string) *pb.EntryInfo {
		res, err := w.Stat(t.Context(), connect.NewRequest(&pb.StatRequest{Path: path}))
		require.NoError(t, err)
		return res.Msg.GetEntry()
	}
	e := stat("f")
	require.Equal(t, "f", e.GetName())
	require.Equal(t, filepath.Join(w.home, "f"), e.GetPath())
	require.Equal(t, pb.FileType_FILE_TYPE_FILE, e.GetType())
	require.Equal(t, int64(3), e.GetSize())
	require.Equal(t, uint32(0o640), e.GetMode())
	require.Equal(t, "-rw-r-----", e.GetPermissions())
	require.Equal(t, me, e.GetOwner())
	require.NotEmpty(t, e.GetGroup())
	require.Nil(t, e.SymlinkTarget)
	require.WithinDuration(t, time.Now(), e.GetModifiedTime().AsTime(), time.Minute)

	e = stat("link")
	require.Equal(t, pb.FileType_FILE_TYPE_FILE, e.GetType(), "a link is what it leads to")
	require.Equal(t, uint32(0o640), e.GetMode())
	require.Equal(t, filepath.Join(w.home, "f"), e.GetSymlinkTarget())
	e = stat("dangling")
	require.Equal(t, pb.FileType_FILE_TYPE_UNSPECIFIED, e.GetType())
	require.Equal(t, pb.FileType_FILE_TYPE_DIRECTORY, stat(".").GetType())
}

func TestFaultsHaveTheirCodes(t *testing.T) {
	w := newWorld(t)
	w.put(t, "dir/f", "x")
	require.NoError(t, os.Symlink("loop", filepath.Join(w.home, "loop")))
	ctx := t.Context()
	stat := func(p string) error {
		_, err := w.Stat(ctx, connect.NewRequest(&pb.StatRequest{Path: p}))
		return err
	}
	list := func(p string) error {
		_, err := w.ListDir(ctx, connect.NewRequest(&pb.ListDirRequest{Path: p}))
		return err
	}
	mkdir := func(p string) error {
		_, err := w.MakeDir(ctx, connect.NewRequest(&pb.MakeDirRequest{Path: p}))
		return err
	}
	remove := func(p string) error {
		_, err := w.Remove(ctx, connect.NewRequest(&pb.RemoveRequest{Path: p}))
		return err
	}
	watch := func(p string) error {
		_, err := w.CreateWatcher(ctx, connect.NewRequest(&pb.CreateWatcherRequest{Path: p}))
		return err
	}
	move := func(from, to string) error {
		_, err := w.Move(ctx, connect.NewRequest(&pb.MoveRequest{Source: from, Destination: to}))
		return err
	}
	strange := connect.NewRequest(&pb.StatRequest{Path: "dir"})
	strange.Header().Set("Authorization", "Basic bm9ib2R5LWhlcmU6")
	_, unknown := w.Stat(ctx, strange)
	for name, c := range map[string]struct {
		err  error
		code connect.Code
	}{
		"stat of what is missing":   {stat("missing"), connect.CodeNotFound},
		"stat below a file":         {stat("dir/f/x"), connect.CodeInvalidArgument},
		"another user's home":       {stat("~root"), connect.CodeInvalidArgument},
		"a name that is too long":   {stat(strings.Repeat("x", 10000)), connect.CodeInvalidArgument},
		"an unknown user":           {unknown, connect.CodeUnauthenticated},
		"a listing of a file":       {list("dir/f"), connect.CodeInvalidArgument},
		"a listing of nothing":      {list("missing"), connect.CodeNotFound},
		"a listing in a circle":     {list("loop"), connect.CodeFailedPrecondition},
		"a directory that is there": {mkdir("dir"), connect.CodeAlreadyExists},
		"a directory over a file":   {mkdir("dir/f"), connect.CodeInvalidArgument},
		"a directory below a file":  {mkdir("dir/f/x"), connect.CodeInvalidArgument},
		"a move of nothing":         {move("missing", "new/x"), connect.CodeNotFound},
		"a removal of everything":   {remove("/"), connect.CodeInvalidArgument},
		"a removal of no path":      {remove(""), connect.CodeInvalidArgument},
		"a watch of a file":         {watch("dir/f"), connect.CodeInvalidArgument},
		"a watch of nothing":        {watch("missing"), connect.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.code, connect.CodeOf(c.err), "%v", c.err)
		})
	}
	require.NoError(t, remove("missing"), "what is not there is removed already")
	require.NoDirExists(t, filepath.Join(w.home, "new"), "a move that fails makes no directories")
	require.FileExists(t, filepath.Join(w.home, "dir/f"))
}

func TestWhatTheMachineHasTooFewOfIsExhausted(t *testing.T) {
	for _, err := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE} {
		require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(fault(fmt.Errorf("watching: %w", err))))
	}
}

func TestDirectoriesAreMadeMovedAndRemoved(t *testing.T) {
	w := newWorld(t)
	made, err := w.MakeDir(t.Context(), connect.NewRequest(&pb.MakeDirRequest{Path: "a/b"}))
	require.NoError(t, err)
	require.Equal(t, filepath.Join(w.home, "a/b"), made.Msg.GetEntry().GetPath())
	w.put(t, "a/b/f", "x")
	moved, err := w.Move(t.Context(), connect.NewRequest(&pb.MoveRequest{Source: "a", Destination: "x/y/z"}))
	require.NoError(t, err)
	require.Equal(t, pb.FileType_FILE_TYPE_DIRECTORY, moved.Msg.GetEntry().GetType())
	require.FileExists(t, filepath.Join(w.home, "x/y/z/b/f"))
	_, err = w.Remove(t.Context(), connect.NewRequest(&pb.RemoveRequest{Path: "x"}))
	require.NoError(t, err)
	require.NoDirExists(t, filepath.Join(w.home, "x"))
}

func TestAListingGoesAsDeepAsAsked(t *testing.T) {
	w := newWorld(t)
	w.put(t, "d/a/b/c", "")
	w.put(t, "d/z", "")
	require.NoError(t, os.Symlink("d", filepath.Join(w.home, "link")))
	require.NoError(t, os.Symlink("..", filepath.Join(w.home, "d/up")))
	for name, c := range map[string]struct {
		path  string
		depth uint32
		want  []string
	}{
		"0 means 1":           {"d", 0, []string{"d/a", "d/up", "d/z"}},
		"1":                   {"d", 1, []string{"d/a", "d/up", "d/z"}},
		"2":                   {"d", 2, []string{"d/a", "d/a/b", "d/up", "d/z"}},
		"more than there is":  {"d", 1 << 31, []string{"d/a", "d/a/b", "d/a/b/c", "d/up", "d/z"}},
		"by way of a link":    {"link", 1, []string{"link/a", "link/up", "link/z"}},
		"a directory of none": {"d/a/b", 1, []string{"d/a/b/c"}},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := w.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: c.path, Depth: c.depth}))
			require.NoError(t, err)
			var got []string
			for _, e := range res.Msg.GetEntries() {
				rel, err := filepath.Rel(w.home, e.GetPath())
				require.NoError(t, err)
				got = append(got, rel)
			}
			require.Equal(t, c.want, got)
		})
	}
}

// mail polls a watcher until it said all that is wanted, and returns all that it said.
func (w *world) mail(t *testing.T, id string, want ...string) (got []string) {
	t.Helper()
	require.Eventually(t, func() bool {
		res, err := w.GetWatcherEvents(t.Context(), connect.NewRequest(&pb.GetWatcherEventsRequest{WatcherId: id}))
		require.NoError(t, err)
		for _, e := range res.Msg.GetEvents() {
			got = append(got, strings.ToLower(strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_"))+" "+e.GetName())
		}
		return !slices.ContainsFunc(want, func(s string) bool { return !slices.Contains(got, s) })
	}, 10*time.Second, 10*time.Millisecond, "wanted %v", want)
	return got
}

func TestAWatcherKeepsEvents(t *testing.T) {
	w := newWorld(t)
	w.put(t, "old", "x")
	w.put(t, "sub/deep/old", "x")
	for name, c := range map[string]struct {
		recursive bool
	}{"flat": {false}, "recursive": {true}} {
		t.Run(name, func(t *testing.T) {
			res, err := w.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: "", Recursive: c.recursive}))
			require.NoError(t, err)
			id := res.Msg.GetWatcherId()
			file := w.put(t, name, "x")
			require.NoError(t, os.Chmod(file, 0o600))
			require.NoError(t, os.Rename(file, file+"2"))
			require.NoError(t, os.Remove(file+"2"))
			w.put(t, "sub/deep/"+name, "x")
			w.put(t, name+"-new/a/b", "x")
			w.put(t, "last-"+name, "x")
			want := []string{"create " + name, "write " + name, "chmod " + name, "rename " + name, "create " + name + "2", "remove " + name + "2", "create last-" + name}
			deep := []string{"create sub/deep/" + name, "create " + name + "-new/a", "create " + name + "-new/a/b"}
			if c.recursive {
				want = append(want, deep...)
			}
			got := w.mail(t, id, want...)
			for _, d := range deep {
				n := 0
				for _, g := range got {
					if g == d {
						n++
					}
				}
				require.Equal(t, map[bool]int{true: 1, false: 0}[c.recursive], n, "%s in %v", d, got)
			}
			_, err = w.RemoveWatcher(t.Context(), connect.NewRequest(&pb.RemoveWatcherRequest{WatcherId: id}))
			require.NoError(t, err)
			_, err = w.GetWatcherEvents(t.Context(), connect.NewRequest(&pb.GetWatcherEventsRequest{WatcherId: id}))
			require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
			_, err = w.RemoveWatcher(t.Context(), connect.NewRequest(&pb.RemoveWatcherRequest{WatcherId: id}))
			require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
		})
	}
}

func TestAFileThatTakesTheNameOfAFoundOneIsNews(t *testing.T) {
	w := newWorld(t)
	away := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(away, "d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(away, "d/f"), []byte("old"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(away, "new"), []byte("new"), 0o600))
	res, err := w.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: "", Recursive: true}))
	require.NoError(t, err)
	id := res.Msg.GetWatcherId()
	require.NoError(t, os.Rename(filepath.Join(away, "d"), filepath.Join(w.home, "d")))
	w.mail(t, id, "create d/f")
	require.NoError(t, os.Rename(filepath.Join(away, "new"), filepath.Join(w.home, "d/f")))
	w.mail(t, id, "create d/f")
}

func TestWhatWasFoundIsNotKeptForEver(t *testing.T) {
	f := found{}
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	f.note(file)
	f.expire(time.Now())
	require.True(t, f.forget(file))
	require.False(t, f.forget(file), "the kernel tells it once more, not twice")
	f.note(file)
	f.expire(time.Now().Add(2 * settled))
	require.False(t, f.forget(file))
}

func TestWatchersAreBounded(t *testing.T) {
	m := &mailbox{}
	for range maxUnread + 1 {
		m.put(&pb.FilesystemEvent{})
	}
	events, err := m.take()
	require.NoError(t, err)
	require.Len(t, events, maxUnread)
	m.put(&pb.FilesystemEvent{})
	_, err = m.take()
	require.ErrorContains(t, err, "lost")
}

func TestAStreamTellsOfChanges(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := connect.NewRequest(&pb.WatchDirRequest{Path: w.home, IncludeEntry: true})
	req.Header().Set("Keepalive-Ping-Interval", "1")
	s, err := w.WatchDir(ctx, req)
	require.NoError(t, err)
	require.True(t, s.Receive(), "%v", s.Err())
	require.NotNil(t, s.Msg().GetStart())
	next := func(match func(*pb.WatchDirResponse) bool) *pb.WatchDirResponse {
		for s.Receive() {
			if match(s.Msg()) {
				return s.Msg()
			}
		}
		require.NoError(t, s.Err())
		return nil
	}
	file := w.put(t, "f", "abc")
	made := next(func(m *pb.WatchDirResponse) bool {
		return m.GetFilesystem().GetType() == pb.EventType_EVENT_TYPE_CREATE
	})
	require.Equal(t, "f", made.GetFilesystem().GetName())
	require.Equal(t, file, made.GetFilesystem().GetEntry().GetPath())
	require.NoError(t, os.Remove(file))
	gone := next(func(m *pb.WatchDirResponse) bool {
		return m.GetFilesystem().GetType() == pb.EventType_EVENT_TYPE_REMOVE
	})
	require.Nil(t, gone.GetFilesystem().GetEntry())
	require.NotNil(t, next(func(m *pb.WatchDirResponse) bool { return m.GetKeepalive() != nil }))
}

func TestAWatchEndsAtItsTimeout(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s, err := w.WatchDir(ctx, connect.NewRequest(&pb.WatchDirRequest{Path: w.home}))
	require.NoError(t, err)
	for s.Receive() {
		require.NotNil(t, s.Msg().GetStart())
	}
	require.Equal(t, connect.CodeDeadlineExceeded, connect.CodeOf(s.Err()))
}

func TestAScanFindsWhatTheKernelDidNotTell(t *testing.T) {
	for name, viaLink := range map[string]bool{"directly": false, "by way of a link": true} {
		t.Run(name, func(t *testing.T) {
			server := t.TempDir()
			root := server
			if viaLink {
				root = filepath.Join(t.TempDir(), "link")
				require.NoError(t, os.Symlink(server, root))
			}
			write := func(name, content string) string {
				p := filepath.Join(server, name)
				require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
				require.NoError(t, os.WriteFile(p, []byte(content), 0o600))
				return filepath.Join(root, name)
			}
			write("stays", "x")
			write("changes", "x")
			write("goes", "x")
			write("mode", "x")
			s := newScanner(root, true)
			write("changes", "xy")
			write("d/new", "x")
			told := write("told", "x")
			s.saw(told)
			require.NoError(t, os.Remove(filepath.Join(server, "goes")))
			require.NoError(t, os.Chmod(filepath.Join(server, "mode"), 0o644))
			got := map[string]pb.EventType{}
			tell := func(p string, k pb.EventType) {
				rel, err := filepath.Rel(root, p)
				require.NoError(t, err)
				got[rel] = k
			}
			s.run(t.Context(), tell)
			require.Equal(t, map[string]pb.EventType{
				"changes": pb.EventType_EVENT_TYPE_WRITE, "d": pb.EventType_EVENT_TYPE_CREATE, "d/new": pb.EventType_EVENT_TYPE_CREATE,
				"goes": pb.EventType_EVENT_TYPE_REMOVE, "mode": pb.EventType_EVENT_TYPE_CHMOD,
			}, got)
			clear(got)
			s.run(t.Context(), tell)
			require.Empty(t, got, "nothing is told twice")
			require.NoError(t, os.Rename(server, server+"-away"))
			s.run(t.Context(), tell)
			require.Empty(t, got, "a server that is away removes nothing")
			require.NoError(t, os.Rename(server+"-away", server))
		})
	}
}

func TestAWatchOfARemoteMountScansToo(t *testing.T) {
	root := t.TempDir()
	events := make(chan *pb.FilesystemEvent, 64)
	w, err := newWatch(root, false, false, true, func(e *pb.FilesystemEvent) { events <- e })
	require.NoError(t, err)
	require.NoError(t, w.kernel.Remove(root), "the kernel tells nothing of what others do")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	require.NoError(t, os.WriteFile(filepath.Join(root, "theirs"), nil, 0o600))
	select {
	case e := <-events:
		require.Equal(t, "theirs", e.GetName())
		require.Equal(t, pb.EventType_EVENT_TYPE_CREATE, e.GetType())
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
	}
	cancel()
	require.NoError(t, <-done)
}

func TestANetworkMountIsWatchedOnlyWhenAllowed(t *testing.T) {
	far, err := remote(t.TempDir())
	require.NoError(t, err)
	require.False(t, far)
	_, err = remote("/does/not/exist")
	require.ErrorIs(t, err, syscall.ENOENT)
	mount := fuseMount(t)
	far, err = remote(mount)
	require.NoError(t, err)
	require.True(t, far)
	w := newWorld(t)
	_, err = w.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: mount}))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = w.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: mount, AllowNetworkMounts: true}))
	require.NoError(t, err)
}

// fuseMount is a directory that a FUSE server of the test's own answers for.
// deadMount is a directory with a file system that nobody serves any more, as when a volume's client has died.
func deadMount(t *testing.T, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a FUSE file system")
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device.Fd())))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	require.NoError(t, device.Close())
	_, err = os.Lstat(dir)
	require.ErrorIs(t, err, syscall.ENOTCONN)
}

func TestADeadVolumeDoesNotHideWhatLiesBesideIt(t *testing.T) {
	w := newWorld(t)
	w.put(t, "f", "abc")
	deadMount(t, filepath.Join(w.home, "volume"))
	res, err := w.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: w.home, Depth: 2}))
	require.NoError(t, err)
	var names []string
	for _, e := range res.Msg.GetEntries() {
		names = append(names, e.GetName())
	}
	require.Equal(t, []string{"f", "volume"}, names)
	require.Equal(t, pb.FileType_FILE_TYPE_DIRECTORY, res.Msg.GetEntries()[1].GetType())
	_, err = w.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: filepath.Join(w.home, "volume")}))
	require.Error(t, err, "what is asked for itself is told to be dead")

	watcher, err := w.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: w.home, Recursive: true}))
	require.NoError(t, err)
	_, err = w.RemoveWatcher(t.Context(), connect.NewRequest(&pb.RemoveWatcherRequest{WatcherId: watcher.Msg.GetWatcherId()}))
	require.NoError(t, err)
}

// hungMount is a directory with a file system whose server takes every request and answers none.
func hungMount(t *testing.T, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a FUSE file system")
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Mount("hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device.Fd())))
	t.Cleanup(func() {
		require.NoError(t, device.Close()) // whoever waits gets ENOTCONN
		require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH))
	})
}

func TestWatchesOfAVolumeThatHangsAreBounded(t *testing.T) {
	w := newWorld(t)
	volume := filepath.Join(w.home, "volume")
	hungMount(t, volume)
	watch := func(ctx context.Context, path string) error {
		stream, err := w.WatchDir(ctx, connect.NewRequest(&pb.WatchDirRequest{Path: path, AllowNetworkMounts: true}))
		if err == nil {
			defer func() { _ = stream.Close() }()
			stream.Receive()
			err = stream.Err()
		}
		return err
	}
	hang, leave := context.WithCancel(t.Context())
	defer leave()
	var all errgroup.Group
	for range maxBeginning {
		all.Go(func() error { return watch(hang, volume) })
	}
	require.Eventually(t, func() bool { return len(w.service.beginning) == maxBeginning }, time.Minute, time.Millisecond)
	leave()
	require.Equal(t, connect.CodeCanceled, connect.CodeOf(all.Wait()))
	require.Len(t, w.service.beginning, maxBeginning, "the clients have gone, and what they asked for still hangs")
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Equal(t, connect.CodeDeadlineExceeded, connect.CodeOf(watch(short, w.home)), "who comes next waits no longer than he wants to")
}

func fuseMount(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a FUSE file system")
	}
	root, err := fs.NewLoopbackRoot(t.TempDir())
	require.NoError(t, err)
	dir := t.TempDir()
	server, err := fs.Mount(dir, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Unmount()) })
	return dir
}
