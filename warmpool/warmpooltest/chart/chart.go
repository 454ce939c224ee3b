// Package chart renders the product's Helm chart for tests. It knows nothing of what is in it.
package chart

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Dir is the chart's directory.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "charts", "sandgate")
		}
		require.NotEqual(t, dir, filepath.Dir(dir), "there is no go.mod above the test")
	}
}

// Part is a chart with some of its templates only, for an API server that has what is in the others.
func Part(t testing.TB, templates ...string) string {
	t.Helper()
	into := t.TempDir()
	for _, file := range append([]string{"Chart.yaml", "values.yaml", "values.schema.json", "templates/_helpers.tpl"}, templates...) {
		text, err := os.ReadFile(filepath.Join(Dir(t), file))
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(into, file)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(into, file), text, 0o600))
	}
	return into
}

// Render is what the chart makes of one of its templates, such as gateway.yaml, with these arguments of helm; of all of them where template
// is empty.
func Render(t testing.TB, template string, args ...string) []byte {
	t.Helper()
	if template != "" {
		args = append([]string{"--show-only", "templates/" + template}, args...)
	}
	return Helm(t, append([]string{"template", "sandgate", Dir(t), "--kube-version", "1.36.0"}, args...)...)
}

// Refused is what helm says of arguments with which the chart is not rendered.
func Refused(t testing.TB, args ...string) string {
	t.Helper()
	_, said, err := run(t, append([]string{"template", "sandgate", Dir(t), "--kube-version", "1.36.0"}, args...))
	require.Error(t, err, "%s is rendered", args)
	return said
}

// Helm runs the program, which must succeed.
func Helm(t testing.TB, args ...string) []byte {
	t.Helper()
	out, said, err := run(t, args)
	require.NoError(t, err, said)
	return out
}

func run(t testing.TB, args []string) (out []byte, said string, err error) {
	t.Helper()
	var errors strings.Builder
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	cmd.Env = append(cmd.Environ(), "HOME="+t.TempDir()) // where it keeps what it has learned of an API server
	cmd.Stderr = &errors
	out, err = cmd.Output()
	return out, errors.String(), err
}

// program is the one that the cluster for tests is built with, or the one in PATH.
func program(t testing.TB) string {
	t.Helper()
	built := os.Getenv("KUBE_ASSETS") //nolint:forbidigo // a package for tests has no main to read it
	if built == "" {
		cache, err := os.UserCacheDir()
		require.NoError(t, err)
		built = filepath.Join(cache, "sandgate", "cluster", "bin")
	}
	built = filepath.Join(built, "helm.d", "helm")
	if _, err := os.Stat(built); err == nil {
		return built
	}
	path, err := exec.LookPath("helm")
	if err != nil {
		t.Skip("there is no helm, neither in PATH nor in " + built + "; `make cluster` builds it")
	}
	return path
}
