package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// tester is `gateway selftest`, which `helm test` runs: a client that does once what an SDK does.
type tester struct {
	url, key         string
	template, volume string
	target           string
	out              io.Writer
}

func selftest(args []string, out io.Writer) error {
	t := tester{out: out}
	fs := flag.NewFlagSet("gateway selftest", flag.ContinueOnError)
	fs.StringVar(&t.url, "url", "http://sandgate-gateway:3000", "address of the gateway")
	keyFile := fs.String("key-file", "", "file with the API key (required)")
	fs.StringVar(&t.template, "template", "base", "pool to take a sandbox from")
	fs.StringVar(&t.volume, "volume", "", "PersistentVolume to mount (required)")
	fs.StringVar(&t.target, "mount-point", "/mnt/sandgate-test", "where to mount it")
	wait := fs.Duration("timeout", 2*time.Minute, "longest time that the test may take")
	if err := fs.Parse(args); err != nil {
		return err
	}
	key, err := os.ReadFile(*keyFile)
	if err != nil || t.volume == "" {
		return errors.Join(err, errors.New("selftest: -key-file and -volume are needed"))
	}
	t.key = strings.TrimSpace(string(key))
	ctx, cancel := context.WithTimeout(context.Background(), *wait)
	defer cancel()
	return t.run(ctx)
}

// made is what the test needs of a create's answer.
type made struct{ SandboxID, EnvdAccessToken string }

// run creates a sandbox with the volume, writes a file into it, reads it back and ends the sandbox whatever came of it.
func (t tester) run(ctx context.Context) (err error) {
	begin := time.Now()
	body, err := json.Marshal(map[string]any{"templateID": t.template, "timeout": 120, "metadata": map[string]string{
		v1alpha1.MetadataVolumeName: t.volume, v1alpha1.MetadataMountPoint: t.target,
	}})
	if err != nil {
		return err
	}
	raw, err := t.send(ctx, http.MethodPost, "/sandboxes", made{}, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	var sandbox made
	if err := json.Unmarshal(raw, &sandbox); err != nil {
		return fmt.Errorf("selftest: the answer to a create: %w", err)
	}
	t.say("created %s with %s at %s in %s", sandbox.SandboxID, t.volume, t.target, time.Since(begin).Round(time.Millisecond))
	defer func() {
		_, killed := t.send(ctx, http.MethodDelete, "/sandboxes/"+sandbox.SandboxID, made{}, "", nil)
		err = errors.Join(err, killed)
	}()
	return t.roundTrip(ctx, sandbox)
}

func (t tester) roundTrip(ctx context.Context, sandbox made) error {
	want := rand.Text()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("file", "selftest")
	if err != nil {
		return err
	}
	_, _ = io.WriteString(part, want) // into memory
	_ = w.Close()
	path := "/files?username=user&path=" + url.QueryEscape(t.target+"/selftest")
	if _, err := t.send(ctx, http.MethodPost, path, sandbox, w.FormDataContentType(), &form); err != nil {
		return err
	}
	got, err := t.send(ctx, http.MethodGet, path, sandbox, "", nil)
	if err != nil {
		return err
	}
	if string(got) != want {
		return fmt.Errorf("selftest: a file in %s: read %q, wrote %q", t.target, got, want)
	}
	t.say("wrote a file to the volume and read it back")
	return nil
}

// send makes one request: to the sandbox's daemon when one is given, else to the API.
func (t tester) send(ctx context.Context, method, path string, to made, kind string, body io.Reader) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, t.url+path, body)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if to.SandboxID == "" {
		r.Header.Set("X-API-Key", t.key)
	} else {
		r.Header.Set("E2b-Sandbox-Id", to.SandboxID)
		r.Header.Set("E2b-Sandbox-Port", fmt.Sprint(v1alpha1.EnvdPort))
		r.Header.Set("X-Access-Token", to.EnvdAccessToken)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("selftest: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("selftest: %s %s: %s: %.300s", method, strings.SplitN(path, "?", 2)[0], res.Status, text)
	}
	return text, err
}

func (t tester) say(format string, args ...any) { _, _ = fmt.Fprintf(t.out, format+"\n", args...) }
