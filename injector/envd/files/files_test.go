package files

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	testclock "k8s.io/utils/clock/testing"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
)

// world is a handler whose only user is the test's own, at home in a temporary directory.
type world struct {
	t     testing.TB
	home  string
	token string
	clock *testclock.FakePassiveClock
	mux   *http.ServeMux
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, home: t.TempDir(), clock: testclock.NewFakePassiveClock(time.Unix(1_700_000_000, 0)), mux: http.NewServeMux()}
	self := account.Current(os.Getuid(), os.Getgid())
	self.Home = w.home
	h := &Handler{
		Accounts: &account.Directory{Self: &self, DefaultUser: func() string { return self.Name }},
		Token:    func() string { return w.token },
		Clock:    w.clock,
		Log:      slog.New(slog.DiscardHandler),
	}
	h.Register(w.mux)
	return w
}

func (w *world) do(method, target string, body io.Reader, header ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(method, target, body)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.mux.ServeHTTP(rec, r)
	return rec
}

func (w *world) put(path, content string) string {
	w.t.Helper()
	full := filepath.Join(w.home, path)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(full), 0o755))
	require.NoError(w.t, os.WriteFile(full, []byte(content), 0o644))
	return full
}

func (w *world) content(path string) string {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.home, path))
	require.NoError(w.t, err)
	return string(raw)
}

func at(path string, more ...string) string {
	q := url.Values{"path": {path}}
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return "/files?" + q.Encode()
}

func refused(t testing.TB, rec *httptest.ResponseRecorder, code int, text string) {
	t.Helper()
	require.Equal(t, code, rec.Code, rec.Body.String())
	var e struct {
		Code    int
		Message string
	}
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &e))
	require.Equal(t, code, e.Code)
	require.Contains(t, e.Message, text)
}

// form is a multipart body: pairs of file name and content, all in the field "file".
func form(pairs ...string) (kind string, body *bytes.Buffer) {
	body = &bytes.Buffer{}
	m := multipart.NewWriter(body)
	for i := 0; i < len(pairs); i += 2 {
		part, _ := m.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {fmt.Sprintf(`form-data; name="file"; filename="%s"`, pairs[i])},
			"Content-Type":        {"application/octet-stream"},
		})
		_, _ = io.WriteString(part, pairs[i+1])
	}
	_ = m.Close()
	return m.FormDataContentType(), body
}

func zipped(s string) *bytes.Buffer {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return &b
}

func TestAFormsFilesAreWrittenWhereTheirNamesSay(t *testing.T) {
	w := newWorld(t)
	kind, body := form("a/b.txt", "one", w.home+"/c d.txt", "two")
	rec := w.do("POST", "/files", body, "Content-Type", kind)
	require.Equal(t, 200, rec.Code, rec.Body.String())
	require.JSONEq(t, fmt.Sprintf(`[{"path":"%[1]s/a/b.txt","name":"b.txt","type":"file"},{"path":"%[1]s/c d.txt","name":"c d.txt","type":"file"}]`, w.home), rec.Body.String())
	require.Equal(t, "text/plain; charset=utf-8", rec.Header().Get("Content-Type"))
	require.Equal(t, "one", w.content("a/b.txt"))
	require.Equal(t, "two", w.content("c d.txt"))
}

func TestTheQuerysPathWinsOverTheFileName(t *testing.T) {
	w := newWorld(t)
	kind, body := form("ignored", "x")
	require.Equal(t, 200, w.do("POST", at("here"), body, "Content-Type", kind).Code)
	require.Equal(t, "x", w.content("here"))
	kind, body = form("a", "1", "b", "2")
	refused(t, w.do("POST", at("twice"), body, "Content-Type", kind), 400, "multiple files to the same path")
	require.Equal(t, "1", w.content("twice"))
}

func TestOtherFieldsAreIgnored(t *testing.T) {
	w := newWorld(t)
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	require.NoError(t, m.WriteField("other", "x"))
	require.NoError(t, m.Close())
	rec := w.do("POST", "/files", &body, "Content-Type", m.FormDataContentType())
	require.Equal(t, 200, rec.Code)
	require.JSONEq(t, "[]", rec.Body.String())
}

func TestRawAndCompressedBodies(t *testing.T) {
	w := newWorld(t)
	rec := w.do("POST", at("raw"), strings.NewReader("raw bytes"), "Content-Type", "application/octet-stream")
	require.Equal(t, 200, rec.Code, rec.Body.String())
	require.Equal(t, "raw bytes", w.content("raw"))
	rec = w.do("POST", at("raw"), zipped("shorter"), "Content-Type", "application/octet-stream", "Content-Encoding", "gzip")
	require.Equal(t, 200, rec.Code, rec.Body.String())
	require.Equal(t, "shorter", w.content("raw"), "the file is replaced, not overwritten in part")
	kind, body := form("zipform", "in a form")
	require.Equal(t, 200, w.do("POST", "/files", zipped(body.String()), "Content-Type", kind, "Content-Encoding", "GZIP").Code)
	require.Equal(t, "in a form", w.content("zipform"))
}

func TestUploadsThatCannotBe(t *testing.T) {
	w := newWorld(t)
	w.put("dir/file", "")
	require.NoError(t, syscall.Mkfifo(filepath.Join(w.home, "fifo"), 0o600))
	kind, _ := form()
	raw := "application/octet-stream"
	cut := zipped(strings.Repeat("x", 1000)).Bytes()
	for name, c := range map[string]struct {
		target string
		body   string
		header []string
		code   int
		text   string
	}{
		"a directory":                {at("dir"), "x", []string{"Content-Type", raw}, 400, "is a directory"},
		"below a file":               {at("dir/file/x"), "x", []string{"Content-Type", raw}, 400, "not a directory"},
		"a pipe":                     {at("fifo"), "x", []string{"Content-Type", raw}, 400, "not a regular file"},
		"a path that is too long":    {at(strings.Repeat("x", 10000)), "x", []string{"Content-Type", raw}, 400, "name too long"},
		"raw without a path":         {"/files", "x", []string{"Content-Type", raw}, 400, "path query parameter"},
		"an unknown type":            {at("x"), "x", []string{"Content-Type", "text/html"}, 400, "unsupported content type"},
		"no type":                    {at("x"), "x", nil, 400, "unsupported content type"},
		"a form without boundary":    {at("x"), "x", []string{"Content-Type", "multipart/form-data"}, 400, "boundary"},
		"a form that ends too early": {at("x"), "--" + strings.TrimPrefix(kind, "multipart/form-data; boundary="), []string{"Content-Type", kind}, 400, "error reading form"},
		"an unknown encoding":        {at("x"), "x", []string{"Content-Type", raw, "Content-Encoding", "br"}, 400, "unsupported Content-Encoding"},
		"what is not gzip":           {at("x"), "not gzip", []string{"Content-Type", raw, "Content-Encoding", "gzip"}, 400, "decompressing"},
		"gzip that is cut short":     {at("x"), string(cut[:len(cut)-10]), []string{"Content-Type", raw, "Content-Encoding", "gzip"}, 400, "error reading the upload"},
		"metadata beyond US-ASCII":   {at("x"), "x", []string{"Content-Type", raw, "X-Metadata-A", "ü"}, 400, "invalid metadata"},
		"an unknown user":            {at("x", "username", "nobody-here"), "x", []string{"Content-Type", raw}, 401, "nobody-here"},
		"another user's home":        {at("~root/x"), "x", []string{"Content-Type", raw}, 400, "invalid path"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, w.do("POST", c.target, strings.NewReader(c.body), c.header...), c.code, c.text)
		})
	}
}

func TestAFullDiskIsSaidSo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a small tmpfs")
	}
	w := newWorld(t)
	full := filepath.Join(w.home, "full")
	require.NoError(t, os.Mkdir(full, 0o755))
	require.NoError(t, syscall.Mount("tmpfs", full, "tmpfs", 0, "size=64k"))
	defer func() { require.NoError(t, syscall.Unmount(full, syscall.MNT_DETACH)) }()
	rec := w.do("POST", at("full/x"), bytes.NewReader(make([]byte, 1<<20)), "Content-Type", "application/octet-stream")
	refused(t, rec, 507, "not enough disk space available")
}

func TestAsRootUploadsBelongToTheirUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: files change their owner")
	}
	w := newWorld(t)
	h := &Handler{Accounts: &account.Directory{DefaultUser: func() string { return "nobody" }}, Token: func() string { return "" }, Clock: w.clock, Log: slog.New(slog.DiscardHandler)}
	w.mux = http.NewServeMux()
	h.Register(w.mux)
	nobody, err := h.Accounts.Lookup("nobody")
	require.NoError(t, err)
	owner := func(path string) int {
		info, err := os.Stat(filepath.Join(w.home, path))
		require.NoError(t, err)
		return int(info.Sys().(*syscall.Stat_t).Uid)
	}
	w.put("old", "root's")
	for _, path := range []string{"new/dir/file", "old"} {
		require.Equal(t, 200, w.do("POST", at(filepath.Join(w.home, path)), strings.NewReader("x"), "Content-Type", "application/octet-stream").Code)
		require.Equal(t, nobody.UID, owner(path))
	}
	require.Equal(t, nobody.UID, owner("new/dir"))
	require.Equal(t, nobody.UID, owner("new"))
	require.Equal(t, 200, w.do("POST", at(w.home+"/roots", "username", "root"), strings.NewReader("x"), "Content-Type", "application/octet-stream").Code)
	require.Equal(t, 0, owner("roots"))
}

func TestMetadataComesWithTheUpload(t *testing.T) {
	w := newWorld(t)
	rec := w.do("POST", at("m"), strings.NewReader("x"), "Content-Type", "application/octet-stream", "X-Metadata-Purpose", "demo")
	require.Equal(t, 200, rec.Code)
	if !strings.Contains(rec.Body.String(), "metadata") {
		t.Skip("needs a temporary directory on a file system with user extended attributes")
	}
	require.JSONEq(t, fmt.Sprintf(`[{"path":"%s/m","name":"m","type":"file","metadata":{"purpose":"demo"}}]`, w.home), rec.Body.String())
	rec = w.do("POST", at("m"), strings.NewReader("x"), "Content-Type", "application/octet-stream")
	require.NotContains(t, rec.Body.String(), "metadata", "an upload without metadata clears it")
}

func TestDownloads(t *testing.T) {
	w := newWorld(t)
	w.put("a.txt", "0123456789")
	w.put("empty", "")
	for name, c := range map[string]struct {
		path   string
		header []string
		code   int
		body   string
		want   []string
	}{
		"the whole file":         {"a.txt", nil, 200, "0123456789", []string{"Content-Length", "10", "Vary", "Accept-Encoding", "Content-Type", "text/plain; charset=utf-8", "Content-Disposition", "inline; filename=a.txt"}},
		"a range":                {"a.txt", []string{"Range", "bytes=2-4"}, 206, "234", []string{"Content-Range", "bytes 2-4/10"}},
		"a range though zipped":  {"a.txt", []string{"Range", "bytes=-1", "Accept-Encoding", "gzip"}, 206, "9", []string{"Content-Encoding", ""}},
		"beyond the end":         {"a.txt", []string{"Range", "bytes=20-"}, 416, "", nil},
		"an empty file":          {"empty", nil, 200, "", nil},
		"identity by preference": {"a.txt", []string{"Accept-Encoding", "identity, gzip;q=0.5"}, 200, "0123456789", []string{"Content-Encoding", ""}},
		"anything":               {"a.txt", []string{"Accept-Encoding", "*"}, 200, "0123456789", []string{"Content-Encoding", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			rec := w.do("GET", at(c.path), nil, c.header...)
			require.Equal(t, c.code, rec.Code, rec.Body.String())
			if c.code < 400 {
				require.Equal(t, c.body, rec.Body.String())
			}
			for i := 0; i < len(c.want); i += 2 {
				require.Equal(t, c.want[i+1], rec.Header().Get(c.want[i]), c.want[i])
			}
		})
	}
	for name, accept := range map[string]string{"by name": "gzip", "among others": "gzip, deflate, br", "without identity": "*;q=0.5, identity;q=0"} {
		t.Run("zipped when asked for "+name, func(t *testing.T) {
			rec := w.do("GET", at("a.txt"), nil, "Accept-Encoding", accept)
			require.Equal(t, 200, rec.Code)
			require.Equal(t, "gzip", rec.Header().Get("Content-Encoding"))
			require.Empty(t, rec.Header().Get("Content-Length"))
			z, err := gzip.NewReader(rec.Body)
			require.NoError(t, err)
			raw, err := io.ReadAll(z)
			require.NoError(t, err)
			require.Equal(t, "0123456789", string(raw))
		})
	}
	t.Run("what the kernel makes up as it is read", func(t *testing.T) {
		require.Contains(t, w.do("GET", at("/proc/self/status"), nil).Body.String(), "Pid:")
	})
}

func TestDownloadsThatCannotBe(t *testing.T) {
	w := newWorld(t)
	w.put("dir/f", "x")
	require.NoError(t, syscall.Mkfifo(filepath.Join(w.home, "fifo"), 0o600))
	for name, c := range map[string]struct {
		target string
		header []string
		code   int
		text   string
	}{
		"nothing there":             {at("missing"), nil, 404, "path '" + w.home + "/missing' does not exist"},
		"a directory":               {at("dir"), nil, 400, "is a directory"},
		"no path":                   {"/files", nil, 400, "is a directory"},
		"below a file":              {at("dir/f/x"), nil, 400, "not a directory"},
		"a pipe":                    {at("fifo"), nil, 400, "not a regular file"},
		"an unknown user":           {at("dir/f", "username", "nobody-here"), nil, 401, "nobody-here"},
		"no encoding we have":       {at("dir/f"), []string{"Accept-Encoding", "br, identity;q=0"}, 406, "no acceptable encoding"},
		"all refused":               {at("dir/f"), []string{"Accept-Encoding", "*;q=0"}, 406, "no acceptable encoding"},
		"a range, identity refused": {at("dir/f"), []string{"Accept-Encoding", "gzip, identity;q=0", "Range", "bytes=0-"}, 406, "no acceptable encoding"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, w.do("GET", c.target, nil, c.header...), c.code, c.text)
		})
	}
}

func TestAPipeIsNeverWaitedFor(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	for _, flags := range []int{os.O_RDONLY, os.O_WRONLY | os.O_CREATE | os.O_TRUNC} {
		_, err := open(fifo, flags)
		require.ErrorContains(t, err, "not a regular file")
	}
	reader, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer func() { _ = reader.Close() }()
	_, err = open(fifo, os.O_WRONLY)
	require.ErrorContains(t, err, "not a regular file", "one that somebody reads")
}

func TestWithATokenATransferNeedsItOrASignature(t *testing.T) {
	w := newWorld(t)
	w.token = "secret"
	w.put("f", "x")
	now := w.clock.Now().Unix()
	later, past := now+10, now-1
	signed := func(path, op, user, token string, exp *int64) string {
		more := []string{"signature", Signature(path, op, user, token, exp)}
		if user != "" {
			more = append(more, "username", user)
		}
		if exp != nil {
			more = append(more, "signature_expiration", strconv.FormatInt(*exp, 10))
		}
		return at(path, more...)
	}
	me := account.Current(os.Getuid(), os.Getgid()).Name
	for name, c := range map[string]struct {
		target, token string
		code          int
		text          string
	}{
		"neither":                    {at("f"), "", 401, "missing signature"},
		"the token":                  {at("f"), "secret", 200, ""},
		"another token":              {at("f"), "other", 401, "does not match"},
		"a signature":                {signed("f", Read, "", "secret", nil), "", 200, ""},
		"a signature with a user":    {signed("f", Read, me, "secret", nil), "", 200, ""},
		"one that will expire":       {signed("f", Read, "", "secret", &later), "", 200, ""},
		"one that has expired":       {signed("f", Read, "", "secret", &past), "", 401, "already expired"},
		"one with another token":     {signed("f", Read, "", "other", nil), "", 401, "invalid signature"},
		"one for writing":            {signed("f", Write, "", "secret", nil), "", 401, "invalid signature"},
		"one with a longer life":     {strings.Replace(signed("f", Read, "", "secret", &past), strconv.FormatInt(past, 10), strconv.FormatInt(later, 10), 1), "", 401, "invalid signature"},
		"one for another path":       {strings.Replace(signed("g", Read, "", "secret", nil), "path=g", "path=f", 1), "", 401, "invalid signature"},
		"an expiration that is none": {at("f", "signature", "v1_x", "signature_expiration", "soon"), "", 400, "Unix time"},
		"a signature, but a token":   {signed("f", Read, "", "secret", nil), "other", 401, "does not match"},
	} {
		t.Run(name, func(t *testing.T) {
			var header []string
			if c.token != "" {
				header = []string{initialize.Header, c.token}
			}
			rec := w.do("GET", c.target, nil, header...)
			if c.code == 200 {
				require.Equal(t, 200, rec.Code, rec.Body.String())
				return
			}
			refused(t, rec, c.code, c.text)
		})
	}
	t.Run("writing with a signature", func(t *testing.T) {
		rec := w.do("POST", signed("g", Write, "", "secret", nil), strings.NewReader("x"), "Content-Type", "application/octet-stream")
		require.Equal(t, 200, rec.Code, rec.Body.String())
	})
}

func TestSignaturesAreThoseOfTheSDKs(t *testing.T) {
	exp := int64(1700000000)
	// From the Python SDK's get_signature.
	require.Equal(t, "v1_p0WqJQYCLtO6YX+e4h7VbpybRsdJbMbIw7clYpulIJk", Signature("/home/user/a.txt", Read, "user", "tok", nil))
	require.Equal(t, "v1_QdtRqpz7xKNXzcs4IguYpySRPZbSGp8b64s9hqOl+wo", Signature("/home/user/a.txt", Write, "", "tok", &exp))
}

func TestPartsAreComposed(t *testing.T) {
	w := newWorld(t)
	w.put("p1", "one ")
	w.put("p2", "two")
	w.put("whole", "before")
	rec := w.do("POST", "/files/compose", strings.NewReader(`{"source_paths":["p1","p2"],"destination":"whole"}`))
	require.Equal(t, 200, rec.Code, rec.Body.String())
	require.JSONEq(t, fmt.Sprintf(`{"path":"%s/whole","name":"whole","type":"file"}`, w.home), rec.Body.String())
	require.Equal(t, "one two", w.content("whole"))
	require.NoFileExists(t, filepath.Join(w.home, "p1"))
	left, err := os.ReadDir(w.home)
	require.NoError(t, err)
	require.Len(t, left, 1)

	w.put("p3", "three")
	require.NoError(t, os.Symlink("whole", filepath.Join(w.home, "link")))
	for name, c := range map[string]struct {
		body string
		code int
		text string
	}{
		"no JSON":                      {"{", 400, "object"},
		"no sources":                   {`{"destination":"x"}`, 400, "source_paths"},
		"no destination":               {`{"source_paths":["p3"]}`, 400, "destination"},
		"a missing source":             {`{"source_paths":["p3","missing"],"destination":"x"}`, 404, "missing"},
		"a directory as source":        {`{"source_paths":["."],"destination":"x"}`, 400, "is a directory"},
		"the destination as source":    {`{"source_paths":["whole"],"destination":"whole"}`, 400, "same as destination"},
		"the destination through link": {`{"source_paths":["link"],"destination":"whole"}`, 400, "same as destination"},
		"a directory as destination":   {`{"source_paths":["p3"],"destination":"."}`, 400, "is a directory"},
		"an unknown user":              {`{"source_paths":["p3"],"destination":"x","username":"nobody-here"}`, 401, "nobody-here"},
	} {
		t.Run("not with "+name, func(t *testing.T) {
			refused(t, w.do("POST", "/files/compose", strings.NewReader(c.body)), c.code, c.text)
			require.Equal(t, "three", w.content("p3"))
			require.Equal(t, "one two", w.content("whole"))
		})
	}
}

var leadsOut = regexp.MustCompile(`(^|[^A-Za-z0-9])/|[\\\\*%~]|\.\.`)

func FuzzMultipartUpload(f *testing.F) {
	kind, body := form("a", "1", "b/c", "2")
	f.Add(kind, body.String(), "")
	f.Add("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=file; filename=../../../up\r\n\r\nz\r\n--x--", "")
	f.Add("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n", "p")
	f.Add("application/octet-stream", "raw", "a/b")
	f.Add("multipart/mixed; boundary=\"\"", "", "")
	f.Fuzz(func(t *testing.T, kind, body, path string) {
		// The test may run as root: names that could lead out of its directory are not tried for real.
		if leadsOut.MatchString(path) || leadsOut.MatchString(body) {
			return
		}
		w := newWorld(t)
		rec := w.do("POST", at(path), strings.NewReader(body), "Content-Type", kind)
		require.Contains(t, []int{200, 400, 500}, rec.Code)
		if rec.Code != 200 {
			refused(t, rec, rec.Code, "")
			return
		}
		var written []entry
		require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &written))
		for _, e := range written {
			require.FileExists(t, e.Path)
		}
	})
}

func FuzzSigned(f *testing.F) {
	exp := int64(1)
	f.Add("path=a&signature="+url.QueryEscape(Signature("a", Read, "", "t", nil)), "t")
	f.Add("path=a&signature_expiration=1&signature="+url.QueryEscape(Signature("a", Read, "", "t", &exp)), "t")
	f.Add("signature=v1_", "")
	f.Add("%zz", "t")
	f.Fuzz(func(t *testing.T, query, token string) {
		q, _ := url.ParseQuery(query)
		if signed(q, Read, token, time.Unix(0, 0)) == nil {
			require.NoError(t, signed(q, Read, token, time.Unix(0, 0)))
			require.Error(t, signed(q, Write, token, time.Unix(0, 0)))
			require.Error(t, signed(q, Read, token+"x", time.Unix(0, 0)))
		}
	})
}
