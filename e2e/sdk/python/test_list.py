import pytest
from e2b import Sandbox, SandboxQuery, SandboxState

from conftest import sandbox_of


def every(query=None, **options):
    pages, found = Sandbox.list(query=query, **options), []
    while pages.has_next:
        found += pages.next_items()
    return found


def ids(query=None, **options):
    return [item.sandbox_id for item in every(query, **options)]


def test_filter_by_metadata_means_all_of_it(tag):
    with sandbox_of(metadata={"tag": tag, "role": "a b&c=d%/ä"}) as one, sandbox_of(metadata={"tag": tag, "role": "x"}) as two:
        assert set(ids(SandboxQuery(metadata={"tag": tag}))) == {one.sandbox_id, two.sandbox_id}
        assert ids(SandboxQuery(metadata={"tag": tag, "role": "a b&c=d%/ä"})) == [one.sandbox_id]
        assert ids(SandboxQuery(metadata={"tag": tag, "role": "none"})) == []


def test_filter_by_state(box, tag):
    with sandbox_of(metadata={"tag": tag}) as one:
        assert ids(SandboxQuery(metadata={"tag": tag}, state=[SandboxState.RUNNING])) == [one.sandbox_id]
        assert ids(SandboxQuery(metadata={"tag": tag}, state=[SandboxState.PAUSED])) == []
        assert ids(SandboxQuery(metadata={"tag": tag}, state=[SandboxState.RUNNING, SandboxState.PAUSED])) == [one.sandbox_id]


def test_pages_hold_everything_once_and_newest_first(tag):
    with sandbox_of(metadata={"tag": tag}) as a, sandbox_of(metadata={"tag": tag}) as b, sandbox_of(metadata={"tag": tag}) as c:
        pages = Sandbox.list(query=SandboxQuery(metadata={"tag": tag}), limit=2)
        first = pages.next_items()
        assert len(first) == 2 and pages.has_next
        second = pages.next_items()
        assert len(second) == 1 and not pages.has_next
        assert [item.sandbox_id for item in first + second] == [c.sandbox_id, b.sandbox_id, a.sandbox_id]


def test_a_killed_sandbox_is_no_longer_listed(tag):
    with sandbox_of(metadata={"tag": tag}) as one:
        assert ids(SandboxQuery(metadata={"tag": tag})) == [one.sandbox_id]
    assert ids(SandboxQuery(metadata={"tag": tag})) == []


def test_stock_is_never_listed(box):
    assert all(item.metadata is not None for item in every())
    assert len(every()) <= 2  # the pool holds more than that, unclaimed
