// Package nfs tries NFS volumes on a kernel that has NFS, against the kernel's own server: guest.sh boots one and runs these tests in
// it, in a network namespace that is like a pod's. Elsewhere they are skipped.
package nfs
