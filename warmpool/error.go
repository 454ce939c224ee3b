package warmpool

import (
	"errors"
	"fmt"
	"time"
)

// Code says what kind of error it is; each dialect has one table from codes to its own statuses.
type Code string

// The codes of errors. An error without a code is Internal and its text is not for callers.
const (
	Invalid     Code = "invalid"     // the request is wrong; the message says where
	Denied      Code = "denied"      // the principal may not
	NotFound    Code = "not_found"   // there is none, or none of this principal's
	Conflict    Code = "conflict"    // the state does not allow it
	Mismatch    Code = "mismatch"    // the request differs from an earlier one that it claims to be
	Exhausted   Code = "exhausted"   // no capacity within the deadline; RetryAfter says when to come back
	Unsupported Code = "unsupported" // this backend cannot do it
	Unavailable Code = "unavailable" // something needed does not answer
	Internal    Code = "internal"
)

// ErrUnreachable marks errors of a claimed sandbox that cannot be used, through no fault of the request: take another.
var ErrUnreachable = errors.New("sandbox unreachable")

// ErrDataLoss marks errors that tell of a volume which was unmounted, though what its sandbox wrote last may not have reached the storage.
var ErrDataLoss = errors.New("unmounted, but its last writes may be missing")

// Error is an error whose Message is for the caller to act on. Err is for the log only.
type Error struct {
	Code       Code
	Message    string
	RetryAfter time.Duration // set with Exhausted and Unavailable where known
	// Final says that the same request would meet the same again, although the code reads like trouble that passes.
	Final bool
	Err   error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of a code; the text is for the caller, a %w in it is the cause as well.
func Errorf(code Code, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// CodeOf is the code of the first Error in err's chain, Internal when there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
