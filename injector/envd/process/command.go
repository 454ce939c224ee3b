package process

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/account"
	"github.com/sandgate-dev/sandgate/injector/envd/process/processpb"
)

// launch starts a command as who and registers it; run must follow.
func (s *Service) launch(req *processpb.StartRequest, who account.Account) (*proc, error) {
	cmd, err := s.command(req.GetProcess(), who)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	p := &proc{tag: req.Tag, config: req.GetProcess(), cmd: cmd, exited: make(chan struct{}), done: make(chan struct{})}
	var theirs []*os.File
	if req.GetPty() != nil {
		theirs, err = p.wireTerminal(req.GetPty().GetSize(), who)
	} else {
		theirs, err = p.wirePipes(req.Stdin == nil || req.GetStdin())
	}
	defer closeAll(theirs)
	if err != nil {
		return nil, connect.NewError(connect.CodeResourceExhausted, err)
	}
	s.forking.RLock()
	defer s.forking.RUnlock()
	if err := cmd.Start(); err != nil {
		p.discardWires()
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("error starting process '%s': %w", req.GetProcess().GetCmd(), err))
	}
	p.pid = uint32(cmd.Process.Pid)
	offer(cmd.Process.Pid)
	if err := s.register(p); err != nil {
		_ = p.signal(syscall.SIGKILL)
		p.await()
		p.discardWires()
		return nil, err
	}
	s.cfg.Log.Debug("process started", "pid", p.pid, "user", who.Name, "command", req.GetProcess().GetCmd())
	return p, nil
}

// command builds the process but for its streams: a session of its own, the user's rights, directory and variables.
func (s *Service) command(c *processpb.ProcessConfig, who account.Account) (*exec.Cmd, error) {
	dir, err := s.cfg.Accounts.Resolve(c.GetCwd(), who)
	if err != nil {
		return nil, err
	}
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("cwd '%s' does not exist", dir)
	case err != nil:
		return nil, fmt.Errorf("cwd '%s': %w", dir, err)
	case !info.IsDir():
		return nil, fmt.Errorf("cwd '%s' is not a directory", dir)
	}
	env := s.environment(c.GetEnvs(), who)
	file, err := lookup(c.GetCmd(), env["PATH"], dir)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: file, Args: append([]string{c.GetCmd()}, c.GetArgs()...), Dir: dir, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if s.cfg.Accounts.Self == nil {
		cmd.SysProcAttr.Credential = credential(who)
	}
	return cmd, nil
}

func credential(who account.Account) *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(who.UID), Gid: uint32(who.GID)}
	for _, g := range who.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// environment layers the container's variables, the daemon's path, the user, the sandbox's variables and the command's own; later ones win.
func (s *Service) environment(own map[string]string, who account.Account) map[string]string {
	env := map[string]string{}
	for _, v := range s.cfg.Container {
		if name, value, ok := strings.Cut(v, "="); ok {
			env[name] = value
		}
	}
	maps.Copy(env, map[string]string{"PATH": s.cfg.Path, "HOME": who.Home, "USER": who.Name, "LOGNAME": who.Name, "SHELL": "/bin/bash"})
	if s.cfg.Env != nil {
		maps.Copy(env, s.cfg.Env())
	}
	maps.Copy(env, own)
	return env
}

// lookup finds a command as the sandbox would: in the PATH that the command itself will have.
func lookup(name, path, dir string) (string, error) {
	if name == "" {
		return "", errors.New("process.cmd must name a command")
	}
	if strings.Contains(name, "/") {
		return name, nil // execve resolves it from the command's directory
	}
	for _, d := range filepath.SplitList(path) {
		file := filepath.Join(d, name)
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("error starting process '%s': executable file not found in PATH", name)
}

// wirePipes gives the process one pipe for each stream and returns the ends that are the process's.
func (p *proc) wirePipes(stdin bool) (theirs []*os.File, err error) {
	for _, out := range []struct {
		to   func(*os.File)
		wrap func([]byte) *processpb.ProcessEvent
	}{{func(f *os.File) { p.cmd.Stdout = f }, stdoutEvent}, {func(f *os.File) { p.cmd.Stderr = f }, stderrEvent}} {
		r, w, err := os.Pipe()
		if err != nil {
			p.discardWires()
			return theirs, err
		}
		theirs = append(theirs, w)
		p.outputs = append(p.outputs, &source{file: r, wrap: out.wrap})
		out.to(w)
	}
	if !stdin {
		return theirs, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		p.discardWires()
		return theirs, err
	}
	p.cmd.Stdin, p.input = r, newInput(w)
	return append(theirs, r), nil
}

// wireTerminal makes a terminal the process's three streams and its controlling one.
func (p *proc) wireTerminal(size *processpb.PTY_Size, who account.Account) (theirs []*os.File, err error) {
	master, slave, err := openTerminal(size, who)
	if err != nil {
		return nil, err
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr.Setctty = true // of descriptor 0, in the new session
	p.tty, p.input = master, newInput(master)
	p.outputs = []*source{{file: master, terminal: true, wrap: ptyEvent}}
	return []*os.File{slave}, nil
}

// discardWires closes our ends when the process did not come to be.
func (p *proc) discardWires() {
	for _, out := range p.outputs {
		_ = out.file.Close()
	}
	if p.input != nil {
		_ = p.input.file.Close()
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
