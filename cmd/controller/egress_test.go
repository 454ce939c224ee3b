package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

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
