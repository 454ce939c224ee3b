import re

import pytest
from e2b import AuthenticationException, NotFoundException, Sandbox, SandboxException

from conftest import sandbox_of


def test_the_default_template_is_base():
    box = Sandbox.create(timeout=60)
    try:
        assert re.fullmatch(r"[a-z0-9]+", box.sandbox_id)
        assert box.get_info().template_id == "base" or box.get_info().name == "base"
    finally:
        box.kill()


def test_environment_of_create_reaches_commands():
    with sandbox_of(envs={"COLOUR": "blue green", "QUOTE": "it's \"so\""}) as box:
        assert box.commands.run('printf "%s|%s" "$COLOUR" "$QUOTE"').stdout == "blue green|it's \"so\""


def test_the_code_interpreter_package_creates_from_its_own_template():
    from e2b_code_interpreter import Sandbox as Interpreter

    with sandbox_of(template=None, sandbox_class=Interpreter) as box:
        assert box.commands.run("echo $((6*7))").stdout == "42\n"


def test_internet_access_either_way_is_no_error():
    for wanted in (True, False):
        with sandbox_of(allow_internet_access=wanted) as box:
            assert box.is_running()


def test_an_unknown_template_is_not_found():
    with pytest.raises((NotFoundException, SandboxException), match="(?i)404|not found|no template|unknown"):
        Sandbox.create(template="no-such-template", timeout=60)


def test_a_wrong_key_is_an_authentication_error():
    with pytest.raises(AuthenticationException):
        Sandbox.create(template="base", timeout=60, api_key="e2b_" + "0" * 40)


def test_pause_on_timeout_is_refused_with_a_reason():
    with pytest.raises(SandboxException, match="(?i)pause"):
        box = Sandbox.create(template="base", timeout=60, lifecycle={"on_timeout": "pause"})
        box.kill()
