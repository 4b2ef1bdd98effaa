"""`make data DATA=imagenet` against a server on this machine that has the layout of the real ones, and their faults."""

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from rpa.subjects import datasets, downloads, imagenet
from rpa.subjects._torchvision import import_torchvision

NAMES = ("n01440764_tench", "n01443537_goldfish", "n01484850_great_white_shark")


class Handler(BaseHTTPRequestHandler):
    """Serves `files` of its server (path -> bytes) and appends each path to its `asked`."""

    def do_GET(self):
        path = unquote(self.path)
        self.server.asked.append(path)
        if path not in self.server.files:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[path])))
        self.end_headers()
        self.wfile.write(self.server.files[path])

    def log_message(self, *_):
        pass


def _photograph(i):
    stream = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 255, (260, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def _weights(model):
    stream = io.BytesIO()
    torch.save(getattr(import_torchvision().models, model)(weights=None).state_dict(), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def content():
    """What the servers hold: {path: bytes}, and the names of the two files of weights."""
    files = {f"/raw/{name}.JPEG": _photograph(i) for i, name in enumerate(NAMES)}
    blob = lambda data: hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    tree = [{"path": path[5:], "sha": blob(data)} for path, data in files.items()]
    files["/tree"] = json.dumps({"tree": [*tree, {"path": "README.md", "sha": "0" * 40}]}).encode()
    named = []
    for prefix, data in (("alexnet-owt", _weights("alexnet")), ("squeezenet1_0", _weights("squeezenet1_0"))):
        named.append(f"{prefix}-{hashlib.sha256(data).hexdigest()[:8]}.pth")
        files[f"/weights/{named[-1]}"] = data
    return files, tuple(named)


@pytest.fixture
def server(content, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, server.asked = f"http://127.0.0.1:{server.server_port}", []
    server.files = dict(content[0])
    monkeypatch.setenv("RPA_DATA", str(tmp_path))
    monkeypatch.setattr(downloads, "TREE", f"{address}/tree")
    monkeypatch.setattr(downloads, "RAW", f"{address}/raw/")
    monkeypatch.setattr(downloads, "WEIGHTS", f"{address}/weights/")
    monkeypatch.setattr(imagenet, "WEIGHTS", dict(zip(imagenet.WEIGHTS, content[1])))
    yield server
    server.shutdown()
    server.server_close()


def _fetched(server):
    return [path for path in server.asked if path != "/tree"]


def test_everything_is_fetched_once_and_serves_as_p2s_network(server, tmp_path):
    assert downloads.main() == 0
    assert sorted(_fetched(server)) == sorted(path for path in server.files if path != "/tree")
    assert "git hash" in (tmp_path / "imagenet" / "classes.csv").read_text().splitlines()[0]
    sample, subject = datasets.imagenet_sample(), imagenet.alexnet(3)
    assert sample.names == ("tench", "goldfish", "great white shark") and list(sample.indices) == [0, 1, 2]
    assert subject.title == "AlexNet, ImageNet weights, 3 photographs" and len(subject.x) == 3
    assert imagenet.squeezenet(3).name == "squeezenet1_0"
    server.asked.clear()
    assert downloads.main() == 0 and server.asked == []


def test_a_wrong_file_is_refused_by_name_and_not_kept(server, tmp_path, capsys):
    wrong = "/raw/n01443537_goldfish.JPEG"
    server.files[wrong] = b"<html>busy</html>"
    assert downloads.main() == 1
    error = capsys.readouterr().err
    assert "n01443537_goldfish.JPEG: its content is not what its hash says" in error
    assert not list((tmp_path / "imagenet").rglob("n01443537*"))
    assert not (tmp_path / "imagenet" / "classes.csv").exists()
    server.files[wrong] = _photograph(1)
    server.asked.clear()
    assert downloads.main() == 0 and _fetched(server) == [wrong]


def test_an_altered_file_on_disk_is_fetched_again(server, tmp_path):
    assert downloads.main() == 0
    path = tmp_path / "imagenet" / "images" / "n01440764.jpg"
    right = path.read_bytes()
    path.write_bytes(right[:-10])
    (tmp_path / "imagenet" / "classes.csv").unlink()
    assert downloads.main() == 0 and path.read_bytes() == right


def test_a_missing_server_is_named(server, content, tmp_path, capsys):
    server.files.clear()
    assert downloads.main() == 1
    error = capsys.readouterr().err
    assert content[1][0] in error and "put the files into" in error and "photographs: HTTP Error 404" in error


def test_a_server_that_speaks_no_http_is_named(server, content, monkeypatch, capsys):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"busy\r\n\r\n"))
    assert downloads.main() == 1
    assert f"{content[1][0]}: busy" in (error := capsys.readouterr().err) and "photographs: busy" in error


def test_weights_of_another_hash_are_refused_and_not_kept(server, content, tmp_path, capsys):
    server.files[f"/weights/{content[1][0]}"] += b"more"
    assert downloads.main() == 1 and "invalid hash value" in capsys.readouterr().err
    assert not (tmp_path / "imagenet" / content[1][0]).exists()
