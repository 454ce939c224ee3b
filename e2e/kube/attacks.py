"""Attacks from a tenant's pod, on a cluster whose network enforces nothing; and a search for the object store's credentials everywhere."""
import json, os
from e2b import Sandbox
from kube import OSS, cluster, kubectl, node, objects, pod, says, until, volume

CANARIES = [c for c in os.environ.pop("CANARIES").split(",") if c]
assert all(len(c) > 16 for c in CANARIES)


def everything():
    """What others than the credentials' holders can read: objects, events, logs, and all that a process in the sandbox sees of processes."""
    for kind in ("sbx", "sbs", "pods", "configmaps", "events", "pv"):
        yield kind, kubectl("get", kind, "-A", "-o", "yaml")
    for p in objects("pods"):
        for c in p["spec"]["containers"] + p["spec"].get("initContainers", []):
            where = (p["metadata"]["namespace"], p["metadata"]["name"], c["name"])
            yield "log of " + "/".join(where), kubectl("logs", "-n", where[0], where[1], "-c", where[2], check=False)
    yield "argv on the node", node("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    yield "environments on the node", node("sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '; true")


def canaries():
    return [what for what, text in everything() if any(c in text for c in CANARIES)]


kubectl("create", "configmap", "planted", "-n", "default", "--from-literal=x=" + CANARIES[0])
try:
    assert (found := canaries()) == ["configmaps"], f"planted in a ConfigMap, found in {found}"
finally:
    kubectl("delete", "configmap", "planted", "-n", "default")

tenant = Sandbox.create("base", timeout=600, metadata=volume(OSS, "/data", "tenant"))
other = Sandbox.create("base", timeout=600, metadata=volume(OSS, "/data", "other"))
try:
    other.commands.run("echo kept > /data/file; sync /data/file")
    ip = lambda s: pod(s)["status"]["podIP"]
    stock = lambda: [p["status"]["podIP"] for p in objects("pods", "-l", "agents.kruise.io/sandbox-pool=base")
                     if p["status"].get("podIP") not in (None, ip(tenant), ip(other)) and all(c["ready"] for c in p["status"]["containerStatuses"])]
    until("there is stock", stock)
    tenant.files.write("/tmp/inside.py", open(os.path.join(os.path.dirname(__file__), "inside.py")).read())
    told = {
        "own": tenant.sandbox_id, "other": ip(other), "stock": stock()[0], "token": tenant._envd_access_token, "node": pod(tenant)["status"]["hostIP"],
        "apiserver": kubectl("get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}") + ":443",
        "gateway": os.environ["E2B_API_URL"].removeprefix("http://"), "secrets": [other.sandbox_id],
        "internals": [p["status"]["podIP"] for p in objects("pods", "-l", "app.kubernetes.io/component in (gateway,controller)")],
    }
    tenant.files.write("/tmp/told", json.dumps(told))
    out = tenant.commands.run('python3 /tmp/inside.py "$(cat /tmp/told)"', user="root", timeout=170).stdout
    got = dict(json.loads(line) for line in out.splitlines())
    for name, came in got.items():
        print(f"{name}: {came!r:.100}")
    for name, came in got.items():
        if "agent, a publish" in name:
            assert "grpc-status" not in came or "16" in came, came
            assert "OK" not in came
        elif " agent " in name:
            assert came in (400, 404, 0), (name, came)
        elif "envd" in name and "/init" not in name:
            assert came in (401, 403), (name, came)
        elif "/init" in name:
            assert came in (400, 401, 403), (name, came)
        elif name in ("API server", "kubelet", "gateway without a key", "gateway with the sandbox's token as key"):
            assert came in (401, 403), (name, came)
        elif name.endswith("/debug/pprof/"):
            assert came == [404, False], (name, came)
        elif name.startswith("internals"):
            assert came[1] is False, (name, came)
        elif name.startswith("write"):
            assert came == "Read-only file system", (name, came)
        elif "hand over" in name:
            assert came in ("refused", ""), (name, came)
    assert got["service account"] is False
    assert got["replace the daemon"] != 0 and got["a user namespace of one's own"] != 0 and got["starters"] >= 1
    assert len(got) > 40, "the attacks did not run to their end"
    assert says(other, "cat /data/file", "kept"), "another sandbox has suffered"
    found = canaries()
    assert not found, "credentials are in: " + ", ".join(found)
    assert not any(c in out for c in CANARIES)
    for user in ("root", "user"):
        seen = tenant.commands.run("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo 2>/dev/null | tr '\\0' ' '; mount; ls -laR /.sandgate /run /tmp 2>/dev/null; true", user=user).stdout
        assert not any(c in seen for c in CANARIES)
finally:
    tenant.kill()
    other.kill()
print("attacks: ok")
