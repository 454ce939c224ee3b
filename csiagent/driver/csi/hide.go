package csi

import (
	"slices"
	"strings"
	"sync"
)

// Hide takes secrets out of text. It knows those that this process has given to a plugin. The zero value is ready.
type Hide struct {
	mu     sync.Mutex
	values []string
}

// minHidden is the length from which a value counts: shorter ones are in every text.
const minHidden = 4

// Add makes the values of a Secret known.
func (h *Hide) Add(secret map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range secret {
		if v = strings.TrimSpace(v); len(v) >= minHidden && !slices.Contains(h.values, v) {
			h.values = append(h.values, v)
		}
	}
	slices.SortFunc(h.values, func(a, b string) int { return len(b) - len(a) }) // one may be a part of another
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
