"""Networks of ImageNet size with the images they are measured on; each network appears under its own name only.

`alexnet` and `squeezenet` need ImageNet weights and photographs and return None without them; `fashion_alexnet` is
AlexNet for small grey images, with the weights of data/weights. Noise levels are in units of a
pixel's range [0, 1]; `Subject.scale` turns one into the standard deviation of the normalized input.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rpa import _check, _files
from rpa.subjects import datasets, references, train
from rpa.subjects._torchvision import import_torchvision

# Torchvision names a file of weights by the first 8 hex digits of its SHA-256.
WEIGHTS = {"alexnet": "alexnet-owt-7be5be79.pth", "squeezenet1_0": "squeezenet1_0-b66bff10.pth"}


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and the images it is measured on.

    name: short, for files; title: for figures, names network, weights and images; net: in evaluation mode; x (b, 3, h,
    w) normalized images; std: of a channel, in pixel units; key: what the numbers depend on, plain values; data: name
    -> SHA-256; root: of image i's noise covariance at noise 1, default white.
    """

    name: str
    title: str
    net: nn.Module
    x: torch.Tensor
    std: tuple
    key: dict
    data: dict
    root: Callable[[int], torch.Tensor] | None = None

    def scale(self, sigma: float) -> torch.Tensor | Callable[[int], torch.Tensor]:
        """Standard deviation (c, 1, 1) of the normalized input for pixel noise `sigma`; with `root` a function of the
        image's number that returns a root (d, d) of its covariance.
        """
        std, root = _check.positive("sigma", sigma) / torch.tensor(self.std).reshape(-1, 1, 1), self.root
        return std if root is None else lambda i: std[0] * root(i)

    def reference(self, sigma: float, n: int, seed: int, most: int | None = None) -> references.Reference:
        """The `Reference` for this noise, these sample sizes and seed: that of data/references, else that of
        build/references, else sampled now and kept there. n, most: as in `rpa.subjects.references.estimate`.
        """
        key = self.key_of(sigma, n, seed, most)
        own = _files.build("references") / f"{self.name} {references.entry_of(key)}.npz"
        for path in (references.FOLDER / f"{self.name}.npz", own):
            if (kept := references.load(key, path)) is not None:
                return kept
        net = copy.deepcopy(self.net).to(memory_format=torch.channels_last)
        made = references.estimate(net, self.x, self.scale(sigma), n, seed, most=most)
        references.save([(key, made)], own)
        return made

    def has_reference(self, sigma: float, n: int, seed: int, most: int | None = None) -> bool:
        """Whether data/references has the reference for this noise, these sample sizes and seed."""
        path = references.FOLDER / f"{self.name}.npz"
        return references.load(self.key_of(sigma, n, seed, most), path) is not None

    def key_of(self, sigma: float, n: int, seed: int, most: int | None = None) -> dict:
        """What a reference with these arguments depends on."""
        sizes = {"n": n} if most is None else {"n": n, "most": most}
        return self.key | {"sigma": sigma, "seed": seed, "keep": references.KEEP, "protocol": 1} | sizes


def squeezenet(n: int = 100) -> Subject | None:
    """SqueezeNet 1.0 with ImageNet weights on every (1000/n)-th photograph; None when either is missing.

    Weights: imagenet/squeezenet1_0.pth of the data root, or torchvision's own beside it (`make data DATA=imagenet`).
    """
    path = datasets.find("imagenet/squeezenet1_0.pth") or _weights("squeezenet1_0")
    return _on_photographs("squeezenet1_0", "SqueezeNet 1.0", path, n)


def alexnet(n: int = 100) -> Subject | None:
    """AlexNet with torchvision's IMAGENET1K_V1 weights, those of P2, on the photographs; None when either is missing.

    Weights: in imagenet/ of the data root, or in torch's hub cache; `make data DATA=imagenet` downloads them. Raises
    OSError for a file whose SHA-256 is not that of its name.
    """
    return _on_photographs("alexnet", "AlexNet", _weights("alexnet"), n)


def _weights(name):
    """The file of a network's weights in imagenet/ of the data roots or in torch's cache; None without one."""
    folders = [*(root / "imagenet" for root in datasets.roots()), Path(torch.hub.get_dir()) / "checkpoints"]
    path = next((folder / WEIGHTS[name] for folder in folders if (folder / WEIGHTS[name]).is_file()), None)
    if path and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem[-8:]):
        raise OSError(f"{path}: truncated or altered (SHA-256 differs); delete it, then make data DATA=imagenet")
    return path


def _on_photographs(name, title, path, n):
    n = _check.integer("n", n, 1)
    if path is None:
        return None
    try:
        sample = datasets.imagenet_sample()
    except FileNotFoundError:
        return None
    net = getattr(import_torchvision().models, name)(weights=None)
    net.load_state_dict(torch.load(path, weights_only=True))
    which = list(range(0, len(sample), max(1, len(sample) // n)))[:n]
    key = {"network": name, "weights": references.fingerprint(net), "images": sample.sha256, "which": which}
    data = {f"{title} weights": key["weights"], "ImageNet photographs": sample.sha256}
    title = f"{title}, ImageNet weights, {len(which)} photographs"
    return Subject(name, title, net.eval().requires_grad_(False), sample.batch(which), sample.STD, key, data)


def fashion_alexnet(n: int = 100) -> Subject:
    """AlexNet's convolutions trained on Fashion-MNIST at 64 x 64 (`rpa.subjects.train`), on the first n test images."""
    name, test = "alexnet_fashion", datasets.fashion_mnist("test")
    net, made = train.load_module(name), train.load_metadata(name)
    which = list(range(min(_check.integer("n", n, 1), len(test))))
    key = {"network": name, "weights": references.fingerprint(net), "images": test.sha256, "which": which}
    data = {f"{name} weights": key["weights"], test.title: test.sha256}
    right = f"{100 * made['test accuracy']:.0f} % right"
    title = f"AlexNet trained on {test.title} at 64 x 64 ({right}), {len(which)} test images"
    x = train.enlarged((torch.from_numpy(test.x[which]) - made["mean"]) / made["std"])
    return Subject(name, title, net, x, (made["std"],) * 3, key, data)
