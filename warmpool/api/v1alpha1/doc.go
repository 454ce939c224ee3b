// Package v1alpha1 holds the API types of group agents.kruise.io and every label, annotation and metadata key there is. Manifests
// written for openkruise/agents load unchanged where they use the fields that both have; spec.claim, spec.mounts, status.mounts and
// a SandboxSet's spec.volumes are ours.
//
// +kubebuilder:object:generate=true
// +groupName=agents.kruise.io
package v1alpha1

//go:generate controller-gen object paths=. crd:crdVersions=v1,maxDescLen=400 output:crd:dir=../../../charts/sandgate/files/crds
