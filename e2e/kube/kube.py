"""What the programs on the cluster share. run.sh sets CLUSTER, the script that the cluster is driven by."""
import json, os, subprocess, time

CLUSTER = os.environ["CLUSTER"]
VOLUME = "e2b.agents.kruise.io/csi-volume-"
OSS = "oss-pv-sandbox-system"


def cluster(*args, stdin=None, check=True):
    return subprocess.run([CLUSTER, *args], check=check, capture_output=True, text=True, input=stdin).stdout


def kubectl(*args, stdin=None, check=True):
    try:
        return cluster("exec", "kubectl", *args, stdin=stdin, check=check)
    except subprocess.CalledProcessError as e:
        raise AssertionError(f"kubectl {' '.join(args)}: {e.stderr}") from None


def objects(kind, *args):
    return json.loads(kubectl("get", kind, "-A", "-o", "json", *args))["items"]


def node(*args, check=True):
    return cluster("node", *args, check=check)


def until(what, holds, seconds=90, pause=0.2):
    """Polls until holds() is true; returns the seconds it took."""
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() - begin < seconds, f"not in {seconds} s: {what}"
        time.sleep(pause)
    return time.monotonic() - begin


def label(sandbox):
    return "agents.kruise.io/sandbox-id=" + sandbox.sandbox_id


def pod(sandbox):
    return json.loads(kubectl("get", "pod", "-l", label(sandbox), "-o", "json"))["items"][0]


def volume(name, path, sub_path=None):
    m = {VOLUME + "name": name, "e2b.agents.kruise.io/csi-mount-point": path}
    return m | ({"e2b.agents.kruise.io/csi-subpath": sub_path} if sub_path else {})


def says(sandbox, command, want, **kw):
    """Whether the command prints want; False as well when it cannot be run."""
    try:
        return sandbox.commands.run(command, timeout=5, request_timeout=10, **kw).stdout.strip() == want
    except Exception:
        return False
