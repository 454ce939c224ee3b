// Package node is the CSI node service: it publishes volumes into one sandbox. It holds the table of drivers, a lock per mount,
// idempotence and the journal by which a later process adopts what lives. It knows no sandbox API and no Kubernetes.
package node
