package cmd_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// sources are the texts of the files below the root whose paths fit.
func sources(t *testing.T, fit *regexp.Regexp) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, fs.WalkDir(os.DirFS(".."), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != ".":
			return fs.SkipDir
		case !d.IsDir() && fit.MatchString(path):
			text, err := os.ReadFile(filepath.Join("..", path))
			out[path] = string(text)
			return err
		}
		return nil
	}))
	require.NotEmpty(t, out)
	return out
}

func documents(t *testing.T) map[string]string {
	return sources(t, regexp.MustCompile(`^(README|CONTRIBUTING|docs/\w+)\.md$`))
}

func together(texts map[string]string) string {
	var all strings.Builder
	for _, text := range texts {
		all.WriteString(text)
	}
	return all.String()
}

var (
	link    = regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notSlug = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// deadLinks are the links of a document to files and headings that are not there.
func deadLinks(path, text string, all map[string]string) (out []string) {
	for _, l := range link.FindAllStringSubmatch(text, -1) {
		if strings.Contains(l[1], "://") {
			continue
		}
		to := path
		if l[1] != "" {
			to = filepath.Join(filepath.Dir(path), l[1])
		}
		if _, err := os.Stat(filepath.Join("..", to)); err != nil {
			out = append(out, l[0])
			continue
		}
		slugs := []string{""}
		for _, h := range heading.FindAllStringSubmatch(all[to], -1) {
			slugs = append(slugs, strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
		}
		if !slices.Contains(slugs, l[2]) {
			out = append(out, l[0])
		}
	}
	return out
}

func TestLinksLeadSomewhere(t *testing.T) {
	all := documents(t)
	for path, text := range all {
		require.Empty(t, deadLinks(path, text, all), path)
	}
	require.Len(t, deadLinks("docs/a.md", "[x](nowhere.md) [y](#nothing) [z](../README.md)\n# Some", all), 2, "the checker itself must be able to fail")
}

var (
	testName  = regexp.MustCompile(`(-run )?\b(Test[A-Z]\w+)`)
	codePath  = regexp.MustCompile("`((?:charts|cmd|csiagent|docs|e2e|examples|gateway|injector|warmpool)/[\\w./*-]+)")
	key       = regexp.MustCompile(`\b((?:e2b\.)?agents\.kruise\.io|sandgate\.dev)/([a-z][a-z-]+[a-z])\b`)
	flagInDoc = regexp.MustCompile("(?:`|`sandgate run |serve )-([a-z]+(?:-[a-z]+)+)")
)

// missing are the tests, files, keys of objects and flags that a text names and nobody has.
func missing(text, code, programs string) (out []string) {
	for _, m := range testName.FindAllStringSubmatch(text, -1) {
		whole := "("
		if m[1] != "" { // how names begin
			whole = ""
		}
		if !strings.Contains(code, "\nfunc "+m[2]+whole) {
			out = append(out, m[2])
		}
	}
	for _, m := range codePath.FindAllStringSubmatch(text, -1) {
		if found, err := filepath.Glob(filepath.Join("..", m[1])); err != nil || len(found) == 0 {
			out = append(out, m[1])
		}
	}
	for _, m := range key.FindAllString(text, -1) {
		if !strings.Contains(code, `"`+m+`"`) {
			out = append(out, m)
		}
	}
	for _, m := range flagInDoc.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(programs, `"`+m[1]+`"`) {
			out = append(out, "-"+m[1])
		}
	}
	return out
}

func TestWhatDocumentsNameIsThere(t *testing.T) {
	code := together(sources(t, regexp.MustCompile(`\.go$`)))
	programs := together(sources(t, regexp.MustCompile(`^cmd/.*\.go$`)))
	for path, text := range documents(t) {
		require.Empty(t, missing(text, code, programs), path)
	}
	require.Equal(t, []string{"TestWhatDocumentsName", "docs/nothing.md", "sandgate.dev/" + "no-key", "-no-flag"},
		missing("`TestWhatDocumentsName`, -run TestWhatDocumentsName, `docs/nothing.md`, `sandgate.dev/no-key`, `-no-flag`", code, programs), "the checker itself must be able to fail")
}

// What an administrator or a caller can set or see is in a document.
func TestWhatThereIsIsDocumented(t *testing.T) {
	all := together(documents(t))
	for _, m := range key.FindAllString(together(sources(t, regexp.MustCompile(`v1alpha1/keys\.go$`))), -1) {
		require.True(t, strings.Contains(all, m), "%s is in no document", m)
	}
	for name, labels := range ours(told(t)) {
		want := "`" + name
		if len(labels) > 0 {
			want += "{" + strings.Join(labels, ",") + "}"
		}
		require.True(t, strings.Contains(all, want+"`"), "%s` is in no document", want)
	}
}

// leaves adds the paths of all values below v; what Kubernetes reads as a whole is one.
func leaves(v any, path string, into map[string]bool) {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 || strings.HasSuffix(path, ".resources") || strings.HasSuffix(path, ".labels") {
		into[path] = true
		return
	}
	for name, below := range m {
		leaves(below, strings.TrimPrefix(path+"."+name, "."), into)
	}
}

// formed says whether the schema has a value's form.
func formed(schema map[string]any, path string) bool {
	for _, name := range strings.Split(path, ".") {
		properties, ok := schema["properties"].(map[string]any)
		if !ok {
			return schema["$ref"] != nil // of a form that others have as well
		}
		if schema, ok = properties[name].(map[string]any); !ok {
			return false
		}
	}
	return true
}

func TestEveryValueOfTheChartHasAFormAndAnEffect(t *testing.T) {
	var values, schema map[string]any
	for file, into := range map[string]any{"values.yaml": &values, "values.schema.json": &schema} {
		text, err := os.ReadFile("../charts/sandgate/" + file)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, into))
	}
	known := map[string]bool{}
	leaves(values, "", known)
	templates := together(sources(t, regexp.MustCompile(`^charts/sandgate/(templates|files/injection)/`)))
	for path := range known {
		require.True(t, formed(schema, path), "values.schema.json lacks %s", path)
		last := path[strings.LastIndexByte(path, '.')+1:]
		require.True(t, regexp.MustCompile(`\.`+last+`\b|"`+last+`"`).MatchString(templates), "%s has no effect", path)
	}
	require.False(t, formed(schema, "gateway.replica"), "the checker itself must be able to fail")

	named := regexp.MustCompile("`(" + strings.Join(slices.Collect(maps.Keys(values)), "|") + `)\.([A-Za-z.]*[A-Za-z])`)
	for path, text := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			at := m[1] + "." + m[2]
			require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(known)), func(k string) bool {
				return k == at || strings.HasPrefix(k, at+".") || strings.HasPrefix(at, k+".")
			}), "%s names the value %s", path, at)
		}
	}
}

// Every argument that the chart gives a program is a flag of it.
func TestTheChartSpeaksTheProgramsFlags(t *testing.T) {
	given := regexp.MustCompile(`(?m)(?:^\s*- |[ "\[=])-([a-z]+(?:-[a-z]+)*)`)
	programs := together(sources(t, regexp.MustCompile(`^cmd/.*\.go$`)))
	for path, text := range sources(t, regexp.MustCompile(`^charts/sandgate/(templates|files/injection)/.*\.yaml$`)) {
		for _, m := range given.FindAllStringSubmatch(text, -1) {
			require.True(t, strings.Contains(programs, `"`+m[1]+`"`), "%s gives -%s", path, m[1])
		}
	}
}
