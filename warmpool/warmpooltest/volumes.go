package warmpooltest

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/volume"
)

var _ volume.Reader = Volumes(nil)

// Volumes is a volume.Reader of PersistentVolumes by name. It has neither claims nor Secrets.
type Volumes map[string]*corev1.PersistentVolume

// PersistentVolume finds a volume by name.
func (v Volumes) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if pv := v[name]; pv != nil {
		return pv, nil
	}
	return nil, warmpool.Errorf(warmpool.NotFound, "no PersistentVolume %q", name)
}

// PersistentVolumeClaim finds none.
func (Volumes) PersistentVolumeClaim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	return nil, warmpool.Errorf(warmpool.NotFound, "no PersistentVolumeClaim %q", name)
}

// Secret finds none.
func (Volumes) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	return nil, warmpool.Errorf(warmpool.NotFound, "no Secret %q", name)
}

// CSIVolume is a volume of a CSI driver that everybody may write.
func CSIVolume(name, driver string, attributes map[string]string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driver, VolumeHandle: name, VolumeAttributes: attributes,
			}},
		},
	}
}

// TmpfsVolume is a volume in memory.
func TmpfsVolume(name string) *corev1.PersistentVolume {
	return CSIVolume(name, mount.DriverTmpfs, map[string]string{"size": "16Mi"})
}
