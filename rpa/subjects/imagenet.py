"""Networks of ImageNet size with the images they are measured on; each network appears under its own name only.

`alexnet` and `squeezenet` need ImageNet weights and photographs and return None without them; `fashion_alexnet` is
AlexNet for small grey images, with the weights of data/weights. Noise levels are in units of a pixel's range [0, 1].

`make data DATA=imagenet` downloads into imagenet/ of the data root the 1,000 photographs of
github.com/EliSchwartz/imagenet-sample-images, one per class, at a fixed commit, and torchvision's weights. Each
photograph is checked against its hash in git's tree of that commit, each file of weights against the SHA-256 in its
name. Files that are correct are not downloaded again.
"""

import copy
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pandas as pd
import pooch
import torch
from torch import nn
from tqdm.contrib.concurrent import thread_map

from rpa import _check, _files
from rpa.subjects import datasets, references, train

# Torchvision names a file of weights by the first 8 hex digits of its SHA-256.
WEIGHT_FILES = {"alexnet": "alexnet-owt-7be5be79.pth", "squeezenet1_0": "squeezenet1_0-b66bff10.pth"}
MODELS = "https://download.pytorch.org/models/"
REPOSITORY, COMMIT = "EliSchwartz/imagenet-sample-images", "22d0a5c9c5c76d13532da2d29ea7fa2e9e034387"
TREE = f"https://api.github.com/repos/{REPOSITORY}/git/trees/{COMMIT}"
RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/"


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
        """Standard deviation (c, 1, 1) of the normalized input for pixel noise `sigma`; with `root`, roots by image."""
        std, root = _check.positive("sigma", sigma) / torch.tensor(self.std).reshape(-1, 1, 1), self.root
        return std if root is None else lambda i: std[0] * root(i)

    def reference(self, sigma: float, n: int, seed: int, most: int | None = None) -> references.Reference:
        """The `Reference` for this noise, these sample sizes and seed: that of data/references, else that of
        build/references, else sampled now and kept there. n, most: as in `rpa.subjects.references.sample`.
        """
        key = self.key_of(sigma, n, seed, most)
        own = _files.build("references") / f"{self.name} {references.entry_of(key)}.npz"
        for path in (references.FOLDER / f"{self.name}.npz", own):
            if (kept := references.load(key, path)) is not None:
                return kept
        net = copy.deepcopy(self.net).to(memory_format=torch.channels_last)
        made = references.sample(net, self.x, self.scale(sigma), n, seed, most=most)
        references.save([(key, made)], own)
        return made

    def has_reference(self, sigma: float, n: int, seed: int, most: int | None = None) -> bool:
        """Whether data/references has the reference for this noise, these sample sizes and seed."""
        return references.load(self.key_of(sigma, n, seed, most), references.FOLDER / f"{self.name}.npz") is not None

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

    Weights: in imagenet/ of the data root, or in torch's hub cache; OSError where their SHA-256 is not as named.
    """
    return _on_photographs("alexnet", "AlexNet", _weights("alexnet"), n)


def _weights(name):
    """The file of a network's weights in imagenet/ of the data roots or in torch's cache; None without one."""
    folders = [*(root / "imagenet" for root in datasets.roots()), Path(torch.hub.get_dir()) / "checkpoints"]
    path = next((folder / WEIGHT_FILES[name] for folder in folders if (folder / WEIGHT_FILES[name]).is_file()), None)
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
    net = getattr(datasets.import_torchvision().models, name)(weights=None)
    net.load_state_dict(torch.load(path, weights_only=True))
    which = list(range(0, len(sample), max(1, len(sample) // n)))[:n]
    key = {"network": name, "weights": references.fingerprint(net), "images": sample.sha256, "which": which}
    data = {f"{title} weights": key["weights"], "ImageNet photographs": sample.sha256}
    title += f", ImageNet weights, {len(which)} photographs"
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


def download_photographs(folder: Path) -> None:
    """Download the photographs to <folder>/images/<wnid>.jpg and write <folder>/classes.csv.

    Classes are numbered as torchvision does, in the order of their names. Raises OSError for a missing or wrong file.
    """

    def fetch(name, sha):
        url, path = RAW + quote(name), folder / "images" / f"{name[:9]}.jpg"
        if path.exists() and _git_hash(path) == sha:
            return
        path.unlink(missing_ok=True)
        pooch.retrieve(url, None, path.name, path.parent, downloader=pooch.HTTPDownloader(timeout=datasets.TIMEOUT))
        if _git_hash(path) != sha:
            path.unlink()
            raise OSError(f"{url}: its content is not what its hash says")

    with urlopen(TREE, timeout=datasets.TIMEOUT) as answer:
        entries = sorted((e["path"], e["sha"]) for e in json.load(answer)["tree"] if e["path"].endswith(".JPEG"))
    pooch.get_logger().setLevel("ERROR")
    thread_map(fetch, *zip(*entries), max_workers=8, desc="photographs", disable=None)
    rows = [(index, path[:9], path[10:-5].replace("_", " "), sha) for index, (path, sha) in enumerate(entries)]
    # The fourth column tells this table from that of other sizes of the same photographs.
    table = pd.DataFrame(rows, columns=["index", "wnid", "name", "git hash"])
    _files.replace(folder / "classes.csv", lambda temporary: table.to_csv(temporary, index=False))


def _git_hash(path):
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def download() -> int:
    """Download what is missing, with progress; returns 1 when something was not available."""
    folder, failed = datasets.roots()[0] / "imagenet", 0
    load = partial(torch.hub.load_state_dict_from_url, model_dir=folder, check_hash=True, progress=sys.stderr.isatty())
    steps = {file: partial(load, MODELS + file) for file in WEIGHT_FILES.values()}
    try:
        datasets.imagenet_sample()
    except OSError:
        steps["photographs"] = partial(download_photographs, folder)
    for name, step in steps.items():
        print(f"{name} ...", flush=True)
        try:
            with datasets.answers_in_time():
                step()
        except (OSError, RuntimeError, ValueError, KeyError, HTTPException) as error:
            print(f"{name}: {error}; run it again, or put the files into {folder} yourself", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(download())
