package oss

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// issuer is an object store that knows sessions only: its keys come with a token, and are looked up with each request. It issues them for
// a workload's identity, but trusts no cluster on this machine: what it issues, the test writes into its book.
type issuer struct {
	store
	iam, book string
	role      map[string]any
	revoked   sync.Map // keys
	refused   sync.Map // requests with a revoked key

	mu    sync.Mutex
	asked map[string]int // requests by key
}

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	needs(t)
	i := &issuer{store: store{dir: t.TempDir()}, asked: map[string]int{}}
	require.NoError(t, os.Mkdir(filepath.Join(i.dir, "data"), 0o755))
	book, private := t.TempDir(), filepath.Join(t.TempDir(), "private")
	i.book = filepath.Join(book, "iam.json")
	i.iam = serve(t, nil, "iam", "--dir", book, "--private-ports", private)
	i.admit(t)
	i.front(t, serve(t, []string{"--iam-standalone-endpoint", private}, "posix", i.dir))
	return i
}

// front lets all through to the store but what was revoked.
func (i *issuer) front(t *testing.T, behind string) {
	t.Helper()
	to, err := url.Parse(behind)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, r.In.Host
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		id, _, _ := strings.Cut(rest, "/")
		i.mu.Lock()
		i.asked[id]++
		i.mu.Unlock()
		if _, over := i.revoked.Load(id); over {
			i.refused.Store(r.Method+" "+r.URL.Path+" by "+id, true)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	i.url = front.URL
}

// admit makes a role that may do anything in the bucket.
func (i *issuer) admit(t *testing.T) {
	t.Helper()
	i.ask(t, url.Values{
		"Action": {"CreateRole"}, "RoleName": {"reader"},
		"AssumeRolePolicyDocument": {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}`},
	})
	i.ask(t, url.Values{
		"Action": {"PutRolePolicy"}, "RoleName": {"reader"}, "PolicyName": {"data"},
		"PolicyDocument": {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::data","arn:aws:s3:::data/*"]}]}`},
	})
	i.role = i.read(t)["roles"].(map[string]any)["reader"].(map[string]any)
}

func (i *issuer) read(t *testing.T) map[string]any {
	t.Helper()
	var book map[string]any
	b, err := os.ReadFile(i.book)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &book))
	return book
}

// ask asks as the administrator, and returns the answer.
func (i *issuer) ask(t *testing.T, form url.Values) string {
	t.Helper()
	form.Set("Version", "2010-05-08")
	body := form.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.iam+"/", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return signed(t, req, body, "iam")
}

// signed asks with the signature of the store's owner, and returns the answer.
func signed(t *testing.T, req *http.Request, body, service string) string {
	t.Helper()
	now, sum := time.Now().UTC(), sha256.Sum256([]byte(body))
	req.Host = req.URL.Host
	req.Header.Set("X-Amz-Date", now.Format("20060102T150405Z"))
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	req.Header.Set("Authorization", algorithm+" Credential=x/"+now.Format("20060102")+"/us-east-1/"+service+"/aws4_request, ")
	require.NoError(t, sign(req, credentials{id: storeKey, secret: storeSecret}))
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Less(t, res.StatusCode, 300, string(answer))
	return string(answer)
}

// issue makes a key with a token that is good until it is revoked.
func (i *issuer) issue(t *testing.T) mount.Secret { return i.issueFor(t, "") }

// issueFor makes one that may do only what a policy says.
func (i *issuer) issueFor(t *testing.T, policy string) mount.Secret {
	t.Helper()
	name, until := rand.Text(), time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	out := mount.Secret{
		"AccessKeyId": "ASIA" + name[:16], "AccessKeySecret": "SKCANARY" + name, "SecurityToken": "STSCANARY/+=" + name, "Expiration": until.Format(time.RFC3339),
	}
	book := i.read(t)
	book["sessions"].(map[string]any)[out["AccessKeyId"]] = map[string]any{
		"accessKeyId": out["AccessKeyId"], "secretAccessKey": out["AccessKeySecret"], "sessionToken": out["SecurityToken"],
		"roleArn": i.role["Arn"], "roleName": "reader", "roleId": i.role["RoleID"], "roleSessionName": "test",
		"createDate": time.Now().UTC(), "expiration": until, "policy": policy,
	}
	b, err := json.Marshal(book)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(i.book+".new", b, 0o600))
	require.NoError(t, os.Rename(i.book+".new", i.book))
	return out
}

// key makes an access key, of a user who may do anything in the bucket.
func (i *issuer) key(t *testing.T) mount.Secret {
	t.Helper()
	user := rand.Text()
	i.ask(t, url.Values{"Action": {"CreateUser"}, "UserName": {user}})
	i.ask(t, url.Values{
		"Action": {"PutUserPolicy"}, "UserName": {user}, "PolicyName": {"data"},
		"PolicyDocument": {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::data","arn:aws:s3:::data/*"]}]}`},
	})
	var out struct {
		ID     string `xml:"CreateAccessKeyResult>AccessKey>AccessKeyId"`
		Secret string `xml:"CreateAccessKeyResult>AccessKey>SecretAccessKey"`
	}
	require.NoError(t, xml.Unmarshal([]byte(i.ask(t, url.Values{"Action": {"CreateAccessKey"}, "UserName": {user}})), &out))
	require.NotEmpty(t, out.Secret)
	return mount.Secret{"AccessKeyId": out.ID, "AccessKeySecret": out.Secret}
}

func (i *issuer) revoke(s mount.Secret) { i.revoked.Store(s["AccessKeyId"], true) }

// await waits until a key is in use.
func (i *issuer) await(t *testing.T, s mount.Secret) {
	t.Helper()
	require.Eventually(t, func() bool {
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.asked[s["AccessKeyId"]] >= 20
	}, 30*time.Second, time.Millisecond, "the client goes on asking")
}

func (i *issuer) mount(s mount.Secret) mount.Mount {
	m := i.store.mount()
	m.Secret = s
	return m
}

// refusals are the requests that came with a revoked key.
func (i *issuer) refusals() (out []string) {
	i.refused.Range(func(k, _ any) bool {
		out = append(out, k.(string))
		return true
	})
	return out
}

// needs skips where a real client and a real store cannot be had.
func needs(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	if _, err := exec.LookPath("s3fs"); err != nil {
		t.Skip("needs s3fs in PATH")
	}
	program(t)
}

// program is the store's.
func program(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("VERSITYGW"); p != "" {
		return p
	}
	p, err := exec.LookPath("versitygw")
	if err != nil {
		t.Skip("needs versitygw: set VERSITYGW to the program")
	}
	return p
}

// serve starts one of the store's programs and returns where it listens.
func serve(t *testing.T, global []string, command ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	args := append([]string{"--quiet", "--port", address}, global...)
	cmd := exec.Command(program(t), append(args, command...)...)
	cmd.Env = []string{"ROOT_ACCESS_KEY=" + storeKey, "ROOT_SECRET_KEY=" + storeSecret}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond, "the object store listens")
	return "http://" + address
}
