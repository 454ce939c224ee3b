package mount

import "errors"

// The kinds of a driver's error, compared with errors.Is; one without a kind is internal and its text stays in the log.
var (
	ErrInvalid     = errors.New("invalid volume")          // the volume's own attributes or credentials are wrong
	ErrDenied      = errors.New("volume access denied")    // the storage refuses these credentials or this path
	ErrNotFound    = errors.New("volume not found")        // the storage has no such bucket, export or directory
	ErrUnavailable = errors.New("storage does not answer") // try again later
)
