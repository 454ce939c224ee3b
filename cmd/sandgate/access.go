package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/sandgate-dev/sandgate/gateway/auth"
)

// access is who may use the API: one key, made at the first start. Its hash is what requests are checked against; the key itself
// stands only in the file that its owner sources.
type access struct {
	keys *auth.Keys
	key  auth.Key
	env  string // path of the file to source
}

var exportedKey = regexp.MustCompile(`(?m)^export E2B_API_KEY=(\S+)$`)

// openAccess finds the key of an earlier start, or makes one.
func openAccess(state string) (*access, error) {
	file := filepath.Join(state, "api-keys.json")
	keys, err := auth.Load(file)
	if err != nil {
		return nil, fmt.Errorf("API keys: %w", err)
	}
	a := &access{keys: keys, env: filepath.Join(state, "env")}
	text, err := os.ReadFile(a.env)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("API key: %w", err)
	}
	if found := exportedKey.FindSubmatch(text); found != nil {
		if _, known := keys.Lookup(string(found[1])); known {
			a.key = auth.Key(found[1])
			return a, nil
		}
	}
	// Of an older key only the hash is left, and nobody can learn it again: the new one takes its place.
	a.keys, a.key = &auth.Keys{}, auth.Generate()
	if err := a.keys.Add("local", "local", a.key, time.Now()); err != nil {
		return nil, fmt.Errorf("API keys: %w", err)
	}
	if err := a.keys.Save(file); err != nil {
		return nil, fmt.Errorf("API keys: %w", err)
	}
	return a, nil
}

// announce writes what a stock SDK needs to the file and to out.
func (a *access) announce(out io.Writer, addr string) error {
	url := "http://" + addr
	lines := fmt.Sprintf("export E2B_API_KEY=%s\nexport E2B_API_URL=%s\nexport E2B_SANDBOX_URL=%s\nexport E2B_VOLUME_API_URL=%s\n",
		a.key.Reveal(), url, url, url)
	tmp, err := os.CreateTemp(filepath.Dir(a.env), ".env-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", a.env, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it is gone once it was renamed
	_, err = tmp.WriteString(lines)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", a.env, err)
	}
	if err := os.Rename(tmp.Name(), a.env); err != nil {
		return fmt.Errorf("write %s: %w", a.env, err)
	}
	source := ". " + a.env
	if os.Getenv("SUDO_UID") != "" { // the file is root's, and who has called sudo is not
		source = `eval "$(sudo cat ` + a.env + `)"`
	}
	_, err = fmt.Fprintf(out, "\nSandgate serves on %s. In another terminal: %s\n\n%s", url, source, lines)
	return err
}
