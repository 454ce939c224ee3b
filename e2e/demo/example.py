from e2b_code_interpreter import Sandbox

sbx = Sandbox.create(template="code-interpreter-inject-test", timeout=300, metadata={
    "e2b.agents.kruise.io/csi-volume-name": "oss-pv-sandbox-system",  # The name of the OSS PersistentVolume.
    "e2b.agents.kruise.io/csi-mount-point": "/data-oss",
    "e2b.agents.kruise.io/csi-subpath": "data-subPath",  # A relative path that specifies a subdirectory within the OSS bucket.
})
print(f"sandbox id: {sbx.sandbox_id}")

print(sbx.commands.run("id -un; findmnt -no FSTYPE,OPTIONS /data-oss || grep data-oss /proc/mounts").stdout)
sbx.commands.run("echo written by a command in $(hostname) > /data-oss/hello.txt")
sbx.files.write("/data-oss/from-the-files-api.txt", "written by the files API\n")
for entry in sbx.files.list("/data-oss"):
    print(f"in the sandbox: {entry.path} ({entry.size} bytes)")
print(sbx.files.read("/data-oss/hello.txt"), end="")

sbx.kill()
print("killed")
