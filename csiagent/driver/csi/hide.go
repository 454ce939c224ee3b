package csi

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
)

// Hide takes secrets out of text. It knows those that this process has given to a plugin. The zero value is ready.
type Hide struct {
	mu     sync.Mutex
	values []string
}

// A value counts from minHidden on, one line of several from minLine on: shorter ones are in every text.
const minHidden, minLine = 4, 8

// Add makes the values of a Secret known.
func (h *Hide) Add(secret map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range secret {
		v = strings.TrimSpace(v)
		h.add(v, minHidden)
		// Log lines are looked at one by one. A key file in JSON has the lines of its key behind an escape.
		for line := range strings.SplitSeq(strings.ReplaceAll(v, `\n`, "\n"), "\n") {
			h.add(strings.TrimSpace(line), minLine)
		}
	}
	slices.SortFunc(h.values, func(a, b string) int { return len(b) - len(a) }) // one may be a part of another
}

// add makes v known from a length on, as it is and as JSON has it.
func (h *Hide) add(v string, from int) {
	for _, form := range []string{v, escaped(v, false), escaped(v, true)} {
		if len(v) >= from && !slices.Contains(h.values, form) {
			h.values = append(h.values, form)
		}
	}
}

// escaped is v as JSON has it between quotes, with or without what is HTML escaped as well.
func escaped(v string, html bool) string {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(html)
	_ = e.Encode(v)                      // a string can be
	return out.String()[1 : out.Len()-2] // less the quotes and the end of the line
}

// Text is text without them.
func (h *Hide) Text(text string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.values {
		text = strings.ReplaceAll(text, v, "[redacted]")
	}
	return text
}
