package oss

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/driver/oss/osstest"
)

// The example of the store's documentation.
func TestVersion1IsSignedAsItsVendorHasIt(t *testing.T) {
	r := httptest.NewRequest(http.MethodPut, "http://oss-example.oss-cn-hangzhou.aliyuncs.com/nelson", http.NoBody)
	for k, v := range map[string]string{
		"Content-Md5": "ODBGOERFMDMzQTczRUY3NUE3NzA5QzdFNUYzMDQxNEM=", "Content-Type": "text/html", "Date": "Thu, 17 Nov 2005 18:49:58 GMT",
		"X-OSS-Meta-Author": "foo@bar.com", "X-OSS-Magic": "abracadabra", "Authorization": "OSS sandgate:x",
	} {
		r.Header.Set(k, v)
	}
	o := origin{Host: "oss-cn-hangzhou.aliyuncs.com", Bucket: "oss-example"}
	require.NoError(t, o.resign(r, credentials{id: "44CF9590006BF252F707", secret: "OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV"}))
	require.Equal(t, "OSS 44CF9590006BF252F707:26NBxoKdsyly4EDv6inkoDft/yA=", r.Header.Get("Authorization"))
}

// The example of its SDKs' tests.
func TestVersion4IsSignedAsItsVendorHasIt(t *testing.T) {
	r := httptest.NewRequest(http.MethodPut, "http://bucket.oss-cn-hangzhou.aliyuncs.com/1234%2B-/123/1.txt?param1=value1&%2Bparam1=value3&%7Cparam1=value4&%2Bparam2=&%7Cparam2=&param2=", http.NoBody)
	for k, v := range map[string]string{
		"X-Oss-Head1": "value", "Abc": "value", "Content-Type": "text/plain", "X-Oss-Content-Sha256": "UNSIGNED-PAYLOAD", "X-Oss-Date": "20231217T034736Z",
		"Authorization": "OSS4-HMAC-SHA256 Credential=sandgate/20231217/cn-hangzhou/oss/aliyun_v4_request, Signature=x",
	} {
		r.Header.Set(k, v)
	}
	o := origin{Host: "oss-cn-hangzhou.aliyuncs.com", Bucket: "bucket"}
	require.NoError(t, o.resign(r, credentials{id: "ak", secret: "sk", token: "token"}))
	require.Equal(t, "OSS4-HMAC-SHA256 Credential=ak/20231217/cn-hangzhou/oss/aliyun_v4_request,Signature=b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea", r.Header.Get("Authorization"))
}

func TestWhatIsSignedAgainIsTakenByAnOSS(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer behind.Close()
	to, err := url.Parse(behind.URL)
	require.NoError(t, err)
	store := osstest.New(to, "access", "secret")
	store.Admit(osstest.Key{ID: "LTAI", Secret: "SK", Token: "T"})
	now := time.Now().UTC()
	o := origin{Host: "127.0.0.1", Bucket: "data"}
	for what, c := range map[string]struct{ method, path, from string }{
		"an object":         {http.MethodPut, "/data/team/a%20%C3%A4%2B%26%3D", ""},
		"a copy":            {http.MethodPut, "/data/b", "/data/a%20b"},
		"a list":            {http.MethodGet, "/data/?delimiter=/&max-keys=1000&prefix=team%2Fa%20b%2F", ""},
		"more of a list":    {http.MethodGet, "/data/?continuation-token=a%2Bb%3D&list-type=2&prefix=", ""},
		"a begun upload":    {http.MethodPost, "/data/big?uploads", ""},
		"a part":            {http.MethodPut, "/data/big?partNumber=2&uploadId=u%2Fv%3D", ""},
		"parameters askew":  {http.MethodPut, "/data/big?uploadId=u&partNumber=2&x=y", ""},
		"an ended upload":   {http.MethodPost, "/data/big?uploadId=u", ""},
		"a name with dots":  {http.MethodGet, "/data/a/..%2Fb", ""},
		"a bucket's own":    {http.MethodGet, "/data?location", ""},
		"an object's rules": {http.MethodGet, "/data/a?acl", ""},
	} {
		for version, headers := range map[string]map[string]string{
			"1": {"Date": now.Format(http.TimeFormat), "Authorization": "OSS sandgate:x"},
			"4": {
				"X-Oss-Date": now.Format("20060102T150405Z"), "X-Oss-Content-Sha256": "UNSIGNED-PAYLOAD",
				"Authorization": "OSS4-HMAC-SHA256 Credential=sandgate/" + now.Format("20060102") + "/cn-hangzhou/oss/aliyun_v4_request, Signature=x",
			},
		} {
			t.Run(what+", version "+version, func(t *testing.T) {
				r := httptest.NewRequest(c.method, "http://127.0.0.1"+c.path, http.NoBody)
				r.Header.Set("X-Oss-Security-Token", "planted")
				r.Header.Set("X-Oss-Meta-Mode", " 33188  1 ")
				r.Header.Set("Content-Type", "text/plain")
				for k, v := range headers {
					r.Header.Set(k, v)
				}
				if c.from != "" {
					r.Header.Set("X-Oss-Copy-Source", c.from)
				}
				require.NoError(t, o.resign(r, credentials{id: "LTAI", secret: "SK", token: "T"}))
				w := httptest.NewRecorder()
				store.ServeHTTP(w, r.Clone(t.Context()))
				require.Equal(t, http.StatusOK, w.Code, w.Body.String())
				require.NoError(t, o.resign(r, credentials{id: "LTAI", secret: "wrong", token: "T"}))
				w = httptest.NewRecorder()
				store.ServeHTTP(w, r)
				require.Equal(t, http.StatusForbidden, w.Code)
				require.Contains(t, w.Body.String(), "SignatureDoesNotMatch")
			})
		}
	}
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/other/a", http.NoBody)
	r.Header.Set("Authorization", "OSS sandgate:x")
	require.ErrorIs(t, o.resign(r, credentials{id: "LTAI", secret: "SK"}), errElsewhere)
	r = httptest.NewRequest(http.MethodGet, "http://127.0.0.1/data/a", http.NoBody)
	r.Header.Set("Authorization", "OSS4-HMAC-SHA256 sandgate")
	require.ErrorIs(t, o.resign(r, credentials{id: "LTAI", secret: "SK"}), errUnsigned)
}
