package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/cmd/internal/boot"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/gateway/auth"
	"github.com/sandgate-dev/sandgate/injector/envd"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m)) }

type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func send(t *testing.T, method, url, key, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("X-API-Key", key)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

func apiKeys(t *testing.T, ns string, keys ...auth.Key) *corev1.Secret {
	t.Helper()
	var all []auth.Record
	for i, k := range keys {
		all = append(all, auth.Record{ID: fmt.Sprint("k", i), Team: "red", Hash: k.Hash(), Created: time.Now()})
	}
	raw, err := json.Marshal(map[string]any{"keys": all})
	require.NoError(t, err)
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: keyring.SecretAPIKeys}, Data: map[string][]byte{apiKeysField: raw}}
}

// The whole program on a real API server: it waits for what the controller makes, serves, takes new keys and ends.
func TestTheGatewayServesWhatTheAPIServerHas(t *testing.T) {
	c := apiserver.Client(t, apiserver.Start(t))
	ns, release := apiserver.Namespace(t, c), apiserver.Namespace(t, c)
	log := &lines{}
	cfg := config{
		Addr: freePort(t), Kubeconfig: apiserver.Kubeconfig(t), ReleaseNamespace: release, Namespaces: []string{ns},
		Limits: gateway.DefaultLimits(), Ending: boot.Ending{Drain: time.Second},
	}
	p, err := newProcess(cfg, slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.serve(ctx) }()

	require.ErrorContains(t, p.ready(), keyring.SecretKeys)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "waiting for the installation's keys") }, 10*time.Second, 10*time.Millisecond)
	keys, err := keyring.Ensure(t.Context(), c, release)
	require.NoError(t, err)
	requireReady := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			err := p.ready()
			return want == "" && err == nil || err != nil && want != "" && strings.Contains(err.Error(), want)
		}, 20*time.Second, 10*time.Millisecond, want)
	}
	requireReady(keyring.SecretAPIKeys)
	key, next := auth.Generate(), auth.Generate()
	require.NoError(t, c.Create(t.Context(), apiKeys(t, release, key)))
	requireReady(keyring.SecretGatewayClient)
	authority, err := keyring.EnsureAuthority(t.Context(), c, release, time.Now())
	require.NoError(t, err)
	_, err = keyring.EnsureGateway(t.Context(), c, release, authority, time.Now())
	require.NoError(t, err)
	requireReady("")

	url := "http://" + cfg.Addr
	code, _ := send(t, http.MethodGet, url+"/v2/sandboxes", "e2b_"+strings.Repeat("0", 40), "")
	require.Equal(t, http.StatusUnauthorized, code)
	code, body := send(t, http.MethodPost, url+"/v2/sandboxes", key.Reveal(), `{"templateID":"none"}`)
	require.Equal(t, http.StatusNotFound, code, body)
	claimOne(t, c, keys, ns, url, key.Reveal())

	latest := apiKeys(t, release, next)
	require.NoError(t, c.Update(t.Context(), latest))
	require.Eventually(t, func() bool {
		old, _ := send(t, http.MethodGet, url+"/v2/sandboxes", key.Reveal(), "")
		young, _ := send(t, http.MethodGet, url+"/v2/sandboxes", next.Reveal(), "")
		return old == http.StatusUnauthorized && young == http.StatusOK
	}, 10*time.Second, 20*time.Millisecond, "a revoked key counts no more")
	latest.Data[apiKeysField] = []byte("{")
	require.NoError(t, c.Update(t.Context(), latest))
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "API keys cannot be read") }, 10*time.Second, 10*time.Millisecond)
	code, _ = send(t, http.MethodGet, url+"/v2/sandboxes", next.Reveal(), "")
	require.Equal(t, http.StatusOK, code, "what cannot be read locks nobody out")

	stop()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	require.NotContains(t, log.String(), key.Reveal())
}

// claimOne plays the controller for one sandbox, creates it and speaks to its daemon through the data plane.
func claimOne(t *testing.T, c client.Client, keys keyring.Keys, ns, url, key string) {
	t.Helper()
	set := &v1alpha1.SandboxSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "base"},
		Spec:       v1alpha1.SandboxSetSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}}}},
	}
	require.NoError(t, c.Create(t.Context(), set))
	id := warmpool.NewID()
	sb := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: "base-1", Labels: map[string]string{v1alpha1.LabelSandboxID: string(id), v1alpha1.LabelPool: "base"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, v1alpha1.GroupVersion.WithKind("SandboxSet"))},
		},
		Spec: v1alpha1.SandboxSpec{Template: &set.Spec.Template},
	}
	require.NoError(t, c.Create(t.Context(), sb))
	initKey, err := keys.InitKey()
	require.NoError(t, err)
	daemon, err := envd.New(envd.Config{InitKey: initKey, SandboxID: string(id)})
	require.NoError(t, err)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.77.%d:%d", 1+os.Getpid()%250, v1alpha1.EnvdPort))
	require.NoError(t, err)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: daemon}}
	server.Start()
	t.Cleanup(server.Close)
	host, _, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	sb.Status.Phase, sb.Status.SandboxIP = v1alpha1.PhaseRunning, host
	sb.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", LastTransitionTime: metav1.Now()}}
	require.NoError(t, c.Status().Update(t.Context(), sb))

	var made struct{ SandboxID, EnvdAccessToken string }
	require.Eventually(t, func() bool {
		code, body := send(t, http.MethodPost, url+"/v2/sandboxes", key, `{"templateID":"base","envVars":{"A":"b"}}`)
		return code == http.StatusCreated && json.Unmarshal([]byte(body), &made) == nil
	}, 40*time.Second, 50*time.Millisecond)
	require.Equal(t, string(id), made.SandboxID)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/envs", nil)
	require.NoError(t, err)
	r.Header.Set("E2b-Sandbox-Id", made.SandboxID)
	r.Header.Set("E2b-Sandbox-Port", "49983")
	r.Header.Set("X-Access-Token", made.EnvdAccessToken)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", text)
	require.Contains(t, string(text), `"A":"b"`)
	code, _ := send(t, http.MethodDelete, url+"/sandboxes/"+made.SandboxID, key, "")
	require.Equal(t, http.StatusNoContent, code)
}

func TestFlagsAreRefusedInASentence(t *testing.T) {
	for _, c := range []struct{ name, arg, want string }{
		{"a word too many", "serve", "unknown argument"},
		{"a level that is none", "-log-level=loud", "expected debug, info, warn or error"},
		{"a cluster that is none", "-kubeconfig=/nowhere", "cluster"},
	} {
		require.ErrorContains(t, command([]string{c.arg}), c.want, c.name)
	}
}
