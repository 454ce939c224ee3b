"""What sandboxes left behind: claimed objects, the API's list, orphans, volumes in any mount table of the node, clients of object stores.
With the word `planted` it plants one leak of each kind and fails unless each is found."""
import subprocess, sys, uuid
from e2b import Sandbox
from kube import CLUSTER, kubectl, node, objects

TARGETS = ("/data", "/data-ro", "/scratch", "/shared")


def leaks():
    found = []
    sandboxes = objects("sbx")
    found += [f"claimed sandbox {s['metadata']['name']}" for s in sandboxes if s["spec"].get("claim")]
    found += [f"the API lists {s.sandbox_id}" for s in Sandbox.list().next_items()]
    names = {s["metadata"]["name"] for s in sandboxes}
    found += [f"pod {p['metadata']['name']} without its sandbox" for p in objects("pod", "-l", "agents.kruise.io/sandbox-id") if p["metadata"]["name"] not in names]
    found += [f"secret {s['metadata']['name']} without its sandbox" for s in objects("secret", "-l", "agents.kruise.io/sandbox-id")
              if s["metadata"]["name"].removesuffix("-agent") not in names]
    seen = set()
    for line in node("sh", "-c", "cat /proc/[0-9]*/mountinfo 2>/dev/null; true").splitlines():
        fields = line.split()
        kind, where = fields[fields.index("-") + 1], fields[4]
        if fields[0] not in seen and (kind == "fuse.s3fs" or where in TARGETS):
            found.append(f"a {kind} is mounted at {where}")
        seen.add(fields[0])
    for line in node("ps", "-eo", "pid,args").splitlines():
        if len(words := line.split()) > 1 and words[1].rpartition("/")[2] == "s3fs":
            found.append(f"process {words[0]} is an s3fs")
    return found


def planted():
    name = "planted-" + uuid.uuid4().hex[:8]
    node("sh", "-c", "mkdir -p /scratch && mount -t tmpfs planted /scratch")
    try:
        require("is mounted at /scratch")
    finally:
        node("umount", "/scratch")
        node("rmdir", "/scratch")
    process = subprocess.Popen([CLUSTER, "node", "bash", "-c", "exec -a s3fs sleep 1000"])
    try:
        require("is an s3fs")
    finally:
        for pid in [f.split()[1] for f in leaks() if f.endswith("is an s3fs")]:  # it, and not what has led into the node
            node("kill", pid)
        process.wait()
    sandbox_id = "i" + (uuid.uuid4().hex)[:19]
    kubectl("create", "-f", "-", stdin=f"""
apiVersion: agents.kruise.io/v1alpha1
kind: Sandbox
metadata: {{name: {name}, namespace: default, labels: {{agents.kruise.io/sandbox-id: {sandbox_id}, agents.kruise.io/sandbox-claimed: "true"}}}}
spec:
  claim: {{principal: {{team: admin, key: admin}}, nonce: planted, time: "2026-01-01T00:00:00.000000Z"}}
  template: {{spec: {{nodeSelector: {{nowhere: "true"}}, containers: [{{name: main, image: none}}]}}}}
""")
    try:
        require("claimed sandbox " + name)
    finally:
        kubectl("delete", "sbx", name, "-n", "default")
    kubectl("create", "-f", "-", stdin=f"""
apiVersion: v1
kind: Secret
metadata: {{name: {name}-agent, namespace: default, labels: {{agents.kruise.io/sandbox-id: {sandbox_id}}}}}
""")
    try:
        require(f"secret {name}-agent without")
    finally:
        kubectl("delete", "secret", name + "-agent", "-n", "default")


def require(text):
    found = leaks()
    assert any(text in f for f in found), f"planted, and not found: {text}; found: {found}"


if sys.argv[1:] == ["planted"]:
    planted()
    print("leaks: each planted one is found")
elif found := leaks():
    sys.exit("\n".join(found))
