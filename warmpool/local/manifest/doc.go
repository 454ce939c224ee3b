// Package manifest reads the Kubernetes manifests that a machine without Kubernetes lives by: SandboxSets, PersistentVolumes,
// PersistentVolumeClaims and Secrets in a directory of YAML files. It watches the directory, keeps the last good set when an
// edit breaks it, and never puts a Secret's content into a log or an error. It starts nothing and mounts nothing.
package manifest
