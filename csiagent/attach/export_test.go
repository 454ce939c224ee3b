//go:build linux

package attach

import "testing"

// WithoutBeneath makes the kernel refuse to mount beneath others, as those before 6.5 do.
func WithoutBeneath(t *testing.T) {
	today := beneath
	beneath = 1 << 30 // no flag that any kernel knows
	t.Cleanup(func() { beneath = today })
}
