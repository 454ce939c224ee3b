package volume

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// translate takes a PersistentVolume apart; its Secret and the attributes are not looked at yet.
func translate(pv *corev1.PersistentVolume, drivers []string) source {
	var src source
	refuse := func(format string, args ...any) {
		src.reasons = append(src.reasons, fmt.Sprintf("PersistentVolume %q ", pv.Name)+fmt.Sprintf(format, args...))
	}
	if pv.DeletionTimestamp != nil {
		refuse("is being deleted")
	}
	if pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		refuse("has volumeMode Block; only Filesystem can be mounted")
	}
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.CSI != nil:
		if s.CSI.Driver == mount.DriverPool {
			refuse("names driver %s, which only volumes of a SandboxSet have", mount.DriverPool)
		}
		src.Driver, src.VolumeHandle = s.CSI.Driver, s.CSI.VolumeHandle
		src.Attributes, src.ReadOnly = attributes(s.CSI), s.CSI.ReadOnly
		if src.VolumeHandle == "" {
			refuse("is set up wrongly: spec.csi.volumeHandle is empty")
		}
		switch own := fsTypes[src.Driver]; {
		case !mount.BuiltIn(src.Driver):
			src.FSType = s.CSI.FSType
		case !slices.Contains(formats, s.CSI.FSType) && !slices.Contains(own, s.CSI.FSType):
			refuse("is set up wrongly: spec.csi.fsType is %q; driver %s takes %s", s.CSI.FSType, src.Driver, strings.Join(append(slices.Clone(own), "none"), " or "))
		case s.CSI.NodeStageSecretRef != nil && s.CSI.NodePublishSecretRef == nil:
			refuse("is set up wrongly: name its Secret in nodePublishSecretRef; driver %s does not read nodeStageSecretRef", src.Driver)
		}
	case s.HostPath != nil:
		src.Driver, src.VolumeHandle, src.Attributes = mount.DriverHostPath, pv.Name, map[string]string{"path": s.HostPath.Path}
		switch t := ptr.Deref(s.HostPath.Type, corev1.HostPathUnset); t {
		case corev1.HostPathUnset:
		case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
			src.Attributes["type"] = string(t)
		default:
			refuse("has a hostPath of type %s; only directories can be mounted", t)
		}
	case s.Local != nil:
		src.Driver, src.VolumeHandle, src.Attributes = mount.DriverHostPath, pv.Name, map[string]string{"path": s.Local.Path}
	case s.NFS != nil:
		src.Driver, src.VolumeHandle, src.ReadOnly = mount.DriverNAS, pv.Name, s.NFS.ReadOnly
		src.Attributes = map[string]string{"server": s.NFS.Server, "path": s.NFS.Path}
	default:
		refuse("has a source (%s) that sandboxes cannot mount; use csi, nfs, hostPath or local", kindOf(s))
	}
	if src.Driver == mount.DriverEphemeral {
		refuse("is set up wrongly: driver %s is for ephemeral volumes only; take %s", src.Driver, mount.DriverTmpfs)
	}
	if src.Driver != "" && !slices.Contains(drivers, src.Driver) {
		refuse("needs driver %q, which is not installed here", src.Driver)
	}
	for _, k := range slices.Sorted(maps.Keys(src.Attributes)) {
		if strings.HasPrefix(k, mount.ContextPrefix) {
			refuse("is set up wrongly: the attribute %s is not one of a driver; what begins with %s is said in annotations", k, mount.ContextPrefix)
		}
	}
	nodes, reason := nodesOf(pv)
	if reason != "" {
		refuse("%s", reason)
	}
	src.Nodes = nodes
	src.Options = options(pv.Spec.MountOptions)
	src.AccessMode = widest(pv.Spec.AccessModes)
	if src.AccessMode == mount.ReadOnlyMany || slices.Contains(src.Options, "ro") {
		src.ReadOnly = true
	}
	return src
}

// formats are what provisioners fill in as fsType for any driver; they say nothing to one that has nothing to format.
var formats = []string{"", "ext2", "ext3", "ext4", "xfs", "btrfs"}

// fsTypes are those that a built-in driver's volumes can be of.
var fsTypes = map[string][]string{mount.DriverOSS: {"ossfs", "ossfs2", "s3fs"}, mount.DriverNAS: {"nfs", "nfs4"}, mount.DriverTmpfs: {"tmpfs"}}

// attributes are a CSI volume's, with the one thing that fsType says to a built-in driver: which client an object store wants.
func attributes(csi *corev1.CSIPersistentVolumeSource) map[string]string {
	out := maps.Clone(csi.VolumeAttributes)
	if csi.Driver == mount.DriverOSS && !slices.Contains(formats, csi.FSType) && value(out, "fuseType") == "" {
		if out == nil {
			out = map[string]string{}
		}
		out["fuseType"] = csi.FSType
	}
	return out
}

// value finds a key in whatever letters it is written: PersistentVolumes in the field spell them in many ways.
func value(have map[string]string, key string) string {
	for k, v := range have {
		if strings.EqualFold(strings.TrimSpace(k), key) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// options are mount options one by one: "nolock,tcp" in one item is two.
func options(list []string) []string {
	var out []string
	for _, item := range list {
		out = append(out, split(item)...)
	}
	return out
}

// widest is the access mode that allows most; ReadWriteOnce when none is given.
func widest(modes []corev1.PersistentVolumeAccessMode) mount.AccessMode {
	for _, m := range []mount.AccessMode{mount.ReadWriteMany, mount.ReadWriteOnce, mount.ReadWriteOncePod, mount.ReadOnlyMany} {
		if slices.Contains(modes, corev1.PersistentVolumeAccessMode(m)) {
			return m
		}
	}
	return mount.ReadWriteOnce
}

// kindOf names the source that is set, as manifests spell it.
func kindOf(s corev1.PersistentVolumeSource) string {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "none"
}
