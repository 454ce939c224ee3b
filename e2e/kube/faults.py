"""Parts of the cluster are killed, or held for 30 s, in the middle of creates. A create may be refused in the meantime, with an error that
says so; none may be lied to, nothing may be lost, and afterwards all is as before. Data of sandboxes that run goes on all the while."""
import collections, json, sys, threading, time
from e2b import Sandbox
from kube import cluster, kubectl, node, objects, says, until, volume

HOLD = 30


class Creates:
    """Creates, uses and kills sandboxes one after another, in as many threads, until it is closed."""

    def __init__(self, threads=2):
        self.made, self.refused, self.lies = [], [], []
        self.end = threading.Event()
        self.threads = [threading.Thread(target=self.work) for _ in range(threads)]
        for t in self.threads:
            t.start()

    def work(self):
        while not self.end.is_set():
            begin = time.monotonic()
            try:
                sandbox = Sandbox.create("base", timeout=20, metadata=volume("scratch", "/scratch"), request_timeout=60)
            except Exception as e:
                self.refused.append(f"{type(e).__name__}: {e}".splitlines()[0][:150])
                time.sleep(0.5)
                continue
            self.made.append((time.monotonic() - begin, sandbox.sandbox_id))
            try:
                if sandbox.commands.run("stat -f -c %T /scratch", request_timeout=20).stdout != "tmpfs\n":
                    self.lies.append(sandbox.sandbox_id + ": the volume is not mounted")
            except Exception as e:
                self.refused.append(f"command: {type(e).__name__}: {e}".splitlines()[0][:150])
            try:
                sandbox.kill(request_timeout=60)
            except Exception as e:  # its deadline ends it
                self.refused.append(f"kill: {type(e).__name__}: {e}".splitlines()[0][:150])

    def close(self):
        self.end.set()
        for t in self.threads:
            t.join()
        ids = [i for _, i in self.made]
        assert len(ids) == len(set(ids)), "one sandbox was handed out twice"
        assert not self.lies, self.lies


def running():
    return [s for s in objects("sbx", "-l", "agents.kruise.io/sandbox-pool=base") if s["spec"].get("claim")]


def healthy():
    status = json.loads(kubectl("get", "sbs", "base", "-n", "default", "-o", "json"))["status"]
    return status.get("availableReplicas", 0) >= 2


def processes(name):
    """Pids, as the node has them, of a program of ours in the cluster."""
    return [int(l.split()[0]) for l in node("ps", "-eo", "pid,args").splitlines() if len(l.split()) > 1 and l.split()[1] == "/" + name]


def leader():
    holder = kubectl("get", "lease", "sandgate-controller", "-n", "sandgate", "-o", "jsonpath={.spec.holderIdentity}")
    name = holder.split("_")[0]
    container = json.loads(kubectl("get", "pod", name, "-n", "sandgate", "-o", "json"))["status"]["containerStatuses"][0]["containerID"]
    return [pid_of(container)]


def pid_of(container):
    lines = node("ctr", "-a", "/run/containerd/containerd.sock", "-n", "k8s.io", "task", "ls").splitlines()
    return next(int(l.split()[1]) for l in lines if l.split()[0] == container.removeprefix("containerd://"))


def signal_all(number):
    def send(pids):
        node("kill", f"-{number}", *map(str, pids))
    return send


kill, stop, go = signal_all("KILL"), signal_all("STOP"), signal_all("CONT")


def killed(find):
    return lambda: kill(find())


def held(find):
    def fault():
        pids = find()
        stop(pids)
        time.sleep(HOLD)
        node("kill", "-CONT", *map(str, pids), check=False)  # a liveness probe may have ended it
    return fault


def component(name):
    def fault():
        cluster("stop", name)
        time.sleep(HOLD)
        cluster("start", name)
    return fault


FAULTS = {
    "gateway killed": killed(lambda: processes("gateway")[:1]),
    "every gateway killed": killed(lambda: processes("gateway")),
    "gateway held for 30 s": held(lambda: processes("gateway")[:1]),
    "controller's leader killed": killed(leader),
    "controller's leader held for 30 s": held(leader),
    "API server killed": lambda: cluster("restart", "kube-apiserver"),
    "API server away for 30 s": component("kube-apiserver"),
    "kubelet killed": lambda: cluster("restart", "kubelet"),
    "kubelet away for 30 s": component("kubelet"),
}


def drill(name, witness):
    creates = Creates()
    until("creates go on", lambda: len(creates.made) >= 2)
    before, begin = len(creates.made), time.monotonic()
    missed = collections.Counter()
    done = threading.Event()

    def watch():
        while not done.is_set():
            missed[says(witness, "cat /scratch/kept", "kept")] += 1
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        FAULTS[name]()
        during, healed = len(creates.made) - before, time.monotonic()
        until("creates succeed again", lambda: len(creates.made) >= before + during + 4, 150)
        recovered = time.monotonic() - healed
    finally:
        done.set()
        watcher.join()
        creates.close()
    full = until("the pool is full, and nothing stays claimed", lambda: answered(lambda: healthy() and len(running()) == 1), 150)
    assert says(witness, "cat /scratch/kept", "kept"), "the sandbox that ran before has lost its volume"
    if "API server" in name or "kubelet" in name or "controller" in name:
        assert not missed[False], f"a running sandbox did not answer {missed[False]} of {sum(missed.values())} times"
    kinds = collections.Counter(creates.refused)
    print(f"faults: {name}: {during} made meanwhile, {len(creates.refused)} refused, four more {recovered:.1f} s after its end, pool full {full:.0f} s later; "
          f"witness missed {missed[False]} of {sum(missed.values())}")
    for text, n in kinds.most_common(4):
        print(f"    {n} x {text}")


def answered(holds):
    try:
        return holds()
    except (AssertionError, json.JSONDecodeError):
        return False


names = sys.argv[1:] or list(FAULTS)
witness = Sandbox.create("base", timeout=3000, metadata=volume("scratch", "/scratch"))
try:
    witness.commands.run("echo kept > /scratch/kept")
    for name in names:
        until("the pool is full", healthy, 150)
        drill(name, witness)
finally:
    witness.kill()
