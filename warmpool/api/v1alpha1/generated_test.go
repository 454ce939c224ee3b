package v1alpha1_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const crds = "../../../charts/sandgate/files/crds"

// What is committed must be what the generator makes of the types: deep copies here, and the chart's YAML.
func TestTheGeneratedFilesAreCurrent(t *testing.T) {
	generator := os.Getenv("CONTROLLER_GEN")
	if generator == "" {
		t.Skip("CONTROLLER_GEN names no controller-gen (make unit does)")
	}
	into := t.TempDir()
	out, err := exec.Command(generator, "object", "crd:crdVersions=v1,maxDescLen=400", "paths=.",
		"output:object:dir="+into, "output:crd:dir="+into).CombinedOutput()
	require.NoError(t, err, "%s", out)
	stale, err := differing(into)
	require.NoError(t, err)
	require.Empty(t, stale, "run make generate")
}

// The comparison itself must be able to fail.
func TestAStaleFileIsFound(t *testing.T) {
	into := t.TempDir()
	all, err := filepath.Glob(crds + "/*.yaml")
	require.NoError(t, err)
	require.Len(t, all, 2)
	for _, file := range all {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(into, filepath.Base(file)), append(text, "# planted\n"...), 0o600))
	}
	stale, err := differing(into)
	require.NoError(t, err)
	require.Len(t, stale, 2)
}

// differing are the files of dir that the committed ones are not the same as.
func differing(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		committed := filepath.Join(crds, e.Name())
		if filepath.Ext(e.Name()) == ".go" {
			committed = e.Name()
		}
		want, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if have, err := os.ReadFile(committed); err != nil || !bytes.Equal(have, want) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
