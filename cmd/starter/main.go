//go:build linux

// Command starter runs in a sandbox container. It hands the container's mount namespace over to the agent, again whenever the
// agent restarts, so that volumes can be attached to the running container. With arguments after -- it also starts the
// container's program, passes signals on to it and ends with its status; as the container's first process it reaps orphans.
//
// With -detach it is a postStart command: it leaves a daemon behind, which hands the namespace over or keeps a program running, and
// then becomes the command after --, another starter -detach perhaps. No shell is needed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/handover"
)

func main() {
	// One of these sits in every sandbox and does next to nothing: it should cost as little.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(20)
	socket := flag.String("socket", "", "path of the agent's hand-over socket")
	adopt := flag.Bool("init", false, "reap orphans also when this is not the first process")
	var d daemon
	detach := flag.Bool("detach", false, "leave a daemon that does it, and go on with what follows --")
	flag.StringVar(&d.program, "exec", "", "with -detach: a program that the daemon keeps running")
	flag.Func("arg", "with -exec: an argument of it; again for each", func(s string) error { d.args = append(d.args, s); return nil })
	flag.IntVar(&d.await, "await", 0, "with -exec: the local TCP port at which it must answer before -detach goes on")
	inside := flag.Bool("daemon", false, "be that daemon; for -detach only")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: starter -socket PATH [-init] [-- PROGRAM ARGUMENT...]\n       starter -detach [-socket PATH] [-exec PROGRAM [-arg ARGUMENT]... [-await PORT]] [-- COMMAND ARGUMENT...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	d.socket = *socket
	switch {
	case *inside:
		exit(d.run())
	case *detach && (d.socket != "" || d.program != ""):
		exit(d.detach(flag.Args()))
	case *detach, *socket == "":
		flag.Usage()
		os.Exit(2)
	}
	exit(run(*socket, *adopt, flag.Args()))
}

func exit(status int, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "starter:", err)
	}
	os.Exit(status)
}

// The exit statuses that a shell gives to a program that could not be started.
const (
	notExecutable = 126
	notFound      = 127
)

// run returns the exit status.
func run(socket string, adopt bool, argv []string) (int, error) {
	// Before anything can end: none of these may be missed.
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	if adopt {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return 1, fmt.Errorf("become reaper: %w", err)
		}
	}
	child := 0
	if len(argv) > 0 {
		pid, status, err := start(argv)
		if err != nil {
			return status, fmt.Errorf("start %s: %w", argv[0], err)
		}
		child = pid
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		handover.Keep(ctx, socket, clock.RealClock{}, func() {})
		close(done)
	}()
	status := attend(signals, child)
	cancel()
	<-done
	return status, nil
}

// start starts argv as a child with this process's files and environment.
func start(argv []string) (pid, status int, err error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, notFound, err
	}
	pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, notExecutable, err
	}
	return pid, 0, nil
}

// attend passes signals on and reaps until the child has ended, or, without a child, until it is told to end.
func attend(signals <-chan os.Signal, child int) int {
	for s := range signals {
		number := s.(syscall.Signal)
		switch {
		case number == unix.SIGCHLD:
			if status, ended := reap(child); ended {
				return status
			}
		case child != 0:
			_ = unix.Kill(child, number) // it may have ended just now
		case number == unix.SIGTERM || number == unix.SIGINT:
			return 0
		}
	}
	return 0
}

// reap takes the status of every process that has ended. Nothing else in this program waits for one.
func reap(child int) (status int, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return status, ended
		}
		if pid == child && child != 0 {
			status, ended = exitStatus(ws), true
		}
	}
}

// exitStatus is what a shell makes of it.
func exitStatus(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
