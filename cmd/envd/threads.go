package main

import (
	"runtime"
	"sync"
)

// spareThreads makes the Go runtime own at least n threads, which it never gives back. It cannot go on without one that it wants
// and does not get, and a command that forks until the sandbox's limit of processes is reached leaves none to be had.
func spareThreads(n int) {
	var all, done sync.WaitGroup
	all.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread() // a thread of its own, as long as it waits for the others
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		})
	}
	done.Wait()
}
