"""Mounts that come and go in a running sandbox: by the helpers of docs/mounts.md as they stand there, and by spec.mounts of its Sandbox."""
import json, pathlib, re, urllib.error
from e2b import Sandbox
from kube import OSS, kubectl, objects, pod, says, until

helpers = {}
exec(re.search(r"```python\n(.*?)```", pathlib.Path("docs/mounts.md").read_text(), re.S)[1], helpers)
mount, mounts, unmount = helpers["mount"], helpers["mounts"], helpers["unmount"]


def refused(call, code):
    try:
        call()
    except urllib.error.HTTPError as e:
        assert e.code == code, (e.code, e.read())
        return e.read().decode()
    raise AssertionError(f"not refused; wanted {code}")


sandbox = Sandbox.create("base", timeout=300)
sid = sandbox.sandbox_id
try:
    item = mount(sid, OSS, "/data", subPath="live")
    sandbox.commands.run("echo live > /data/file; sync /data/file")
    assert mount(sid, OSS, "/data", subPath="live")["mountID"] == item["mountID"]
    refused(lambda: mount(sid, OSS, "/data", subPath="other"), 409)
    print("live: something in the way:", refused(lambda: mount(sid, OSS, "/home/user"), 409)[:300])
    refused(lambda: mount(sid, "no-such-pv", "/x"), 400)
    until("every replica has heard of it", lambda: [m["phase"] for m in mounts(sid)] == ["Mounted"], 20)
    held = sandbox.commands.run("cd /data && sleep 1000", background=True, timeout=0)
    used = "readlink /proc/[0-9]*/cwd | grep -q ^/data && echo used || echo free"
    until("it is in use", lambda: says(sandbox, used, "used"), 20)
    print("live: in use:", refused(lambda: unmount(sid, item["mountID"]), 409)[:140])
    assert says(sandbox, "cat /data/file", "live"), "one in use stays"
    held.kill()
    until("its user has ended", lambda: says(sandbox, used, "free"), 20)
    assert unmount(sid, item["mountID"]) is True
    assert says(sandbox, "ls /data | wc -l", "0")
    until("every replica has heard of its end", lambda: mounts(sid) == [], 20)

    name = pod(sandbox)["metadata"]["name"]
    patch = lambda op, **value: kubectl("patch", "sandbox", name, "-n", "default", "--type", "json", "-p", json.dumps([{"op": op, "path": "/spec/mounts", **value}]))
    patch("add", value=[{"id": "reports", "volume": OSS, "path": "/data", "subPath": "live"}])
    took = until("what kubectl adds is mounted", lambda: says(sandbox, "cat /data/file", "live"), 30)
    patch("remove")
    until("what kubectl takes out is unmounted", lambda: says(sandbox, "ls /data | wc -l", "0"), 30)
    until("the status tells so", lambda: not next(s for s in objects("sbx") if s["metadata"]["name"] == name)["status"].get("mounts"), 30)
    print(f"live: by kubectl in {took:.1f} s")
except BaseException:
    print("live: as it is:", json.dumps([[s["spec"].get("mounts"), s["status"]] for s in objects("sbx") if s["metadata"]["labels"].get("agents.kruise.io/sandbox-id") == sid]))
    raise
finally:
    sandbox.kill()
