package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
)

// WriteUsr puts into dir, an empty directory that becomes the upper layer of /usr, what programs made for E2B expect there and the
// host's /usr lacks: a `python`, where Debian has only python3.
func WriteUsr(host, dir string) error {
	bin := filepath.Join(host, "usr", "bin")
	if _, err := os.Lstat(filepath.Join(bin, "python")); err == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(bin, "python3")); err != nil {
		return nil //nolint:nilerr // a host without any Python
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil { //nolint:gosec // it hides the host's directory of that mode
		return fmt.Errorf("/usr of the sandbox: %w", err)
	}
	if err := os.Symlink("python3", filepath.Join(dir, "bin", "python")); err != nil {
		return fmt.Errorf("/usr of the sandbox: %w", err)
	}
	return nil
}
