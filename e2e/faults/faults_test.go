package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/world"
)

const (
	tmpfs = `,"timeout":120,"volumeMounts":[{"name":"scratch","path":"/data"}]`
	oss   = `,"timeout":120,"volumeMounts":[{"name":"oss-pv-sandbox-system","path":"/data"}]`
)

// begin starts a world, and proves at the end that nothing of it is left.
func begin(t *testing.T) *world.World {
	t.Helper()
	bin := os.Getenv("SANDGATE_BIN")
	switch {
	case os.Getuid() != 0:
		t.Skip("needs root: runs containers")
	case bin == "":
		t.Skip("needs SANDGATE_BIN, the directory of built programs: make unit sets it")
	}
	w, err := world.Start(t.Context(), world.Config{Bin: bin, Manifests: []string{
		"../testdata/faults", "../testdata/seed/oss.yaml", "../testdata/world/volumes.yaml"}})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		left, err := w.Close(ctx)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	return w
}

func TestAKilledGatewayTakesUpItsSandboxesAgain(t *testing.T) {
	w := begin(t)
	memory, err := w.Create(t.Context(), "pool", tmpfs)
	require.NoError(t, err)
	bucket, err := w.Create(t.Context(), "pool", oss)
	require.NoError(t, err)
	short, err := w.Create(t.Context(), "pool", `,"timeout":1`)
	require.NoError(t, err)
	for _, s := range []world.Sandbox{memory, bucket} {
		_, err = w.Run(t.Context(), s, "echo kept > /data/f")
		require.NoError(t, err)
	}
	key := w.Key
	require.NoError(t, w.Crash(t.Context()))
	require.NoError(t, w.Serve(t.Context()))

	require.Equal(t, key, w.Key)
	for _, s := range []world.Sandbox{memory, bucket} {
		out, err := w.Run(t.Context(), s, "cat /data/f")
		require.NoError(t, err, "the old token must go on working")
		require.Equal(t, "kept\n", out)
	}
	require.Eventually(t, func() bool { return !listed(t, w, short.ID) }, 10*time.Second, 100*time.Millisecond, "what expired meanwhile is reaped")
	require.NoError(t, w.Kill(t.Context(), memory))
	require.NoError(t, w.Kill(t.Context(), bucket))
}

func TestAnInterruptedGatewayLeavesSandboxesRunning(t *testing.T) {
	w := begin(t)
	s, err := w.Create(t.Context(), "pool", tmpfs)
	require.NoError(t, err)
	require.NoError(t, w.Stop(t.Context()))
	require.NoError(t, w.Serve(t.Context()))
	out, err := w.Run(t.Context(), s, "stat -fc %T /data")
	require.NoError(t, err)
	require.Equal(t, "tmpfs\n", out)
}

func TestAGatewayKilledInTheMiddleOfCreatesLeavesNoHalfSandbox(t *testing.T) {
	w := begin(t)
	for _, after := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
		var creates sync.WaitGroup
		for range 4 {
			creates.Go(func() { _, _ = w.Create(t.Context(), "pool", oss) })
		}
		<-time.After(after)
		require.NoError(t, w.Crash(t.Context()))
		creates.Wait()
		require.NoError(t, w.Serve(t.Context()))
		for _, id := range ids(t, w) {
			for _, m := range mounts(t, w, id) {
				require.Contains(t, m, "oss-pv-sandbox-system")
			}
			require.NoError(t, w.Kill(t.Context(), world.Sandbox{ID: id}))
		}
		require.Empty(t, ids(t, w))
	}
}

func TestASandboxWhoseDaemonDiesIsNotTakenForALivingOne(t *testing.T) {
	w := begin(t)
	s, err := w.Create(t.Context(), "pool", tmpfs)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(processOf(t, w, s.ID, "envd"), syscall.SIGKILL))
	require.Eventually(t, func() bool {
		_, err := w.Run(t.Context(), s, "true")
		var status *world.StatusError
		return errors.As(err, &status) && status.Status == http.StatusBadGateway
	}, 15*time.Second, 100*time.Millisecond)
}

func TestADeadVolumeClientIsReported(t *testing.T) {
	w := begin(t)
	s, err := w.Create(t.Context(), "pool", oss)
	require.NoError(t, err)
	before := strings.Join(mounts(t, w, s.ID), "\n")
	clients, err := w.Processes("s3fs")
	require.NoError(t, err)
	require.NotEmpty(t, clients)
	for _, pid := range clients {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	require.Eventually(t, func() bool { return strings.Join(mounts(t, w, s.ID), "\n") != before }, 15*time.Second, 100*time.Millisecond)
	_, err = w.Run(t.Context(), s, "echo lost > /data/f")
	require.Error(t, err, "a dead volume must be loud, not a bare directory")
	require.NoError(t, w.Kill(t.Context(), s))
}

func TestAStoppedVolumeClientHoldsUpNobodyElse(t *testing.T) {
	w := begin(t)
	s, err := w.Create(t.Context(), "pool", oss)
	require.NoError(t, err)
	clients, err := w.Processes("s3fs")
	require.NoError(t, err)
	require.NotEmpty(t, clients)
	for _, pid := range clients {
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	other, err := w.Create(ctx, "pool", tmpfs)
	require.NoError(t, err)
	require.True(t, listed(t, w, s.ID))
	require.NoError(t, w.Kill(ctx, other))
	require.NoError(t, w.Kill(ctx, s), "a sandbox ends although its volume's client does not answer")
}

func TestWithoutItsStoreAVolumeFailsByNameAndOthersGoOn(t *testing.T) {
	w := begin(t)
	require.NoError(t, w.Store.Crash(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	_, err := w.Create(ctx, "pool", oss)
	var status *world.StatusError
	require.ErrorAs(t, err, &status)
	require.Contains(t, status.Body, "oss-pv-sandbox-system")
	require.NotContains(t, status.Body, w.Store.Secret)
	s, err := w.Create(ctx, "pool", tmpfs)
	require.NoError(t, err)
	require.Equal(t, []string{s.ID}, ids(t, w))
}

func TestTwoHundredCreatesOnAPoolOfTwentySucceedOrSayWhenToTryAgain(t *testing.T) {
	w := begin(t)
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		made    []world.Sandbox
		refused []error
	)
	for range 200 {
		all.Go(func() {
			s, err := w.Create(t.Context(), "pool", `,"timeout":300`)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused = append(refused, err)
				return
			}
			made = append(made, s)
		})
	}
	all.Wait()
	require.GreaterOrEqual(t, len(made), 20)
	for _, err := range refused {
		var status *world.StatusError
		require.ErrorAs(t, err, &status)
		require.Contains(t, []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, status.Status, status.Body)
		_, err := strconv.Atoi(status.Header.Get("Retry-After"))
		require.NoError(t, err)
	}
	unique := map[string]bool{}
	for _, s := range made {
		unique[s.ID] = true
		require.NoError(t, w.Kill(t.Context(), s))
	}
	require.Len(t, unique, len(made), "no sandbox is given to two")
	require.Empty(t, ids(t, w))
}

func ids(t *testing.T, w *world.World) []string {
	t.Helper()
	status, body, err := w.Call(t.Context(), http.MethodGet, "/v2/sandboxes", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	var boxes []world.Sandbox
	require.NoError(t, json.Unmarshal(body, &boxes))
	var out []string
	for _, s := range boxes {
		out = append(out, s.ID)
	}
	return out
}

func listed(t *testing.T, w *world.World, id string) bool {
	t.Helper()
	return strings.Contains(strings.Join(ids(t, w), " "), id)
}

// mounts are the mounts of a sandbox as the API tells them, one text each.
func mounts(t *testing.T, w *world.World, id string) []string {
	t.Helper()
	status, body, err := w.Call(t.Context(), http.MethodGet, "/sandboxes/"+id+"/mounts", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	var all []json.RawMessage
	require.NoError(t, json.Unmarshal(body, &all))
	var out []string
	for _, m := range all {
		out = append(out, string(m))
	}
	return out
}

func processOf(t *testing.T, w *world.World, id, name string) int {
	t.Helper()
	pids, err := w.Processes(name)
	require.NoError(t, err)
	for _, pid := range pids {
		if strings.Contains(w.Places(pid), id) {
			return pid
		}
	}
	require.FailNow(t, "no such process", "%s of %s among %d", name, id, len(pids))
	return 0
}
