package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// Request is what a create request asks of volumes.
type Request struct {
	Principal warmpool.Principal
	Template  warmpool.Template
	Metadata  map[string]string // the caller's, for placeholders
	Specs     []mount.Spec      // as mount.Parse made them
	// Drivers are the names of the drivers that this installation has.
	Drivers []string
	// Plugins are those among them that only sandboxes of certain templates have.
	Plugins Plugins
	// Default is for volumes that name nobody; Unbound when empty.
	Default Default
	// Node is the name of the one that the sandbox is on; nil while it may be on any.
	Node *string
}

// Resolve turns the specs of a request into mounts, in their order. What is wrong with them is one mount.Faults with all of
// it, indexes into Specs; the mounts then come along as far as they are known (a spec that failed has no Driver), for rules
// that can add their own faults. A Reader that fails is warmpool.Unavailable and nothing else is said.
func Resolve(ctx context.Context, r Reader, req Request) ([]mount.Mount, error) {
	res := &resolution{reader: r, req: req, volumes: map[name]source{}}
	mounts := make([]mount.Mount, len(req.Specs))
	var nodes []string // that have all volumes so far
	astray := "is on no node that has the other volumes too"
	if req.Node != nil {
		nodes, astray = []string{*req.Node}, "is not on the node of the sandbox"
	}
	for i, spec := range req.Specs {
		m, err := res.mount(ctx, i, spec)
		if err != nil {
			return nil, &warmpool.Error{Code: warmpool.Unavailable, Message: "volumes cannot be looked up at the moment; try again", Err: err}
		}
		mounts[i] = m
		if left := common(nodes, m.Nodes); left == nil || len(left) > 0 {
			nodes = left
			continue
		}
		res.fault(i, mount.FieldVolume, "%s %q %s", cmp.Or(spec.Kind, "PersistentVolume"), spec.Volume, astray)
	}
	res.faults = append(res.faults, req.Template.Overfull(req.Specs)...)
	return mounts, res.faults.Err()
}

// resolution is one run of Resolve. Volumes are read once, however often they are named.
type resolution struct {
	reader  Reader
	req     Request
	volumes map[name]source
	faults  mount.Faults
}

// name is what a spec calls its volume.
type name struct {
	kind mount.Kind
	name string
}

func (res *resolution) fault(i int, field mount.Field, format string, args ...any) {
	res.faults = append(res.faults, mount.Fault{Index: i, Field: field, Reason: fmt.Sprintf(format, args...)})
}

func (res *resolution) mount(ctx context.Context, i int, spec mount.Spec) (mount.Mount, error) {
	res.fits(i, spec)
	if spec.IsEphemeral() {
		m := spec.Resolve(res.req.Template.Owner)
		m.Container = res.named(spec.Container)
		return m, nil
	}
	src, err := res.volume(ctx, name{spec.Kind, spec.Volume})
	if err != nil {
		return mount.Mount{}, err
	}
	for _, reason := range src.reasons {
		res.fault(i, mount.FieldVolume, "%s", reason)
	}
	m := mount.Mount{Spec: spec, Owner: res.req.Template.Owner}
	m.Container = res.named(spec.Container)
	if len(src.reasons) > 0 {
		return m, nil
	}
	if src.targets != nil && !within(spec.Target, src.targets) {
		res.fault(i, mount.FieldTarget, "%s %q may be mounted below %s only", cmp.Or(spec.Kind, "PersistentVolume"), spec.Volume, strings.Join(src.targets, ", "))
	}
	m.ReadOnly, m.OwnerReadOnly, m.Prefix = spec.ReadOnly || src.ReadOnly, src.ReadOnly, src.Prefix
	m.Enforced = m.OwnerReadOnly || m.Prefix != "" || src.Enforced
	m.Driver, m.VolumeHandle, m.Attributes, m.Options = src.Driver, src.VolumeHandle, src.Attributes, src.Options
	m.Nodes, m.AccessMode, m.FSType, m.Secret, m.StageSecret = src.Nodes, src.AccessMode, src.FSType, src.Secret, src.StageSecret
	return m, nil
}

// named is a container as mounts have it: one name for one place, since the identity of a mount holds its container.
func (res *resolution) named(container string) string {
	if container == main(res.req.Template) {
		return ""
	}
	return container
}

// fits checks a spec against the template that is to take it.
func (res *resolution) fits(i int, spec mount.Spec) {
	t := res.req.Template
	if i == 0 && !slices.ContainsFunc(t.Runtimes, v1alpha1.MountsVolumes) {
		res.fault(i, mount.FieldContainer, "template %q cannot mount volumes: its runtimes do not include %q", t.Name, v1alpha1.RuntimeCSI)
	}
	if spec.Container != "" && spec.Container != main(t) {
		switch k := slices.IndexFunc(t.Containers, func(c warmpool.Container) bool { return c.Name == spec.Container }); {
		case k < 0:
			res.fault(i, mount.FieldContainer, "template %q has no container of that name; it has %s", t.Name, names(t.Containers))
		case !t.Containers[k].Mounts:
			res.fault(i, mount.FieldContainer, "template %q lets nothing be mounted into this container: its pod template must name it in annotation %s", t.Name, v1alpha1.AnnotationContainers)
		}
	}
	res.faults = append(res.faults, unexpandable(spec.SubPath, res.req.Metadata).At(i)...)
}

// main is the name of a template's first container, which is the sandbox.
func main(t warmpool.Template) string {
	if len(t.Containers) == 0 {
		return ""
	}
	return t.Containers[0].Name
}

func names(containers []warmpool.Container) string {
	var out []string
	for _, c := range containers {
		out = append(out, strconv.Quote(c.Name))
	}
	return strings.Join(out, ", ")
}

// source is what a PersistentVolume says of every mount of it, or the reasons why the principal cannot mount it.
type source struct {
	mount.Mount
	targets []string // below which it may be mounted; nil for everywhere
	reasons []string
}

const noSuchVolume = "no PersistentVolume of that name that you may mount"

func (res *resolution) volume(ctx context.Context, n name) (source, error) {
	if have, ok := res.volumes[n]; ok {
		return have, nil
	}
	read := res.read
	switch n.kind {
	case mount.KindClaim:
		read = res.claim
	case mount.KindPool:
		read = res.pool
	}
	src, err := read(ctx, n.name)
	if err == nil {
		res.volumes[n] = src
	}
	return src, err
}

func (res *resolution) read(ctx context.Context, name string) (source, error) {
	pv, err := res.reader.PersistentVolume(ctx, name)
	if again, ok := res.reader.(Rereader); ok && err == nil && pv != nil && !res.req.Default.allowed(pv, res.req.Principal) {
		pv, err = again.RereadPersistentVolume(ctx, name)
	}
	if warmpool.CodeOf(err) == warmpool.NotFound {
		return source{reasons: []string{noSuchVolume}}, nil
	}
	if err != nil {
		return source{}, fmt.Errorf("read PersistentVolume %s: %w", name, err)
	}
	if pv == nil {
		return source{}, errors.New("the reader returned no PersistentVolume and no error")
	}
	// Whoever may not mount it learns nothing more of it, not even that it is there.
	if !res.req.Default.allowed(pv, res.req.Principal) {
		return source{reasons: []string{noSuchVolume}}, nil
	}
	return res.take(ctx, pv)
}

// take is what a PersistentVolume says to somebody who may mount it.
func (res *resolution) take(ctx context.Context, pv *corev1.PersistentVolume) (source, error) {
	src := restricted(translate(pv, res.req.Drivers), "PersistentVolume", pv, res.req.Principal)
	if reason := res.req.Plugins.elsewhere(src.Driver, res.req.Template); reason != "" {
		src.reasons = append(src.reasons, fmt.Sprintf("PersistentVolume %q %s", pv.Name, reason))
	}
	if pv.Spec.CSI == nil || len(src.reasons) > 0 {
		return src, nil
	}
	refs := []secretRef{{"nodePublishSecretRef", pv.Spec.CSI.NodePublishSecretRef, &src.Secret}}
	if !mount.BuiltIn(src.Driver) {
		refs = append(refs, secretRef{"nodeStageSecretRef", pv.Spec.CSI.NodeStageSecretRef, &src.StageSecret})
	}
	for _, ref := range refs {
		if ref.SecretReference == nil {
			continue
		}
		secret, reason, err := res.secret(ctx, pv, ref)
		if err != nil {
			return source{}, err
		}
		if reason != "" {
			src.reasons = append(src.reasons, reason)
		}
		*ref.into = secret
	}
	return src, nil
}

// secretRef is a field of a PersistentVolume that names a Secret, and where its content goes.
type secretRef struct {
	field string
	*corev1.SecretReference
	into *mount.Secret
}

func (res *resolution) secret(ctx context.Context, pv *corev1.PersistentVolume, ref secretRef) (mount.Secret, string, error) {
	if ref.Namespace != v1alpha1.SystemNamespace {
		return nil, fmt.Sprintf("PersistentVolume %q is set up wrongly: %s must be in namespace %s", pv.Name, ref.field, v1alpha1.SystemNamespace), nil
	}
	s, err := res.reader.Secret(ctx, ref.Namespace, ref.Name)
	if warmpool.CodeOf(err) == warmpool.NotFound {
		return nil, fmt.Sprintf("PersistentVolume %q is set up wrongly: the Secret that it names does not exist", pv.Name), nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the Secret of PersistentVolume %s: %w", pv.Name, err)
	}
	out := make(mount.Secret, len(s.Data)+len(s.StringData))
	for k, v := range s.Data {
		out[k] = string(v)
	}
	for k, v := range s.StringData { // the API server folds it into data; a manifest may not have been through one
		out[k] = v
	}
	return out, "", nil
}
