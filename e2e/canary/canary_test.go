package canary_test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/canary"
)

const secret = "c4n4ry/f0r+one=test"

func search() canary.Search {
	return canary.Search{Secrets: map[string]string{"bucket key": secret}, Exempt: []int{os.Getpid()}}
}

func TestASecretIsFoundInEveryFormAndNotTold(t *testing.T) {
	for name, text := range map[string]string{
		"plain":             "key=" + secret + "\n",
		"base64":            base64.StdEncoding.EncodeToString([]byte(secret)),
		"hex":               "63346e3472792f6630722b6f6e653d74657374",
		"escaped for a URL": "c4n4ry%2Ff0r%2Bone%3Dtest",
	} {
		t.Run(name, func(t *testing.T) {
			found := search().Text("an answer", []byte(text))
			require.NotEmpty(t, found)
			require.NotContains(t, strings.Join(found, ""), secret)
		})
	}
	require.Empty(t, search().Text("an answer", []byte("c4n4ry")))
}

func TestASecretInAnArgumentIsFound(t *testing.T) {
	plant(t, exec.Command("sh", "-c", "read x", secret), "cmdline")
}

func TestASecretInAnEnvironmentIsFound(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x")
	cmd.Env = append(os.Environ(), "KEY="+secret)
	plant(t, cmd, "environ")
}

func TestAnExemptProcessIsLeftOut(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x", secret)
	hold(t, cmd)
	s := search()
	s.Exempt = append(s.Exempt, cmd.Process.Pid)
	found, err := s.Processes()
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestOnlyACredentialFileMayHoldASecret(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		mode  os.FileMode
		found bool
	}{
		"its owner's alone":     {"passwd", 0o600, false},
		"readable by the group": {"passwd", 0o640, true},
		"readable by all":       {"state.json", 0o644, true},
		"a log of mode 0600":    {"gateway.log", 0o600, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "canary")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
			require.NoError(t, os.WriteFile(filepath.Join(dir, c.file), []byte("x"+secret), c.mode))
			require.NoError(t, os.Chmod(filepath.Join(dir, c.file), c.mode))
			found, err := search().Files(dir)
			require.NoError(t, err)
			require.Equal(t, c.found, len(found) > 0)
		})
	}
}

func TestASkippedDirectoryIsNotLookedInto(t *testing.T) {
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	require.NoError(t, os.Mkdir(volume, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(volume, "own"), []byte(secret), 0o644))
	s := search()
	found, err := s.Files(dir)
	require.NoError(t, err)
	require.NotEmpty(t, found)
	s.Skip = []string{volume}
	found, err = s.Files(dir)
	require.NoError(t, err)
	require.Empty(t, found)
}

func plant(t *testing.T, cmd *exec.Cmd, want string) {
	t.Helper()
	hold(t, cmd)
	found, err := search().Processes()
	require.NoError(t, err)
	require.Contains(t, strings.Join(found, "\n"), want)
}

// hold runs a command that waits for its stdin until the test ends.
func hold(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, stdin.Close())
		_ = cmd.Wait()
	})
}
