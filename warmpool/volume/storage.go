package volume

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Storage is what a PersistentVolume says of its storage, whoever may mount it: driver, handle, attributes and options. Nobody mounts with it:
// neither its Secret nor its owner's rules are looked at.
func Storage(pv *corev1.PersistentVolume) mount.Mount { return translate(pv, nil).Mount }
