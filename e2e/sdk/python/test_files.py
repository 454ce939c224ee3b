import hashlib
import io
import os

import pytest
from e2b import FileType, NotFoundException


def test_text_and_bytes_come_back_as_written(box, tag):
    info = box.files.write(f"/home/user/{tag}.txt", "hällo\n")
    assert info.path == f"/home/user/{tag}.txt"
    assert box.files.read(f"/home/user/{tag}.txt") == "hällo\n"
    data = bytes(range(256)) * 5
    box.files.write(f"{tag}.bin", data)  # relative to the home directory
    assert bytes(box.files.read(f"/home/user/{tag}.bin", format="bytes")) == data


def test_a_written_file_belongs_to_the_user(box, tag):
    box.files.write(f"/home/user/deep/{tag}/f", "x")
    assert box.commands.run(f"stat -c %U:%G /home/user/deep/{tag} /home/user/deep/{tag}/f").stdout == "user:user\nuser:user\n"
    box.files.write(f"/root/{tag}", "x", user="root")
    assert box.files.read(f"/root/{tag}", user="root") == "x"


def test_overwriting_replaces_all_of_it(box, tag):
    box.files.write(tag, "a long first version")
    box.files.write(tag, "short")
    assert box.files.read(tag) == "short"


def test_an_empty_file(box, tag):
    box.files.write(tag, "")
    assert box.files.read(tag) == ""


def test_streams_in_and_out(box, tag):
    box.files.write(tag, io.BytesIO(b"streamed " * 1000))
    assert b"".join(box.files.read(tag, format="stream")) == b"streamed " * 1000


def test_twenty_megabytes(box, tag):
    data = os.urandom(20 << 20)
    box.files.write(f"/tmp/{tag}", data)
    assert box.commands.run(f"sha256sum /tmp/{tag} | cut -d' ' -f1").stdout.strip() == hashlib.sha256(data).hexdigest()
    assert bytes(box.files.read(f"/tmp/{tag}", format="bytes")) == data
    box.files.remove(f"/tmp/{tag}")


def test_compressed_both_ways(box, tag):
    text = "squeeze me " * 10000
    box.files.write(tag, text, gzip=True)
    assert box.files.read(tag, gzip=True) == text


def test_several_files_at_once(box, tag):
    box.files.write_files([{"path": f"/tmp/{tag}/{i}", "data": str(i)} for i in range(5)])
    assert sorted(e.name for e in box.files.list(f"/tmp/{tag}")) == list("01234")


def test_list_tells_names_types_and_depth(box, tag):
    box.commands.run(f"mkdir -p {tag}/sub/deeper; echo 12345 > {tag}/file; echo x > {tag}/sub/inner; ln -s file {tag}/link")
    entries = {e.name: e for e in box.files.list(f"/home/user/{tag}")}
    assert set(entries) == {"sub", "file", "link"}
    assert entries["file"].type == FileType.FILE and entries["sub"].type == FileType.DIR
    assert entries["file"].size == 6 and entries["file"].owner == "user"
    assert entries["file"].path == f"/home/user/{tag}/file"
    assert {e.name for e in box.files.list(tag, depth=2)} == {"sub", "file", "link", "inner", "deeper"}


def test_info_of_a_file(box, tag):
    box.files.write(tag, "abc")
    box.commands.run(f"chmod 640 {tag}")
    info = box.files.get_info(tag)
    assert (info.name, info.size, info.mode & 0o777, info.permissions[-9:]) == (tag, 3, 0o640, "rw-r-----")


def test_exists_rename_remove(box, tag):
    box.files.write(tag, "x")
    assert box.files.exists(tag) is True
    moved = box.files.rename(tag, tag + "2")
    assert moved.path == f"/home/user/{tag}2"
    assert (box.files.exists(tag), box.files.exists(tag + "2")) == (False, True)
    box.files.remove(tag + "2")
    assert box.files.exists(tag + "2") is False


def test_make_dir_says_whether_it_was_new(box, tag):
    assert box.files.make_dir(f"{tag}/a/b") is True
    assert box.files.make_dir(f"{tag}/a/b") is False
    box.files.remove(tag)
    assert box.files.exists(tag) is False


def test_missing_files_are_not_found(box, tag):
    with pytest.raises(NotFoundException):
        box.files.read(tag)
    with pytest.raises(NotFoundException):
        box.files.list(tag)
    with pytest.raises(NotFoundException):
        box.files.get_info(tag)
