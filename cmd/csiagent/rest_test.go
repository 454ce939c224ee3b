//go:build linux

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyPagesOfTheProgramThatNobodyWritesToAreForgotten(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00a6c000 r-xp 00000000 00:2a 12 /csiagent\n":           true,
		"00a6c000-010f2000 r--p 0066c000 00:2a 12 /csiagent\n":           true,
		"010f2000-01130000 rw-p 00cf2000 00:2a 12 /csiagent\n":           false,
		"01130000-01170000 rw-p 00000000 00:00 0 \n":                     false,
		"7f0000000000-7f0000001000 r-xp 00000000 00:2a 13 /other\n":      false,
		"00400000-00a6c000 r-xp 00000000 00:2a 12 /csiagent (deleted)\n": false,
		"nonsense r-xp 00000000 00:2a 12 /csiagent\n":                    false,
		"": false,
	} {
		_, _, ok := unwritten(line, "/csiagent")
		require.Equal(t, want, ok, line)
	}
	start, end, _ := unwritten("00400000-00a6c000 r-xp 00000000 00:2a 12 /csiagent\n", "/csiagent")
	require.Equal(t, uintptr(0x400000), start)
	require.Equal(t, uintptr(0xa6c000), end)
	forget() // and it lives
}
