package manifest_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/local/manifest"
	"github.com/sandgate-dev/sandgate/warmpool/template"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

// logbook collects log lines.
type logbook struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func newLogbook() (*logbook, *slog.Logger) {
	b := &logbook{wrote: make(chan struct{}, 1000)}
	return b, slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.wrote <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logbook) wait(t *testing.T, want string) {
	t.Helper()
	for !strings.Contains(b.String(), want) {
		select {
		case <-b.wrote:
		case <-time.After(15 * time.Second):
			t.Fatalf("never logged %q, only:\n%s", want, b)
		}
	}
}

func set(name string) string {
	return "apiVersion: agents.kruise.io/v1alpha1\nkind: SandboxSet\nmetadata: {name: " + name + "}\nspec: {template: {spec: {containers: [{name: sandbox}]}}}\n"
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
}

func names(s *manifest.Store) []string {
	var out []string
	for _, x := range s.Sets() {
		out = append(out, x.Name)
	}
	return out
}

func start(t *testing.T, dir string) (*manifest.Store, *logbook) {
	t.Helper()
	book, log := newLogbook()
	s, err := manifest.Open(dir, log)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return s, book
}

// changed waits for the next change and returns the sets' names.
func changed(t *testing.T, s *manifest.Store, do func()) []string {
	t.Helper()
	ch := s.Changed()
	do()
	select {
	case <-ch:
	case <-time.After(15 * time.Second):
		t.Fatal("no change was seen")
	}
	return names(s)
}

func TestTheContractsManifestsLoadUnchanged(t *testing.T) {
	_, log := newLogbook()
	s, err := manifest.Open("testdata/contract", log)
	require.NoError(t, err)
	sets := s.Sets()
	require.Len(t, sets, 1)
	tmpl, err := template.Of(&sets[0])
	require.NoError(t, err)
	require.Equal(t, warmpool.Template{
		Name: "code-interpreter-inject-test", Namespace: "default", Runtimes: []string{"csi", "agent-runtime"}, Containers: []warmpool.Container{{Name: "sandbox", Mounts: true, Memory: 1 << 30}},
		Resources: warmpool.Resources{CPUCount: 1, MemoryMB: 1024}, Owner: mount.Owner{UID: 1000, GID: 1000}, Desired: 4,
	}, tmpl)

	got, err := volume.Resolve(t.Context(), s, volume.Request{
		Principal: warmpool.Principal{Team: "t"}, Template: tmpl, Drivers: []string{mount.DriverOSS, mount.DriverNAS},
		Specs: []mount.Spec{{Volume: "oss-pv-sandbox-system", Target: "/data-oss", SubPath: "data-subPath"}, {Volume: "nas-pv-sandbox-system", Target: "/data-nas"}},
	})
	require.NoError(t, err)
	require.Equal(t, mount.Secret{"akId": "<YOUR_ACCESS_KEY_ID>", "akSecret": "<YOUR_ACCESS_KEY_SECRET>"}, got[0].Secret)
	require.Equal(t, []string{"nolock", "tcp", "noresvport", "vers=3"}, got[1].Options)
}

func TestTheShippedExamplesLoad(t *testing.T) {
	book, log := newLogbook()
	s, err := manifest.Open("../../../examples/local", log)
	require.NoError(t, err)
	require.Equal(t, []string{"base", "code-interpreter"}, names(s))
	sets := s.Sets()
	require.Equal(t, []string{"code-interpreter-v1"}, template.Aliases(&sets[1]))
	tmpl, err := template.Of(&sets[0])
	require.NoError(t, err)
	var specs []mount.Spec
	for _, name := range []string{"scratch-pv", "host-pv", "oss-pv", "oss-pv-sandbox-system"} {
		specs = append(specs, mount.Spec{ID: name, Volume: name, Target: "/" + name})
	}
	ms, err := volume.Resolve(t.Context(), s, volume.Request{
		Template: tmpl, Specs: specs, Drivers: []string{mount.DriverOSS, mount.DriverTmpfs, mount.DriverHostPath},
	})
	require.NoError(t, err)
	require.NoError(t, mount.DefaultPolicy().Admit(ms))
	require.NotContains(t, book.String(), ms[2].Secret["akSecret"])
}

func TestADirectoryThatIsBrokenFromTheStartIsAnError(t *testing.T) {
	dir := t.TempDir()
	_, log := newLogbook()
	_, err := manifest.Open(filepath.Join(dir, "missing"), log)
	require.ErrorIs(t, err, os.ErrNotExist)
	write(t, dir, "a.yaml", "kind: [")
	_, err = manifest.Open(dir, log)
	require.ErrorContains(t, err, "a.yaml:")
}

func TestEditsAreFollowed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", set("a"))
	write(t, dir, ".a.yaml.swp", "kind: [")
	write(t, dir, "README.md", "kind: [")
	s, book := start(t, dir)
	require.Equal(t, []string{"a"}, names(s))

	require.Equal(t, []string{"a", "b"}, changed(t, s, func() { write(t, dir, "b.yml", set("b")) }))
	// As editors do: write beside it, then rename over it.
	require.Equal(t, []string{"b", "c"}, changed(t, s, func() {
		write(t, dir, "a.yaml~", set("c"))
		require.NoError(t, os.Rename(filepath.Join(dir, "a.yaml~"), filepath.Join(dir, "a.yaml")))
	}))
	require.Equal(t, []string{"c", "d"}, changed(t, s, func() {
		write(t, dir, "b.yml~", set("d"))
		require.NoError(t, os.Rename(filepath.Join(dir, "b.yml~"), filepath.Join(dir, "b.yml")))
	}))

	write(t, dir, "a.yaml", set("c")+"  extra: 1\n")
	book.wait(t, "the last good ones stay")
	require.Contains(t, book.String(), "a.yaml:")
	require.Equal(t, []string{"c", "d"}, names(s))

	require.Equal(t, []string{"d"}, changed(t, s, func() { require.NoError(t, os.Remove(filepath.Join(dir, "a.yaml"))) }))
}

func TestAMendedFileIsTakenOverEvenWhenItIsAsBefore(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", set("a"))
	s, book := start(t, dir)
	write(t, dir, "a.yaml", "kind: [")
	book.wait(t, "the last good ones stay")
	require.Equal(t, []string{"a"}, changed(t, s, func() { write(t, dir, "a.yaml", set("a")) }))
	write(t, dir, "a.yaml", "kind: [")
	require.Eventually(t, func() bool { return strings.Count(book.String(), "the last good ones stay") == 2 }, 15*time.Second, 20*time.Millisecond)
}

func TestABrokenSecretIsNotLogged(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", set("a"))
	_, book := start(t, dir)
	write(t, dir, "s.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: canary!}\nstringData: {canary2: [canary3]}\n")
	book.wait(t, "s.yaml:")
	require.NotContains(t, book.String(), "canary")
}

func TestTheReaderSaysNotFound(t *testing.T) {
	_, log := newLogbook()
	s, err := manifest.Open(t.TempDir(), log)
	require.NoError(t, err)
	_, err = s.PersistentVolume(t.Context(), "x")
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, err = s.PersistentVolumeClaim(t.Context(), "default", "x")
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, err = s.Secret(t.Context(), "default", "x")
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
}
