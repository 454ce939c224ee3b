"""What the Python suites share. The runner sets E2B_*, SDK_VERSION, WORLD_SHARED (the allowed host directory) and WORLD_BUCKET."""

import os
import time
import uuid
from contextlib import contextmanager

import pytest
from e2b import Sandbox

PREFIX = "e2b.agents.kruise.io/csi-"


@contextmanager
def sandbox_of(template="base", sandbox_class=Sandbox, **options):
    box = sandbox_class.create(template=template, timeout=options.pop("timeout", 120), **options)
    try:
        yield box
    finally:
        box.kill()


@pytest.fixture(scope="module")
def box():
    """One sandbox for all tests of a module that leave it as it was."""
    with sandbox_of() as box:
        yield box


@pytest.fixture
def tag():
    """A value that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def shared():
    return os.environ["WORLD_SHARED"]


def eventually(check, within=10.0):
    """Polls until check() is truthy and returns it; the last value after the deadline."""
    deadline = time.monotonic() + within
    while True:
        value = check()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.05)


def volume(name, path, subpath=None):
    keys = {PREFIX + "volume-name": name, PREFIX + "mount-point": path}
    if subpath:
        keys[PREFIX + "subpath"] = subpath
    return keys
