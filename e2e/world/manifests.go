package world

import (
	"os"
	"path/filepath"
	"strings"
)

// manifests copies the YAML of the configured directories, with placeholders filled in. The files hold keys: 0600.
func (w *World) manifests() error {
	into := w.Manifests()
	if err := os.Mkdir(into, 0o700); err != nil {
		return err
	}
	fill := strings.NewReplacer(
		"<YOUR_ACCESS_KEY_ID>", w.Store.Access,
		"<YOUR_ACCESS_KEY_SECRET>", w.Store.Secret,
		"<WRONG_ACCESS_KEY_SECRET>", random(20),
		"<OSS_BUCKET>", Bucket,
		"<OSS_ENDPOINT>", w.Store.URL,
		"<SHARED>", w.Shared,
	)
	for _, given := range w.cfg.Manifests {
		files := []string{given}
		if filepath.Ext(given) != ".yaml" {
			var err error
			if files, err = filepath.Glob(filepath.Join(given, "*.yaml")); err != nil {
				return err
			}
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			to := filepath.Join(into, filepath.Base(filepath.Dir(file))+"-"+filepath.Base(file))
			if err := os.WriteFile(to, []byte(fill.Replace(string(text))), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
