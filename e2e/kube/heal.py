"""A volume comes back by itself after the agent was killed; the sandbox and its processes go on."""
import time
from e2b import Sandbox
from kube import OSS, kubectl, label, node, pod, says, until, volume

sandbox = Sandbox.create("code-interpreter-inject-test", timeout=180, metadata=volume(OSS, "/data", "heal"))


def restarts():
    return next(s["restartCount"] for s in pod(sandbox)["status"]["initContainerStatuses"] if s["name"] == "sandgate-csiagent")


try:
    sandbox.commands.run("echo kept > /data/file; sync /data/file; sleep 1000 & echo $! > /tmp/pid")
    until("the mount is in the sandbox's status", lambda: kubectl("get", "sbx", "-l", label(sandbox), "-o", "jsonpath={.items[0].status.mountSummary}") == "1/1")
    assert restarts() == 0
    node("pkill", "-KILL", "-f", "^/csiagent serve")
    begin = time.monotonic()
    kept = lambda: says(sandbox, "cat /data/file", "kept")
    until("the agent ended", lambda: not kept() or restarts() == 1)
    until("the agent is there again", lambda: restarts() == 1)
    until("the volume is back", kept)
    print(f"heal: ok, {time.monotonic() - begin:.1f} s after the kill")
    sandbox.commands.run("kill -0 $(cat /tmp/pid)")
finally:
    sandbox.kill()
