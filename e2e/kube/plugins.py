"""A volume of a CSI driver that nobody here wrote: written, read back, read-only beside it, its plugin killed, there for the next sandbox."""
import os, pathlib, re, sys
from e2b import Sandbox
from kube import kubectl, node, pod, says, until, volume

template, name, missing, plugin = sys.argv[1:]
secrets = os.environ["CANARIES"].split(",")
helpers = {}
exec(re.search(r"```python\n(.*?)```", pathlib.Path("docs/mounts.md").read_text(), re.S)[1], helpers)


def running():
    """The plugin's processes on the node, one in each pod that has it."""
    return [line.split()[0] for line in node("ps", "-eo", "pid,comm").splitlines() if line.split()[1] == plugin]


def mounted():
    """What processes of the node see mounted below /data, or by an agent for its plugin."""
    text = node("sh", "-c", "cat /proc/[0-9]*/mountinfo 2>/dev/null; true")
    return {f[4] for f in map(str.split, text.splitlines()) if re.match(r"/data|/var/lib/sandgate-agent/csi/(stages|places)/", f[4])}


sandbox = Sandbox.create(template, timeout=300, metadata=volume(name, "/data", "work"))
try:
    pod_name = pod(sandbox)["metadata"]["name"]
    got = sandbox.commands.run("echo once > /data/first; sync /data/first; cat /data/first; stat -f -c %T /data; id -u; stat -c %u /data/first").stdout.split()
    assert got[0] == "once", got
    print(f"{name}: a {got[1]}, written by user {got[2]}, files belong to user {got[3]}")
    assert any("/stages/" in at for at in mounted()) or plugin == "hostpathplugin", "the S3 driver mounts where it stages"  # the other one only keeps account
    assert any("/places/" in at for at in mounted())

    before = running()
    assert before
    node("kill", "-9", *before)
    assert says(sandbox, "cat /data/first", "once"), "the volume does not need its plugin"
    item = helpers["mount"](sandbox.sandbox_id, name, "/data-ro", subPath="work", readOnly=True)
    assert not set(before) & set(running()), "it was another plugin"
    assert says(sandbox, "cat /data-ro/first", "once")
    for user in ("user", "root"):
        assert "Read-only" in sandbox.commands.run("touch /data-ro/x 2>&1 || true", user=user).stdout
    assert helpers["unmount"](sandbox.sandbox_id, item["mountID"]) is True
    assert says(sandbox, "cat /data/first; ls -A /data-ro | wc -l", "once\n0"), "the other mount stays"
    for user in ("user", "root"):
        seen = sandbox.commands.run("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo 2>/dev/null | tr '\\0' ' '; true", user=user).stdout
        assert not any(s in seen for s in secrets), "the sandbox sees a credential"
    said = kubectl("logs", pod_name, "-n", "default", "-c", "sandgate-csiagent")
    assert "plugin started" in said and not any(s in said for s in secrets), "a credential is in the agent's log"
finally:
    sandbox.kill()
took = until("nothing is mounted", lambda: not mounted(), 60)
print(f"{name}: nothing was mounted {took:.1f} s after the kill")

until("another sandbox is ready", lambda: kubectl("get", "sbs", template, "-n", "default", "-o", "jsonpath={.status.availableReplicas}") == "1", 90)
sandbox = Sandbox.create(template, timeout=300, metadata=volume(name, "/data", "work"))
try:
    assert sandbox.commands.run("cat /data/first; echo again > /data/second; sync /data/second").stdout == "once\n"
finally:
    sandbox.kill()
until("nothing is mounted", lambda: not mounted(), 60)

for pool, pv in ((template, missing), ("base", name)):
    try:
        Sandbox.create(pool, timeout=60, metadata=volume(pv, "/data")).kill()
    except Exception as e:
        assert not any(s in str(e) for s in secrets + ["/var/lib"]), e
        print(f"{pv} in {pool} is answered with: {str(e)[:300]}")
        continue
    raise SystemExit(f"not refused: {pv} in {pool}")
until("nothing is mounted", lambda: not mounted(), 60)
