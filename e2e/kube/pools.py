"""Volumes of a pool, and a claim that a request names."""
import sys
from e2b import Sandbox
from kube import kubectl, objects, says, until

PVC = "e2b.agents.kruise.io/csi-pvc-name"
POINT = "e2b.agents.kruise.io/csi-mount-point"
model = sys.argv[1]


def refused(metadata):
    try:
        Sandbox.create("furnished", timeout=60, metadata=metadata).kill()
    except Exception as e:
        return str(e)
    raise SystemExit(f"not refused: {metadata}")


def stock():
    """The unclaimed sandboxes of the pool that can be claimed."""
    return [s for s in objects("sbx") if s["metadata"]["labels"].get("agents.kruise.io/sandbox-pool") == "furnished"
            and "claim" not in s["spec"] and s.get("status", {}).get("state") == "available"]


for s in stock():
    assert s["status"]["mountSummary"] == "2/2", s["status"]
    assert sorted(m["source"].split(":")[0] for m in s["status"]["mounts"]) == ["pool/models", "pool/work"], s["status"]
pods = [p for p in objects("pod") if p["metadata"]["labels"].get("agents.kruise.io/sandbox-pool") == "furnished"]
assert pods and not any(m["name"].startswith("sandgate-pool-") for p in pods for c in p["spec"]["containers"] for m in c["volumeMounts"])

a = Sandbox.create("furnished", timeout=120, metadata={PVC: "scratch", POINT: "/scratch"})
b = Sandbox.create("furnished", timeout=120)
try:
    for s in (a, b):
        assert s.commands.run("cat /models/model").stdout == model
        assert s.commands.run(f"echo {s.sandbox_id} > /work/f && stat -c %u /work/f /work && ls -A /work").stdout == "1000\n1000\nf\n"
        assert s.commands.run("cat /work/f").stdout.strip() == s.sandbox_id
        for user in ("user", "root"):
            assert "Read-only" in s.commands.run("echo x > /models/x || true", user=user).stderr
            assert s.commands.run("mount -o remount,rw /models || umount /models || echo kept", user=user).stdout.strip() == "kept"
        assert s.commands.run("ls -A /work/..").stdout.split().count("work") == 1, "above it is the sandbox's own root"
    a.commands.run("echo shared > /data/f", user="root")
    assert b.commands.run("cat /data/f").stdout == "shared\n", "a claim's volume is one"
    a.commands.run("echo mine > /scratch/f")
    assert "tmpfs" in a.commands.run("stat -f -c %T /scratch").stdout
    for metadata in ({PVC: "pool-data", POINT: "/x"}, {PVC: "no-such-claim", POINT: "/x"}):
        assert "no PersistentVolumeClaim of that name that you may mount" in refused(metadata)
    print("a place of the pool's is answered with:", refused({PVC: "scratch", POINT: "/work/in"})[:160])

    name = next(p["metadata"]["name"] for p in objects("pod") if p["metadata"]["labels"].get("agents.kruise.io/sandbox-id") == a.sandbox_id)
    kubectl("exec", name, "-c", "sandbox", "--", "bash", "-c", "kill 1", check=False)
    back = until("the volumes of a container that was started again", lambda: says(a, "cat /work/f /models/model", a.sandbox_id + "\n" + model), 60)
    print(f"the volumes of a container that was ended are back {back:.1f} s later")
finally:
    a.kill()
    b.kill()

until("the pool is full again", lambda: len(stock()) == 2, 120)  # else what is still being made would be taken for new
before = {s["metadata"]["name"] for s in stock()}
kubectl("patch", "sbs", "furnished", "--type=json", "-p",
        '[{"op": "replace", "path": "/spec/volumes/1/subPath", "value": "newer"}]')
took = until("stock with the new volume", lambda: len(now := stock()) == 2 and not before & {s["metadata"]["name"] for s in now}, 120)
c = Sandbox.create("furnished", timeout=60)
try:
    assert c.commands.run("cat /models/model").stdout == "newer"
finally:
    c.kill()
print(f"stock was replaced {took:.1f} s after a volume had changed")
