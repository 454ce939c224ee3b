package mount_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestAQuantityMeansWhatItMeansToKubernetes(t *testing.T) {
	for _, text := range []string{
		"0", "1", "4096", "64Mi", "1Gi", "1.5Gi", "0.5Ki", "1k", "1K", "1M", "2G", "3T", "4P", "5E", "6Ei", "7Ei", "8Ei", "9E", "10E", "1e3", "1E3", "1e+3",
		"1e-3", "1000e-3", "128974848000m", "1m", "1000u", "5000000000n", "+5Mi", "-5Mi", ".5Mi", "5.", "5.Mi", "", "Mi", "5MiB", "5 Mi", " 5Mi",
		"5mi", "0x10", "1_000", "1e3Mi", "1e", "--5", "5Mi5", "Inf", "1/2", "1e999", "0.1", "100.1Ki", "1099511627776",
	} {
		q, err := resource.ParseQuantity(text)
		got, mine := mount.Quantity(text)
		if err != nil || q.IsZero() && mine != nil { // to Kubernetes, "Mi" is 0
			require.Error(t, mine, "%q", text)
			continue
		}
		if mine != nil { // what it rounds, or cannot count
			_, exact := q.AsInt64()
			require.ErrorIs(t, mine, mount.ErrInexact, "%q", text)
			require.False(t, exact, "%q", text)
			continue
		}
		require.Zero(t, q.Cmp(*resource.NewQuantity(got, resource.BinarySI)), "%q is %d", text, got)
	}
}
