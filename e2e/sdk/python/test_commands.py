import threading

import pytest
from e2b import CommandExitException, TimeoutException

from conftest import eventually


def test_output_and_exit_code(box):
    result = box.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


def test_a_failing_command_raises_with_its_output(box):
    with pytest.raises(CommandExitException) as raised:
        box.commands.run("echo before; echo why >&2; exit 7")
    assert (raised.value.exit_code, raised.value.stdout, raised.value.stderr) == (7, "before\n", "why\n")


def test_output_arrives_while_the_command_runs(box):
    seen = []
    box.commands.run("for i in 1 2 3; do echo $i; done; echo e >&2", on_stdout=seen.append, on_stderr=seen.append)
    assert "".join(sorted("".join(seen).replace("\n", ""))) == "123e"


def test_environment_and_working_directory(box):
    assert box.commands.run('echo "$A"; pwd', envs={"A": "1 2"}, cwd="/tmp").stdout == "1 2\n/tmp\n"


def test_the_user_is_user_and_may_be_root(box):
    assert box.commands.run("id -un; echo $HOME; pwd").stdout == "user\n/home/user\n/home/user\n"
    assert box.commands.run("id -u; echo $HOME", user="root").stdout == "0\n/root\n"


def test_an_unknown_user_or_directory_is_an_error(box):
    with pytest.raises(Exception):
        box.commands.run("true", user="nobody-like-this")
    with pytest.raises(Exception):
        box.commands.run("true", cwd="/nowhere")


def test_large_output_is_complete_and_in_order(box):
    out = box.commands.run("seq 1 200000").stdout
    assert out == "".join(f"{i}\n" for i in range(1, 200001))


def test_characters_split_across_chunks_survive(box):
    assert box.commands.run("for i in $(seq 2000); do printf 'äöü€😀'; done").stdout == "äöü€😀" * 2000


def test_background_list_and_kill(box):
    command = box.commands.run("sleep 300", background=True)
    assert any(p.pid == command.pid and "sleep 300" in p.args for p in box.commands.list())
    assert box.commands.kill(command.pid) is True
    with pytest.raises(CommandExitException):
        command.wait()
    assert box.commands.kill(command.pid) is False
    assert eventually(lambda: not box.commands.run("pgrep -x sleep || echo none").stdout.strip().isdigit())


def test_connect_to_a_running_command(box):
    command = box.commands.run("read line; echo got $line", background=True, stdin=True)
    other = box.commands.connect(command.pid)
    box.commands.send_stdin(command.pid, "hello\n")
    assert other.wait().stdout == "got hello\n"
    assert command.wait().stdout == "got hello\n"


def test_stdin_until_it_is_closed(box):
    command = box.commands.run("cat", background=True, stdin=True)
    box.commands.send_stdin(command.pid, "one\n")
    box.commands.send_stdin(command.pid, "two ä\n")
    box.commands.close_stdin(command.pid)
    assert command.wait().stdout == "one\ntwo ä\n"


def test_without_stdin_a_reader_sees_the_end_at_once(box):
    assert box.commands.run("cat; echo end").stdout == "end\n"


def test_a_command_is_killed_at_its_timeout(box):
    with pytest.raises(TimeoutException):
        box.commands.run("sleep 77", timeout=1)
    assert eventually(lambda: "none" in box.commands.run("pgrep -f '^sleep 77' || echo none").stdout)


def test_commands_run_at_the_same_time(box):
    out = {}

    def run(i):
        out[i] = box.commands.run(f"sleep 0.3; echo {i}").stdout

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert out == {i: f"{i}\n" for i in range(8)}


def test_disconnecting_leaves_the_command_running(box):
    command = box.commands.run("sleep 200", background=True)
    command.disconnect()
    assert any(p.pid == command.pid for p in box.commands.list())
    assert box.commands.kill(command.pid) is True
