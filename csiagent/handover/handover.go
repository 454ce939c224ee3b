//go:build linux

// Package handover brings a container's mount namespace to the agent: a sender in the container gives one descriptor over a
// socket, and holds the connection for as long as the container lives. The socket takes hand-overs and nothing else, so it may
// be shown to a container that is not trusted; every descriptor is proved before it is used. It does not know what is done in
// the namespace.
package handover

import "errors"

// accepted is the one byte that the receiver ever writes.
const accepted = 'k'

// Why a hand-over was refused, in the order in which it is looked at.
var (
	ErrTaken     = errors.New("a hand-over is already in force")
	ErrSilent    = errors.New("no message came in time")
	ErrMessage   = errors.New("expected exactly one message of one byte with exactly one descriptor")
	ErrKind      = errors.New("the descriptor is no mount namespace file")
	ErrType      = errors.New("the descriptor is a namespace of another type")
	ErrOwn       = errors.New("the descriptor is the agent's own mount namespace")
	ErrUserSpace = errors.New("the mount namespace belongs to another user namespace")
)

var errCrowded = errors.New("too many connections wait")

// ErrRefused is what a sender gets whose hand-over was not accepted; the reason is told to the receiver's side only.
var ErrRefused = errors.New("hand-over refused")
