// Package auth tells who sends a request: it makes API keys, keeps their hashes and turns a key into a warmpool.Principal.
// It never stores or prints a key, and it does not know what a principal may do.
package auth
