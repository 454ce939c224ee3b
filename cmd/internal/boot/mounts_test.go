package boot_test

import (
	"flag"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
)

func TestASandboxMayHaveAsManyMountsAsItsObjectHolds(t *testing.T) {
	for arg, want := range map[string]int{"": 16, "1": 1, "64": 64, "0": 0, "65": 0, "-1": 0, "many": 0} {
		var n int
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		boot.MaxMounts(fs, &n)
		var args []string
		if arg != "" {
			args = []string{"-max-mounts=" + arg}
		}
		err := fs.Parse(args)
		if want == 0 {
			require.ErrorContains(t, err, "from 1 to 64", arg)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
}
