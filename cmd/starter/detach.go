//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/sandgate-dev/sandgate/csiagent/handover"
)

// daemon is what -detach leaves behind.
type daemon struct {
	socket  string
	program string
	args    []string
	await   int
}

// How long -detach waits for the daemon's first success. An agent may come late, and the daemon goes on trying; a program that does not
// answer is a failure.
const (
	handoverPatience = 10 * time.Second
	answerPatience   = 30 * time.Second
)

// readyFD is where the daemon says that it has begun well.
const readyFD = 3

// detach starts the daemon, waits for its word and becomes next, or ends.
func (d daemon) detach(next []string) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	// Nothing of ours is kept open: who runs a postStart command waits for the end of its output.
	void, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 1, err
	}
	argv := append([]string{os.Args[0], "-daemon"}, os.Args[1:len(os.Args)-len(next)]...)
	p, err := os.StartProcess("/proc/self/exe", argv, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{void, output(void), output(void), w}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 1, fmt.Errorf("start the daemon: %w", err)
	}
	_ = w.Close()
	word := make([]byte, 512)
	n, err := r.Read(word)
	if err != nil || string(word[:n]) != "ok" {
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // its session, with the program that does not answer
		return 1, fmt.Errorf("the daemon did not begin: %s", word[:n])
	}
	_ = p.Release()
	if len(next) == 0 {
		return 0, nil
	}
	path, err := exec.LookPath(next[0])
	if err != nil {
		return notFound, err
	}
	return notExecutable, syscall.Exec(path, next, os.Environ())
}

// output is the container's own, where its log is read, or nothing.
func output(void *os.File) *os.File {
	f, err := os.OpenFile("/proc/1/fd/2", os.O_WRONLY|os.O_APPEND|unix.O_NOCTTY, 0)
	if err != nil {
		return void
	}
	return f
}

// report is the daemon's one word to who started it: "ok", or what is wrong. Later words go nowhere, since the descriptor may be
// another file by then.
type report struct{ once sync.Once }

func (r *report) say(word string) {
	r.once.Do(func() {
		_, _ = unix.Write(readyFD, []byte(word))
		_ = unix.Close(readyFD)
	})
}

func (r *report) ok() { r.say("ok") }

// run is the daemon's life.
func (d daemon) run() (int, error) {
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	unix.CloseOnExec(readyFD)
	var word report
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if d.socket != "" {
		go handover.Keep(ctx, d.socket, clock.RealClock{}, word.ok)
		late := time.AfterFunc(handoverPatience, word.ok)
		defer late.Stop()
	}
	if d.program == "" {
		return attend(signals, 0), nil
	}
	// Orphans of the program's children come to us, since not every image's first process takes care of them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	return d.supervise(ctx, signals, &word)
}

// supervise keeps the program running until it is told to end.
func (d daemon) supervise(ctx context.Context, signals <-chan os.Signal, word *report) (int, error) {
	pause := firstPause
	first := sync.OnceFunc(func() {
		if d.socket == "" {
			go d.answers(ctx, word)
		}
	})
	for {
		pid, status, err := start(append([]string{d.program}, d.args...))
		if err != nil {
			word.say(err.Error())
			return status, err
		}
		first()
		began := time.Now()
		status = attend(signals, pid)
		if status == stopped {
			return 0, nil
		}
		if time.Since(began) > time.Minute {
			pause = firstPause
		}
		fmt.Fprintf(os.Stderr, "starter: %s ended with status %d; it is started again\n", d.program, status)
		if !wait(signals, pause) {
			return 0, nil
		}
		pause = min(2*pause, lastPause)
	}
}

// How long a program that has ended stays so before it is started again.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// wait is false when we are told to end meanwhile.
func wait(signals <-chan os.Signal, d time.Duration) bool {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		select {
		case <-over.C:
			return true
		case s := <-signals:
			if s != unix.SIGCHLD {
				return false
			}
			reap(0) // an orphan of the program's
		}
	}
}

// stopped is the status of a child that ended because we were told to.
const stopped = 128 + int(unix.SIGTERM)

// answers reports when the program takes connections, or that it does not.
func (d daemon) answers(ctx context.Context, word *report) {
	if d.await == 0 {
		word.ok()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(d.await)))
		if err == nil {
			_ = conn.Close()
			word.ok()
			return
		}
		select {
		case <-ctx.Done():
			word.say(fmt.Sprintf("%s does not answer at port %d", d.program, d.await))
			return
		case <-tick.C:
		}
	}
}
