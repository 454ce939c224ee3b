package matrix_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/e2e/matrix"
)

const pytest = `<?xml version="1.0"?><testsuites><testsuite name="pytest">
<testcase classname="test_create" name="test_a" time="0.1"/>
<testcase classname="test_create" name="test_b" time="0.1"><skipped message="not in this SDK"/></testcase>
<testcase classname="suite.test_signed_urls" name="test_c" time="0.1"/>
</testsuite></testsuites>`

const node = `<?xml version="1.0"?><testsuites>
<testsuite name="create"><testcase name="a" classname="test"/><testcase name="b" classname="test"/></testsuite>
<testsuite name="signed_urls"><testcase name="c" classname="test"/></testsuite>
</testsuites>`

var pins = []matrix.SDK{{Language: "python", Version: "2.51.0"}, {Language: "js", Version: "2.51.0"}}

func TestReportsOfBothLanguagesMakeOneTable(t *testing.T) {
	table, err := matrix.Table(reports(t, pytest, node), pins)
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(`
| Feature | Python 2.51.0 | JS 2.51.0 |
|---|---|---|
| create | 1 pass, 1 n/a | 2 pass |
| signed urls | 1 pass | 1 pass |`)+"\n", table)
}

func TestADocumentThatWasJustWrittenAgrees(t *testing.T) {
	doc := document(t)
	table, err := matrix.Table(reports(t, pytest, node), pins)
	require.NoError(t, err)
	require.ErrorContains(t, matrix.Check(doc, table), "runs say")
	require.NoError(t, matrix.Write(doc, table))
	require.NoError(t, matrix.Check(doc, table))
	text, err := os.ReadFile(doc)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(text), "# Head\n") && strings.HasSuffix(string(text), "\nTail\n"))
}

func TestAPlantedFailureTurnsTheCheckRed(t *testing.T) {
	doc := document(t)
	table, err := matrix.Table(reports(t, pytest, node), pins)
	require.NoError(t, err)
	require.NoError(t, matrix.Write(doc, table))
	for name, planted := range map[string]string{
		"a failed test":  strings.Replace(node, `<testcase name="c" classname="test"/>`, `<testcase name="c"><failure message="500, expected 201"/></testcase>`, 1),
		"an error":       strings.Replace(node, `<testcase name="c" classname="test"/>`, `<testcase name="c"><error/></testcase>`, 1),
		"a missing test": strings.Replace(node, `<testcase name="a" classname="test"/>`, "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			table, err := matrix.Table(reports(t, pytest, planted), pins)
			require.NoError(t, err)
			require.Error(t, matrix.Check(doc, table))
		})
	}
}

func TestAReportThatIsMissingOrEmptyIsAnError(t *testing.T) {
	dir := reports(t, pytest, node)
	_, err := matrix.Table(dir, append(pins, matrix.SDK{Language: "js", Version: "2.38.3"}))
	require.ErrorContains(t, err, "js-2.38.3.xml")
	_, err = matrix.Table(reports(t, pytest, "<testsuites/>"), pins)
	require.ErrorContains(t, err, "no test is reported")
}

func TestPinsAreSortedByVersion(t *testing.T) {
	dir := t.TempDir()
	for _, pin := range []string{"python/pins/2.9.0", "python/pins/2.51.0", "js/pins/2.38.3"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, pin), 0o755))
	}
	got, err := matrix.Pins(dir)
	require.NoError(t, err)
	require.Equal(t, []matrix.SDK{{Language: "python", Version: "2.9.0"}, {Language: "python", Version: "2.51.0"}, {Language: "js", Version: "2.38.3"}}, got)
}

func reports(t *testing.T, python, js string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(pins[0].File(dir), []byte(python), 0o644))
	require.NoError(t, os.WriteFile(pins[1].File(dir), []byte(js), 0o644))
	return dir
}

func document(t *testing.T) string {
	t.Helper()
	doc := filepath.Join(t.TempDir(), "compatibility.md")
	require.NoError(t, os.WriteFile(doc, []byte("# Head\n<!-- begin of the generated table -->\n<!-- end of the generated table -->\nTail\n"), 0o644))
	return doc
}
