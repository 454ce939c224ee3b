// Package faults breaks a real gateway and what it stands on, in the middle of work, and looks at what users see and at what is left:
// the gateway, the programs in a sandbox, a volume's client and the object store are killed, stopped or cut off at every moment of a
// create, and more is asked of a pool than it has. Beside the Relay, everything is in its tests; they need root and built programs
// (`make unit` has both).
package faults
