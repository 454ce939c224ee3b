package oss

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheLastLineOfAClientTellsNeitherPathsNorAddresses(t *testing.T) {
	for said, want := range map[string]string{
		"":                                      "",
		"[INF] up\n[ERR] curl.cpp: no space\n":  "[ERR] curl.cpp: no space",
		"[ERR] cannot write /tmp/agent/x: full": "[ERR] cannot write [redacted] full",
		"bad answer of http://10.0.0.1/b?k=v now": "bad answer of [redacted] now",
		"first\nsecond\x1b[31m\n[INF] bye":        "second [31m",
		strings.Repeat("x", 500):                  strings.Repeat("x", 200) + "...",
	} {
		require.Equal(t, want, lastLine(said), said)
	}
}
