import time

import httpx


def test_a_signed_url_downloads(box, tag):
    box.files.write(tag, "by link")
    answer = httpx.get(box.download_url(tag, use_signature_expiration=60))
    assert (answer.status_code, answer.text) == (200, "by link")


def test_a_signed_url_uploads(box, tag):
    url = box.upload_url(tag, use_signature_expiration=60)
    answer = httpx.post(url, files={"file": (tag, b"uploaded by link")})
    assert answer.status_code == 200
    assert box.files.read(tag) == "uploaded by link"


def test_an_expired_url_is_refused(box, tag):
    box.files.write(tag, "late")
    url = box.download_url(tag, use_signature_expiration=1)
    time.sleep(2.1)
    assert httpx.get(url).status_code in (401, 403)


def test_a_changed_url_is_refused(box, tag):
    box.files.write(tag, "x")
    box.files.write(tag + "2", "y")
    url = box.download_url(tag, use_signature_expiration=60)
    assert httpx.get(url.replace(tag, tag + "2")).status_code in (400, 401, 403, 502)


def test_a_read_url_does_not_write(box, tag):
    box.files.write(tag, "safe")
    url = box.download_url(tag, use_signature_expiration=60)
    assert httpx.post(url, files={"file": (tag, b"overwritten")}).status_code in (400, 401, 403, 502)
    assert box.files.read(tag) == "safe"


def test_part_of_a_file(box, tag):
    box.files.write(tag, "0123456789")
    answer = httpx.get(box.download_url(tag), headers={"Range": "bytes=2-4", "Accept-Encoding": "identity"})
    assert (answer.status_code, answer.text) == (206, "234")
