package process

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sessionRounds bounds the hunt for a session that forks while it is killed.
const sessionRounds = 16

// killSession kills every process of a session: an interactive shell gives each job a group of its own, so the
// group alone is not enough. The caller makes sure that the session is still the one it means.
func killSession(sid int) {
	for range sessionRounds {
		if killMembers(sid) == 0 {
			return
		}
	}
}

// killMembers kills the members that it sees and returns how many lived until now.
func killMembers(sid int) (killed int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !aliveIn(pid, sid) {
			continue
		}
		if killMember(pid, sid) {
			killed++
		}
	}
	return killed
}

// killMember holds the process by a descriptor while it looks a second time, so that a pid that was given anew in
// between is spared.
func killMember(pid, sid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return unix.Kill(pid, unix.SIGKILL) == nil
	}
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return aliveIn(pid, sid) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// aliveIn says whether the process belongs to the session and has not died yet.
func aliveIn(pid, sid int) bool {
	state, session, ok := stat(pid)
	return ok && session == sid && state != 'Z' && state != 'X'
}

// stat reads state and session of /proc/PID/stat. The command in it may hold anything, so fields count from its last
// parenthesis.
func stat(pid int) (state byte, session int, ok bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(f) < 4 {
		return 0, 0, false
	}
	session, err = strconv.Atoi(string(f[3]))
	return f[0][0], session, err == nil
}
