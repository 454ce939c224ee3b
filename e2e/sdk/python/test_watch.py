import pytest
from e2b import FilesystemEventType, NotFoundException

from conftest import eventually, sandbox_of, volume


def collect(handle, wanted):
    seen = []

    def check():
        seen.extend((e.name, e.type) for e in handle.get_new_events())
        return wanted <= set(seen)

    eventually(check)
    return set(seen)


def test_create_write_rename_and_remove_are_seen(box, tag):
    box.files.make_dir(tag)
    handle = box.files.watch_dir(tag)
    box.files.write(f"{tag}/a", "x")
    box.files.rename(f"{tag}/a", f"{tag}/b")
    box.files.remove(f"{tag}/b")
    kinds = FilesystemEventType
    wanted = {("a", kinds.CREATE), ("a", kinds.WRITE), ("a", kinds.RENAME), ("b", kinds.REMOVE)}
    assert wanted <= collect(handle, wanted)
    handle.stop()


def test_recursive_watching_sees_new_directories(box, tag):
    box.files.make_dir(f"{tag}/sub")
    handle = box.files.watch_dir(tag, recursive=True)
    box.files.write(f"{tag}/sub/a", "x")
    wanted = {("sub/a", FilesystemEventType.WRITE)}
    assert wanted <= collect(handle, wanted)
    handle.stop()


def test_a_missing_directory_is_not_found(box, tag):
    with pytest.raises(NotFoundException):
        box.files.watch_dir(tag)


def test_a_volume_is_watched_too():
    with sandbox_of(metadata=volume("scratch", "/data")) as box:
        handle = box.files.watch_dir("/data")
        box.files.write("/data/a", "x")
        wanted = {("a", FilesystemEventType.CREATE)}
        assert wanted <= collect(handle, wanted)
        handle.stop()
