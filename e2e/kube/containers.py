"""Two containers of one sandbox: ephemeral volumes that they share, and a volume in the second one."""
import json
from e2b import Sandbox
from kube import OSS, kubectl, node, pod, until

EPHEMERAL = "sandgate.dev/ephemeral-volumes"
CONFIG = "e2b.agents.kruise.io/csi-volume-config"


def refused(metadata, want):
    try:
        Sandbox.create("two", timeout=60, metadata=metadata).kill()
    except Exception as e:
        assert want in str(e), e
        return
    raise SystemExit(f"not refused: {metadata}")


def ephemeral(size, *mounts):
    return {EPHEMERAL: json.dumps([{"name": "own", "size": size, "mounts": list(mounts)}])}


refused(ephemeral("1Mi", {"path": "/own", "container": "third"}), 'no container of that name; it has "writer", "reader"')
refused(ephemeral("1Gi", {"path": "/own"}), "its memory is limited to")
refused(ephemeral("1Mi", {"path": "/tmp/own"}), "must not be below /tmp")

metadata = ephemeral("4Mi", {"path": "/own"}, {"path": "/seen", "container": "reader", "readOnly": True})
metadata[CONFIG] = json.dumps([{"pvName": OSS, "mountPath": "/bucket", "container": "reader"}])
s = Sandbox.create("two", timeout=180, metadata=metadata)
try:
    name = pod(s)["metadata"]["name"]

    def reader(command):
        return kubectl("exec", name, "-c", "reader", "--", "/bin/bash", "-c", "{ " + command + "; } 2>&1 || true")

    def heart(but=""):
        beat = reader("cat /srv/runtime/heartbeat.txt").strip()
        return beat if beat.isdigit() and beat != but else ""

    def beats():  # the writer's, once a second: the volume may be younger than that
        until("the reader sees a heart beat", heart, 15)
        seen = heart()
        until("the reader sees another", lambda: heart(but=seen), 15)

    beats()
    assert "Read-only file system" in reader("echo x > /srv/runtime/x"), reader("cat /proc/mounts")
    assert "Read-only file system" in reader("echo x > /seen/x")
    got = s.commands.run("dd if=/dev/zero of=/own/big bs=1M count=8 || true; stat -c %s /own/big; rm /own/big; echo kept > /own/f")
    assert "No space left" in got.stderr and got.stdout.split()[0] == str(4 << 20), got
    got = s.commands.run("i=0; while touch /srv/runtime/f$i; do i=$((i+1)); done 2>/tmp/err; cat /tmp/err; rm /srv/runtime/f*; echo $i")
    assert "No space left" in got.stdout and int(got.stdout.split()[-1]) < 64, got
    assert reader("cat /seen/f").strip() == "kept"

    reader("echo hello > /bucket/two; sync")
    assert reader("cat /bucket/two").strip() == "hello"
    assert s.commands.run("test ! -e /bucket && echo absent").stdout.strip() == "absent", "it is the reader's"

    def status():
        return next(c for c in pod(s)["status"]["containerStatuses"] if c["name"] == "reader")

    before = status()["containerID"]
    runtime = before.split("//")[1]
    found = node("sh", "-c", f"grep -ls {runtime} /proc/[0-9]*/cgroup | head -n 1 | cut -d/ -f3").strip()
    assert found.isdigit(), found
    node("sh", "-c", f"kill -9 {found}")
    until("the reader is started again", lambda: status()["containerID"] != before and status()["ready"], 120)
    took = until("its mounts are back", lambda: "kept" in reader("cat /seen/f") and "hello" in reader("cat /bucket/two"), 60)
    beats()
    assert "Read-only file system" in reader("echo x > /seen/x")
    print(f"mounts of a container that was killed: back {took:.1f} s after it was ready again")
finally:
    s.kill()
