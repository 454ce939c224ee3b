package matrix

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

const (
	begin = "<!-- begin of the generated table -->"
	end   = "<!-- end of the generated table -->"
)

// Table renders the reports of all pins below a directory. A missing report is an error: nothing is claimed that was not run.
func Table(dir string, pins []SDK) (string, error) {
	reports := make([]Report, len(pins))
	var features []string
	var missing []error
	for i, pin := range pins {
		report, err := Read(pin.File(dir))
		if err != nil {
			missing = append(missing, err)
			continue
		}
		reports[i] = report
		for feature := range report {
			if !slices.Contains(features, feature) {
				features = append(features, feature)
			}
		}
	}
	if len(missing) > 0 {
		return "", errors.Join(missing...)
	}
	slices.Sort(features)
	var b strings.Builder
	b.WriteString("| Feature |")
	for _, pin := range pins {
		fmt.Fprintf(&b, " %s |", pin)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(pins)) + "\n")
	for _, feature := range features {
		fmt.Fprintf(&b, "| %s |", strings.ReplaceAll(feature, "_", " "))
		for _, report := range reports {
			fmt.Fprintf(&b, " %s |", cell(report[feature]))
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

func cell(c Count) string {
	switch {
	case c.Failed > 0:
		return fmt.Sprintf("**%d of %d fail**", c.Failed, c.Passed+c.Failed)
	case c.Passed == 0:
		return "-"
	case c.Skipped > 0:
		return fmt.Sprintf("%d pass, %d n/a", c.Passed, c.Skipped)
	}
	return fmt.Sprintf("%d pass", c.Passed)
}

// Write puts the table into a document, between its two marks.
func Write(doc, table string) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	head, _, tail, err := split(doc, string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(doc, []byte(head+begin+"\n"+table+end+tail), 0o644)
}

// Check fails when the table in a document is not this one, and names the lines.
func Check(doc, table string) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	_, claimed, _, err := split(doc, string(text))
	if err != nil {
		return err
	}
	var wrong []string
	said, ran := strings.Split(strings.TrimSpace(claimed), "\n"), strings.Split(strings.TrimSpace(table), "\n")
	for _, line := range said {
		if !slices.Contains(ran, line) {
			wrong = append(wrong, "  it says   "+line)
		}
	}
	for _, line := range ran {
		if !slices.Contains(said, line) {
			wrong = append(wrong, "  runs say  "+line)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s does not say what the last SDK runs say (make docs writes it anew):\n%s", doc, strings.Join(wrong, "\n"))
	}
	return nil
}

func split(doc, text string) (head, table, tail string, err error) {
	head, rest, ok := strings.Cut(text, begin)
	table, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", "", "", fmt.Errorf("%s has no place for the table: expected the lines %q and %q", doc, begin, end)
	}
	return head, table, tail, nil
}
