// Package apiserver runs a real kube-apiserver with its etcd for tests, with the CRDs of this project in it. There is no kubelet
// and no controller behind it: tests play those.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// assets names the directory of etcd, kube-apiserver and kubectl.
const assets = "KUBE_ASSETS"

// server is the one of this test binary.
var server struct {
	sync.Mutex
	env   *envtest.Environment
	users int
	kept  bool // until Main ends it
}

// Main runs a package's tests and ends the server that they share. Call it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(apiserver.Main(m)) }
//
// Without it the server ends with the last test that uses it, and the next test starts another.
func Main(m *testing.M) int {
	server.Lock()
	server.kept = true
	server.Unlock()
	code := m.Run()
	server.Lock()
	defer server.Unlock()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		return max(code, 1)
	}
	return code
}

// Start returns the way to the API server, as its administrator. It skips the test where KUBE_ASSETS names no programs.
func Start(t *testing.T) *rest.Config {
	t.Helper()
	dir := os.Getenv(assets) //nolint:forbidigo // a package for tests has no main to read it
	if dir == "" {
		t.Skip(assets + " is not set: it names the directory with etcd and kube-apiserver, which this test needs")
	}
	server.Lock()
	defer server.Unlock()
	if server.env == nil {
		env := &envtest.Environment{
			BinaryAssetsDirectory: dir,
			CRDDirectoryPaths:     []string{filepath.Join(root(), "charts", "sandgate", "files", "crds")},
			ErrorIfCRDPathMissing: true,
			// The machine that builds everything may be slow.
			ControlPlaneStartTimeout: 2 * time.Minute,
			ControlPlaneStopTimeout:  time.Minute,
		}
		if _, err := env.Start(); err != nil {
			require.NoError(t, errors.Join(err, env.Stop()), "start the API server of %s", dir)
		}
		server.env = env
	}
	server.users++
	t.Cleanup(func() {
		server.Lock()
		defer server.Unlock()
		if server.users--; server.users == 0 && !server.kept {
			require.NoError(t, stop())
		}
	})
	cfg := rest.CopyConfig(server.env.Config)
	cfg.QPS = -1
	return cfg
}

// stop ends the server; the caller holds the lock.
func stop() error {
	if server.env == nil {
		return nil
	}
	env := server.env
	server.env = nil
	return env.Stop()
}

// root is the directory of the module.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Scheme knows Kubernetes' own types and ours.
func Scheme() *k8sruntime.Scheme {
	s := k8sruntime.NewScheme()
	for _, add := range []func(*k8sruntime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // two types of one name: no test can be right
		}
	}
	return s
}

// Client is a client without a cache.
func Client(t *testing.T, cfg *rest.Config) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: Scheme()})
	require.NoError(t, err)
	return c
}

// Namespace makes a namespace for a test. Nobody removes it: without a controller its content would stay anyway.
func Namespace(t *testing.T, c client.Client) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, c.Create(ctx, ns))
	return ns.Name
}

// Named makes a namespace of that name, if there is none yet.
func Named(t *testing.T, c client.Client, name string) {
	t.Helper()
	err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		require.NoError(t, err)
	}
}

// Kubeconfig is a file with which another process gets to the API server that Start has returned.
func Kubeconfig(t *testing.T) string {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	require.NotNil(t, server.env, "call Start first")
	path := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(path, server.env.KubeConfig, 0o600))
	return path
}
