"""`make data DATA=imagenet` from folders of this machine with the layout of the real hosts, and their faults."""

import hashlib
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from rpa.subjects import datasets, downloads, imagenet
from rpa.subjects._torchvision import import_torchvision

NAMES = ("n01440764_tench", "n01443537_goldfish", "n01484850_great_white_shark")


def _git(folder, *command):
    done = subprocess.run(["git", "-C", folder, *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """(folder of the two files of weights, repository of the photographs, its commit)."""
    weights, photographs = (tmp_path_factory.mktemp(name) for name in ("weights", "photographs"))
    for model, prefix in (("alexnet", "alexnet-owt"), ("squeezenet1_0", "squeezenet1_0")):
        path = weights / "weights.pth"
        torch.save(getattr(import_torchvision().models, model)(weights=None).state_dict(), path)
        path.rename(weights / f"{prefix}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    for i, name in enumerate(NAMES):
        pixels = np.random.default_rng(i).integers(0, 255, (260, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photographs / f"{name}.JPEG", "JPEG")
    (photographs / "README.md").write_text("words")
    for command in (["init", "-q"], ["add", "."], [*"-c user.name=x -c user.email=x@y commit -qm photographs".split()]):
        _git(photographs, *command)
    commit = _git(photographs, "rev-parse", "HEAD")
    _git(photographs, *"-c user.name=x -c user.email=x@y commit -qm later --allow-empty".split())
    return weights, photographs, commit


@pytest.fixture
def served(hosts, tmp_path, monkeypatch):
    """The folder that the downloads go to."""
    weights, photographs, commit = hosts
    monkeypatch.setenv("RPA_DATA", str(tmp_path))
    monkeypatch.setattr(downloads, "REPOSITORY", photographs.as_uri())
    monkeypatch.setattr(downloads, "COMMIT", commit)
    monkeypatch.setattr(downloads, "WEIGHTS", f"{weights.as_uri()}/")
    monkeypatch.setattr(imagenet, "WEIGHTS", dict(zip(imagenet.WEIGHTS, sorted(p.name for p in weights.iterdir()))))
    return tmp_path / "imagenet"


def test_everything_is_fetched_once_and_serves_as_p2s_network(served, monkeypatch):
    assert downloads.main() == 0
    assert len(list(served.rglob("*.*"))) == 6 and "commit" in (served / "classes.csv").read_text().splitlines()[0]
    sample, subject = datasets.imagenet_sample(), imagenet.alexnet(3)
    assert sample.names == ("tench", "goldfish", "great white shark") and list(sample.indices) == [0, 1, 2]
    assert subject.title == "AlexNet, ImageNet weights, 3 photographs" and len(subject.x) == 3
    assert imagenet.squeezenet(3).name == "squeezenet1_0"
    monkeypatch.setattr(downloads, "REPOSITORY", "nowhere")
    monkeypatch.setattr(downloads, "WEIGHTS", "file:///nowhere/")
    assert downloads.main() == 0


def test_altered_photographs_are_fetched_again(served):
    assert downloads.main() == 0
    path = served / "images" / "n01440764.jpg"
    right = path.read_bytes()
    path.write_bytes(right[:-10])
    (served / "classes.csv").unlink()
    assert downloads.main() == 0 and path.read_bytes() == right


def test_what_is_not_there_is_named(served, monkeypatch, capfd):
    monkeypatch.setattr(downloads, "COMMIT", "0" * 40)
    monkeypatch.setattr(downloads, "WEIGHTS", "file:///nowhere/")
    assert downloads.main() == 1
    error = capfd.readouterr().err
    assert imagenet.WEIGHTS["alexnet"] in error and "put the files into" in error
    assert "photographs: Command" in error and not (served / "classes.csv").exists()


def test_weights_of_another_hash_are_refused_and_not_kept(served, hosts, tmp_path, monkeypatch, capsys):
    name, altered = imagenet.WEIGHTS["alexnet"], tmp_path / "altered"
    altered.mkdir()
    (altered / name).write_bytes((hosts[0] / name).read_bytes() + b"more")
    monkeypatch.setattr(downloads, "WEIGHTS", f"{altered.as_uri()}/")
    assert downloads.main() == 1 and "invalid hash value" in capsys.readouterr().err
    assert not (served / name).exists()
