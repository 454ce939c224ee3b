package main

import (
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	crconfig "sigs.k8s.io/controller-runtime/pkg/config"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/kube"
)

// speak has Kubernetes' libraries say what they have to say to log. Once in a process, before they do anything.
func speak(log *slog.Logger) {
	klog.SetSlogLogger(log)
	crlog.SetLogger(logr.FromSlogHandler(log.Handler()))
}

// connect is the way to the API server.
func connect(cfg config) (*rest.Config, *runtime.Scheme, error) {
	access, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("cluster: %w", err)
	}
	access.UserAgent = "sandgate-controller"
	access.QPS = -1 // the API server's own fairness decides
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(types); err != nil {
			return nil, nil, fmt.Errorf("cluster: %w", err)
		}
	}
	return access, types, nil
}

// newManager makes what runs the controllers. Its cache has what they read, and nothing else of the cluster.
func newManager(cfg config, access *rest.Config, types *runtime.Scheme) (manager.Manager, error) {
	pools := map[string]cache.Config{}
	for _, ns := range cfg.Namespaces {
		pools[ns] = cache.Config{}
	}
	ours, err := labels.NewRequirement(v1alpha1.LabelSandboxID, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	patient, err := kube.Patient(access)
	if err != nil {
		return nil, err
	}
	strip := cache.TransformStripManagedFields()
	byObject := map[client.Object]cache.ByObject{}
	if cfg.Egress {
		byObject[&networkingv1.NetworkPolicy{}] = cache.ByObject{Namespaces: pools, Transform: strip}
	}
	maps.Copy(byObject, map[client.Object]cache.ByObject{
		&v1alpha1.Sandbox{}:        {Namespaces: pools, Transform: strip},
		&v1alpha1.SandboxSet{}:     {Namespaces: pools, Transform: strip},
		&corev1.Pod{}:              {Namespaces: pools, Transform: strip, Label: labels.NewSelector().Add(*ours)},
		&corev1.PersistentVolume{}: {Transform: strip},
		&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{v1alpha1.SystemNamespace: {
			FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, v1alpha1.InjectionConfigMap),
		}}},
		&corev1.Secret{}: {Namespaces: map[string]cache.Config{cfg.ReleaseNamespace: {
			FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, hookSecret),
		}}},
	})
	return ctrl.NewManager(access, ctrl.Options{
		Scheme: types,
		Cache: cache.Options{
			HTTPClient:                  patient,
			ReaderFailOnMissingInformer: true,
			ByObject:                    byObject,
		},
		LeaderElection: cfg.Elect, LeaderElectionID: "sandgate-controller", LeaderElectionNamespace: cfg.ReleaseNamespace,
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       server.Options{BindAddress: "0"}, // served by boot
		HealthProbeBindAddress:        "0",
		Controller:                    crconfig.Controller{SkipNameValidation: ptr.To(true)}, // of the process's metrics; there is one manager in it
		GracefulShutdownTimeout:       ptr.To(20 * time.Second),
	})
}
