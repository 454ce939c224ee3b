package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// install puts this program, and the starter that lies beside it, into dir. Another init container may be installing the starter too:
// each writes under a name of its own and renames.
func install(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range []string{"envd", "starter"} {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(self), name))
		if err != nil {
			return fmt.Errorf("install: %w", err)
		}
		tmp := filepath.Join(dir, name+".envd")
		err = errors.Join(os.WriteFile(tmp, text, 0o600), os.Chmod(tmp, 0o555), os.Rename(tmp, filepath.Join(dir, name))) //nolint:gosec // every user of the sandbox runs it
		if err != nil {
			return fmt.Errorf("install: %w", err)
		}
	}
	return nil
}
