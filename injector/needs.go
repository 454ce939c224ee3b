package injector

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Placeholders that Values fill.
const (
	PlaceholderSandboxID   = "${SANDBOX_ID}"
	PlaceholderAgentSecret = "${AGENT_SECRET}"
	PlaceholderInitKey     = "${INIT_KEY}"
)

// Needs are the placeholders that these runtimes use: what Values must have. A runtime that is not configured is an error.
func (c Config) Needs(runtimes []string) ([]string, error) {
	order, err := c.order(runtimes)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, name := range order {
		raw, err := json.Marshal(c.runtimes[name])
		if err != nil {
			return nil, fmt.Errorf("needs of %s: %w", name, err)
		}
		text.Write(raw)
	}
	var out []string
	for _, p := range []string{PlaceholderSandboxID, PlaceholderAgentSecret, PlaceholderInitKey} {
		if strings.Contains(text.String(), p) {
			out = append(out, p)
		}
	}
	return out, nil
}
