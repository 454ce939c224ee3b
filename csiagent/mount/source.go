package mount

import "os"

// Source is a whole volume as a driver made it, ready to be attached to a sandbox.
type Source struct {
	// Root is the volume's root: a detached mount (fsmount, open_tree) or an O_PATH directory. The receiver closes it.
	Root *os.File
	// SubPath is what is still to be taken of the volume: the spec's, or empty when the driver's mount already begins there.
	SubPath string
	// FSType is what statfs must say of Root, as mountinfo names it ("tmpfs", "fuse.s3fs"); empty means whatever it is.
	FSType string
	// Remote says that a server or a client process answers for the file system, so that a read of it can hang.
	Remote bool
	// Client is the process that serves the file system, the zero value when there is none.
	Client Process
	// StoresOnClose says that whoever closes a file waits until Client has stored what was written to it.
	StoresOnClose bool
}

// Process names a process so that a reused PID is not taken for it.
type Process struct {
	PID int `json:"pid,omitempty"`
	// Start is field 22 of /proc/PID/stat: the start time in clock ticks since boot.
	Start uint64 `json:"start,omitempty"`
}
