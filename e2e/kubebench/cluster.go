package main

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

// namespace is that of the pools, rawNamespace one that nobody of the product looks at.
const (
	namespace    = "default"
	rawNamespace = "bench-raw"
)

// cluster is the API server, as an administrator sees it.
type cluster struct {
	rest   *rest.Config
	client client.Client
	typed  kubernetes.Interface
}

func connect() (*cluster, error) {
	access, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	access.QPS, access.UserAgent = -1, "kubebench"
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(types); err != nil {
			return nil, err
		}
	}
	c, err := client.New(access, client.Options{Scheme: types})
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfig(access)
	return &cluster{rest: access, client: c, typed: typed}, err
}

// key is the first API key of the installation.
func (c *cluster) key(ctx context.Context, release string) (string, error) {
	var s corev1.Secret
	err := c.client.Get(ctx, client.ObjectKey{Namespace: release, Name: keyring.SecretAdminKey}, &s)
	return string(s.Data["key"]), err
}

// metrics is the API server's own page.
func (c *cluster) metrics(ctx context.Context) (string, error) {
	text, err := c.typed.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	return string(text), err
}

// set makes a pool on kwok's nodes, or makes it that large.
func (c *cluster) set(ctx context.Context, name string, replicas int) error {
	set := &v1alpha1.SandboxSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.SandboxSetSpec{
			Replicas: int32(replicas), Runtimes: []v1alpha1.Runtime{{Name: v1alpha1.RuntimeCSI}, {Name: v1alpha1.RuntimeAgent}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				NodeSelector: map[string]string{"type": "kwok"},
				Tolerations:  []corev1.Toleration{{Key: "kwok.x-k8s.io/node", Operator: corev1.TolerationOpExists}},
				Containers: []corev1.Container{{
					Name: "sandbox", Image: "sandbox", Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")},
					},
				}},
			}},
		},
	}
	err := c.client.Create(ctx, set)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := c.client.Get(ctx, client.ObjectKeyFromObject(set), set); err != nil {
		return err
	}
	set.Spec.Replicas = int32(replicas)
	return c.client.Update(ctx, set)
}

// sandboxes are those of a pool as the API server's cache has them.
func (c *cluster) sandboxes(ctx context.Context, pool string) ([]v1alpha1.Sandbox, error) {
	var list v1alpha1.SandboxList
	err := c.client.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelPool: pool},
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}})
	return list.Items, err
}

// stocked waits until a pool has so many that can be claimed, and nothing else of it is left.
func (c *cluster) stocked(ctx context.Context, pool string, n int, within time.Duration) error {
	return poll(ctx, within, func() error {
		all, err := c.sandboxes(ctx, pool)
		if err != nil {
			return err
		}
		stock := 0
		for i := range all {
			if sb := &all[i]; sb.Spec.Claim == nil && sb.DeletionTimestamp == nil && meta.IsStatusConditionTrue(sb.Status.Conditions, v1alpha1.ConditionReady) {
				stock++
			}
		}
		if stock < n || len(all) > stock {
			return fmt.Errorf("pool %s has %d of %d in stock, %d in all", pool, stock, n, len(all))
		}
		return nil
	})
}

// claimed are the IDs of a pool's claimed objects.
func (c *cluster) claimed(ctx context.Context, pool string) (out []string, err error) {
	var list v1alpha1.SandboxList
	if err := c.client.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].Spec.Claim != nil {
			out = append(out, list.Items[i].Labels[v1alpha1.LabelSandboxID])
		}
	}
	return out, nil
}

// poll looks until look returns nil, and returns what it last said when that takes too long.
func poll(ctx context.Context, within time.Duration, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", within, err)
		}
	}
}

// version is the API server's.
func (c *cluster) version() (string, error) {
	v, err := c.typed.Discovery().ServerVersion()
	if err != nil {
		return "", err
	}
	return v.GitVersion, nil
}
