package kube_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest/apiserver"
)

func TestTemplatesAreTheSets(t *testing.T) {
	w := newWorld(t)
	w.set("base", 2, func(s *v1alpha1.SandboxSet) {
		c := &s.Spec.Template.Spec.Containers[0]
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("1Gi")}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/opt/x"}}
	})
	w.set("broken", 0, func(s *v1alpha1.SandboxSet) { s.Spec.Template.Spec.Containers = []corev1.Container{} })
	b := w.replica()
	w.stocked(b, "base", 2)
	_, err := create(t.Context(), b, order("base"))
	require.NoError(t, err)
	all, err := b.Templates(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	got := all[0]
	require.Equal(t, "base", got.Name)
	require.Equal(t, []string{"base-alias"}, got.Aliases)
	require.Equal(t, []string{"csi", "agent-runtime"}, got.Runtimes)
	require.Equal(t, warmpool.Resources{CPUCount: 2, MemoryMB: 1024}, got.Resources)
	require.ElementsMatch(t, []string{"/opt/x", "/.sandgate"}, got.Reserved)
	require.Equal(t, 2, got.Desired)
	require.Equal(t, 1, got.Ready)
	require.Equal(t, 1, got.Claimed)
	require.NotEmpty(t, got.EnvdVersion)
	require.WithinDuration(t, time.Now(), got.UpdatedAt, time.Minute)
	require.Contains(t, all[1].Reason, "containers")
	require.Equal(t, got.Namespace, all[1].Namespace)
	_, err = b.Claim(t.Context(), order("broken"))
	require.Equal(t, warmpool.Unavailable, warmpool.CodeOf(err))
	require.ErrorContains(t, err, "containers")
}

func TestOfTwoSetsWithOneNameTheOlderHasIt(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.set("base", 0)
	<-time.After(1100 * time.Millisecond) // creation times have whole seconds
	other.set("base", 0)
	other.set("mine", 0, func(s *v1alpha1.SandboxSet) {
		s.Annotations = map[string]string{v1alpha1.AnnotationAliases: "base-alias, own,base"}
	})
	c, err := cache.New(w.rest, cache.Options{Scheme: apiserver.Scheme(), DefaultNamespaces: map[string]cache.Config{w.ns: {}, other.ns: {}}})
	require.NoError(t, err)
	go func() { _ = c.Start(t.Context()) }()
	b := w.replica(func(cfg *kube.Config) { cfg.Cache, cfg.Namespaces = c, []string{w.ns, other.ns} })
	all, err := b.Templates(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, []string{"base-alias"}, all[0].Aliases)
	require.Equal(t, []string{"own"}, all[1].Aliases)
	byAlias, err := b.Template(t.Context(), "base-alias")
	require.NoError(t, err)
	require.Equal(t, "base", byAlias.Name)
	s, err := b.Claim(t.Context(), order("base"))
	require.NoError(t, err)
	require.NotNil(t, w.object(s.ID), "it is of the older set")
	require.True(t, w.log.has("two SandboxSets claim one template name"))
}
