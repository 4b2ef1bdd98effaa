"""Photographs and networks of ImageNet size: found, named, and downloaded from a server laid out like the real ones."""

import hashlib
import json
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from rpa.subjects import datasets, imagenet

NAMES = ("n01440764_tench", "n01443537_goldfish", "n01484850_great_white_shark")


def photograph(path, seed, shape=(260, 300, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def table(data_root):
    """classes.csv of two photographs."""
    for i, shape in enumerate([(256, 256, 3), (512, 640, 3)]):
        photograph(data_root / f"imagenet/images/n{i}.jpg", i, shape)
    path = data_root / "imagenet/classes.csv"
    path.write_text("index,wnid,name\n0,n0,thing 0\n7,n1,thing 1\n")
    return path


@pytest.fixture
def folders(data_root, monkeypatch):
    """Six photographs in folders by class, and an empty cache of torch."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(data_root / "hub"))
    for i in range(6):
        photograph(data_root / "imagenet" / "images" / f"n0000000{i // 3}" / f"{i}.png", i)
    return data_root / "imagenet" / "images"


def test_photographs_of_the_readers_own(table, monkeypatch):
    sample = datasets.imagenet_sample()
    assert len(sample) == 2 and sample.indices.tolist() == [0, 7] and sample.names == ("thing 0", "thing 1")
    batch = sample.batch([1, 0])
    assert batch.shape == (2, 3, 224, 224) and batch.dtype == torch.float32
    with Image.open(sample.paths[1]) as large, Image.open(sample.paths[0]) as small:
        halved = large.convert("RGB").resize((320, 256), Image.Resampling.BILINEAR)
        for found, image, left in zip(batch, (halved, small), (48, 16)):
            red = np.asarray(image)[16:240, left : left + 224, 0]
            assert np.abs(found[0].numpy() - (red / 255 - 0.485) / 0.229).max() < 1e-5
    before, images = sample.sha256, table.parent / "images"
    os.replace(images / "n0.jpg", images / "n1.jpg")
    with pytest.raises(OSError, match="n0.jpg"):
        datasets.imagenet_sample()
    (images / "n0.jpg").write_bytes(b"other")
    other = datasets.imagenet_sample().sha256
    assert other != before
    ours = {"imagenet/classes.csv": hashlib.sha256(table.read_bytes()).hexdigest(), "imagenet/images/*.jpg": other}
    monkeypatch.setattr(datasets, "_checksums", lambda: ours)  # then the photographs are known too
    assert datasets.imagenet_sample().sha256 == other
    (images / "n0.jpg").write_bytes(b"othe")
    with pytest.raises(OSError, match="images: a photograph is truncated or altered"):
        datasets.imagenet_sample()


def test_a_table_of_other_form_and_a_missing_photograph_are_no_missing_data(table):
    table.write_text(table.read_text() + "\n")
    assert len(datasets.imagenet_sample()) == 2
    (table.parent / "images/n1.jpg").unlink()
    for text in (table.read_text(), "", "index,wnid,name\n0,n0\n", "index,wnid,name\nx,n0,a\n"):
        table.write_text(text)
        with pytest.raises(OSError, match="classes.csv: expected the columns .* make data DATA=imagenet") as caught:
            datasets.imagenet_sample()
        assert not isinstance(caught.value, FileNotFoundError)  # which would count as no photographs at all


def test_missing_photographs_and_altered_weights_are_named(data_root):
    assert imagenet.alexnet() is None and imagenet.squeezenet() is None
    with pytest.raises(FileNotFoundError, match="classes.csv"):
        datasets.imagenet_sample()
    (data_root / "imagenet").mkdir()
    (data_root / "imagenet/squeezenet1_0.pth").write_bytes(b"half of it")
    with pytest.raises(OSError, match="squeezenet1_0.pth"):
        imagenet.squeezenet()


def test_folders_of_images(folders):
    (folders / "n00000000/.DS_Store").write_bytes(b"of a Mac")
    (folders / "n00000001/more").mkdir()
    sample = datasets.imagenet_sample()
    assert len(sample) == 6 and sample.indices.tolist() == [0, 0, 0, 1, 1, 1] and sample.names[3] == "n00000001"
    assert sample.batch([0, 5]).shape == (2, 3, 224, 224)


def test_squeezenet_classifies_the_photographs():
    try:
        labels = datasets.imagenet_sample().indices
    except FileNotFoundError:
        pytest.skip("needs the ImageNet photographs")
    subject = imagenet.squeezenet(20)
    right = (subject.net(subject.x).argmax(1).numpy() == labels[subject.key["which"]]).mean()
    # 60 % on all thousand; three standard errors of twenty.
    assert abs(right - 0.602) < 3 * (0.602 * 0.398 / 20) ** 0.5


def test_noise_is_in_units_of_the_pixel():
    std = torch.tensor(datasets.ImageNetSample.STD)
    subject = imagenet.Subject("a", "A", torch.nn.Identity(), None, tuple(std.tolist()), {}, {})
    assert torch.allclose(subject.scale(0.1).flatten() * std, torch.full((3,), 0.1))


def test_fashion_alexnet_is_named_with_its_data():
    subject = imagenet.fashion_alexnet(2)
    assert subject.x.shape == (2, 3, 64, 64)
    assert "AlexNet trained on Fashion" in subject.title
    assert subject.key["which"] == [0, 1] and len(subject.data) == 2
    subject = imagenet.fashion_alexnet(10_001)
    assert len(subject.x) == len(subject.key["which"]) == 10_000 and "10000 test images" in subject.title


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The folder that the server offers, and the names of its two files of weights."""
    folder = tmp_path_factory.mktemp("content")
    tree = [{"path": "README.md", "sha": "0" * 40}]
    for i, name in enumerate(NAMES):
        photograph(path := folder / "raw" / f"{name}.JPEG", i)
        data = path.read_bytes()
        tree.append({"path": path.name, "sha": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()})
    (folder / "tree").write_text(json.dumps({"tree": tree}))
    (folder / "weights").mkdir()
    named = []
    for model, prefix in (("alexnet", "alexnet-owt"), ("squeezenet1_0", "squeezenet1_0")):
        torch.save(getattr(datasets.import_torchvision().models, model)(weights=None).state_dict(), folder / "new")
        named.append(f"{prefix}-{hashlib.sha256((folder / 'new').read_bytes()).hexdigest()[:8]}.pth")
        (folder / "new").rename(folder / "weights" / named[-1])
    return folder, tuple(named)


@pytest.mark.parametrize("place", ["imagenet", "hub/checkpoints"])
def test_weights_are_known_by_their_hash(folders, content, data_root, monkeypatch, place):
    assert imagenet.alexnet(2) is None
    source, path = content[0] / "weights" / content[1][0], data_root / place / imagenet.WEIGHT_FILES["alexnet"]
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)
    with pytest.raises(OSError, match="SHA-256"):
        imagenet.alexnet(2)
    monkeypatch.setitem(imagenet.WEIGHT_FILES, "alexnet", source.name)
    path.rename(path.with_name(source.name))
    subject, x = imagenet.alexnet(2), torch.randn(1, 3, 224, 224)
    net = datasets.import_torchvision().models.alexnet(weights=None).eval()
    net.load_state_dict(torch.load(source))
    assert torch.equal(subject.net(x), net(x)) and not subject.net.training and len(subject.x) == 2
    assert subject.title.startswith("AlexNet, ImageNet weights")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and appends each path to `asked` of its server."""

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(content, tmp_path, data_root, monkeypatch):
    """The server of a copy of `content`, its `folder`."""
    folder = shutil.copytree(content[0], tmp_path / "server")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, server.asked, server.folder = f"http://127.0.0.1:{server.server_port}", [], folder
    for name, place in (("TREE", "tree"), ("RAW", "raw/"), ("MODELS", "weights/")):
        monkeypatch.setattr(imagenet, name, f"{address}/{place}")
    monkeypatch.setattr(imagenet, "WEIGHT_FILES", dict(zip(imagenet.WEIGHT_FILES, content[1])))
    yield server
    server.shutdown()
    server.server_close()


def test_everything_is_fetched_once_and_serves_as_p2s_network(server, data_root):
    assert imagenet.download() == 0
    files = [f"/{path.relative_to(server.folder)}" for path in server.folder.rglob("*") if path.is_file()]
    assert sorted(server.asked) == sorted(files)
    assert "git hash" in (data_root / "imagenet" / "classes.csv").read_text().splitlines()[0]
    sample, subject = datasets.imagenet_sample(), imagenet.alexnet(3)
    assert sample.names == ("tench", "goldfish", "great white shark") and list(sample.indices) == [0, 1, 2]
    assert subject.title == "AlexNet, ImageNet weights, 3 photographs" and len(subject.x) == 3
    assert imagenet.squeezenet(3).name == "squeezenet1_0"
    server.asked.clear()
    assert imagenet.download() == 0 and server.asked == []
    path = data_root / "imagenet" / "images" / "n01440764.jpg"
    right = path.read_bytes()
    path.write_bytes(right[:-10])
    (data_root / "imagenet" / "classes.csv").unlink()
    assert imagenet.download() == 0 and path.read_bytes() == right
    assert server.asked == ["/tree", "/raw/n01440764_tench.JPEG"]


def test_wrong_files_are_refused_by_name_and_not_kept(server, content, data_root, capsys):
    wrong = [server.folder / "raw" / "n01443537_goldfish.JPEG", server.folder / "weights" / content[1][0]]
    right = [path.read_bytes() for path in wrong]
    for path, data in zip(wrong, right):
        path.write_bytes(data + b"more")
    assert imagenet.download() == 1
    error, files = capsys.readouterr().err, list((data_root / "imagenet").rglob("*"))
    assert "n01443537_goldfish.JPEG: its content is not what its hash says" in error and "invalid hash value" in error
    assert [path for path in files if path.name in ("n01443537.jpg", content[1][0], "classes.csv")] == []
    for path, data in zip(wrong, right):
        path.write_bytes(data)
    server.asked.clear()
    assert imagenet.download() == 0
    assert server.asked == [f"/weights/{content[1][0]}", "/tree", "/raw/n01443537_goldfish.JPEG"]


def test_a_missing_server_and_one_that_speaks_no_http_are_named(server, content, monkeypatch, capsys):
    shutil.rmtree(server.folder)
    assert imagenet.download() == 1
    error = capsys.readouterr().err
    assert content[1][0] in error and "put the files into" in error and "photographs: HTTP Error 404" in error
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"busy\r\n\r\n"))
    assert imagenet.download() == 1
    assert f"{content[1][0]}: busy" in (error := capsys.readouterr().err) and "photographs: busy" in error
