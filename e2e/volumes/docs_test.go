package volumes_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var named = regexp.MustCompile(`\bTest[A-Z]\w+`)

// missing are the tests that a text names and that no source has.
func missing(text, sources string) (out []string) {
	for _, name := range named.FindAllString(text, -1) {
		if !strings.Contains(sources, "func "+name+"(") {
			out = append(out, name)
		}
	}
	return out
}

func TestWhatTheDocsCallATestIsOne(t *testing.T) {
	var sources strings.Builder
	require.NoError(t, filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		sources.Write(source)
		return err
	}))
	for _, file := range []string{"README.md", "docs/backends.md"} {
		text, err := os.ReadFile("../../" + file)
		require.NoError(t, err)
		require.NotEmpty(t, named.FindString(string(text)), file)
		require.Empty(t, missing(string(text), sources.String()), file)
	}
	require.Equal(t, []string{"TestThatNobodyHasWritten"}, missing("`TestThatNobodyHasWritten` ", sources.String()))
}
