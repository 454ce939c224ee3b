import json
import os

import pytest
from e2b import Sandbox

from conftest import PREFIX, eventually, sandbox_of, volume


def config(*mounts):
    return {PREFIX + "volume-config": json.dumps(list(mounts))}


def run(box, command, **options):
    return box.commands.run(command, **options).stdout


def fails(box, command, **options):
    return run(box, f"({command}) 2>&1; echo status=$?", **options)


def test_the_contracts_example_with_an_object_store(tag):
    from e2b_code_interpreter import Sandbox as Interpreter

    sbx = Interpreter.create(template="code-interpreter-inject-test", timeout=300, metadata={
        "e2b.agents.kruise.io/csi-volume-name": "oss-pv-sandbox-system",
        "e2b.agents.kruise.io/csi-mount-point": "/data-oss",
        "e2b.agents.kruise.io/csi-subpath": "data-subPath",
    })
    try:
        assert run(sbx, "stat -c %U /data-oss") == "user\n"
        assert run(sbx, f"echo from-a-command > /data-oss/{tag} && cat /data-oss/{tag}") == "from-a-command\n"
        sbx.files.write(f"/data-oss/{tag}.api", "from the files API")
        assert {tag, tag + ".api"} <= {e.name for e in sbx.files.list("/data-oss")}
    finally:
        sbx.kill()
    bucket = os.path.join(os.environ["WORLD_BUCKET"], "data-subPath")
    with open(os.path.join(bucket, tag)) as f:
        assert f.read() == "from-a-command\n"
    with open(os.path.join(bucket, tag + ".api")) as f:
        assert f.read() == "from the files API"


def test_a_tmpfs_volume_is_the_users_and_has_its_size():
    with sandbox_of(metadata=volume("scratch", "/data")) as box:
        assert run(box, "stat -fc %T /data; stat -c %U /data") == "tmpfs\nuser\n"
        assert run(box, "echo x > /data/f; cat /data/f") == "x\n"
        out = fails(box, "dd if=/dev/zero of=/data/big bs=1M count=20")
        assert "No space left" in out and "status=1" in out


def test_two_volumes_of_one_array(tag, shared):
    mounts = config({"pvName": "scratch", "mountPath": "/data/fast"}, {"pvName": "shared", "mountPath": "/data/host", "subPath": tag})
    with sandbox_of(metadata=mounts) as box:
        run(box, "echo a > /data/fast/f; echo b > /data/host/f")
        with open(os.path.join(shared, tag, "f")) as f:
            assert f.read() == "b\n"
        assert fails(box, "ls /data/fast /data/host").count("f\n") == 2


def test_the_array_wins_over_single_keys():
    both = volume("shared", "/single") | config({"pvName": "scratch", "mountPath": "/array"})
    with sandbox_of(metadata=both) as box:
        assert run(box, "stat -fc %T /array; test -e /single || echo absent") == "tmpfs\nabsent\n"


def test_e2bs_own_volume_mounts(tag):
    with sandbox_of(volume_mounts={"/data": "scratch"}) as box:
        assert run(box, "stat -fc %T /data") == "tmpfs\n"
        assert [(m["name"], m["path"]) for m in box.get_info().volume_mounts] == [("scratch", "/data")]


def test_a_host_path_volume_outlives_its_sandboxes(tag):
    with sandbox_of(metadata=volume("shared", "/data", subpath=f"{tag}/deep")) as one:
        run(one, "echo kept > /data/f")
    with sandbox_of(metadata=volume("shared", "/data", subpath=f"{tag}/deep")) as two:
        assert run(two, "cat /data/f; stat -c %U /data /data/f") == "kept\nuser\nuser\n"


def test_a_sub_path_shows_nothing_beside_it(tag):
    with sandbox_of(metadata=volume("shared", "/data", subpath=tag)) as box:
        assert run(box, "ls -A /data; ls -A /data/..") .count(tag) == 0


def test_read_only_is_read_only_for_root_too(tag, shared):
    os.makedirs(os.path.join(shared, tag))
    with open(os.path.join(shared, tag, "f"), "w") as f:
        f.write("original\n")
    mounts = config({"pvName": "shared", "mountPath": "/data", "subPath": tag, "readOnly": True})
    with sandbox_of(metadata=mounts) as box:
        assert run(box, "cat /data/f") == "original\n"
        for command in ("echo x > /data/f", "touch /data/new", "rm /data/f", "mount -o remount,rw /data"):
            assert "status=0" not in fails(box, command, user="root"), command
        assert "Read-only file system" in fails(box, "touch /data/new", user="root")


def test_no_set_user_id_and_no_devices_on_a_volume(tag):
    with sandbox_of(metadata=volume("shared", "/data", subpath=tag)) as box:
        options = run(box, "grep ' /data ' /proc/mounts")
        assert "nosuid" in options and "nodev" in options
        run(box, "cp /usr/bin/id /data/id && chown root /data/id && chmod 4755 /data/id", user="root")
        assert run(box, "/data/id -un") == "user\n"


def test_mounts_are_listed_with_their_state():
    import httpx

    with sandbox_of(metadata=volume("scratch", "/data")) as box:
        answer = httpx.get(f"{os.environ['E2B_API_URL']}/sandboxes/{box.sandbox_id}/mounts", headers={"X-API-Key": os.environ["E2B_API_KEY"]})
        assert answer.status_code == 200
        assert "scratch" in answer.text and "/data" in answer.text


refused = {
    "an unknown volume": (volume("no-such-volume", "/data"), "csi-volume-name: no PersistentVolume of that name"),
    "somebody's claimed volume": (volume("claimed", "/data"), "csi-volume-name: no PersistentVolume of that name"),
    "a driver that is not there": (volume("foreign", "/data"), "csi-volume-name.*not installed"),
    "a missing secret": (volume("oss-no-secret", "/data"), "csi-volume-name.*(?i:secret)"),
    "a volume without a mount point": ({PREFIX + "volume-name": "scratch"}, "csi-mount-point"),
    "a mount point without a volume": ({PREFIX + "mount-point": "/data"}, "csi-volume-name"),
    "a sub path alone": ({PREFIX + "subpath": "x"}, "csi-volume-name"),
    "a relative mount point": (volume("scratch", "data"), "csi-mount-point"),
    "a mount point with dots": (volume("scratch", "/data/../etc"), "csi-mount-point"),
    "the root": (volume("scratch", "/"), "csi-mount-point"),
    "below /etc": (volume("scratch", "/etc/x"), "csi-mount-point"),
    "above /usr": (volume("scratch", "/usr"), "csi-mount-point"),
    "a sub path that leaves the volume": (volume("shared", "/data", subpath="../.."), "csi-subpath"),
    "an absolute sub path": (volume("shared", "/data", subpath="/etc"), "csi-subpath"),
    "an array that is no JSON": ({PREFIX + "volume-config": "[{"}, "csi-volume-config"),
    "an unknown field": (config({"pvName": "scratch", "mountPath": "/data", "readonly": True}), "readonly"),
    "a wrong type": (config({"pvName": "scratch", "mountPath": 7}), "mountPath"),
    "the same target twice": (config({"pvName": "scratch", "mountPath": "/data"}, {"pvName": "shared", "mountPath": "/data"}), "mountPath|/data"),
    "a target in another": (config({"pvName": "scratch", "mountPath": "/data"}, {"pvName": "shared", "mountPath": "/data/in"}), "mountPath|/data"),
}


@pytest.mark.parametrize("name", refused)
def test_refused(name):
    metadata, place = refused[name]
    with pytest.raises(Exception, match=f"(?s)400.*({place})"):
        Sandbox.create(template="base", timeout=60, metadata=metadata).kill()


def test_a_host_path_that_is_not_allowed_is_refused():
    with pytest.raises(Exception, match="(?s)400.*csi-volume-name") as raised:
        Sandbox.create(template="base", timeout=60, metadata=volume("outside", "/data")).kill()
    assert "/etc" not in str(raised.value)


def test_all_faults_are_told_at_once():
    mounts = config({"pvName": "no-such-volume", "mountPath": "/data"}, {"pvName": "scratch", "mountPath": "relative"})
    with pytest.raises(Exception, match=r"(?s)csi-volume-config\[[01]\].*csi-volume-config\[[01]\]"):
        Sandbox.create(template="base", timeout=60, metadata=mounts).kill()


def test_a_pool_without_the_csi_runtime_refuses_volumes():
    with pytest.raises(Exception, match="(?s)400.*csi"):
        Sandbox.create(template="no-volumes", timeout=60, metadata=volume("scratch", "/data")).kill()


def test_a_volume_that_does_not_mount_is_named_and_nothing_is_handed_out(tag):
    before = {item.sandbox_id for item in Sandbox.list().next_items()}
    with pytest.raises(Exception, match="oss-wrong-key") as raised:
        Sandbox.create(template="base", timeout=60, metadata=volume("oss-wrong-key", "/data") | {"tag": tag})
    assert "akSecret" not in str(raised.value)
    assert eventually(lambda: {item.sandbox_id for item in Sandbox.list().next_items()} == before)
