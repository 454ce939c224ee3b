// Package probe says whether a mounted directory can really be read, and flushes it, in a process that can be killed when the
// server or the client behind the file system hangs. It holds both ends: Prober starts the process, Main is that process. It
// does not know what is mounted, nor where.
package probe
