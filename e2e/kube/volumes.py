"""Several volumes by csi-volume-config: each is really mounted, read-only holds, and what is wrong is refused before a sandbox is claimed."""
import json, os, urllib.request
from e2b import Sandbox, SandboxException
from kube import until

CONFIG = "e2b.agents.kruise.io/csi-volume-config"
TEMPLATE = "code-interpreter-inject-test"

try:
    Sandbox.create(TEMPLATE, metadata={CONFIG: '[{"pvName":"no-such-pv","mountPath":"/a"},{"pvName":"scratch","mountPath":"/proc/x"},{"pvName":"tenants","mountPath":"/data"}]'})
    raise SystemExit("bad volumes were accepted")
except SandboxException as e:
    for place in ("csi-volume-config[0].pvName", "csi-volume-config[1].mountPath", "csi-volume-config[2].mountPath"):
        assert place in str(e), e

sandbox = Sandbox.create(TEMPLATE, timeout=120, envs={"WHO": "me"}, metadata={CONFIG: json.dumps([
    {"pvName": "scratch", "mountPath": "/scratch"},
    {"pvName": "oss-pv-sandbox-system", "mountPath": "/data", "subPath": "many"},
    {"pvName": "tenants", "mountPath": "/shared/mine", "subPath": "a"},
    {"pvName": "oss-pv-sandbox-system", "mountPath": "/data-ro", "subPath": "many", "readOnly": True},
])})
try:
    run = lambda c: sandbox.commands.run(c).stdout.strip()
    assert run("echo $WHO $E2B_SANDBOX_ID") == f"me {sandbox.sandbox_id}"
    assert run("id -un") == "user"
    run("echo one > /scratch/a && echo two > /data/b")
    assert run("cat /scratch/a /data/b") == "one\ntwo"
    assert run("touch /data-ro/c 2>&1 || true").endswith("Read-only file system")
    assert run("stat -f -c %T /scratch /data") == "tmpfs\nfuseblk", run("stat -f -c %T /scratch /data")
    run("echo mine > /shared/mine/file")
    sandbox.files.write("/data/d", "by the files API")
    assert sandbox.files.read("/data/d") == "by the files API"
    # A service that listens on the loopback only, as development servers do.
    sandbox.commands.run("cd /data && python3 -m http.server 8000 --bind 127.0.0.1", background=True, timeout=0)
    asked = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/d", headers={"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"})

    def served():
        try:
            return urllib.request.urlopen(asked, timeout=5).read() == b"by the files API"
        except OSError:
            return False

    until("a service on the loopback is reached", served, 20)
    assert [s.sandbox_id for s in Sandbox.list().next_items()] == [sandbox.sandbox_id]
finally:
    assert sandbox.kill()
assert not sandbox.kill(), "a second kill finds nothing"
print("volumes: ok")
