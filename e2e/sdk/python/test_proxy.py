import os

import httpx

from conftest import eventually


def headers(box, port):
    return {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": str(port)}


def test_a_service_on_loopback_is_reachable(box, tag):
    box.files.write(f"/tmp/{tag}/hello", "served")
    server = box.commands.run("python3 -m http.server 8123 --bind 127.0.0.1", background=True, cwd=f"/tmp/{tag}", timeout=0)
    url = os.environ["E2B_SANDBOX_URL"]
    answer = eventually(lambda: (r := httpx.get(f"{url}/hello", headers=headers(box, 8123))).status_code == 200 and r)
    assert answer and answer.text == "served"
    # The way of get_host: a host name that names port and sandbox.
    answer = httpx.get(f"{url}/hello", headers={"Host": box.get_host(8123)})
    assert (answer.status_code, answer.text) == (200, "served")
    server.kill()


def test_a_closed_port_is_told_from_an_unknown_sandbox(box):
    url = os.environ["E2B_SANDBOX_URL"]
    closed = httpx.get(url, headers=headers(box, 8999))
    assert (closed.status_code, closed.json()["message"]) == (502, "The sandbox is running but port is not open")
    unknown = httpx.get(url, headers={"E2b-Sandbox-Id": "i0000000000000000000", "E2b-Sandbox-Port": "8999"})
    assert (unknown.status_code, unknown.json()["message"]) == (502, "The sandbox was not found")


def test_the_control_planes_paths_are_blocked(box):
    answer = httpx.post(os.environ["E2B_SANDBOX_URL"] + "/init", headers=headers(box, 49983), json={})
    assert answer.status_code == 404


def test_envd_wants_its_token(box):
    answer = httpx.get(os.environ["E2B_SANDBOX_URL"] + "/files", params={"path": "/etc/passwd"}, headers=headers(box, 49983))
    assert answer.status_code == 401
