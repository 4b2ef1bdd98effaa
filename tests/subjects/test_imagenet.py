"""Which network and which images are measured, and under what name."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from rpa.subjects import datasets, imagenet
from rpa.subjects._torchvision import import_torchvision


@pytest.fixture
def desk(data_root, monkeypatch):
    """A data root of the test's own, with six photographs in folders by class, and nothing to download."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(data_root / "hub"))
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = data_root / "imagenet" / "images" / f"n0000000{i // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (230, 300, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return data_root


def _weights(path):
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    net = import_torchvision().models.alexnet(weights=None)
    torch.save(net.state_dict(), path)
    return net.eval()


def test_folders_of_images(desk):
    (desk / "imagenet/images/n00000000/.DS_Store").write_bytes(b"of a Mac")
    (desk / "imagenet/images/n00000001/more").mkdir()
    sample = datasets.imagenet_sample()
    assert len(sample) == 6 and sample.indices.tolist() == [0, 0, 0, 1, 1, 1] and sample.names[3] == "n00000001"
    assert sample.batch([0, 5]).shape == (2, 3, 224, 224)


@pytest.mark.parametrize("place", ["imagenet", "hub/checkpoints"])
def test_weights_are_known_by_their_hash(desk, monkeypatch, place):
    assert imagenet.alexnet(2) is None
    path = desk / place / imagenet.WEIGHTS["alexnet"]
    net, x = _weights(path), torch.randn(1, 3, 224, 224)
    with pytest.raises(OSError, match="SHA-256"):
        imagenet.alexnet(2)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(imagenet.WEIGHTS, "alexnet", f"alexnet-owt-{digest}.pth")
    path.rename(path.with_name(imagenet.WEIGHTS["alexnet"]))
    subject = imagenet.alexnet(2)
    assert torch.equal(subject.net(x), net(x)) and not subject.net.training and len(subject.x) == 2
    assert subject.title.startswith("AlexNet, ImageNet weights")


def test_without_photographs_or_weights_there_is_no_subject(data_root):
    assert imagenet.alexnet() is None and imagenet.squeezenet() is None


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
