package csi

import "context"

// Tidy is what Run does again and again.
func (d *Driver) Tidy(ctx context.Context) error { return d.tidy(ctx) }
