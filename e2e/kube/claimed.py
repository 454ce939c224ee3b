"""A claimed sandbox through an upgrade, an uninstall and an install of the chart. claimed.py STEP FILE; FILE keeps what the steps share."""
import json, sys
from e2b import Sandbox
from kube import OSS, kubectl, label, objects, pod, says, until, volume

step, *rest = sys.argv[1:]


def kept():
    with open(rest[0]) as f:
        return json.load(f)


def in_pod(k, command):
    return kubectl("exec", "-n", "default", k["pod"], "-c", "sandbox", "--", "sh", "-c", command)


if step == "create":
    sandbox = Sandbox.create("base", timeout=1800, metadata=volume(OSS, "/data", "claimed"))
    sandbox.commands.run("echo kept > /data/file; sync /data/file")
    pid = sandbox.commands.run("sleep 2000", background=True, timeout=0).pid
    until("the mount is in the sandbox's status", lambda: kubectl("get", "sbx", "-l", label(sandbox), "-o", "jsonpath={.items[0].status.mountSummary}") == "1/1")
    p = pod(sandbox)
    with open(rest[0], "w") as f:
        json.dump({"id": sandbox.sandbox_id, "pid": pid, "pod": p["metadata"]["name"], "uid": p["metadata"]["uid"]}, f)
elif step == "same":
    k = kept()
    sandbox = Sandbox.connect(k["id"])
    assert pod(sandbox)["metadata"]["uid"] == k["uid"]
    assert says(sandbox, f"kill -0 {k['pid']} && cat /data/file", "kept")
elif step == "alone":
    k = kept()
    p = json.loads(kubectl("get", "pod", "-n", "default", k["pod"], "-o", "json"))
    assert p["metadata"]["uid"] == k["uid"] and p["status"]["phase"] == "Running"
    assert in_pod(k, f"kill -0 {k['pid']} && cat /data/file && echo more > /data/more") == "kept\n"
elif step == "released":
    left = objects("sbx")
    assert all(s["spec"].get("claim") for s in left), [s["metadata"]["name"] for s in left]
    assert not any(s["metadata"].get("finalizers") for s in left)
    assert len(left) == 1
elif step == "end":
    k = kept()
    until("the sandbox is looked after again", lambda: objects("sbx", "-l", "agents.kruise.io/sandbox-id=" + k["id"])[0]["metadata"].get("finalizers"))
    sandbox = Sandbox.connect(k["id"], timeout=600)
    assert says(sandbox, f"kill -0 {k['pid']} && cat /data/file /data/more", "kept\nmore")
    assert sandbox.kill()
