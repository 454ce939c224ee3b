//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/csiagent/node"
)

// foreign is a pod whose agent runs a plugin that nobody here wrote: CSI_PLUGINS is a directory with such programs.
func foreign(t *testing.T, driver, program string, args ...string) *pod {
	t.Helper()
	p := withPlugin(t, driver, program, args...)
	p.run()
	return p
}

// withPlugin is such a pod before its agent is started.
func withPlugin(t *testing.T, driver, program string, args ...string) *pod {
	t.Helper()
	path := filepath.Join(os.Getenv("CSI_PLUGINS"), program)
	if _, err := os.Stat(path); err != nil || os.Getenv("CSI_PLUGINS") == "" {
		t.Skipf("needs the node plugin %s: set CSI_PLUGINS to the directory that it is in", program)
	}
	p := newPod(t)
	var err error
	p.state, err = os.MkdirTemp("", "s") // short: a socket is in it
	require.NoError(t, err)
	p.extra = []string{"-plugin", driver}
	for _, said := range []string{"pod.name=p", "pod.namespace=default", "pod.uid=u", "serviceAccount.name=default", "ephemeral=false"} { // as the chart has it
		p.extra = append(p.extra, "-plugin-context", "csi.storage.k8s.io/"+said)
	}
	p.extra = append(append(p.extra, "--", path), args...)
	return p
}

// run starts the agent, and looks at the end that it has kept its secrets.
func (p *pod) run() {
	p.t.Helper()
	p.start("")
	p.t.Cleanup(func() {
		if p.process.ProcessState == nil {
			_ = p.end()
		}
		require.NotContains(p.t, p.log.String(), "CANARY")
		require.NoError(p.t, os.RemoveAll(p.state))
	})
}

// below are the paths that a driver has left.
func (p *pod) below() []string {
	places, _ := filepath.Glob(filepath.Join(p.state, "csi", "places", "*"))
	stages, _ := filepath.Glob(filepath.Join(p.state, "csi", "stages", "*"))
	return append(places, stages...)
}

var startedPlugin = regexp.MustCompile(`"plugin started".*"pid":(\d+)`)

// killPlugin does what an out-of-memory killer does.
func (p *pod) killPlugin() {
	p.t.Helper()
	all := startedPlugin.FindAllStringSubmatch(p.log.String(), -1)
	require.NotEmpty(p.t, all)
	pid, err := strconv.Atoi(all[len(all)-1][1])
	require.NoError(p.t, err)
	require.NoError(p.t, syscall.Kill(pid, syscall.SIGKILL))
}

func (p *pod) unpublish(m mount.Mount) {
	p.t.Helper()
	require.NoError(p.t, p.agent.Unpublish(p.t.Context(), node.Identity{VolumeHandle: m.VolumeHandle, Target: m.Target}), p.log)
}

// at is m at another target of the sandbox.
func (p *pod) at(m mount.Mount, name string) mount.Mount {
	m.ID, m.Target = name, filepath.Join(p.sandbox, name)
	return m
}

// works writes and reads, and looks that a read-only mount of the same refuses.
func (p *pod) works(b box, m mount.Mount) {
	p.t.Helper()
	ctx := p.t.Context()
	one, two := p.at(m, "one"), p.at(m, "two")
	two.ReadOnly = true
	require.NoError(p.t, p.agent.Publish(ctx, one), p.log)
	require.NoError(p.t, p.agent.Publish(ctx, one), "again")
	require.NoError(p.t, os.WriteFile(p.in(b, "one", "f"), []byte("written"), 0o600))
	require.NoError(p.t, p.agent.Publish(ctx, two), p.log)
	require.Eventually(p.t, func() bool {
		text, err := os.ReadFile(p.in(b, "two", "f"))
		return err == nil && string(text) == "written"
	}, 20*time.Second, 10*time.Millisecond)
	require.ErrorIs(p.t, os.WriteFile(p.in(b, "two", "g"), nil, 0o600), syscall.EROFS)
	p.unpublish(one)
	require.NoFileExists(p.t, p.in(b, "one", "f"))
	require.FileExists(p.t, p.in(b, "two", "f"), "the other one stays")
	p.unpublish(two)
	require.Empty(p.t, p.below())
}

// survives kills the plugin before and while each step is made.
func (p *pod) survives(b box, m mount.Mount) {
	p.t.Helper()
	for i := range 3 {
		one := p.at(m, fmt.Sprintf("kill%d", i))
		p.killPlugin()
		require.NoError(p.t, p.agent.Publish(p.t.Context(), one), p.log)
		require.FileExists(p.t, p.in(b, one.ID, "f"))
		p.killPlugin()
		require.FileExists(p.t, p.in(b, one.ID, "f"), "the volume does not need its plugin")
		p.unpublish(one)
		require.Empty(p.t, p.below())
	}
	one, done := p.at(m, "during"), make(chan error, 1)
	go func() { done <- p.agent.Publish(p.t.Context(), one) }()
	p.killPlugin()
	require.NoError(p.t, <-done, p.log)
	// The agent dies with the volume in use; the next one knows it, and what to undo.
	require.NoError(p.t, p.process.Process.Kill())
	_ = p.process.Wait()
	p.start("")
	p.ready(true)
	require.FileExists(p.t, p.in(b, "during", "f"))
	p.unpublish(one)
	require.Empty(p.t, p.below())
}

func TestHostPathPlugin(t *testing.T) {
	const driver = "hostpath.csi.k8s.io"
	data := t.TempDir()
	args := []string{"-endpoint", "$(CSI_ENDPOINT)", "-nodeid", "n", "-statedir", data, "-drivername", driver}
	p := foreign(t, driver, "hostpathplugin", args...)
	handle := created(t, p)
	b := p.container()
	p.ready(true)
	m := p.mount("v", driver, nil)
	m.VolumeHandle, m.AccessMode = handle, mount.ReadWriteMany
	p.works(b, m)
	require.FileExists(t, filepath.Join(data, handle, "f"), "it is the driver's volume")
	p.survives(b, m)

	missing := p.at(m, "missing")
	missing.VolumeHandle = "no-such-volume"
	require.ErrorContains(t, p.agent.Publish(t.Context(), missing), "NotFound")
	require.Empty(t, p.below())
	require.NoError(t, p.end())

	another := foreign(t, driver, "hostpathplugin", args...)
	c := another.container()
	another.ready(true)
	two := another.at(m, "second")
	require.NoError(t, another.agent.Publish(t.Context(), two), another.log)
	text, err := os.ReadFile(another.in(c, "second", "f"))
	require.NoError(t, err)
	require.Equal(t, "written", string(text), "a second sandbox has the same volume")
	another.unpublish(two)
}

func TestHostPathPluginThatAttaches(t *testing.T) {
	const driver = "hostpath.csi.k8s.io"
	p := foreign(t, driver, "hostpathplugin", "-endpoint", "$(CSI_ENDPOINT)", "-nodeid", "n", "-statedir", t.TempDir(), "-enable-attach")
	p.container()
	p.ready(true)
	m := p.mount("v", driver, nil)
	require.ErrorContains(t, p.agent.Publish(t.Context(), m), "attachRequired: false")
	m.Driver = mount.DriverTmpfs
	m.Attributes = map[string]string{"size": "1Mi"}
	require.NoError(t, p.agent.Publish(t.Context(), m), "the agent's own drivers work beside it")
}

func TestPluginOfAnotherName(t *testing.T) {
	p := foreign(t, "mine.example", "hostpathplugin", "-endpoint", "$(CSI_ENDPOINT)", "-nodeid", "n", "-statedir", t.TempDir())
	p.container()
	p.ready(true)
	require.ErrorContains(t, p.agent.Publish(t.Context(), p.mount("v", "mine.example", nil)), `driver "hostpath.csi.k8s.io"`)
}

func TestS3Plugin(t *testing.T) {
	const driver = "ru.yandex.s3.csi"
	data, address := store(t)
	p := foreign(t, driver, "s3driver", "--endpoint=$(CSI_ENDPOINT)", "--nodeid=n")
	b := p.container()
	p.ready(true)
	m := p.mount("v", driver, map[string]string{"mounter": "s3fs", "options": "-o umask=000"})
	m.VolumeHandle, m.AccessMode = "data", mount.ReadWriteMany
	m.StageSecret = mount.Secret{"accessKeyID": "AKCANARY", "secretAccessKey": "SKCANARY", "endpoint": "http://" + address, "region": "us-east-1"}
	p.works(b, m)
	text, err := os.ReadFile(filepath.Join(data, "data", "f"))
	require.NoError(t, err)
	require.Equal(t, "written", string(text))
	sub := p.at(m, "sub")
	sub.SubPath = "a/b"
	require.NoError(t, p.agent.Publish(t.Context(), sub), p.log)
	require.NoError(t, os.WriteFile(p.in(b, "sub", "f"), nil, 0o600))
	require.FileExists(t, filepath.Join(data, "data", "a", "b", "f"), "made, though this file system has one mode for all")
	p.unpublish(sub)
	p.survives(b, m)

	one := p.at(m, "one")
	require.NoError(t, p.agent.Publish(t.Context(), one), p.log)
	for _, pid := range p.clients() {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.HasPrefix(line, []byte("s3fs")) {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	require.Eventually(t, func() bool {
		health, err := p.agent.Health(t.Context(), node.Identity{VolumeHandle: one.VolumeHandle, Target: one.Target})
		return err == nil && !health.Works()
	}, 20*time.Second, 10*time.Millisecond, "a volume that nobody serves is reported")
	require.NoError(t, p.agent.Publish(t.Context(), one), p.log)
	require.FileExists(t, p.in(b, "one", "f"), "and mounted again")
	p.unpublish(one)

	wrong := p.at(m, "wrong")
	wrong.StageSecret = mount.Secret{"endpoint": "::CANARY"}
	err = p.agent.Publish(t.Context(), wrong)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "CANARY")
	require.Empty(t, p.below())
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		require.NotContains(t, string(line), "CANARY", "no secret in argv")
	}
}

// created is a volume that the driver's controller made, as a provisioner has it do.
func created(t *testing.T, p *pod) string {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.state, "csi", "run", "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	made, err := csi.NewControllerClient(conn).CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: "v", VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
		}},
	}, grpc.WaitForReady(true))
	require.NoError(t, err)
	return made.GetVolume().GetVolumeId()
}
