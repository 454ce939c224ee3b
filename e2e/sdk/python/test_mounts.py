import os
import re

import httpx

from conftest import eventually, sandbox_of, volume


class Mounts:
    """The helpers of docs/mounts.md, as they stand there."""

    def __init__(self):
        path = os.path.join(os.path.dirname(__file__), "..", "..", "..", "docs", "mounts.md")
        with open(path) as f:
            blocks = re.findall(r"^```python\n(.*?)^```", f.read(), re.S | re.M)
        self.of = {}
        exec(blocks[0], self.of)

    def __getattr__(self, name):
        return self.of[name]


mounts = Mounts()


def call(box, method, path="", **options):
    return httpx.request(
        method, f"{os.environ['E2B_API_URL']}/sandboxes/{box.sandbox_id}/mounts{path}",
        headers={"X-API-Key": os.environ["E2B_API_KEY"]}, timeout=60, **options,
    )


def run(box, command, **options):
    return box.commands.run(command, **options).stdout


def test_a_bucket_comes_and_goes_while_the_sandbox_lives(tag):
    with sandbox_of() as box:
        made = call(box, "POST", json={"pvName": "oss-pv-sandbox-system", "mountPath": "/data-oss", "subPath": tag})
        assert made.status_code == 201, made.text
        item = made.json()
        assert (item["pvName"], item["mountPath"], item["subPath"], item["readOnly"], item["phase"]) == ("oss-pv-sandbox-system", "/data-oss", tag, False, "Mounted")
        assert item["container"] and item["mountedAt"] and item["verdict"] in ("live", "slow")
        assert run(box, "stat -c %U /data-oss; echo through > /data-oss/f; cat /data-oss/f") == "user\nthrough\n"
        assert call(box, "GET").json()["mounts"] == [item]
        assert call(box, "GET", f"/{item['mountID']}").json() == item
        again = call(box, "POST", json={"pvName": "oss-pv-sandbox-system", "mountPath": "/data-oss", "subPath": tag})
        assert (again.status_code, again.json()) == (200, item)
        gone = call(box, "DELETE", f"/{item['mountID']}")
        assert (gone.status_code, gone.text) == (204, "")
        with open(os.path.join(os.environ["WORLD_BUCKET"], tag, "f")) as f:
            assert f.read() == "through\n"
        assert call(box, "GET").json()["mounts"] == []
        assert call(box, "DELETE", f"/{item['mountID']}").status_code == 404
        assert "denied" in run(box, "touch /data-oss/x 2>&1; true"), "beneath a volume that is gone nothing is written"


def test_a_volume_in_use_stays_until_it_is_forced():
    with sandbox_of() as box:
        item = mounts.mount(box.sandbox_id, "scratch", "/data")
        user = box.commands.run("sleep 300", cwd="/data", background=True)
        busy = call(box, "DELETE", f"/{item['mountID']}")
        assert busy.status_code == 409 and busy.json()["code"] == 409
        assert "in use" in busy.json()["message"]
        assert run(box, "stat -fc %T /data") == "tmpfs\n"
        assert call(box, "GET").json()["mounts"][0]["phase"] == "Mounted"
        forced = call(box, "DELETE", f"/{item['mountID']}?force=true")
        assert forced.status_code == 204, forced.text
        assert run(box, "stat -fc %T /data") != "tmpfs\n"
        user.kill()


def test_a_bucket_that_is_forced_off_an_open_file_says_that_data_may_be_missing(tag):
    with sandbox_of() as box:
        item = mounts.mount(box.sandbox_id, "oss-pv-sandbox-system", "/data-oss", subPath=tag)
        user = box.commands.run("exec 9>/data-oss/open; echo begun >&9; sleep 300", background=True)
        assert eventually(lambda: "open" in run(box, "ls /data-oss"))
        assert call(box, "DELETE", f"/{item['mountID']}").status_code == 409
        forced = call(box, "DELETE", f"/{item['mountID']}?force=true")
        assert forced.status_code == 200, forced.text
        assert forced.json()["dataMayBeMissing"] is True
        assert call(box, "GET").json()["mounts"] == []
        user.kill()


def test_an_unmount_waits_for_the_user_to_end(tag):
    with sandbox_of() as box:
        item = mounts.mount(box.sandbox_id, "shared", "/data", subPath=tag)
        user = box.commands.run("sleep 300", cwd="/data", background=True)
        assert call(box, "DELETE", f"/{item['mountID']}").status_code == 409
        user.kill()
        assert eventually(lambda: call(box, "DELETE", f"/{item['mountID']}").status_code == 204)


def test_another_spec_at_the_path_is_a_conflict():
    with sandbox_of(metadata=volume("scratch", "/data")) as box:
        for spec in (
            {"pvName": "shared", "mountPath": "/data"},
            {"pvName": "scratch", "mountPath": "/data", "readOnly": True},
            {"pvName": "scratch", "mountPath": "/data", "mountID": "other"},
            {"pvName": "shared", "mountPath": "/data/in"},
        ):
            answer = call(box, "POST", json=spec)
            assert answer.status_code == 409, (spec, answer.text)
            assert "mountPath" in answer.json()["message"]
        same = call(box, "POST", json={"pvName": "scratch", "mountPath": "/data"})
        assert same.status_code == 200, "also what the create has mounted"


def test_a_directory_with_content_is_hidden_only_when_asked(tag):
    with sandbox_of() as box:
        box.files.write("/home/user/full/f", "mine")
        spec = {"pvName": "shared", "mountPath": "/home/user/full", "subPath": tag}
        refused = call(box, "POST", json=spec)
        assert refused.status_code == 409 and "not empty" in refused.json()["message"]
        made = call(box, "POST", json=spec | {"allowNonEmpty": True})
        assert made.status_code == 201, made.text
        assert run(box, "ls /home/user/full") == ""
        assert call(box, "DELETE", f"/{made.json()['mountID']}").status_code == 204
        assert box.files.read("/home/user/full/f") == "mine"


def test_all_faults_of_a_mount_are_told_at_once():
    with sandbox_of() as box:
        answer = call(box, "POST", json={"pvName": "Nope", "mountPath": "relative", "subPath": "../x", "readonly": True, "container": "UPPER"})
        assert answer.status_code == 400
        for place in ("pvName: ", "mountPath: ", "subPath: ", "readonly: ", "container: "):
            assert place in answer.json()["message"], place
        other = call(box, "POST", json={"pvName": "scratch", "mountPath": "/data", "container": "other"})
        assert other.status_code == 400 and "no container of that name" in other.json()["message"]
        unknown = call(box, "POST", json={"pvName": "no-such-volume", "mountPath": "/data"})
        assert unknown.status_code == 400 and "pvName: no PersistentVolume of that name" in unknown.json()["message"]


def test_a_volume_that_does_not_mount_leaves_the_sandbox_as_it_was():
    with sandbox_of() as box:
        answer = call(box, "POST", json={"pvName": "oss-wrong-key", "mountPath": "/data"})
        assert answer.status_code >= 400 and "oss-wrong-key" in answer.json()["message"]
        assert call(box, "GET").json()["mounts"] == []
        assert run(box, "echo alive; ls -A /data 2>/dev/null; true") == "alive\n"
        assert call(box, "POST", json={"pvName": "scratch", "mountPath": "/data"}).status_code == 201


def test_the_helpers_of_the_documentation(tag, shared):
    os.makedirs(os.path.join(shared, tag))  # nothing is made for a reader
    with sandbox_of() as box:
        item = mounts.mount(box.sandbox_id, "shared", "/data", subPath=tag, readOnly=True)
        assert [m["mountID"] for m in mounts.mounts(box.sandbox_id)] == [item["mountID"]]
        assert mounts.unmount(box.sandbox_id, item["mountID"]) is True, "everything is written back"
        assert mounts.mounts(box.sandbox_id) == []


def test_a_dead_sandbox_and_somebody_elses_have_no_mounts():
    with sandbox_of() as box:
        pass
    assert call(box, "GET").status_code == 404
    assert call(box, "POST", json={"pvName": "scratch", "mountPath": "/data"}).status_code == 404
    assert call(box, "DELETE", "/any").status_code == 404
