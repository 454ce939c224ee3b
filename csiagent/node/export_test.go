package node

// Wrote is told of each change of what is written down.
func Wrote(f func(what string)) { wrote = f }
