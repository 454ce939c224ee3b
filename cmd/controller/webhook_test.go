package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/chart"
)

// shipped are the webhook's configuration and Secret as the chart has them.
func shipped(t *testing.T, release, pool string) (*admissionregistrationv1.MutatingWebhookConfiguration, *corev1.Secret) {
	t.Helper()
	hook, secret := &admissionregistrationv1.MutatingWebhookConfiguration{}, &corev1.Secret{}
	into := map[string]any{"kind: MutatingWebhookConfiguration": hook, "kind: Secret": secret}
	out := chart.Render(t, "webhook.yaml", "--namespace", release, "--set", "pools.namespaces={"+pool+"}")
	for _, doc := range strings.Split(string(out), "\n---\n") {
		for kind, object := range into {
			if strings.Contains(doc, "\n"+kind+"\n") {
				require.NoError(t, yaml.UnmarshalStrict([]byte(doc), object))
			}
		}
	}
	require.Equal(t, hookConfiguration(release), hook.Name)
	require.Equal(t, hookSecret, secret.Name)
	require.Equal(t, hookService+" "+hookPath, hook.Webhooks[0].ClientConfig.Service.Name+" "+*hook.Webhooks[0].ClientConfig.Service.Path)
	secret.Namespace = release
	return hook, secret
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func foreign(namespace, name, runtimes string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{}, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox", Image: "i"}}, AutomountServiceAccountToken: ptr.To(false)},
	}
	if runtimes != "" {
		pod.Annotations[v1alpha1.AnnotationRuntimes] = runtimes
	}
	return pod
}

// The whole program and the chart's own webhook configuration on a real API server, with no more than the chart's rights.
func TestPodsThatOthersMakeAreFittedOut(t *testing.T) {
	c := apiserver.Client(t, apiserver.Start(t))
	pool, elsewhere, release := apiserver.Namespace(t, c), apiserver.Namespace(t, c), "sandgate"
	hook, secret := shipped(t, release, pool)
	grant(t, c, pool, release)
	for _, ns := range []string{pool, elsewhere} { // the controller that makes them is not there
		require.NoError(t, c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}}))
	}
	port := freePort(t)
	hook.Webhooks[0].ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: ptr.To(fmt.Sprintf("https://localhost:%d%s", port, hookPath))}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.InjectionConfigMap},
		Data: map[string]string{
			"plain": `labels: {fitted: "yes"}`,
			"csi":   "sidecars: [{name: agent, image: a}]\nvolumes: [{name: identity, secret: {secretName: '${AGENT_SECRET}'}}]",
		},
	}
	for _, object := range []client.Object{hook, secret, cm} {
		require.NoError(t, c.Create(t.Context(), object))
		t.Cleanup(func() { _ = c.Delete(context.Background(), object) })
	}
	require.Eventually(t, func() bool { // the API server's own knowledge of webhooks takes a moment
		err := c.Create(t.Context(), foreign(pool, "early", "plain"), client.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "pods.inject.sandgate.dev")
	}, 20*time.Second, 50*time.Millisecond, "while nobody serves, one that asks is refused")
	require.NoError(t, c.Create(t.Context(), foreign(pool, "quiet", "")), "and one that does not ask is not")

	ours := rest.CopyConfig(apiserver.Start(t))
	ours.Impersonate = rest.ImpersonationConfig{UserName: account}
	require.NoError(t, apiserver.Client(t, ours).Create(t.Context(), foreign(pool, "ours", "plain"), client.DryRunAll), "nor do pools wait for it")

	require.NoError(t, c.Delete(t.Context(), secret), "one who deletes it ends nothing")
	t.Setenv("TMPDIR", t.TempDir())
	cfg := config{
		Kubeconfig: apiserver.Kubeconfig(t), ReleaseNamespace: release, Namespaces: []string{pool}, Elect: true,
		Webhook: hookConfig{On: true, Port: port, Host: "localhost"},
	}
	logger := slog.New(slog.NewTextHandler(log, nil))
	access, types, err := connect(cfg)
	require.NoError(t, err)
	access.Impersonate = rest.ImpersonationConfig{UserName: account}
	p, _ := replica(t, cfg, logger, access, types)
	require.EqualError(t, p.ready(), "the cluster's objects are not known yet")
	require.Eventually(t, func() bool { return p.ready() == nil }, 60*time.Second, 20*time.Millisecond, log)

	admitted := func(pod *corev1.Pod) error {
		t.Helper()
		var err error
		require.Eventually(t, func() bool { // the API server gets to know the certificate, and the replica its configuration, a moment later
			err = c.Create(t.Context(), pod.DeepCopy())
			return err == nil || !strings.Contains(err.Error(), "failed calling webhook") && !strings.Contains(err.Error(), "not been read yet")
		}, 30*time.Second, 50*time.Millisecond, log)
		require.NoError(t, client.IgnoreNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)))
		return err
	}
	t.Run("one that asks is fitted out", func(t *testing.T) {
		pod := foreign(pool, "asks", "plain,csi")
		pod.Annotations[v1alpha1.AnnotationAgentSecret] = "mine"
		require.NoError(t, admitted(pod))
		require.Equal(t, "yes", pod.Labels["fitted"])
		require.Equal(t, "agent", pod.Spec.InitContainers[0].Name)
		require.Equal(t, "mine", pod.Spec.Volumes[0].Secret.SecretName)
	})
	t.Run("one that does not ask is as it was", func(t *testing.T) {
		pod := foreign(pool, "asks-not", "")
		require.NoError(t, admitted(pod))
		require.Empty(t, pod.Labels)
	})
	t.Run("one outside of the pools is as it was", func(t *testing.T) {
		pod := foreign(elsewhere, "asks", "plain")
		require.NoError(t, admitted(pod))
		require.Empty(t, pod.Labels)
	})
	t.Run("a clash is refused with its path", func(t *testing.T) {
		pod := foreign(pool, "clash", "plain")
		pod.Labels["fitted"] = "no"
		require.ErrorContains(t, admitted(pod), `metadata.labels[fitted]: is "no"`)
	})
	t.Run("one that names no Secret is told so", func(t *testing.T) {
		require.ErrorContains(t, admitted(foreign(pool, "secretless", "csi")), v1alpha1.AnnotationAgentSecret)
	})
	t.Run("our own pods are as they were made", func(t *testing.T) {
		require.NoError(t, c.Create(t.Context(), &v1alpha1.SandboxSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: pool, Name: "pool"},
			Spec: v1alpha1.SandboxSetSpec{
				Replicas: 1, Runtimes: []v1alpha1.Runtime{{Name: "csi"}},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationRuntimes: "plain,unheard-of"}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox", Image: "i"}}},
				},
			},
		}))
		var list corev1.PodList
		require.Eventually(t, func() bool {
			require.NoError(t, c.List(t.Context(), &list, client.InNamespace(pool), client.MatchingLabels{v1alpha1.LabelPool: "pool"}))
			return len(list.Items) == 1
		}, 20*time.Second, 50*time.Millisecond, log)
		require.Len(t, list.Items[0].Spec.InitContainers, 1)
		require.NotContains(t, list.Items[0].Labels, "fitted")
	})
	t.Run("a new certificate is in force without a restart", func(t *testing.T) {
		believed := func() []byte {
			require.NoError(t, c.Get(t.Context(), client.ObjectKeyFromObject(hook), hook))
			return hook.Webhooks[0].ClientConfig.CABundle
		}
		before := believed()
		require.NotEmpty(t, before)
		require.NoError(t, c.Patch(t.Context(), secret, client.RawPatch("application/merge-patch+json", []byte(`{"data":null}`))))
		require.Eventually(t, func() bool {
			roots := x509.NewCertPool()
			now := believed()
			if bytes.Equal(now, before) || !roots.AppendCertsFromPEM(now) {
				return false
			}
			conn, err := tls.Dial("tcp", fmt.Sprintf("localhost:%d", port), &tls.Config{RootCAs: roots})
			if err == nil {
				conn.Close()
			}
			return err == nil
		}, 30*time.Second, 50*time.Millisecond, log)
		pod := foreign(pool, "after", "plain")
		require.NoError(t, admitted(pod))
		require.Equal(t, "yes", pod.Labels["fitted"])
	})
	require.NotContains(t, log.String(), "forbidden")
}

// What the rotator has written is not the release's, so that an upgrade must leave it alone.
func TestAnUpgradeKeepsTheCertificate(t *testing.T) {
	c := apiserver.Client(t, apiserver.Start(t))
	release := apiserver.Namespace(t, c)
	dir := chart.Part(t, "templates/webhook.yaml")
	way := []string{"--kubeconfig", apiserver.Kubeconfig(t), "--namespace", release}
	chart.Helm(t, append([]string{"install", "it", dir}, way...)...)
	t.Cleanup(func() {
		_ = c.Delete(context.Background(), &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: hookConfiguration(release)}})
	})

	hook, secret := &admissionregistrationv1.MutatingWebhookConfiguration{}, &corev1.Secret{}
	hookKey, secretKey := client.ObjectKey{Name: hookConfiguration(release)}, client.ObjectKey{Namespace: release, Name: hookSecret}
	require.NoError(t, c.Get(t.Context(), hookKey, hook))
	require.NoError(t, c.Get(t.Context(), secretKey, secret))
	require.Empty(t, secret.Data)
	made, err := channel.NewAuthority(time.Now())
	require.NoError(t, err)
	ca := made.Cert()
	hook.Webhooks[0].ClientConfig.CABundle = ca
	secret.Data = map[string][]byte{"ca.crt": ca}
	require.NoError(t, c.Update(t.Context(), hook))
	require.NoError(t, c.Update(t.Context(), secret))

	chart.Helm(t, append([]string{"upgrade", "it", dir, "--set", "pools.namespaces={one,two}"}, way...)...)
	require.NoError(t, c.Get(t.Context(), hookKey, hook))
	require.NoError(t, c.Get(t.Context(), secretKey, secret))
	require.Equal(t, []string{"one", "two"}, hook.Webhooks[0].NamespaceSelector.MatchExpressions[0].Values)
	require.Equal(t, ca, hook.Webhooks[0].ClientConfig.CABundle)
	require.Equal(t, ca, secret.Data["ca.crt"])
}
