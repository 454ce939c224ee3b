//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// frugal makes this process one that mostly waits: one of these sits in every sandbox's pod, and should cost as little.
func frugal() {
	debug.SetGCPercent(20)
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 2)) // each has memory of its own, and nodes have many
}

// restTime is how long memory may be kept that was needed for a moment.
const restTime = time.Minute

// rest gives back, until ctx ends, what the last publishes needed. The runtime keeps a good part of it for the next, which may never come.
func rest(ctx context.Context) error {
	tick := time.NewTicker(restTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			debug.FreeOSMemory()
			forget()
		}
	}
}

// forget lets go of the program's own pages that nobody writes to. They stay in the kernel's cache, which all agents of a node share, and come
// back one by one when they are needed; an agent that waits needs few of them.
func forget() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return // it costs memory, and nothing else
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		start, end, ok := unwritten(line, program)
		if ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
		}
	}
}

// unwritten is the range of a line of /proc/self/maps, if it maps program and cannot be written to.
func unwritten(line, program string) (start, end uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != program || fields[1] != "r-xp" && fields[1] != "r--p" {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end)
	return start, end, err == nil && n == 2 && start < end
}
