package faults_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/faults"
	"github.com/sandgate-dev/sandgate/e2e/world"
)

// killing runs a create for each moment, in which the processes that find returns are killed. The create answers a sandbox, or an
// error that a caller can act on; what it leaves is in order, and the next create works.
func (s *stage) killing(t *testing.T, more string, n int, find func() []int) {
	took := s.measure(t, more)
	failed := 0
	for _, after := range steps(n, took) {
		s.settled(t)
		before := find()
		answers := s.creates(t, 1, more)
		<-time.After(after)
		if len(before) == 0 { // those that the create has made
			before = find()
		}
		s.signal(t, syscall.SIGKILL, before...)
		made := answers()[0]
		if made.err != nil {
			requireClear(t, made.err)
			failed++
			continue
		}
		// It may have died after the answer, and is then gone by itself.
		if err := s.Kill(t.Context(), made.sandbox); err != nil {
			require.Equal(t, http.StatusNotFound, requireClear(t, err).Status)
		}
	}
	t.Logf("a create takes %s; %d of %d failed", took, failed, n)
	require.Eventually(t, func() bool {
		sb, err := s.Create(t.Context(), "pool", more)
		return err == nil && s.Kill(t.Context(), sb) == nil
	}, 30*time.Second, 500*time.Millisecond, "nothing works after it")
	s.settled(t)
}

func TestSandboxesWhoseProgramsAreKilledDuringACreateAreReplacedOrToldOf(t *testing.T) {
	for _, program := range []string{"envd", "starter"} {
		t.Run(program, func(t *testing.T) {
			s := begin(t)
			s.killing(t, tmpfs, 4, func() []int { return s.pids(t, program, "") })
		})
	}
}

func TestAVolumeClientKilledDuringACreateFailsItByNameOrIsReported(t *testing.T) {
	s := begin(t)
	s.killing(t, three, 6, func() []int { return s.pids(t, "s3fs", "") })
}

func TestASandboxWhoseProgramsDieEndsAndIsSaidToBeGone(t *testing.T) {
	s := begin(t)
	for _, program := range []string{"envd", "starter"} {
		sb, err := s.Create(t.Context(), "pool", three)
		require.NoError(t, err)
		s.signal(t, syscall.SIGKILL, s.pids(t, program, sb.ID)...)
		require.Eventually(t, func() bool {
			_, err := s.Run(t.Context(), sb, "true")
			var status *world.StatusError
			return errors.As(err, &status) && status.Status == http.StatusBadGateway
		}, 15*time.Second, 100*time.Millisecond)
		require.Eventually(t, func() bool { return !s.listed(t, sb.ID) }, 15*time.Second, 100*time.Millisecond)
	}
	s.settled(t)
}

func TestADeadVolumeClientIsReplacedAndWhereItCannotBeToldWithItsReason(t *testing.T) {
	s := begin(t)
	sb, err := s.Create(t.Context(), "pool", three)
	require.NoError(t, err)
	relayed := func() mounted {
		mounts := s.mounts(t, sb.ID)
		for _, m := range mounts {
			require.True(t, m.PVName == "relayed" || m.Phase == "Mounted", "the other volumes live: %+v", m)
		}
		return mounts[slices.IndexFunc(mounts, func(m mounted) bool { return m.PVName == "relayed" })]
	}
	s.signal(t, syscall.SIGKILL, s.pids(t, "s3fs", "")...)
	require.Eventually(t, func() bool {
		m := relayed()
		return m.Phase == "Mounted" && strings.Contains(m.Message, "healed once") && strings.Contains(m.Message, "killed by signal 9")
	}, 15*time.Second, 100*time.Millisecond)
	s.works(t, sb, "/data", "/mem", "/host")

	s.relay.Set(faults.Close) // no other one can be started
	s.signal(t, syscall.SIGKILL, s.pids(t, "s3fs", "")...)
	require.Eventually(t, func() bool { return relayed().Phase == "Failed" }, 15*time.Second, 100*time.Millisecond)
	require.Contains(t, relayed().Message, "the client that serves this volume has ended")
	_, err = s.Run(t.Context(), sb, "echo lost > /data/f")
	require.Error(t, err, "a dead volume must be loud, not a bare directory")
	s.works(t, sb, "/mem", "/host")
	require.NoError(t, s.Kill(t.Context(), sb))
	s.settled(t)
}

func TestAStoppedVolumeClientHoldsUpNobodyElseAndItsSandboxEnds(t *testing.T) {
	s := begin(t)
	var stuck []world.Sandbox
	for _, busy := range []string{
		"true",
		"(while :; do ls /data; done) >/dev/null 2>&1 &",
		"(while :; do dd if=/dev/zero of=/data/big bs=1M count=8; done) >/dev/null 2>&1 &",
	} {
		sb, err := s.Create(t.Context(), "pool", three)
		require.NoError(t, err)
		_, err = s.Run(t.Context(), sb, busy)
		require.NoError(t, err)
		stuck = append(stuck, sb)
	}
	<-time.After(300 * time.Millisecond)
	clients := s.pids(t, "s3fs", "")
	require.Len(t, clients, len(stuck))
	s.signal(t, syscall.SIGSTOP, clients...)
	for _, sb := range stuck {
		_, err := s.Run(t.Context(), sb, "(cat /data/more; ls /data) >/dev/null 2>&1 &")
		require.NoError(t, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	other, err := s.Create(ctx, "pool", three)
	require.NoError(t, err)
	s.works(t, other, "/mem", "/host", "/data")
	require.NoError(t, s.Kill(ctx, other))
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(s.mounts(t, stuck[0].ID), func(m mounted) bool { return m.PVName == "relayed" && m.Phase == "Failed" && m.Message != "" })
	}, 20*time.Second, 200*time.Millisecond, "that it does not answer is told")
	began := time.Now()
	s.crash(t)
	require.Less(t, time.Since(began), 15*time.Second, "a start does not wait for them")
	s.works(t, stuck[0], "/mem", "/host")
	var all sync.WaitGroup
	for _, sb := range stuck {
		require.True(t, s.listed(t, sb.ID))
		all.Go(func() {
			began := time.Now()
			if err := s.Kill(t.Context(), sb); err != nil {
				t.Errorf("kill: %v", err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("a kill took %s", took)
			}
		})
	}
	all.Wait()
	s.settled(t)
}
