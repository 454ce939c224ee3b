// Package gateway holds the use cases of the API: create, find, extend and end sandboxes, whatever the dialect and whatever the
// backend. It knows no HTTP framework and no Kubernetes.
package gateway
