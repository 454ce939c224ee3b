package osstest

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// published are signed requests that the store's vendor has published: the documentation's, and those of the tests of its SDKs.
var published = map[string]struct {
	method, url string
	headers     map[string]string
	key         Key
	at          string
	signed      string
}{
	"version 1, documentation": {
		http.MethodPut, "http://oss-example.oss-cn-hangzhou.aliyuncs.com/nelson",
		map[string]string{
			"Content-Md5": "ODBGOERFMDMzQTczRUY3NUE3NzA5QzdFNUYzMDQxNEM=", "Content-Type": "text/html", "Date": "Thu, 17 Nov 2005 18:49:58 GMT",
			"X-OSS-Meta-Author": "foo@bar.com", "X-OSS-Magic": "abracadabra",
		},
		Key{ID: "44CF9590006BF252F707", Secret: "OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV"}, "2005-11-17T18:49:58Z",
		"OSS 44CF9590006BF252F707:26NBxoKdsyly4EDv6inkoDft/yA=",
	},
	"version 1, a date of its own": {http.MethodPut, "http://examplebucket.oss-cn-hangzhou.aliyuncs.com/nelson", sdk1, Key{ID: "ak", Secret: "sk"}, "2022-12-28T10:27:41Z", "OSS ak:kSHKmLxlyEAKtZPkJhG9bZb5k7M="},
	"version 1, a sub-resource":    {http.MethodPut, "http://examplebucket.oss-cn-hangzhou.aliyuncs.com/nelson?acl", sdk1, Key{ID: "ak", Secret: "sk"}, "2022-12-28T10:27:41Z", "OSS ak:/afkugFbmWDQ967j1vr6zygBLQk="},
	"version 1, others beside it":  {http.MethodGet, "http://examplebucket.oss-cn-hangzhou.aliyuncs.com/?resourceGroup&non-resousce=null", map[string]string{"X-Oss-Date": "Wed, 28 Dec 2022 10:27:41 GMT"}, Key{ID: "ak", Secret: "sk"}, "2022-12-28T10:27:41Z", "OSS ak:vkQmfuUDyi1uDi3bKt67oemssIs="},
	"version 4":                    {http.MethodPut, sdk4, headers4("20231216T162057Z"), Key{ID: "ak", Secret: "sk"}, "2023-12-16T16:20:57Z", "OSS4-HMAC-SHA256 Credential=ak/20231216/cn-hangzhou/oss/aliyun_v4_request,Signature=e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"},
	"version 4, more headers":      {http.MethodPut, sdk4, headers4("20231216T172512Z"), Key{ID: "ak", Secret: "sk"}, "2023-12-16T17:25:12Z", "OSS4-HMAC-SHA256 Credential=ak/20231216/cn-hangzhou/oss/aliyun_v4_request,AdditionalHeaders=abc;zabc,Signature=4a4183c187c07c8947db7620deb0a6b38d9fbdd34187b6dbaccb316fa251212f"},
	"version 4, a token":           {http.MethodPut, sdk4, headers4("20231217T034736Z", "X-Oss-Security-Token", "token"), Key{ID: "ak", Secret: "sk", Token: "token"}, "2023-12-17T03:47:36Z", "OSS4-HMAC-SHA256 Credential=ak/20231217/cn-hangzhou/oss/aliyun_v4_request,Signature=b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea"},
}

var sdk1 = map[string]string{
	"Content-Md5": "eB5eJF1ptWaXm4bijSPyxw==", "Content-Type": "text/html", "X-Oss-Meta-Author": "alice", "X-Oss-Meta-Magic": "abracadabra",
	"X-Oss-Date": "Wed, 28 Dec 2022 10:27:41 GMT",
}

const sdk4 = "http://bucket.oss-cn-hangzhou.aliyuncs.com/1234%2B-/123/1.txt?param1=value1&%2Bparam1=value3&%7Cparam1=value4&%2Bparam2=&%7Cparam2=&param2="

func headers4(at string, more ...string) map[string]string {
	out := map[string]string{
		"X-Oss-Head1": "value", "Abc": "value", "ZAbc": "value", "XYZ": "value", "Content-Type": "text/plain", "X-Oss-Content-Sha256": "UNSIGNED-PAYLOAD",
		"X-Oss-Date": at,
	}
	for i := 0; i < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}

// ask asks a store that admits k, at a time, and returns its status and what the server behind it got.
func ask(t *testing.T, k Key, at string, r *http.Request) (status int, got *http.Request) {
	t.Helper()
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("X-Amz-Meta-Mode", "7")
	}))
	defer behind.Close()
	to, err := url.Parse(behind.URL)
	require.NoError(t, err)
	s := New(to, "access", "secret")
	clock, err := time.Parse(time.RFC3339, at)
	require.NoError(t, err)
	s.now = func() time.Time { return clock }
	s.Admit(k)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	require.Equal(t, w.Code == http.StatusOK, w.Header().Get("X-Oss-Meta-Mode") == "7", "the answer is in its client's dialect")
	require.Equal(t, w.Code == http.StatusOK, len(s.Refused()) == 0)
	return w.Code, got
}

func TestPublishedSignaturesAreTakenAndNoOthers(t *testing.T) {
	for name, c := range published {
		t.Run(name, func(t *testing.T) {
			request := func(change ...func(*http.Request)) *http.Request {
				r := httptest.NewRequest(c.method, c.url, http.NoBody)
				for k, v := range c.headers {
					r.Header.Set(k, v)
				}
				r.Header.Set("Authorization", c.signed)
				for _, f := range change {
					f(r)
				}
				return r
			}
			status, got := ask(t, c.key, c.at, request())
			require.Equal(t, http.StatusOK, status)
			require.Contains(t, got.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=access/")
			for header := range got.Header {
				require.NotContains(t, header, "X-Oss-")
			}

			last := c.signed[:len(c.signed)-2] + "x" + c.signed[len(c.signed)-1:]
			for planted, r := range map[string]*http.Request{
				"another signature": request(func(r *http.Request) { r.Header.Set("Authorization", last) }),
				"another object":    request(func(r *http.Request) { r.URL.Path += "x" }),
				"another verb":      request(func(r *http.Request) { r.Method = http.MethodDelete }),
				"another header":    request(func(r *http.Request) { r.Header.Set("X-Oss-Copy-Source", "/b/k") }),
				"another token":     request(func(r *http.Request) { r.Header.Set("X-Oss-Security-Token", "planted") }),
			} {
				status, got = ask(t, c.key, c.at, r)
				require.Equal(t, http.StatusForbidden, status, planted)
				require.Nil(t, got, planted)
			}
			wrong := c.key
			wrong.Secret += "x"
			status, _ = ask(t, wrong, c.at, request())
			require.Equal(t, http.StatusForbidden, status, "another secret")
			wrong = c.key
			wrong.ID = "somebody"
			status, _ = ask(t, wrong, c.at, request())
			require.Equal(t, http.StatusForbidden, status, "another key")
			wrong = c.key
			wrong.Prefix = "elsewhere/"
			status, _ = ask(t, wrong, c.at, request())
			require.Equal(t, http.StatusForbidden, status, "a key for another prefix")
			status, _ = ask(t, c.key, "2024-01-01T00:00:00Z", request())
			require.Equal(t, http.StatusForbidden, status, "another time")
		})
	}
}

func TestWhatNobodyHasSignedIsPassedOnUnsigned(t *testing.T) {
	status, got := ask(t, Key{ID: "ak"}, "2024-01-01T00:00:00Z", httptest.NewRequest(http.MethodGet, "http://127.0.0.1/bucket/a%20b?prefix=x", http.NoBody))
	require.Equal(t, http.StatusOK, status)
	require.Empty(t, got.Header.Get("Authorization"))
	require.Equal(t, "/bucket/a b", got.URL.Path)
}
