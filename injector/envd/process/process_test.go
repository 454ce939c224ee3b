package process

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb/processpbconnect"
)

const path = "/usr/local/bin:/usr/bin:/bin"

// world is a running service and a client of it over HTTP/1.1 with the JSON codec, as the SDKs speak.
type world struct {
	processpbconnect.ProcessClient
	service *Service
	url     string
	home    string
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	self := account.Current(os.Getuid(), os.Getgid())
	self.Home = t.TempDir()
	cfg := Config{
		Accounts: &account.Directory{Self: &self, DefaultUser: func() string { return self.Name }},
		Env:      func() map[string]string { return map[string]string{"LAYER": "sandbox", "SANDBOX": "yes"} },
		Path:     path,
		Log:      slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	s := New(cfg)
	mux := http.NewServeMux()
	mux.Handle(s.Handler())
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		go func() { <-ctx.Done(); srv.CloseClientConnections() }()
		s.Close(ctx)
		srv.Close()
	})
	return &world{processpbconnect.NewProcessClient(srv.Client(), srv.URL, connect.WithProtoJSON()), s, srv.URL, self.Home}
}

// told is all that a stream said.
type told struct {
	pid                 uint32
	stdout, stderr, pty string
	order               []string
	end                 *processpb.ProcessEvent_EndEvent
	err                 error
}

type events interface {
	Receive() bool
	Err() error
}

func listen(s events, msg func() *processpb.ProcessEvent) (out told) {
	for s.Receive() {
		out.take(msg())
	}
	out.err = s.Err()
	return out
}

func (out *told) take(e *processpb.ProcessEvent) {
	kind := ""
	switch e := e.GetEvent().(type) {
	case *processpb.ProcessEvent_Start:
		kind, out.pid = "start", e.Start.GetPid()
	case *processpb.ProcessEvent_Data:
		kind = "data"
		out.stdout += string(e.Data.GetStdout())
		out.stderr += string(e.Data.GetStderr())
		out.pty += string(e.Data.GetPty())
	case *processpb.ProcessEvent_End:
		kind, out.end = "end", e.End
	case *processpb.ProcessEvent_Keepalive:
		kind = "keepalive"
	}
	if n := len(out.order); n == 0 || out.order[n-1] != kind {
		out.order = append(out.order, kind)
	}
}

func sh(script string) *processpb.StartRequest {
	return &processpb.StartRequest{Process: &processpb.ProcessConfig{Cmd: "/bin/bash", Args: []string{"-c", script}}}
}

func (w *world) run(t *testing.T, req *processpb.StartRequest) told {
	t.Helper()
	s, err := w.Start(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	defer func() { _ = s.Close() }()
	return listen(s, func() *processpb.ProcessEvent { return s.Msg().GetEvent() })
}

// begin starts a command and waits for its pid; rest gives what it says from then on.
func (w *world) begin(t *testing.T, req *processpb.StartRequest) (pid uint32, rest func() told) {
	t.Helper()
	s, err := w.Start(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	require.True(t, s.Receive(), "%v", s.Err())
	pid = s.Msg().GetEvent().GetStart().GetPid()
	require.NotZero(t, pid)
	var once sync.Once
	var out told
	return pid, func() told {
		once.Do(func() { out = listen(s, func() *processpb.ProcessEvent { return s.Msg().GetEvent() }) })
		return out
	}
}

func byPID(pid uint32) *processpb.ProcessSelector {
	return &processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Pid{Pid: pid}}
}

func TestACommandsEndSaysHowItEnded(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		script         string
		stdout, stderr string
		code           int32
		exited         bool
		status, error  string
	}{
		"silence and success":    {"true", "", "", 0, true, "exit status 0", ""},
		"output and failure":     {"echo out; echo err >&2; exit 3", "out\n", "err\n", 3, true, "exit status 3", "exit status 3"},
		"a signal":               {"kill -9 $$", "", "", -1, false, "signal: killed", "signal: killed"},
		"output without newline": {"printf '\\377\\000x'", "\xff\x00x", "", 0, true, "exit status 0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.run(t, sh(c.script))
			require.NoError(t, got.err)
			require.Equal(t, "start", got.order[0])
			require.Equal(t, "end", got.order[len(got.order)-1])
			require.Equal(t, c.stdout, got.stdout)
			require.Equal(t, c.stderr, got.stderr)
			require.Equal(t, c.code, got.end.GetExitCode())
			require.Equal(t, c.exited, got.end.GetExited())
			require.Equal(t, c.status, got.end.GetStatus())
			require.Equal(t, c.error, got.end.GetError())
			require.Equal(t, c.error != "", got.end.Error != nil)
		})
	}
}

func TestVariablesAreLayered(t *testing.T) {
	w := newWorld(t)
	req := sh(`echo "$LAYER $SANDBOX $OWN $HOME $USER $LOGNAME $SHELL $PATH"; pwd; env | grep -c .`)
	req.Process.Envs = map[string]string{"LAYER": "command", "OWN": "1"}
	got := w.run(t, req)
	name := account.Current(os.Getuid(), os.Getgid()).Name
	lines := strings.Split(got.stdout, "\n")
	require.Equal(t, fmt.Sprintf("command yes 1 %s %s %s /bin/bash %s", w.home, name, name, path), lines[0])
	require.Equal(t, w.home, lines[1], "the home is where commands run")
	// PATH HOME USER LOGNAME SHELL LAYER SANDBOX OWN, and bash's PWD SHLVL _: nothing of the daemon's own.
	require.Equal(t, "11", lines[2])
}

func TestTheContainersVariablesAreBelowAllOthers(t *testing.T) {
	s := New(Config{
		Container: []string{"IMAGE=kept", "HOME=/root", "PATH=/image", "LAYER=container", "A=b=c", "nonsense"}, Path: "/image",
		Env: func() map[string]string { return map[string]string{"LAYER": "sandbox"} },
	})
	got := s.environment(map[string]string{"OWN": "1"}, account.Account{Name: "user", Home: "/home/user"})
	require.Equal(t, map[string]string{
		"IMAGE": "kept", "A": "b=c", "PATH": "/image", "HOME": "/home/user", "USER": "user", "LOGNAME": "user", "SHELL": "/bin/bash",
		"LAYER": "sandbox", "OWN": "1",
	}, got)
}

func TestWhatCannotStartIsRefusedWithItsReason(t *testing.T) {
	w := newWorld(t)
	cwd := func(dir string) *processpb.StartRequest {
		r := sh("true")
		r.Process.Cwd = &dir
		return r
	}
	file := filepath.Join(w.home, "file")
	require.NoError(t, os.WriteFile(file, []byte("no program"), 0o600))
	for name, c := range map[string]struct {
		req  *processpb.StartRequest
		user string
		code connect.Code
		text string
	}{
		"a missing directory":   {cwd("/does/not/exist"), "", connect.CodeInvalidArgument, "cwd '/does/not/exist' does not exist"},
		"a file as directory":   {cwd(file), "", connect.CodeInvalidArgument, "not a directory"},
		"another user's home":   {cwd("~root"), "", connect.CodeInvalidArgument, "home"},
		"an unknown user":       {sh("true"), "nobody-here", connect.CodeUnauthenticated, "nobody-here"},
		"an unknown command":    {&processpb.StartRequest{Process: &processpb.ProcessConfig{Cmd: "no-such-command"}}, "", connect.CodeInvalidArgument, "no-such-command"},
		"no command":            {&processpb.StartRequest{}, "", connect.CodeInvalidArgument, "process.cmd"},
		"a file that is no one": {&processpb.StartRequest{Process: &processpb.ProcessConfig{Cmd: file}}, "", connect.CodeInvalidArgument, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			r := connect.NewRequest(c.req)
			if c.user != "" {
				r.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.user+":")))
			}
			s, err := w.Start(t.Context(), r)
			require.NoError(t, err)
			require.False(t, s.Receive())
			require.Equal(t, c.code, connect.CodeOf(s.Err()), "%v", s.Err())
			require.ErrorContains(t, s.Err(), c.text)
		})
	}
}

func TestAsRootCommandsRunAsTheUserAskedFor(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: commands change their user")
	}
	who := "nobody"
	w := newWorld(t, func(c *Config) {
		c.Accounts = &account.Directory{DefaultUser: func() string { return who }, DefaultDir: func() string { return "/tmp" }}
	})
	got := w.run(t, sh("id -un; id -u; id -G"))
	want, err := (&account.Directory{}).Lookup("nobody")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("nobody\n%d\n%s\n", want.UID, strings.Trim(fmt.Sprint(want.Groups), "[]")), got.stdout)
	root := connect.NewRequest(sh("id -un"))
	root.Header().Set("Authorization", "Basic cm9vdDo=")
	s, err := w.Start(t.Context(), root)
	require.NoError(t, err)
	require.Equal(t, "root\n", listen(s, func() *processpb.ProcessEvent { return s.Msg().GetEvent() }).stdout)

	roots := t.TempDir()
	require.NoError(t, os.Chmod(roots, 0o700))
	closed := sh("pwd")
	closed.Process.Cwd = &roots
	s, err = w.Start(t.Context(), connect.NewRequest(closed))
	if err == nil {
		require.False(t, s.Receive(), "a directory that only root may enter")
		err = s.Err()
	}
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestCommandsAreKilledBeforeTheDaemonWhenMemoryIsShort(t *testing.T) {
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	require.NoError(t, err)
	own, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	require.NoError(t, err)
	w := newWorld(t)
	yes := true
	req := sh("read -r; cat /proc/self/oom_score_adj") // a child of the command, after the command was surely offered
	req.Stdin = &yes
	pid, rest := w.begin(t, req)
	_, err = w.SendInput(t.Context(), connect.NewRequest(&processpb.SendInputRequest{Process: byPID(pid), Input: stdin("go\n")}))
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(min(own+preference, 1000))+"\n", rest().stdout)
}

func TestAStartWaitsItsTurnNoLongerThanItsCaller(t *testing.T) {
	w := newWorld(t)
	for range maxLaunching {
		w.service.launching <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s, err := w.Start(ctx, connect.NewRequest(sh("true")))
	if err == nil {
		require.False(t, s.Receive())
		err = s.Err()
	}
	require.Equal(t, connect.CodeDeadlineExceeded, connect.CodeOf(err))
	<-w.service.launching
	require.Equal(t, "exit status 0", w.run(t, sh("true")).end.GetStatus())
}

func TestOutputIsWholeAndInOrder(t *testing.T) {
	w := newWorld(t)
	got := w.run(t, sh("seq 1 200000; seq 1 1000 >&2"))
	require.NoError(t, got.err)
	var want bytes.Buffer
	for i := 1; i <= 200000; i++ {
		want.WriteString(strconv.Itoa(i) + "\n")
	}
	require.True(t, want.String() == got.stdout, "%d bytes came, %d went", len(got.stdout), want.Len())
	require.True(t, strings.HasSuffix(got.stderr, "\n1000\n"))
}

func TestASlowReaderHoldsTheProcessInsteadOfMemory(t *testing.T) {
	w := newWorld(t)
	counter := filepath.Join(w.home, "written")
	// Each round writes 1 MiB; the counter tells how far it came. All of it does not fit into the sockets on the way.
	req := sh(`for i in $(seq 32); do head -c 1048576 /dev/urandom; echo $i > ` + counter + `; done; printf end`)
	s, err := w.Start(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	require.True(t, s.Receive())

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	stalled, last := 0, ""
	require.Eventually(t, func() bool { // it must stop by itself while nobody reads
		raw, _ := os.ReadFile(counter)
		if string(raw) == last {
			stalled++
		} else {
			stalled, last = 0, string(raw)
		}
		return stalled >= 15
	}, 20*time.Second, 20*time.Millisecond)
	rounds, _ := strconv.Atoi(strings.TrimSpace(last))
	require.Less(t, rounds, 24, "the process was not held")
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapInuse)-int64(before.HeapInuse), int64(16<<20))

	size, tail := 0, ""
	for s.Receive() {
		if b := s.Msg().GetEvent().GetData().GetStdout(); len(b) > 0 {
			size, tail = size+len(b), string(b)
		}
	}
	require.NoError(t, s.Err())
	require.Equal(t, 32<<20+len("end"), size)
	require.True(t, strings.HasSuffix(tail, "end"))
}

func TestABackgroundChildDoesNotHoldTheEnd(t *testing.T) {
	w := newWorld(t)
	alive := filepath.Join(w.home, "alive")
	got := w.run(t, sh(`(sleep 0.5; echo soon; sleep 3; echo late; echo late >&2; touch `+alive+`; sleep 30) & echo $!; echo last`))
	require.NoError(t, got.err)
	require.Contains(t, got.stdout, "last\n")
	require.Contains(t, got.stdout, "soon\n")
	require.NotContains(t, got.stdout, "late", "it was not waited for")
	require.Equal(t, "exit status 0", got.end.GetStatus())
	// The child goes on, and its late output does not kill it.
	require.Eventually(t, func() bool { _, err := os.Stat(alive); return err == nil }, 10*time.Second, 20*time.Millisecond)
	child, err := strconv.Atoi(strings.SplitN(got.stdout, "\n", 2)[0])
	require.NoError(t, err)
	_, session, ok := stat(child)
	require.True(t, ok)
	require.Equal(t, int(got.pid), session)
	killSession(session)
	require.Eventually(t, func() bool { return !aliveIn(child, session) }, 20*time.Second, 10*time.Millisecond)
}

func TestOfACommandThatIsKilledNothingMoreIsAwaited(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.home, "pid")
	pid, rest := w.begin(t, sh("setsid sh -c 'echo $$ > "+file+".new; mv "+file+".new "+file+"; exec sleep 1000' & wait"))
	require.Eventually(t, func() bool { _, err := os.Stat(file); return err == nil }, 20*time.Second, 5*time.Millisecond)
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	escaped, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	require.NoError(t, err)
	defer killSession(escaped)
	begun := time.Now()
	_, err = w.SendSignal(t.Context(), connect.NewRequest(&processpb.SendSignalRequest{Process: byPID(pid), Signal: processpb.Signal_SIGNAL_SIGKILL}))
	require.NoError(t, err)
	require.Equal(t, "signal: killed", rest().end.GetStatus())
	require.Less(t, time.Since(begun), linger)
}

func TestAChattyBackgroundChildDoesNotHoldTheEndEither(t *testing.T) {
	w := newWorld(t)
	begun := time.Now()
	got := w.run(t, sh(`yes & echo first`))
	require.NoError(t, got.err)
	require.Contains(t, got.stdout, "first\n")
	require.Less(t, time.Since(begun), 10*time.Second)
	killSession(int(got.pid))
}

func TestAnAbandonedStreamDoesNotEndTheCommand(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := w.Start(ctx, connect.NewRequest(sh("read line; echo got $line; exit 4")))
	require.NoError(t, err)
	require.True(t, s.Receive())
	pid := s.Msg().GetEvent().GetStart().GetPid()
	cancel()
	_ = s.Close()

	again, err := w.Connect(t.Context(), connect.NewRequest(&processpb.ConnectRequest{Process: byPID(pid)}))
	require.NoError(t, err)
	require.True(t, again.Receive())
	require.Equal(t, pid, again.Msg().GetEvent().GetStart().GetPid())
	_, err = w.SendInput(t.Context(), connect.NewRequest(&processpb.SendInputRequest{Process: byPID(pid), Input: stdin("x\n")}))
	require.NoError(t, err)
	got := listen(again, func() *processpb.ProcessEvent { return again.Msg().GetEvent() })
	require.NoError(t, got.err)
	require.Equal(t, "got x\n", got.stdout)
	require.Equal(t, int32(4), got.end.GetExitCode())

	t.Run("and its end can be learnt a moment later", func(t *testing.T) {
		late, err := w.Connect(t.Context(), connect.NewRequest(&processpb.ConnectRequest{Process: byPID(pid)}))
		require.NoError(t, err)
		got := listen(late, func() *processpb.ProcessEvent { return late.Msg().GetEvent() })
		require.NoError(t, got.err)
		require.Equal(t, []string{"start", "end"}, got.order)
		require.Equal(t, int32(4), got.end.GetExitCode())
	})
}

func stdin(s string) *processpb.ProcessInput {
	return &processpb.ProcessInput{Input: &processpb.ProcessInput_Stdin{Stdin: []byte(s)}}
}

func TestTheTimeoutKillsTheWholeSession(t *testing.T) {
	w := newWorld(t)
	pids := filepath.Join(w.home, "pids")
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	s, err := w.Start(ctx, connect.NewRequest(sh(`set -m; sleep 100 & echo $! > `+pids+`; echo up; wait`)))
	require.NoError(t, err)
	watch, rest := listenOther(t, w, s)
	require.Equal(t, connect.CodeDeadlineExceeded, connect.CodeOf(watch.err))
	require.Equal(t, "signal: killed", rest.end.GetStatus())
	raw, err := os.ReadFile(pids)
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !aliveIn(child, int(rest.pid)) }, 20*time.Second, 10*time.Millisecond, "a job in a group of its own survived")
}

// listenOther follows the same process by a second stream that has no deadline.
func listenOther(t *testing.T, w *world, s *connect.ServerStreamForClient[processpb.StartResponse]) (first, second told) {
	t.Helper()
	require.True(t, s.Receive())
	other, err := w.Connect(t.Context(), connect.NewRequest(&processpb.ConnectRequest{Process: byPID(s.Msg().GetEvent().GetStart().GetPid())}))
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { second = listen(other, func() *processpb.ProcessEvent { return other.Msg().GetEvent() }) })
	first = listen(s, func() *processpb.ProcessEvent { return s.Msg().GetEvent() })
	wg.Wait()
	return first, second
}

func TestKillReachesJobsInGroupsOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.home, "job")
	pid, rest := w.begin(t, sh(`set -m; (trap '' TERM HUP; sleep 100) & echo $! > `+file+`; mv `+file+` `+file+`.done; wait`))
	var job int
	require.Eventually(t, func() bool {
		raw, _ := os.ReadFile(file + ".done")
		job, _ = strconv.Atoi(strings.TrimSpace(string(raw)))
		return job > 0
	}, 20*time.Second, 5*time.Millisecond)
	require.True(t, aliveIn(job, int(pid)))
	_, err := w.SendSignal(t.Context(), connect.NewRequest(&processpb.SendSignalRequest{Process: byPID(pid), Signal: processpb.Signal_SIGNAL_SIGKILL}))
	require.NoError(t, err)
	got := rest()
	require.NoError(t, got.err)
	require.Equal(t, int32(-1), got.end.GetExitCode())
	require.Eventually(t, func() bool { return !aliveIn(job, int(pid)) }, 20*time.Second, 10*time.Millisecond)
}

func TestSignalsToWhatIsNotThere(t *testing.T) {
	w := newWorld(t)
	tag := "mine"
	req := sh("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")
	req.Tag = &tag
	s, err := w.Start(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	for s.Receive() && s.Msg().GetEvent().GetData() == nil {
	}
	byTag := &processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Tag{Tag: tag}}
	send := func(p *processpb.ProcessSelector, sig processpb.Signal) connect.Code {
		_, err := w.SendSignal(t.Context(), connect.NewRequest(&processpb.SendSignalRequest{Process: p, Signal: sig}))
		if err == nil {
			return 0
		}
		return connect.CodeOf(err)
	}
	const term, kill = processpb.Signal_SIGNAL_SIGTERM, processpb.Signal_SIGNAL_SIGKILL
	require.Equal(t, connect.CodeNotFound, send(byPID(1), kill), "only processes that were started here")
	require.Equal(t, connect.CodeNotFound, send(&processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Tag{Tag: "other"}}, kill))
	require.Equal(t, connect.CodeUnimplemented, send(byTag, processpb.Signal_SIGNAL_UNSPECIFIED))
	require.Equal(t, connect.CodeUnimplemented, send(&processpb.ProcessSelector{}, kill))

	list, err := w.List(t.Context(), connect.NewRequest(&processpb.ListRequest{}))
	require.NoError(t, err)
	require.Len(t, list.Msg.GetProcesses(), 1)
	require.Equal(t, tag, list.Msg.GetProcesses()[0].GetTag())
	require.Equal(t, "/bin/bash", list.Msg.GetProcesses()[0].GetConfig().GetCmd())

	require.Zero(t, send(byTag, term))
	got := listen(s, func() *processpb.ProcessEvent { return s.Msg().GetEvent() })
	require.Equal(t, int32(7), got.end.GetExitCode())
	require.Eventually(t, func() bool { return send(byTag, kill) == connect.CodeNotFound }, 20*time.Second, time.Millisecond)
}

func TestInputArrivesInOrderAndEnds(t *testing.T) {
	w := newWorld(t)
	yes := true
	may := filepath.Join(w.home, "may-end")
	req := sh("cat; until [ -e " + may + " ]; do sleep 0.02; done")
	req.Stdin = &yes
	pid, rest := w.begin(t, req)
	for i := range 50 {
		_, err := w.SendInput(t.Context(), connect.NewRequest(&processpb.SendInputRequest{Process: byPID(pid), Input: stdin(strconv.Itoa(i) + " ")}))
		require.NoError(t, err)
	}
	in := w.StreamInput(t.Context())
	require.NoError(t, in.Send(&processpb.StreamInputRequest{Event: &processpb.StreamInputRequest_Start{Start: &processpb.StreamInputRequest_StartEvent{Process: byPID(pid)}}}))
	for i := range 50 {
		require.NoError(t, in.Send(&processpb.StreamInputRequest{Event: &processpb.StreamInputRequest_Data{Data: &processpb.StreamInputRequest_DataEvent{Input: stdin(strconv.Itoa(50+i) + " ")}}}))
	}
	require.NoError(t, in.Send(&processpb.StreamInputRequest{Event: &processpb.StreamInputRequest_Keepalive{}}))
	_, err := in.CloseAndReceive()
	require.NoError(t, err)
	for range 2 {
		_, err = w.CloseStdin(t.Context(), connect.NewRequest(&processpb.CloseStdinRequest{Process: byPID(pid)}))
		require.NoError(t, err, "closing twice is no error")
	}
	_, err = w.SendInput(t.Context(), connect.NewRequest(&processpb.SendInputRequest{Process: byPID(pid), Input: stdin("x")}))
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.NoError(t, os.WriteFile(may, nil, 0o600))
	var want strings.Builder
	for i := range 100 {
		want.WriteString(strconv.Itoa(i) + " ")
	}
	require.Equal(t, want.String(), rest().stdout)
}

func TestInputThatNobodyReadsWaitsNoLongerThanItsCaller(t *testing.T) {
	w := newWorld(t)
	pid, rest := w.begin(t, sh("sleep 1000"))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := w.SendInput(ctx, connect.NewRequest(&processpb.SendInputRequest{Process: byPID(pid), Input: stdin(strings.Repeat("x", 1<<20))}))
	require.Equal(t, connect.CodeDeadlineExceeded, connect.CodeOf(err))
	_, err = w.SendSignal(t.Context(), connect.NewRequest(&processpb.SendSignalRequest{Process: byPID(pid), Signal: processpb.Signal_SIGNAL_SIGKILL}))
	require.NoError(t, err)
	require.False(t, rest().end.GetExited())
}

func TestWithoutStdinACommandReadsNothing(t *testing.T) {
	w := newWorld(t)
	no := false
	req := sh("cat; echo done; sleep 0.3")
	req.Stdin = &no
	pid, rest := w.begin(t, req)
	_, err := w.SendInput(t.Context(), connect.NewRequest(&processpb.SendInputRequest{Process: byPID(pid), Input: stdin("x")}))
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.Equal(t, "done\n", rest().stdout)
}

func TestATerminal(t *testing.T) {
	w := newWorld(t)
	req := sh(`tty -s && echo terminal; stty size; read -r line; stty size; echo "got $line"; trap 'echo bye; exit 5' INT; echo ready; while :; do sleep 0.05; done`)
	req.Pty = &processpb.PTY{Size: &processpb.PTY_Size{Cols: 100, Rows: 30}}
	s, err := w.Start(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	var got told
	until := func(text string) {
		for !strings.Contains(got.pty, text) {
			require.True(t, s.Receive(), "%q then %v", got.pty, s.Err())
			got.take(s.Msg().GetEvent())
		}
	}
	until("30 100")
	require.Contains(t, got.pty, "terminal")
	_, err = w.Update(t.Context(), connect.NewRequest(&processpb.UpdateRequest{Process: byPID(got.pid), Pty: &processpb.PTY{Size: &processpb.PTY_Size{Cols: 120, Rows: 40}}}))
	require.NoError(t, err)
	pty := func(in string) *processpb.SendInputRequest {
		return &processpb.SendInputRequest{Process: byPID(got.pid), Input: &processpb.ProcessInput{Input: &processpb.ProcessInput_Pty{Pty: []byte(in)}}}
	}
	_, err = w.SendInput(t.Context(), connect.NewRequest(pty("hello\n")))
	require.NoError(t, err)
	until("got hello")
	require.Contains(t, got.pty, "40 120")
	_, err = w.SendInput(t.Context(), connect.NewRequest(&processpb.SendInputRequest{Process: byPID(got.pid), Input: stdin("x")}))
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	_, err = w.CloseStdin(t.Context(), connect.NewRequest(&processpb.CloseStdinRequest{Process: byPID(got.pid)}))
	require.ErrorContains(t, err, "Ctrl+D")
	until("ready")
	_, err = w.SendInput(t.Context(), connect.NewRequest(pty("\x03")))
	require.NoError(t, err)
	until("bye")
	rest := listen(s, func() *processpb.ProcessEvent { return s.Msg().GetEvent() })
	require.NoError(t, rest.err)
	require.Equal(t, int32(5), rest.end.GetExitCode())
}

func TestATerminalsOutputIsWhole(t *testing.T) {
	w := newWorld(t)
	req := sh("stty -opost; seq 1 50000")
	req.Pty = &processpb.PTY{Size: &processpb.PTY_Size{Cols: 80, Rows: 24}}
	got := w.run(t, req)
	require.NoError(t, got.err)
	require.True(t, strings.HasSuffix(got.pty, "\n49999\n50000\n"), "%q", got.pty[max(0, len(got.pty)-40):])
	require.Equal(t, 50000, strings.Count(got.pty, "\n"))
}

func TestResizingWhatIsNoTerminalFails(t *testing.T) {
	w := newWorld(t)
	pid, _ := w.begin(t, sh("sleep 1000"))
	_, err := w.Update(t.Context(), connect.NewRequest(&processpb.UpdateRequest{Process: byPID(pid), Pty: &processpb.PTY{}}))
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	_, err = w.Update(t.Context(), connect.NewRequest(&processpb.UpdateRequest{Process: byPID(pid)}))
	require.NoError(t, err)
}

func TestASilentStreamIsKeptAlive(t *testing.T) {
	w := newWorld(t)
	req := connect.NewRequest(sh("sleep 1.5"))
	req.Header().Set("Keepalive-Ping-Interval", "1")
	s, err := w.Start(t.Context(), req)
	require.NoError(t, err)
	got := listen(s, func() *processpb.ProcessEvent { return s.Msg().GetEvent() })
	require.Equal(t, []string{"start", "keepalive", "end"}, got.order)
}

func TestEndingsAreKeptForAWhileTheLatestRatherThanTheFirst(t *testing.T) {
	now := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	s := New(Config{Clock: now})
	retire := func(pid uint32) {
		p := &proc{pid: pid}
		s.running[pid] = p
		s.retire(p)
		now.SetTime(now.Now().Add(time.Millisecond))
	}
	kept := func(pid uint32) bool {
		_, _, ok := s.findEnded(&processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Pid{Pid: pid}})
		return ok
	}
	for pid := range uint32(maxEndings + 1) {
		retire(pid)
	}
	require.Len(t, s.ended, maxEndings)
	require.False(t, kept(0))
	require.True(t, kept(1))
	require.True(t, kept(maxEndings))
	now.SetTime(now.Now().Add(keepEndings))
	require.False(t, kept(maxEndings))
}

func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld(t)
	before := runtime.NumGoroutine()
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(list)
	}
	w.run(t, sh("true")) // opens the client's connection
	opened := fds()
	for range 20 {
		require.NoError(t, w.run(t, sh("echo x; echo y >&2")).err)
	}
	require.Eventually(t, func() bool { return fds() <= opened && runtime.NumGoroutine() <= before+6 }, 20*time.Second, 10*time.Millisecond)
	require.Empty(t, zombies(t))
}

func zombies(t *testing.T) (out []int) {
	t.Helper()
	dirs, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue
		}
		if f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])); f[0] == "Z" && f[1] == strconv.Itoa(os.Getpid()) {
			out = append(out, pid)
		}
	}
	return out
}

func TestCloseEndsEveryProcess(t *testing.T) {
	w := newWorld(t)
	obedient, _ := w.begin(t, sh("sleep 1000"))
	stubborn, _ := w.begin(t, sh("trap '' TERM; while :; do sleep 1; done"))
	left := w.run(t, sh("sleep 1000 & echo $!"))
	background, err := strconv.Atoi(strings.TrimSpace(left.stdout))
	require.NoError(t, err)
	require.True(t, aliveIn(background, int(left.pid)))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	w.service.Close(ctx)
	for _, pid := range []uint32{obedient, stubborn} {
		require.False(t, aliveIn(int(pid), int(pid)))
	}
	require.Eventually(t, func() bool { return !aliveIn(background, int(left.pid)) }, 20*time.Second, 10*time.Millisecond)
	s, err := w.Start(t.Context(), connect.NewRequest(sh("true")))
	require.NoError(t, err)
	require.False(t, s.Receive())
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(s.Err()))
}

func TestOrphansAreReapedAndOursAreNot(t *testing.T) {
	w := newWorld(t)
	orphan := exec.Command("true") // nobody waits for it, as for a child that was inherited
	require.NoError(t, orphan.Start())
	require.Eventually(t, func() bool { return len(zombies(t)) == 1 }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, 1, w.service.reapOrphans(os.Getpid()))
	require.Empty(t, zombies(t))

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.service.Reap(ctx) })
	for range 50 {
		got := w.run(t, sh("exit 6"))
		require.NoError(t, got.err)
		require.Equal(t, int32(6), got.end.GetExitCode(), "the reaper took a process that was not its own")
	}
	cancel()
	wg.Wait()
}

func TestAKilledProcessIsGoneWhenItsKillerIsAnswered(t *testing.T) {
	w := newWorld(t)
	for range 30 {
		s, err := w.Start(t.Context(), connect.NewRequest(sh("sleep 60")))
		require.NoError(t, err)
		require.True(t, s.Receive())
		kill := &processpb.SendSignalRequest{Process: byPID(s.Msg().GetEvent().GetStart().GetPid()), Signal: processpb.Signal_SIGNAL_SIGKILL}
		_, err = w.SendSignal(t.Context(), connect.NewRequest(kill))
		require.NoError(t, err)
		_, err = w.SendSignal(t.Context(), connect.NewRequest(kill))
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
		require.NoError(t, s.Close())
	}
}
