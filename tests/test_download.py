"""Test downloads from a real server on this machine."""

import functools
import hashlib
import http.server
import subprocess
import sys
import threading
import time

import pytest

from seeflower_jax import download, models
from seeflower_jax.data import oxford_flowers
from seeflower_jax.pretrained import loading, published
from tests import fixtures, harness

CONTENT = bytes(range(256)) * 8000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serve files of `server.files`; honour ranges if `server.ranges`."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"][len("bytes=") : -1])
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if server.slow:  # so that two downloads overlap
            self.wfile.write(body[:1000])
            server.started.set()
            time.sleep(server.slow)
            body = body[1000:]
        if server.cut_after:  # the connection breaks, once or always
            body = body[: server.cut_after]
            server.cut_after *= server.cut_always
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files, server.requests = {"/a.bin": CONTENT}, []
    server.ranges, server.cut_after, server.cut_always = True, 0, False
    server.statuses = []  # of the first answers
    server.slow, server.started = 0, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloads_once(server, tmp_path):
    fetch = functools.partial(
        download.fetch, server.url + "/a.bin", tmp_path / "new/a.bin", sha256=SHA256
    )
    assert fetch().read_bytes() == CONTENT
    assert fetch().read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connection_is_resumed(server, tmp_path, ranges):
    server.cut_after, server.ranges = 700_000, ranges
    path = download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.requests[1] == ("/a.bin", "bytes=700000-")


def test_attempts_that_make_progress_are_not_counted(server, tmp_path):
    server.cut_after, server.cut_always = 200_000, True
    path = download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 11  # of 2,048,000 bytes


def test_attempts_without_progress_end(server, tmp_path):
    server.cut_after, server.cut_always, server.ranges = 200_000, True, False
    message = f"Repeat the command to resume from {tmp_path / 'a.bin.partial'}. You can"
    with pytest.raises(download.DownloadError, match=message):
        download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
    assert len(server.requests) == 5


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_statuses_that_ask_for_another_attempt(server, tmp_path, status):
    server.statuses = [status] * 3
    path = download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    server.statuses = [status] * 9
    with pytest.raises(download.DownloadError, match=f"Error {status}: .*. You can"):
        download.fetch(server.url + "/a.bin", tmp_path / "b.bin")
    assert len(server.requests) == 4 + 4


def test_earlier_partial_file_is_used(server, tmp_path):
    (tmp_path / "a.bin.partial").write_bytes(CONTENT[:1000])
    download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
    assert server.requests == [("/a.bin", "bytes=1000-")]


def test_complete_partial_file_is_used(server, tmp_path):
    (tmp_path / "a.bin.partial").write_bytes(CONTENT)
    path = download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
    assert path.read_bytes() == CONTENT


def test_partial_file_of_other_content_is_cleared(server, tmp_path):
    for stale in (b"old" * 1000, CONTENT + b"more"):  # shorter, and longer
        (tmp_path / "a.bin.partial").write_bytes(stale)
        path = download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
        assert path.read_bytes() == CONTENT
        path.unlink()
    assert list(tmp_path.iterdir()) == []


def _download_apart(server, path):
    """Start a process that downloads a file."""
    code = (
        "import sys; from seeflower_jax import download; download.fetch(*sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, f"{server.url}/a.bin", str(path)],
        cwd=harness.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_second_process_waits_for_the_first(server, tmp_path):
    server.slow = 4
    first = _download_apart(server, tmp_path / "a.bin")
    assert server.started.wait(60)
    second = _download_apart(server, tmp_path / "a.bin")
    for process in (first, second):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/a.bin", "bytes=0-")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_killed_process_frees_the_download(server, tmp_path):
    server.slow = 60
    with _download_apart(server, tmp_path / "a.bin") as first:
        assert server.started.wait(60)
        first.kill()
    server.slow = 0
    path = download.fetch(server.url + "/a.bin", tmp_path / "a.bin", sha256=SHA256)
    assert path.read_bytes() == CONTENT


def test_full_disk_is_named_and_not_tried_again(server, tmp_path, monkeypatch):
    def append(file, chunk):
        raise download._NotWritableError from OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_append", append)
    with pytest.raises(OSError, match="a.bin.partial cannot be written: .*No space"):
        download.fetch(server.url + "/a.bin", tmp_path / "a.bin")
    assert len(server.requests) == 1


def test_wrong_hash_leaves_nothing(server, tmp_path):
    with pytest.raises(download.DownloadError, match=f"md5 .*, expected {'0' * 32}"):
        download.fetch(server.url + "/a.bin", tmp_path / "a.bin", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_not_tried_again(server, tmp_path):
    with pytest.raises(download.DownloadError, match="404.*save it as"):
        download.fetch(server.url + "/b.bin", tmp_path / "b.bin")
    assert len(server.requests) == 1


def test_no_server(tmp_path):
    with pytest.raises(download.DownloadError, match="127.0.0.1:9/a.bin"):
        download.fetch("http://127.0.0.1:9/a.bin", tmp_path / "a.bin")


def test_flowers_are_downloaded_and_unpacked(server, tmp_path, flowers, monkeypatch):
    import tarfile

    archive = tmp_path / "made.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(flowers / "jpg", "jpg")
    files = {
        "102flowers.tgz": archive.read_bytes(),
        "imagelabels.mat": (flowers / "imagelabels.mat").read_bytes(),
        "setid.mat": (flowers / "setid.mat").read_bytes(),
    }
    server.files = {f"/{name}": content for name, content in files.items()}
    hashes = {name: hashlib.sha256(c).hexdigest() for name, c in files.items()}
    monkeypatch.setattr(oxford_flowers, "BASE_URL", server.url + "/")
    monkeypatch.setattr(oxford_flowers, "SHA256", hashes)
    load = functools.partial(
        oxford_flowers.load, verify=False, cache_dir=tmp_path / "c"
    )
    downloaded, local = load(), oxford_flowers.load(flowers, verify=False)
    assert downloaded.describe() == local.describe()
    assert downloaded.read(5) == local.read(5)
    load()
    assert len(server.requests) == 3


def test_published_start_of_a_hash(server, tmp_path):
    server.files["/w.pth"] = CONTENT
    url = server.url + "/w.pth"
    download.fetch(url, tmp_path / "w.pth", sha256=SHA256[:8])
    assert (tmp_path / "w.pth").read_bytes() == CONTENT
    with pytest.raises(download.DownloadError, match="expected 00000000"):
        download.fetch(url, tmp_path / "other.pth", sha256="00000000")
    assert not (tmp_path / "other.pth").exists()


def test_weights_are_downloaded(server, tmp_path, narrow_weights, monkeypatch):
    server.files["/w.h5"] = narrow_weights.read_bytes()
    md5 = hashlib.md5(narrow_weights.read_bytes()).hexdigest()
    weights = published.PublishedWeights(server.url + "/w.h5", md5)
    monkeypatch.setitem(published.CATALOG, "inception_v3", weights)
    spec = models.get_spec("inception_v3", width=fixtures.NARROW_WIDTH)
    _, _, record = loading.load_pretrained(spec, cache_dir=tmp_path)
    assert record["exact"] is True and (tmp_path / "w.h5").exists()
