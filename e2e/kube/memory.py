"""FUSE clients in a container with little memory: a program in the sandbox makes one of them use more than there is."""
import json, os, sys, time, urllib.request
from e2b import Sandbox
from kube import OSS, VOLUME, kubectl, label, pod, says, until

LIMIT = "18Mi"  # two idle clients take 12 with their keeper; one of them with many files open for writing 20
CONFIG = ("configmap", "sandbox-injection-config", "-n", "sandbox-system")
LOAD = """
import threading
def write(i):
    try:
        while True:
            with open(f"/data/load{i}", "wb") as f:
                for _ in range(16):
                    f.write(bytes(1 << 20))
    except OSError:
        pass
for i in range(32):
    threading.Thread(target=write, args=(i,)).start()
"""


def runtime():
    """The shipped runtime csi with little memory for its clients, under a name of its own."""
    text = json.loads(kubectl("get", *CONFIG, "-o", "json"))["data"]["csi"]
    before, mark, rest = text.partition("- name: sandgate-clients\n")
    rest = rest.replace("memory: 32Mi", "memory: " + LIMIT, 1).replace("memory: 512Mi", "memory: " + LIMIT, 1)
    assert rest.count("memory: " + LIMIT) == 2, rest
    patch(before + mark + rest)


def patch(text):
    kubectl("patch", *CONFIG, "--type=merge", "--patch-file=/dev/stdin", stdin=json.dumps({"data": {"csi-small": text}}))


def mounts(sandbox):
    """As the API tells of them."""
    ask = urllib.request.Request(f"{os.environ['E2B_API_URL']}/sandboxes/{sandbox.sandbox_id}/mounts", headers={"X-API-Key": os.environ["E2B_API_KEY"]})
    with urllib.request.urlopen(ask, timeout=20) as answer:
        return {m["mountPath"]: m for m in json.loads(answer.read())["mounts"]}


def events(name):
    return kubectl("get", "events", "--field-selector", f"involvedObject.kind=Sandbox,involvedObject.name={name}", "-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}")


def drill():
    sandbox = Sandbox.create("tight", timeout=300, metadata={VOLUME + "config": json.dumps([
        {"pvName": OSS, "mountPath": "/data", "subPath": "memory"}, {"pvName": "tenants", "mountPath": "/shared", "subPath": "memory"}, {"pvName": "scratch", "mountPath": "/scratch"}])})
    name = pod(sandbox)["metadata"]["name"]
    try:
        sandbox.commands.run("for d in /data /shared /scratch; do echo kept > $d/file; done; sync /data/file /shared/file")
        sandbox.files.write("/tmp/load.py", LOAD)
        begin = time.monotonic()
        sandbox.commands.run("python3 /tmp/load.py", background=True, timeout=0)
        told = lambda: json.loads(kubectl("get", "sbx", name, "-n", "default", "-o", "json"))["status"].get("mounts", [])
        why = lambda: next((m for m in told() if m["path"] == "/data"), {"phase": ""})
        until("the status says why", lambda: "no memory left" in why().get("message", ""), 45)
        until("the volume works again", lambda: why()["phase"] == "Mounted" and says(sandbox, "cat /data/file", "kept"), 45)
        print(f"memory: {time.monotonic() - begin:.1f} s after the load began: {why()['message']}")
        api = mounts(sandbox)
        assert "no memory left" in api["/data"]["message"] and api["/data"]["phase"] == "Mounted", api
        until("an event says why", lambda: "MountHealed" in events(name) and "no memory left" in events(name), 20)
        for path in ("/shared", "/scratch"):
            assert api[path]["phase"] == "Mounted" and not api[path].get("message"), api
            assert says(sandbox, f"cat {path}/file", "kept"), path
        status = pod(sandbox)["status"]
        counts = {s["name"]: s["restartCount"] for s in status["initContainerStatuses"] + status["containerStatuses"]}
        assert not any(counts.values()), counts

        # Who stays in a directory of the volume until he is killed keeps its client, and loses nothing.
        sandbox.commands.run("pkill -f load.py; cd /shared && echo last > words && exec sleep 1000", background=True, timeout=0)
        until("it stays there", lambda: says(sandbox, "readlink /proc/[0-9]*/cwd | grep -q ^/shared && cat /shared/words", "last"), 20)
    finally:
        sandbox.kill()
    took = until("it has gone", lambda: not kubectl("get", "sbx", name, "-n", "default", "--ignore-not-found", "-o", "name"), 60)
    assert "tenants" not in "".join(line for line in events(name).splitlines() if line.startswith("DataLoss")), events(name)
    print(f"memory: the sandbox is gone {took:.1f} s after it was killed, and what was written into the volume that it was in is said to be kept")


{"runtime": runtime, "drill": drill, "away": lambda: patch(None)}[sys.argv[1]]()
