// Package matrix turns the reports of SDK runs (JUnit XML, one file per SDK version) into the compatibility table of the docs, and
// says when the docs claim something else than the reports. It does not run anything.
package matrix

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// SDK is one pinned version of one language's SDK.
type SDK struct{ Language, Version string }

// String is the heading of its column.
func (s SDK) String() string {
	return map[string]string{"python": "Python", "js": "JS"}[s.Language] + " " + s.Version
}

// File is where its report lies below a directory.
func (s SDK) File(dir string) string { return filepath.Join(dir, s.Language+"-"+s.Version+".xml") }

// Count is how the tests of one feature ended.
type Count struct{ Passed, Failed, Skipped int }

// Report is the count of each feature.
type Report map[string]Count

// Pins lists the SDK versions that a directory of suites pins (LANGUAGE/pins/VERSION), Python first, oldest first.
func Pins(dir string) ([]SDK, error) {
	var out []SDK
	for _, language := range []string{"python", "js"} {
		entries, err := os.ReadDir(filepath.Join(dir, language, "pins"))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			out = append(out, SDK{language, e.Name()})
		}
	}
	slices.SortStableFunc(out, func(a, b SDK) int {
		if a.Language != b.Language {
			return 0
		}
		return slices.Compare(numbers(a.Version), numbers(b.Version))
	})
	return out, nil
}

func numbers(version string) []int {
	var out []int
	for _, part := range strings.Split(version, ".") {
		n := 0
		_, _ = fmt.Sscanf(part, "%d", &n) // what is no number counts as 0
		out = append(out, n)
	}
	return out
}

type suite struct {
	Name   string     `xml:"name,attr"`
	Suites []suite    `xml:"testsuite"`
	Cases  []testcase `xml:"testcase"`
}

type testcase struct {
	Class   string    `xml:"classname,attr"`
	Name    string    `xml:"name,attr"`
	Failure *struct{} `xml:"failure"`
	Error   *struct{} `xml:"error"`
	Skipped *struct{} `xml:"skipped"`
}

// Read takes in one report. pytest names the feature in the class (test_create), Node in the suite around the test.
func Read(path string) (Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var root suite
	if err := xml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := Report{}
	out.add(root)
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no test is reported", path)
	}
	return out, nil
}

func (r Report) add(s suite) {
	for _, inner := range s.Suites {
		r.add(inner)
	}
	for _, c := range s.Cases {
		feature := s.Name
		if _, name, ok := strings.Cut(c.Class[strings.LastIndex(c.Class, ".")+1:], "test_"); ok {
			feature = name
		}
		count := r[feature]
		switch {
		case c.Failure != nil || c.Error != nil:
			count.Failed++
		case c.Skipped != nil:
			count.Skipped++
		default:
			count.Passed++
		}
		r[feature] = count
	}
}
