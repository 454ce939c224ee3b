package volume

import "context"

// Handle is the handle of a volume by the name of its PersistentVolume, empty when it cannot be told: for a mount that was made before,
// whoever may look at the PersistentVolume by now.
func Handle(ctx context.Context, r Reader, name string) string {
	pv, err := r.PersistentVolume(ctx, name)
	if err != nil || pv == nil {
		return ""
	}
	return translate(pv, nil).VolumeHandle
}
