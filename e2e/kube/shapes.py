"""Volumes in an image without a shell, in one that does not run as root, and on a root file system that cannot be written to."""
from e2b import Sandbox, SandboxException
from kube import OSS, volume


def refused(what, call):
    try:
        call()
    except Exception as e:
        return str(e)
    raise SystemExit("not refused: " + what)


sandbox = Sandbox.create("bare", timeout=120, metadata=volume(OSS, "/data", "bare"))
try:
    sandbox.files.write("/data/file", "no shell is needed")
    assert sandbox.files.read("/data/file") == "no shell is needed"
    assert [e.name for e in sandbox.files.list("/data")] == ["file"]
    print("bare: a command is answered with:", refused("a command without a shell", lambda: sandbox.commands.run("true", timeout=10))[:160])
finally:
    sandbox.kill()

sandbox = Sandbox.create("nonroot", timeout=120, metadata=volume(OSS, "/data", "nonroot"))
try:
    assert sandbox.commands.run("id -u; echo mine > /data/file; stat -c %u /data/file; cat /data/file").stdout == "1000\n1000\nmine\n"
    assert sandbox.commands.run("echo $FROM_POD $PLAIN $HOME").stdout == "default yes /home/user\n"
    assert sandbox.commands.run("grep CapEff /proc/self/status").stdout.split()[1].strip("0") == ""
    print("nonroot: root is answered with:", refused("root", lambda: sandbox.commands.run("true", user="root", timeout=10))[:160])
finally:
    sandbox.kill()

sandbox = Sandbox.create("readonly", timeout=120, metadata=volume(OSS, "/mnt", "readonly"))
try:
    assert sandbox.commands.run("echo through > /mnt/file; cat /mnt/file").stdout == "through\n"
    assert "Read-only" in sandbox.commands.run("touch /file 2>&1 || true", user="root").stdout
finally:
    sandbox.kill()
print("readonly: a missing mount point is answered with:",
      refused("a missing mount point", lambda: Sandbox.create("readonly", timeout=60, metadata=volume(OSS, "/missing"))))
