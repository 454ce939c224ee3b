// Package volume turns mount specs into resolved mounts: PersistentVolume, Secret and the principal's rules in, mount.Mount out.
// It is pure over corev1 types; a Reader brings the objects.
package volume

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// Reader brings the objects that volumes are made of. A missing object is a warmpool.NotFound error. Callers do not modify
// what they get.
type Reader interface {
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Rereader is the optional ability of a Reader that keeps what it has read: the volume as it is now. What is not there is asked for again
// each time, and so is what somebody may not mount: he must not learn from the time of an answer which of the two it is.
type Rereader interface {
	RereadPersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
}
