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

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
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

// Whoever asks for names must not learn from the time of the answers which of them there are.
func TestAVolumeOfOthersIsLookedForAsOneThatIsNotThere(t *testing.T) {
	closed, open := warmpooltest.TmpfsVolume("closed"), warmpooltest.TmpfsVolume("open")
	closed.Annotations = map[string]string{v1alpha1.AnnotationTeams: "blue"}
	late := warmpooltest.TmpfsVolume("late") // its owner has just let everybody in
	late.Annotations = closed.Annotations
	var asked []string
	told := func(name string, objects ...client.Object) client.WithWatch {
		return interceptor.NewClient(fake.NewClientBuilder().WithScheme(apiserver.Scheme()).WithObjects(objects...).Build(), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
				asked = append(asked, name)
				return c.Get(ctx, key, obj, opts...)
			},
		})
	}
	now := late.DeepCopy()
	now.Annotations = nil
	r, err := kube.NewReader(told("cache", closed, open, late), told("API server", closed, open, now), nil)
	require.NoError(t, err)
	resolve := func(name string) error {
		asked = nil
		_, err := volume.Resolve(t.Context(), r, volume.Request{
			Principal: warmpool.Principal{Team: "red", Key: "k1"}, Template: warmpool.Template{Name: "base", Runtimes: []string{"csi"}},
			Specs: []mount.Spec{{ID: "m", Volume: name, Target: "/data"}}, Drivers: []string{mount.DriverTmpfs},
		})
		return err
	}
	missing, calls := resolve("missing"), asked
	require.Error(t, missing)
	require.Equal(t, []string{"cache", "API server"}, calls)
	require.Equal(t, missing, resolve("closed"))
	require.Equal(t, calls, asked)

	require.NoError(t, resolve("open"))
	require.Equal(t, []string{"cache"}, asked, "what may be mounted costs no look")
	require.NoError(t, resolve("late"), "what the cache says is the last word for nobody who is turned away")
}
