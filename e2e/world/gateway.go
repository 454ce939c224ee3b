package world

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sandgate-dev/sandgate/e2e/canary"
)

// Env is what a stock SDK needs in its environment, as the gateway wrote it for its users.
func (w *World) Env() []string {
	var out []string
	for k, v := range w.env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// readEnv takes in the lines `export NAME=value`; false as long as the file is not complete.
func (w *World) readEnv(path string) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	env := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if ok {
			env[name] = strings.Trim(value, `"'`)
		}
	}
	w.env, w.URL, w.Key = env, env["E2B_API_URL"], env["E2B_API_KEY"]
	return w.URL != "" && w.Key != "" && env["E2B_SANDBOX_URL"] != ""
}

func (w *World) healthy(ctx context.Context) bool {
	status, _, err := w.Call(ctx, http.MethodGet, "/health", "")
	return err == nil && status < 300
}

// Call makes one API request and returns status and body.
func (w *World) Call(ctx context.Context, method, path, body string) (int, []byte, error) {
	answer, err := w.send(ctx, method, path, body)
	if err != nil {
		return 0, nil, err
	}
	return answer.Status, []byte(answer.Body), nil
}

func (w *World) send(ctx context.Context, method, path, body string) (*StatusError, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-Key", w.Key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return &StatusError{res.StatusCode, res.Header, string(answer)}, err
}

// Secrets looks for the world's credentials where they must not be. Call it while sandboxes with volumes live.
func (w *World) Secrets(ctx context.Context) ([]string, error) {
	search := canary.Search{
		Secrets: map[string]string{"the API key": w.Key, "the bucket's access key secret": w.Store.Secret},
		Exempt:  []int{os.Getpid(), w.Store.program.pid()},
		Skip:    []string{filepath.Join(w.Dir, "manifests"), w.Store.Dir},
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], w.Dir) {
			search.Skip = append(search.Skip, fields[4])
		}
	}
	found, err := search.Processes()
	if err != nil {
		return nil, err
	}
	inFiles, err := search.Files(w.Dir)
	if err != nil {
		return nil, err
	}
	answers, err := w.answers(ctx, search)
	return slices.Concat(found, inFiles, answers), err
}

// answers asks for everything that speaks of sandboxes and volumes, refusals included, and looks through what comes back.
func (w *World) answers(ctx context.Context, search canary.Search) ([]string, error) {
	paths := []string{"/v2/sandboxes", "/templates", "/health", "/sandboxes/unknown", "/nowhere"}
	for _, id := range w.sandboxIDs() {
		paths = append(paths, "/sandboxes/"+id, "/sandboxes/"+id+"/mounts", "/sandboxes/"+id+"/metrics")
	}
	var out []string
	for _, path := range paths {
		_, body, err := w.Call(ctx, http.MethodGet, path, "")
		if err != nil {
			return nil, fmt.Errorf("GET %s: %w", path, err)
		}
		out = append(out, search.Text("the answer to GET "+path, body)...)
	}
	_, body, err := w.Call(ctx, http.MethodPost, "/v2/sandboxes",
		`{"templateID":"base","volumeMounts":[{"name":"oss-wrong-key","path":"/data"}]}`)
	if err != nil {
		return nil, err
	}
	return append(out, search.Text("the answer to a create whose volume fails", body)...), nil
}

var sandboxID = regexp.MustCompile(`\bi[a-z0-9]{19}\b`)

// sandboxIDs are those of all sandboxes that the log or the state tell of.
func (w *World) sandboxIDs() []string {
	seen := map[string]bool{}
	if log, err := os.ReadFile(w.Log()); err == nil {
		for _, id := range sandboxID.FindAllString(string(log), -1) {
			seen[id] = true
		}
	}
	_ = filepath.WalkDir(w.State(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if id := sandboxID.FindString(d.Name()); id != "" {
			seen[id] = true
			if d.IsDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	var out []string
	for id := range seen {
		out = append(out, id)
	}
	return out
}
