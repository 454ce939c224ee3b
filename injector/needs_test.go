package injector_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/injector"
)

func TestWhatRuntimesNeedIsWhatTheyName(t *testing.T) {
	for want, runtimes := range map[string][]string{
		"": {"extra"}, "${SANDBOX_ID} ${AGENT_SECRET}": {"csi"}, "${INIT_KEY}": {"extra", "agent-runtime"},
		"${SANDBOX_ID} ${AGENT_SECRET} ${INIT_KEY}": {"agent-runtime", "csi"},
	} {
		needs, err := config(t).Needs(runtimes)
		require.NoError(t, err)
		require.Equal(t, want, strings.Join(needs, " "), runtimes)
	}
	_, err := config(t).Needs([]string{"no"})
	require.ErrorContains(t, err, "agent-runtime, csi, extra")
	require.IsType(t, injector.Faults{}, err)
}
