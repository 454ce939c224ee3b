package kube_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestAReaderReadsThroughAndKeepsSecretsShortly(t *testing.T) {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "new"}}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "oss"}, Data: map[string][]byte{"akId": []byte("1")},
	}
	elsewhere := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "root"}}
	cached := fake.NewClientBuilder().WithScheme(apiserver.Scheme()).Build()
	var gets atomic.Int32
	live := interceptor.NewClient(fake.NewClientBuilder().WithScheme(apiserver.Scheme()).WithObjects(pv, secret, elsewhere).Build(), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			gets.Add(1)
			return c.Get(ctx, key, obj, opts...)
		},
	})
	clk := testclock.NewFakePassiveClock(time.Now())
	r, err := kube.NewReader(cached, live, clk)
	require.NoError(t, err)

	got, err := r.PersistentVolume(t.Context(), "new")
	require.NoError(t, err, "one that the cache does not have yet")
	require.Equal(t, "new", got.Name)
	_, err = r.PersistentVolume(t.Context(), "none")
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	_, err = r.PersistentVolumeClaim(t.Context(), "default", "none")
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))

	gets.Store(0)
	for range 5 {
		s, err := r.Secret(t.Context(), v1alpha1.SystemNamespace, "oss")
		require.NoError(t, err)
		require.Equal(t, "1", string(s.Data["akId"]))
	}
	require.Equal(t, int32(1), gets.Load())
	secret.ResourceVersion, secret.Data = "", map[string][]byte{"akId": []byte("2")}
	require.NoError(t, live.Update(t.Context(), secret))
	clk.SetTime(clk.Now().Add(10 * time.Second))
	s, err := r.Secret(t.Context(), v1alpha1.SystemNamespace, "oss")
	require.NoError(t, err)
	require.Equal(t, "2", string(s.Data["akId"]), "a rotated Secret is read within seconds")

	gets.Store(0)
	_, err = r.Secret(t.Context(), "kube-system", "root")
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	require.Zero(t, gets.Load(), "other namespaces are not even asked")
}
