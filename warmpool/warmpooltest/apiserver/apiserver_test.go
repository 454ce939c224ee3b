package apiserver_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m)) }

func TestItServesOurTypes(t *testing.T) {
	c := apiserver.Client(t, apiserver.Start(t))
	ns := apiserver.Namespace(t, c)
	var list v1alpha1.SandboxList
	require.NoError(t, c.List(t.Context(), &list, client.InNamespace(ns)))
	require.Empty(t, list.Items)
}
