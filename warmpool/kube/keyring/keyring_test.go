package keyring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

const ns = "sandgate"

func store() client.Client { return fake.NewClientBuilder().WithScheme(apiserver.Scheme()).Build() }

func TestKeysAreMadeOnceAndReadByAll(t *testing.T) {
	c := store()
	_, err := keyring.Load(t.Context(), c, ns)
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	var wg sync.WaitGroup
	all := make([]keyring.Keys, 8)
	for i := range all {
		wg.Go(func() {
			k, err := keyring.Ensure(context.Background(), c, ns)
			if err == nil {
				all[i] = k
			}
		})
	}
	wg.Wait()
	loaded, err := keyring.Load(t.Context(), c, ns)
	require.NoError(t, err)
	for _, k := range all {
		require.Equal(t, loaded, k)
	}
	require.Equal(t, all[0].Token("i1", "n").Reveal(), loaded.Token("i1", "n").Reveal())
	require.NotEqual(t, loaded.Token("i1", "n").Reveal(), loaded.Token("i1", "m").Reveal())
	require.NotEqual(t, loaded.Token("i1", "n").Reveal(), keyring.Generate().Token("i1", "n").Reveal())
	public, err := loaded.InitKey()
	require.NoError(t, err)
	require.NotEmpty(t, public)
}

func TestAKeySecretThatIsBrokenIsRefusedByField(t *testing.T) {
	for _, field := range []string{"id", "token", "init", "seal"} {
		c := store()
		_, err := keyring.Ensure(t.Context(), c, ns)
		require.NoError(t, err)
		var s corev1.Secret
		require.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: keyring.SecretKeys}, &s))
		delete(s.Data, field)
		require.NoError(t, c.Update(t.Context(), &s))
		_, err = keyring.Load(t.Context(), c, ns)
		require.ErrorContains(t, err, "field "+field)
	}
}

func TestASealedEnvironmentIsOpenedForItsClaimOnly(t *testing.T) {
	k, other := keyring.Generate(), keyring.Generate()
	env := map[string]string{"A": "canary"}
	box, err := k.Seal("i1", "n1", env)
	require.NoError(t, err)
	require.NotContains(t, string(box), "canary")
	again, err := k.Seal("i1", "n1", env)
	require.NoError(t, err)
	require.NotEqual(t, box, again, "the same environment does not show")
	got, err := k.Open("i1", "n1", box)
	require.NoError(t, err)
	require.Equal(t, env, got)
	broken := bytes.Clone(box)
	broken[len(broken)-1] ^= 1
	for name, open := range map[string]func() (map[string]string, error){
		"another sandbox": func() (map[string]string, error) { return k.Open("i2", "n1", box) },
		"another claim":   func() (map[string]string, error) { return k.Open("i1", "n2", box) },
		"other keys":      func() (map[string]string, error) { return other.Open("i1", "n1", box) },
		"damaged":         func() (map[string]string, error) { return k.Open("i1", "n1", broken) },
		"cut short":       func() (map[string]string, error) { return k.Open("i1", "n1", box[:5]) },
		"another form":    func() (map[string]string, error) { return k.Open("i1", "n1", append([]byte{9}, box[1:]...)) },
	} {
		_, err := open()
		require.ErrorIs(t, err, keyring.ErrSealed, name)
	}
	nothing, err := k.Seal("i1", "n1", nil)
	require.NoError(t, err)
	require.Empty(t, nothing)
	got, err = k.Open("i1", "n1", nothing)
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = keyring.Keys{}.Seal("i1", "n1", env)
	require.Error(t, err, "keys that were not loaded seal nothing")
}

func TestKeysDoNotPrintThemselves(t *testing.T) {
	k := keyring.Generate()
	public := k.Token("i", "n").Reveal()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "keys", k)
	raw, err := json.Marshal(k)
	require.NoError(t, err)
	text := log.String() + string(raw)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		text += fmt.Sprintf(verb, k) + fmt.Sprintf(verb, struct{ K keyring.Keys }{k})
	}
	require.NotContains(t, text, public)
	require.Less(t, len(text), 600)
	require.Contains(t, text, k.ID)
}

func TestADigestTellsNothingAndIsStable(t *testing.T) {
	k := keyring.Generate()
	require.Equal(t, k.Digest("a", "b"), k.Digest("a", "b"))
	require.NotEqual(t, k.Digest("a", "b"), k.Digest("b", "b"))
	require.NotEqual(t, k.Digest("a", "b"), keyring.Generate().Digest("a", "b"))
	require.Len(t, k.Digest("a", "b"), 40)
	require.Equal(t, strings.ToLower(k.Digest("a", "b")), k.Digest("a", "b"))
}

func TestTheAuthorityIsMadeOnceAndTheGatewaysIdentityRenewed(t *testing.T) {
	c, now := store(), time.Now()
	a, err := keyring.EnsureAuthority(t.Context(), c, ns, now)
	require.NoError(t, err)
	again, err := keyring.EnsureAuthority(t.Context(), c, ns, now)
	require.NoError(t, err)
	require.Equal(t, a.Cert(), again.Cert())

	next, err := keyring.EnsureGateway(t.Context(), c, ns, a, now)
	require.NoError(t, err)
	require.True(t, next.After(now))
	first := identity(t, c)
	_, err = keyring.EnsureGateway(t.Context(), c, ns, a, now.Add(24*time.Hour))
	require.NoError(t, err)
	require.Equal(t, first.Cert, identity(t, c).Cert, "it is good for longer than a day")
	_, err = keyring.EnsureGateway(t.Context(), c, ns, a, now.Add(70*24*time.Hour))
	require.NoError(t, err)
	renewed := identity(t, c)
	require.NotEqual(t, first.Cert, renewed.Cert)
	stranger, err := channel.NewAuthority(now)
	require.NoError(t, err)
	_, err = keyring.EnsureGateway(t.Context(), c, ns, stranger, now.Add(70*24*time.Hour))
	require.NoError(t, err)
	require.Equal(t, stranger.Cert(), identity(t, c).CA, "another authority's certificate would not be believed")
}

func identity(t *testing.T, c client.Client) channel.Identity {
	t.Helper()
	var s corev1.Secret
	require.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: keyring.SecretGatewayClient}, &s))
	return keyring.Identity(s.Data)
}
