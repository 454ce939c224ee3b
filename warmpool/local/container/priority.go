package container

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// patience is the niceness at which stock is made: whoever is being served goes first.
const patience = 10

// patiently runs f, and so the processes that it starts, at a low priority.
func patiently(f func() error) func() error {
	return func() error {
		done := make(chan error, 1)
		go func() {
			// Niceness is a thread's on Linux. Never unlocked: the thread ends with the goroutine.
			runtime.LockOSThread()
			_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), patience) // it may always be lowered; without it f is only less polite
			done <- f()
		}()
		return <-done
	}
}

// Hurry gives a container that was made patiently the priority of others.
func (r *Runtime) Hurry(id string) {
	// Twice, for the threads that were made by others in the course of the first round.
	for range 2 {
		for _, pid := range r.groups.processes(id) {
			for _, tid := range threads(pid) {
				_ = unix.Setpriority(unix.PRIO_PROCESS, tid, 0) // one that has ended needs none
			}
		}
	}
}

func threads(pid int) (out []int) {
	entries, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	for _, e := range entries {
		out = append(out, int(parseInt(e.Name())))
	}
	return out
}
