package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestTheInternetOfSandboxesHasNothingThatNoVolumesServerMayBeAt(t *testing.T) {
	var np networkingv1.NetworkPolicy
	out := helm(t, "template", "sandgate", "../../charts/sandgate", "--kube-version", "1.36.0", "--show-only", "templates/network.yaml")
	require.NoError(t, yaml.UnmarshalStrict([]byte(out), &np))
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
	chart := func(set ...string) string {
		args := []string{"template", "sandgate", "../../charts/sandgate", "--kube-version", "1.36.0", "--show-only", "templates/controller.yaml"}
		for _, s := range set {
			args = append(args, "--set", s)
		}
		return helm(t, args...)
	}
	require.Contains(t, chart("networkPolicy.fromVolumes=true", "agent.oss.sts=https://sts-vpc.example.com"), sts)
	require.NotContains(t, chart("networkPolicy.fromVolumes=true"), "-oss-sts")
	require.NotContains(t, chart("agent.oss.sts=https://sts-vpc.example.com"), "-oss-sts", "nobody needs it")
}

func TestTheServiceForRolesIsOneThatAgentsSignInAt(t *testing.T) {
	require.ErrorContains(t, command([]string{"-oss-sts=http://sts-vpc.example.com"}), "https URL")
}
