package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Install copies programs that lie beside this one into dir, for every user to execute: an init container fits out a sandbox so. Each
// is whole or not there.
func Install(dir string, names ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(self), name))
		if err != nil {
			return fmt.Errorf("install: %w", err)
		}
		into := filepath.Join(dir, name)
		tmp := into + ".new"
		err = errors.Join(os.WriteFile(tmp, text, 0o600), os.Chmod(tmp, 0o555), os.Rename(tmp, into)) //nolint:gosec // the sandbox's users execute it
		if err != nil {
			return fmt.Errorf("install: %w", err)
		}
	}
	return nil
}
