from datetime import datetime, timedelta, timezone

import pytest
from e2b import NotFoundException, Sandbox, SandboxException

from conftest import eventually, sandbox_of


def remaining(box):
    return (box.get_info().end_at - datetime.now(timezone.utc)).total_seconds()


def test_info_tells_what_was_asked(tag):
    with sandbox_of(metadata={"tag": tag}, timeout=90) as box:
        info = box.get_info()
        assert info.sandbox_id == box.sandbox_id
        assert info.metadata["tag"] == tag
        assert info.cpu_count >= 1 and info.memory_mb >= 128
        assert str(getattr(info.state, "value", info.state)) == "running"
        assert timedelta(seconds=85) < info.end_at - info.started_at < timedelta(seconds=95)
        assert info.envd_version.count(".") == 2


def test_connect_reaches_the_same_sandbox():
    with sandbox_of() as box:
        box.commands.run("echo kept > /tmp/mark")
        again = Sandbox.connect(box.sandbox_id)
        assert again.sandbox_id == box.sandbox_id
        assert again.commands.run("cat /tmp/mark").stdout == "kept\n"


def test_connect_extends_and_never_shortens():
    with sandbox_of(timeout=100) as box:
        Sandbox.connect(box.sandbox_id, timeout=20)
        assert 80 < remaining(box) <= 101
        Sandbox.connect(box.sandbox_id, timeout=300)
        assert 280 < remaining(box) <= 301


def test_set_timeout_may_extend_and_shorten():
    with sandbox_of(timeout=60) as box:
        box.set_timeout(200)
        assert 180 < remaining(box) <= 201
        box.set_timeout(30)
        assert 10 < remaining(box) <= 31


def test_a_sandbox_ends_at_its_deadline():
    with sandbox_of(timeout=60) as box:
        box.set_timeout(1)
        assert eventually(lambda: not box.is_running(), within=15)
        with pytest.raises((NotFoundException, SandboxException)):
            box.get_info()


def test_kill_twice_says_true_then_false():
    box = Sandbox.create(template="base", timeout=60)
    assert box.is_running()
    assert box.kill() is True
    assert box.kill() is False
    assert box.is_running() is False
    assert Sandbox.kill(box.sandbox_id) is False


def test_a_killed_sandbox_is_gone_for_every_call():
    box = Sandbox.create(template="base", timeout=60)
    box.kill()
    with pytest.raises((NotFoundException, SandboxException)):
        Sandbox.connect(box.sandbox_id)
    with pytest.raises((NotFoundException, SandboxException)):
        box.set_timeout(60)
    with pytest.raises(Exception):
        box.commands.run("true")


def test_killing_during_a_running_command_surfaces_as_an_error():
    box = Sandbox.create(template="base", timeout=60)
    command = box.commands.run("sleep 100", background=True)
    assert box.kill() is True
    with pytest.raises(Exception):
        command.wait()
    assert box.is_running() is False


def test_a_foreign_id_is_not_found():
    with pytest.raises((NotFoundException, SandboxException)):
        Sandbox.connect("i0000000000000000000")


def test_metrics_are_figures_of_this_sandbox(box):
    points = eventually(lambda: box.get_metrics(), within=20)
    assert points
    last = points[-1]
    assert last.cpu_count >= 1
    assert 0 < last.mem_used <= last.mem_total
    assert last.disk_total > 0


def test_get_host_names_port_and_sandbox(box):
    host = box.get_host(8080)
    assert host.startswith(f"8080-{box.sandbox_id}.")
    assert "e2b.app" not in host
