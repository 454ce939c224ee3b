package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/chart"
)

func TestTheInternetOfSandboxesHasNothingThatNoVolumesServerMayBeAt(t *testing.T) {
	var np networkingv1.NetworkPolicy
	require.NoError(t, yaml.UnmarshalStrict(chart.Render(t, "network.yaml"), &np))
	blocks := 0
	for _, rule := range np.Spec.Egress {
		for _, to := range rule.To {
			if to.IPBlock == nil {
				continue
			}
			blocks++
			all := netip.MustParsePrefix(to.IPBlock.CIDR)
			for _, barred := range mount.Never() {
				left := all.Overlaps(barred) && !slices.ContainsFunc(to.IPBlock.Except, func(e string) bool {
					p := netip.MustParsePrefix(e)
					return p.Bits() <= barred.Bits() && p.Contains(barred.Addr())
				})
				require.False(t, left, "%s lets %s through", all, barred)
			}
		}
	}
	require.Equal(t, 2, blocks)
}

func TestTheChartSaysWhereRolesSignIn(t *testing.T) {
	const sts = "-oss-sts=https://sts-vpc.example.com"
	with := func(set string) string { return string(chart.Render(t, "controller.yaml", "--set", set)) }
	require.Contains(t, with("networkPolicy.fromVolumes=true,agent.oss.sts=https://sts-vpc.example.com"), sts)
	require.NotContains(t, with("networkPolicy.fromVolumes=true"), "-oss-sts")
	require.NotContains(t, with("agent.oss.sts=https://sts-vpc.example.com"), "-oss-sts", "nobody needs it")
}

func TestTheServiceForRolesIsOneThatAgentsSignInAt(t *testing.T) {
	require.ErrorContains(t, command([]string{"-oss-sts=http://sts-vpc.example.com"}), "https URL")
}
