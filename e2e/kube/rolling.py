"""Claimed sandboxes stay as they are while stock is replaced, while the ConfigMap is broken, and when their container is killed."""
import json
from e2b import Sandbox
from kube import OSS, kubectl, node, objects, pod, says, until, volume

CM = ("configmap", "sandbox-injection-config", "-n", "sandbox-system")


def stock():
    return {s["metadata"]["name"] for s in objects("sbx", "-l", "agents.kruise.io/sandbox-pool=base") if not s["spec"].get("claim")}


def pool():
    return json.loads(kubectl("get", "sbs", "base", "-n", "default", "-o", "json"))


def condition(kind):
    return next((c for c in pool()["status"].get("conditions", []) if c["type"] == kind), {})


def full():
    status = pool()["status"]
    return status.get("availableReplicas") == 2 and status.get("updatedReplicas") == 2


def configure(csi):
    kubectl("patch", *CM, "--type=merge", "--patch-file=/dev/stdin", stdin=json.dumps({"data": {"csi": csi}}))


sandbox = Sandbox.create("base", timeout=600, metadata=volume(OSS, "/data", "rolling"))
try:
    sandbox.commands.run("echo kept > /data/file; sync /data/file")
    mine = pod(sandbox)["metadata"]["uid"]
    until("the pool is full", full)
    good, before = json.loads(kubectl("get", *CM, "-o", "json"))["data"]["csi"], stock()

    configure("sidecars: {")
    until("the condition says what is wrong", lambda: condition("InjectionConfigured").get("status") == "False")
    print("rolling: broken:", condition("InjectionConfigured")["message"][:140])
    assert stock() == before
    other = Sandbox.create("base", timeout=60)
    until("the last good one makes new stock", lambda: full() and len(stock()) == 2)
    other.kill()

    before = stock()
    configure(good.replace("periodSeconds: 2", "periodSeconds: 3"))
    until("the condition is good again", lambda: condition("InjectionConfigured").get("status") == "True")
    took = until("all stock is new", lambda: full() and not stock() & before, 180)
    print(f"rolling: two replaced in {took:.0f} s, and none of them claimed")
    assert pod(sandbox)["metadata"]["uid"] == mine and says(sandbox, "cat /data/file", "kept")
    configure(good)

    before = pod(sandbox)["status"]["containerStatuses"][0]["restartCount"]
    container = pod(sandbox)["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    node("sh", "-c", f"ctr -a /run/containerd/containerd.sock -n k8s.io task kill -s SIGKILL {container}")
    took = until("the volume is back in the new container", lambda: pod(sandbox)["status"]["containerStatuses"][0]["restartCount"] == before + 1
                 and says(sandbox, "cat /data/file", "kept"))
    print(f"rolling: killed container: volume and daemon are back in {took:.1f} s")
finally:
    sandbox.kill()
until("the pool is full", lambda: full() and len(stock()) == 2, 180)
