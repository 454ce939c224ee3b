"""What dies under a volume while a program in the sandbox reads it once a millisecond: the agent, the FUSE client, and a client that hangs."""
import json
import time
from e2b import Sandbox
from kube import OSS, kubectl, label, node, pod, until, volume

READER = r"""
import json, os, time
path, reads, failed, gap, since = "/data/file", 0, 0, 0.0, None
while True:
    reads += 1
    try:
        good = open(path).read() == "kept\n"
    except OSError:
        good = False
    now = time.monotonic()
    if good:
        gap, since = max(gap, now - since if since else 0.0), None
    else:
        failed, since = failed + 1, since or now
    with open("/tmp/new", "w") as f:
        json.dump({"reads": reads, "failed": failed, "gap": max(gap, now - since if since else 0.0), "good": good}, f)
    os.rename("/tmp/new", "/tmp/reads")
    time.sleep(0.001)
"""
sandbox = Sandbox.create("code-interpreter-inject-test", timeout=300, metadata=volume(OSS, "/data", "heal"))


def restarts(name):
    return next(s["restartCount"] for s in pod(sandbox)["status"]["initContainerStatuses"] if s["name"] == name)


def told():
    return json.loads(sandbox.files.read("/tmp/reads"))


def mount():
    mounts = json.loads(kubectl("get", "sbx", "-l", label(sandbox), "-o", "json"))["items"][0]["status"].get("mounts")
    return mounts[0] if mounts else {"phase": ""}


def client():
    return node("pgrep", "-f", "^[^ ]*s3fs .*/tmp/clients/", check=False).split()


def drill(name, do, over, seconds=90):
    before, begin = told(), time.monotonic()
    do()
    until(name, over, seconds)
    until("reads are good again", lambda: told()["good"])
    after = told()
    failed = after["failed"] - before["failed"]
    print(f"heal: {name}: {failed} of {after['reads'] - before['reads']} reads failed, "
          f"longest gap so far {after['gap'] * 1000:.0f} ms, over after {time.monotonic() - begin:.1f} s")
    return failed


try:
    sandbox.commands.run("echo kept > /data/file; sync /data/file")
    sandbox.files.write("/tmp/reader.py", READER)
    reader = sandbox.commands.run("python3 /tmp/reader.py", background=True, timeout=0)
    until("the reader reads", lambda: sandbox.files.exists("/tmp/reads") and told()["reads"] > 100)
    until("the mount is in the sandbox's status", lambda: (mount()["phase"], mount().get("verdict")) == ("Mounted", "live"))
    assert restarts("sandgate-csiagent") == 0

    failed = drill("agent killed", lambda: node("pkill", "-KILL", "-f", "^/csiagent serve"), lambda: restarts("sandgate-csiagent") == 1)
    assert failed == 0, f"{failed} reads failed, though only the agent died"

    until("the agent is told again", lambda: kubectl("get", "pod", "-l", label(sandbox), "-o", "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}") == "True")
    first = client()
    assert len(first) == 1, first
    drill("client killed", lambda: node("kill", "-KILL", *first), lambda: client() not in ([], first))
    until("the status says so", lambda: "healed" in mount().get("message", "") and mount()["phase"] == "Mounted", 60)
    print("heal:", mount()["message"])

    second = client()
    drill("client killed, the agent knows its volume", lambda: node("kill", "-KILL", *second), lambda: client() not in ([], second))
    third = client()
    drill("client stopped", lambda: node("kill", "-STOP", *third), lambda: client() not in ([], third) and third[0] not in client(), 150)
    until("the status says so", lambda: "did not answer" in mount().get("message", "") and mount()["phase"] == "Mounted", 60)
    print("heal:", mount()["message"])
    assert restarts("sandgate-clients") == 0
    events = kubectl("get", "events", "--field-selector", "involvedObject.kind=Sandbox", "-o", "jsonpath={.items[*].reason}")
    assert "MountHealed" in events and "MountHung" in events, events
finally:
    sandbox.kill()
