from e2b import PtySize


def test_a_terminal_runs_what_is_typed(box):
    seen = bytearray()
    pty = box.pty.create(PtySize(rows=30, cols=101), cwd="/tmp", envs={"COLOUR": "blue"})
    box.pty.send_stdin(pty.pid, b"stty size; echo <$COLOUR>; pwd; tty -s && echo is-a-tty; exit\n".replace(b"<", b"'<'").replace(b">;", b"'>';"))
    pty.wait(on_pty=seen.extend)
    text = seen.decode()
    assert "30 101" in text and "<blue>" in text and "\n/tmp" in text.replace("\r", "") and "is-a-tty" in text


def test_resizing_reaches_the_terminal(box):
    seen = bytearray()
    pty = box.pty.create(PtySize(rows=24, cols=80))
    box.pty.resize(pty.pid, PtySize(rows=50, cols=132))
    box.pty.send_stdin(pty.pid, b"stty size; exit\n")
    pty.wait(on_pty=seen.extend)
    assert b"50 132" in seen


def test_kill_ends_the_terminal(box):
    pty = box.pty.create(PtySize(rows=24, cols=80))
    assert box.pty.kill(pty.pid) is True
    assert box.pty.kill(pty.pid) is False
