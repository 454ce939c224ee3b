package e2b_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/csiagent/driver/tmpfs"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/gateway"
	"github.com/sandgate-dev/sandgate/gateway/e2b"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
	"github.com/sandgate-dev/sandgate/warmpool/warmpooltest"
)

// keys are the principals by key.
type keys map[string]warmpool.Principal

func (k keys) Authenticate(r *http.Request) (warmpool.Principal, bool) {
	p, ok := k[r.Header.Get("X-API-Key")]
	return p, ok
}

const (
	aliceKey = "e2b_aaaa"
	bobKey   = "e2b_bbbb"
)

// volumes are what the tests' requests may name.
func volumes() warmpooltest.Volumes {
	bound := warmpooltest.TmpfsVolume("somebodys")
	bound.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "prod", Name: "database"}
	noSecret := warmpooltest.CSIVolume("no-secret", mount.DriverOSS, map[string]string{"bucket": "b", "url": "http://127.0.0.1:1"})
	noSecret.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Namespace: "sandbox-system", Name: "missing"}
	iscsi, block, options, going := warmpooltest.CSIVolume("iscsi", "", nil), warmpooltest.TmpfsVolume("block"), warmpooltest.TmpfsVolume("options"), warmpooltest.TmpfsVolume("going")
	iscsi.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{TargetPortal: "s"}}
	block.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	options.Spec.MountOptions = []string{"suid"}
	going.DeletionTimestamp = &metav1.Time{}
	carols := warmpooltest.TmpfsVolume("carolsown") // faulty in several ways, as carol alone may learn
	carols.Annotations = map[string]string{v1alpha1.AnnotationTeams: "carol", v1alpha1.AnnotationReadOnly: "maybe", v1alpha1.AnnotationTargets: "x"}
	carols.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	return warmpooltest.Volumes{
		"iscsi": iscsi, "block": block, "options": options, "going": going,
		"no-size":     warmpooltest.CSIVolume("no-size", mount.DriverTmpfs, nil),
		"scratch":     warmpooltest.TmpfsVolume("scratch"),
		"pv-nas-fast": warmpooltest.TmpfsVolume("pv-nas-fast"),
		"foreign-drv": warmpooltest.CSIVolume("foreign-drv", "ebs.csi.aws.com", nil),
		"somebodys":   bound,
		"carolsown":   carols,
		"no-secret":   noSecret,
	}
}

// lines is a log that tests can read.
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

type world struct {
	t     *testing.T
	pool  *warmpooltest.Memory
	clock *testclock.FakePassiveClock
	log   *lines
	url   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldOf(t, func(m *warmpooltest.Memory) gateway.Backend { return m })
}

// rememberingWorld is one whose backend knows Idempotency-Keys.
func rememberingWorld(t *testing.T) *world {
	t.Helper()
	return worldOf(t, func(m *warmpooltest.Memory) gateway.Backend { return &warmpooltest.Remembering{Memory: m} })
}

func worldOf(t *testing.T, backend func(*warmpooltest.Memory) gateway.Backend) *world {
	t.Helper()
	clk := testclock.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC))
	made := time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)
	size := warmpool.Resources{CPUCount: 2, MemoryMB: 512, DiskMB: 1024}
	pool := warmpooltest.NewMemory(clk,
		warmpool.Template{
			Name: "base", Aliases: []string{"base-v1"}, Runtimes: []string{"csi", "agent-runtime"}, Containers: []warmpool.Container{{Name: "sandbox", Mounts: true, Memory: 64 << 20}},
			Reserved: []string{"/opt/template"}, Desired: 250, EnvdVersion: "0.6.0", Resources: size, CreatedAt: made, UpdatedAt: made,
		},
		warmpool.Template{Name: "plain", Aliases: []string{"plain-v1"}, Desired: 2, EnvdVersion: "0.6.0", Resources: size, CreatedAt: made, UpdatedAt: made},
		warmpool.Template{Name: "empty", EnvdVersion: "0.6.0", Resources: size, CreatedAt: made, UpdatedAt: made, Reason: "image cannot be pulled"})
	pool.OnCheck = (&tmpfs.Driver{}).Check
	log := &lines{}
	logger := slog.New(slog.NewJSONHandler(log, nil))
	svc, err := gateway.New(gateway.Config{
		Backend: backend(pool), Reader: volumes(), Policy: mount.DefaultPolicy(), Limits: gateway.DefaultLimits(), Clock: clk, Logger: logger,
	})
	require.NoError(t, err)
	h, err := e2b.New(svc, keys{aliceKey: {Team: "alice", Key: "key-1"}, bobKey: {Team: "bob", Key: "key-2"}},
		e2b.Config{Domain: "sandboxes.example.com:8443", Logger: logger, Clock: clk})
	require.NoError(t, err)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &world{t: t, pool: pool, clock: clk, log: log, url: srv.URL}
}

// answer is an HTTP answer that has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) message(t *testing.T) string {
	t.Helper()
	var p struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	require.NoError(t, json.Unmarshal(a.body, &p), "%s", a.body)
	require.Equal(t, a.status, p.Code, "the SDKs read the code from the body")
	require.NotEmpty(t, p.Message)
	require.True(t, strings.HasPrefix(a.header.Get("Content-Type"), "application/json"))
	return p.Message
}

// as sends a request with a key; body is a string, JSON to be encoded, or nil.
func (w *world) as(key, method, path string, body any) answer {
	w.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case io.Reader:
		r = b
	default:
		raw, err := json.Marshal(b)
		require.NoError(w.t, err)
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, r)
	require.NoError(w.t, err)
	if key != "" {
		req.Header.Set("X-API-KEY", key)
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return w.do(req)
}

func (w *world) do(req *http.Request) answer {
	w.t.Helper()
	res, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(w.t, err)
	require.NotEmpty(w.t, res.Header.Get("X-Request-Id"))
	require.Equal(w.t, res.Header.Get("X-Request-Id"), res.Header.Get("X-E2b-Trace-Id"))
	return answer{res.StatusCode, res.Header, raw}
}

// make creates a sandbox and returns its ID.
func (w *world) make(body map[string]any) string {
	w.t.Helper()
	if body["templateID"] == nil {
		body["templateID"] = "base"
	}
	a := w.as(aliceKey, http.MethodPost, "/v2/sandboxes", body)
	require.Equal(w.t, http.StatusCreated, a.status, "%s", a.body)
	var sb struct{ SandboxID string }
	require.NoError(w.t, json.Unmarshal(a.body, &sb))
	return sb.SandboxID
}
