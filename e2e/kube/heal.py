"""A volume comes back by itself after the agent was killed; the sandbox and its processes go on."""
import os, subprocess, time
from e2b import Sandbox

sandbox = Sandbox.create("code-interpreter-inject-test", timeout=180, metadata={
    "e2b.agents.kruise.io/csi-volume-name": "oss-pv-sandbox-system", "e2b.agents.kruise.io/csi-mount-point": "/data",
    "e2b.agents.kruise.io/csi-subpath": "heal"})
try:
    sandbox.commands.run("echo kept > /data/file; sync /data/file")
    time.sleep(15)  # until the controller has seen the mount
    begin = time.monotonic()
    subprocess.run([os.environ["CLUSTER"], "node", "pkill", "-KILL", "-f", "^/csiagent serve"], check=True)
    while True:
        try:
            if sandbox.commands.run("cat /data/file", timeout=5).stdout == "kept\n" and time.monotonic() - begin > 2:
                break
        except Exception as e:
            last = e
        assert time.monotonic() - begin < 90, f"the volume does not come back: {last}"
        time.sleep(0.5)
    print(f"heal: ok, {time.monotonic() - begin:.1f} s after the kill")
finally:
    sandbox.kill()
