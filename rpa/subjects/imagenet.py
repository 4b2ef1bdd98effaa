"""Networks of ImageNet size with the images they are measured on; each network appears under its own name only.

`alexnet` and `squeezenet` need ImageNet weights and photographs and return None without them; `fashion_alexnet` is
AlexNet for small grey images, with the weights of data/weights. Noise levels are in units of a
pixel's range [0, 1]; `Subject.scale` turns one into the standard deviation of the normalized input.
"""

import copy
import hashlib
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rpa import _check, _files
from rpa._files import ROOT
from rpa.subjects import datasets, references, train
from rpa.subjects._torchvision import import_torchvision

__all__ = ["Subject", "alexnet", "fashion_alexnet", "photographs", "squeezenet"]

BUILD = ROOT / "build"
OFFICIAL = "7be5be79"  # torchvision names a file of weights by the first 8 hex digits of its SHA-256


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and the images it is measured on.

    name: short, for files; title: for figures, names network, weights and images; net: in evaluation mode; x (b, 3, h,
    w) normalized images, calibration (c, 3, h, w) others of the same kind; std: of a channel, in pixel units; key: what
    the numbers depend on, plain values; data: name -> SHA-256; official: the network and weights of P2; folder: for
    references.
    """

    name: str
    title: str
    net: nn.Module
    x: torch.Tensor
    calibration: torch.Tensor
    std: tuple
    key: dict
    data: dict
    official: bool = False
    folder: Path = references.FOLDER

    def scale(self, sigma: float) -> torch.Tensor:
        """Standard deviation of the normalized input (c, 1, 1) for pixel noise of standard deviation `sigma`."""
        return _check.positive("sigma", sigma) / torch.tensor(self.std).reshape(-1, 1, 1)

    def reference(
        self, sigma: float, n: int, seed: int, progress: Callable[[int, int], object] | None = None
    ) -> references.Reference:
        """The stored `Reference` for this noise, sample size and seed; made when it is not there, image by image."""
        key = self.key | {"sigma": sigma, "n": n, "seed": seed, "keep": 10, "protocol": 1}
        net = copy.deepcopy(self.net).to(memory_format=torch.channels_last)
        partial = BUILD / "partial" / references.path_of(key, self.folder).name
        make = lambda: references.estimate(net, self.x, self.scale(sigma), n, seed, progress=progress, partial=partial)
        return references.load_or_make(key, make, self.folder)


def squeezenet(n: int = 100) -> Subject | None:
    """SqueezeNet 1.0 with its ImageNet weights on every (1000/n)-th photograph; None when either is not at hand."""
    n = _check.integer("n", n, 1)
    try:
        path = datasets.squeezenet_path()
    except FileNotFoundError:
        return None
    net = import_torchvision().models.squeezenet1_0(weights=None)
    net.load_state_dict(torch.load(path, weights_only=True))
    return _on_photographs("squeezenet1_0", "SqueezeNet 1.0", net, n)


def alexnet(n: int = 100) -> Subject | None:
    """AlexNet with torchvision's IMAGENET1K_V1 weights on the photographs; None when either is not to be had.

    Weights: imagenet/alexnet*.pth of the data root, torch's hub cache, or a download. Another file of the same shapes
    is taken too, and is not `official`. Raises OSError for a file that is no AlexNet or does not hold what its name
    says.
    """
    n = _check.integer("n", n, 1)
    if photographs() is None:
        return None
    path = _alexnet_path()
    if path is None:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    official = digest.startswith(OFFICIAL)
    if OFFICIAL in path.name and not official:
        raise OSError(f"{path}: truncated or altered (SHA-256 differs); delete it")
    net = import_torchvision().models.alexnet(weights=None)
    try:
        net.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:
        raise OSError(f"{path}: not a state dict of torchvision's AlexNet ({type(error).__name__})") from error
    title = "AlexNet" if official else f"AlexNet with the weights {path.name}"
    return _on_photographs("alexnet", title, net, n, official)


def _alexnet_path():
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [root / "imagenet" for root in datasets.roots()] + [hub]
    found = [path for folder in folders for path in sorted(folder.glob("alexnet*.pth"))]
    if found or os.environ.get("RPA_OFFLINE", "0") not in ("", "0"):
        return found[0] if found else None
    url = import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1.url
    try:
        with urllib.request.urlopen(url, timeout=datasets.TIMEOUT) as answer:
            content = answer.read()
    except OSError:
        return None
    if not hashlib.sha256(content).hexdigest().startswith(OFFICIAL):
        return None
    return _files.replace(hub / url.rpartition("/")[2], lambda path: path.write_bytes(content))


def photographs() -> datasets.ImageNetSample | None:
    """Photographs of the data root as an `ImageNetSample`: imagenet/classes.csv and images, else folders of images by
    class (ImageFolder) in imagenet/images or imagenet/val; None when there are none.
    """
    try:
        return datasets.imagenet_sample()
    except FileNotFoundError:
        pass
    for root in datasets.roots():
        for folder in (root / "imagenet" / "images", root / "imagenet" / "val"):
            classes = sorted(path for path in folder.glob("*") if path.is_dir())
            paths = [(i, path) for i, each in enumerate(classes) for path in sorted(each.iterdir())]
            if paths:
                digest = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for _, p in paths)).hexdigest()
                names = tuple(classes[i].name for i, _ in paths)
                return datasets.ImageNetSample(
                    tuple(p for _, p in paths), np.array([i for i, _ in paths]), names, digest
                )
    return None


def _on_photographs(name, title, net, n, official=False, calibration=24):
    sample = photographs()
    if sample is None:
        return None
    step = max(1, len(sample) // n)
    which = list(range(0, len(sample), step))[:n]
    # Images halfway between the measured ones, so that no image serves for both.
    others = [i + step // 2 for i in which if step > 1 and i + step // 2 < len(sample)][:: max(1, n // calibration)][
        :calibration
    ]
    net = net.eval().requires_grad_(False)
    key = {"network": name, "weights": references.fingerprint(net), "images": sample.sha256, "which": which}
    data = {f"{title} weights": key["weights"], "ImageNet photographs": sample.sha256}
    title = f"{title}, ImageNet weights, {len(which)} photographs"
    return Subject(
        name,
        title,
        net,
        sample.batch(which),
        sample.batch(others or which[:calibration]),
        sample.STD,
        key,
        data,
        official,
    )


def fashion_alexnet(n: int = 100) -> Subject:
    """AlexNet's convolutions trained on Fashion-MNIST at 64 x 64 (`rpa.subjects.train`), on the first n test images."""
    n, name = _check.integer("n", n, 1), "alexnet_fashion"
    test, made = datasets.fashion_mnist("test"), train.load_metadata(name)
    net = train.load_module(name)
    key = {"network": name, "weights": references.fingerprint(net), "images": test.sha256, "which": list(range(n))}
    accuracy = 100 * made["test accuracy"]
    title = f"AlexNet trained on {test.title} at 64 x 64 ({accuracy:.0f} % right), {n} test images"
    images = (torch.from_numpy(np.concatenate([test.x[:n], test.x[-48:]])) - made["mean"]) / made["std"]
    x, calibration = train.enlarged(images).split([n, 48])
    data = {f"{name} weights": key["weights"], test.title: test.sha256}
    return Subject(name, title, net, x, calibration, (made["std"],) * 3, key, data)
