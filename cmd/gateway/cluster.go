package main

import (
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// cluster is the way to the API server, with and without a cache.
type cluster struct {
	rest   *rest.Config
	client client.Client
	cache  cache.Cache
}

func connect(cfg config, log *slog.Logger) (*cluster, error) {
	klog.SetSlogLogger(log)
	crlog.SetLogger(logr.FromSlogHandler(log.Handler()))
	access, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	access.UserAgent = "sandgate-gateway"
	access.QPS = -1 // the API server's own fairness decides; a create must not wait for another one's turn
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(types); err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
	}
	live, err := client.New(access, client.Options{Scheme: types})
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	pools := map[string]cache.Config{}
	for _, ns := range cfg.Namespaces {
		pools[ns] = cache.Config{}
	}
	strip := cache.TransformStripManagedFields()
	patient, err := kube.Patient(access)
	if err != nil {
		return nil, err
	}
	cached, err := cache.New(access, cache.Options{
		HTTPClient: patient, Scheme: types, ReaderFailOnMissingInformer: true,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.Sandbox{}:        {Namespaces: pools, Transform: strip},
			&v1alpha1.SandboxSet{}:     {Namespaces: pools}, // their managed fields say when they were changed
			&corev1.PersistentVolume{}: {Transform: strip},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return &cluster{rest: access, client: live, cache: cached}, nil
}
