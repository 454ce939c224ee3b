// Package volumes tries what volumes promise on one machine, with a real gateway and a real object store: that what was written is there,
// unchanged, however often it is mounted again, and that hundreds of mounts live beside each other and leave nothing. NFS is tried by
// package nfs, on a kernel that has it.
package volumes
