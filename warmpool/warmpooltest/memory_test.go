package warmpooltest_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

func template() warmpool.Template {
	return warmpool.Template{
		Name: "base", Aliases: []string{"base-v1"}, Desired: 4, EnvdVersion: "0.6.0",
		Resources: warmpool.Resources{CPUCount: 1, MemoryMB: 512},
	}
}

func TestMemoryKeepsTheContract(t *testing.T) {
	warmpooltest.Run(t, func(*testing.T) warmpooltest.Backend {
		furnished := template()
		furnished.Name, furnished.Aliases, furnished.Volumes = "furnished", nil, warmpooltest.PoolVolumes()
		return warmpooltest.NewMemory(clock.RealClock{}, template(), furnished)
	})
}

func TestMemoryFollowsAFakeClock(t *testing.T) {
	clk := testclock.NewFakePassiveClock(time.Unix(1000, 0))
	m := warmpooltest.NewMemory(clk, template())
	s, err := m.Claim(t.Context(), warmpool.Claim{Template: "base", Timeout: time.Hour})
	require.NoError(t, err)
	_, err = m.Start(t.Context(), s.ID, warmpool.Start{})
	require.NoError(t, err)
	clk.SetTime(time.Unix(1000, 0).Add(time.Hour - time.Second))
	require.Equal(t, 1, m.Claimed())
	clk.SetTime(time.Unix(1000, 0).Add(time.Hour))
	require.Zero(t, m.Claimed())
}

// broken hands out the same sandbox twice and forgets what it was asked.
type broken struct {
	*warmpooltest.Memory
	mu    sync.Mutex
	first *warmpool.Sandbox
}

func (b *broken) Claim(ctx context.Context, c warmpool.Claim) (warmpool.Sandbox, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.first == nil {
		s, err := b.Memory.Claim(ctx, warmpool.Claim{Template: c.Template})
		if err != nil {
			return s, err
		}
		b.first = &s
	}
	return *b.first, nil
}

var runBroken = flag.Bool("broken", false, "hold a backend that breaks the contract to it")

// The contract itself must be able to fail: a process of its own holds a broken backend to it.
func TestABrokenBackendIsFound(t *testing.T) {
	if *runBroken {
		warmpooltest.Run(t, func(*testing.T) warmpooltest.Backend {
			return &broken{Memory: warmpooltest.NewMemory(clock.RealClock{}, template())}
		})
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestABrokenBackendIsFound$", "-broken")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	for _, name := range []string{"a_claim_is_echoed", "parallel_claims_never", "a_list_is_filtered", "a_claim_beyond_capacity"} {
		require.Contains(t, string(out), "--- FAIL: TestABrokenBackendIsFound/"+name)
	}
}
