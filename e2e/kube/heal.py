"""A volume comes back by itself after the agent was killed; the sandbox and its processes go on."""
import os, subprocess, time
from e2b import Sandbox


def kubectl(*args):
    return subprocess.run([os.environ["CLUSTER"], "exec", "kubectl", *args], check=True, capture_output=True, text=True).stdout


def until(what, holds, seconds=90):
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() - begin < seconds, f"not in {seconds} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - begin


sandbox = Sandbox.create("code-interpreter-inject-test", timeout=180, metadata={
    "e2b.agents.kruise.io/csi-volume-name": "oss-pv-sandbox-system", "e2b.agents.kruise.io/csi-mount-point": "/data",
    "e2b.agents.kruise.io/csi-subpath": "heal"})
label = "agents.kruise.io/sandbox-id=" + sandbox.sandbox_id


def restarts():
    return kubectl("get", "pod", "-l", label, "-o", 'jsonpath={.items[0].status.initContainerStatuses[?(@.name=="sandgate-csiagent")].restartCount}')


def kept():
    try:
        return sandbox.commands.run("cat /data/file", timeout=5).stdout == "kept\n"
    except Exception:
        return False


try:
    sandbox.commands.run("echo kept > /data/file; sync /data/file; sleep 1000 & echo $! > /tmp/pid")
    until("the mount is in the sandbox's status", lambda: kubectl("get", "sbx", "-l", label, "-o", "jsonpath={.items[0].status.mountSummary}") == "1/1")
    assert restarts() == "0"
    subprocess.run([os.environ["CLUSTER"], "node", "pkill", "-KILL", "-f", "^/csiagent serve"], check=True)
    begin = time.monotonic()
    until("the agent ended", lambda: not kept() or restarts() == "1")
    until("the agent is there again", lambda: restarts() == "1")
    until("the volume is back", kept)
    print(f"heal: ok, {time.monotonic() - begin:.1f} s after the kill")
    sandbox.commands.run("kill -0 $(cat /tmp/pid)")
finally:
    sandbox.kill()
