"""Data sets by name: the moons, MNIST, Fashion-MNIST, and a sample of ImageNet.

A data set is looked for in the data roots (`roots`), then downloaded by torchvision, and at last replaced by a
stand-in, with a warning. Every file is checked against its SHA-256 (data/README.md lists them). Nothing that is read
here belongs into the repository. `python -m rpa.subjects.datasets` fetches what is missing and reports.

Environment: RPA_DATA names the only data root; RPA_OFFLINE=1 forbids downloads.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rpa import _check
from rpa._files import ROOT
from rpa.subjects import _standin
from rpa.subjects._torchvision import import_torchvision

if TYPE_CHECKING:
    import torch


__all__ = ["Dataset", "ImageNetSample", "fashion_mnist", "imagenet_sample", "mnist", "moons", "roots"]

_CLASSES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
}
_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
_SHA256 = {
    "MNIST/raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "MNIST/raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "MNIST/raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "MNIST/raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "FashionMNIST/raw/train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "imagenet/classes.csv": "21ef855ca09694a7b7d75e4f584c825c1b9801cc383e8bfc8c0ff142d4d7d5d5",
    "imagenet/squeezenet1_0.pth": "a65e213769e72f265973a8e1b72338e4b781034cce18eaf79a1070344995fe3a",
}
_PHOTOGRAPHS = "5d31e71b92c8266007890834c2040379271e7e9a6c699200927c15ed4d195e32"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled grey images.

    x float32 (n, 1, 28, 28) in [0, 1]; y int64 (n,), an index into `classes`; sha256: of the file of images, or of
    the drawn pixels where `stand_in` is True; source: where the images come from, in words.
    """

    name: str
    split: str
    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    classes: tuple
    sha256: str
    stand_in: bool
    source: str

    def __len__(self) -> int:
        return len(self.y)

    @property
    def rows(self) -> np.ndarray:
        """The images as rows (n, 784), a view of x: what a fully connected network takes."""
        return self.x.reshape(len(self.x), -1)

    @property
    def title(self) -> str:
        """The name for a figure; a stand-in says so."""
        return f"{self.name} STAND-IN" if self.stand_in else self.name

    @property
    def provenance(self) -> dict[str, str]:
        """What a record of numbers says about its data: name (a stand-in says so) -> SHA-256."""
        return {f"{self.title}, {self.split}": self.sha256}


def moons(n: int = 1000, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaving half circles (scikit-learn): points x (n, 2) float64 and classes y (n,), 0 and 1.

    noise: standard deviation of the Gaussian noise added to each coordinate, >= 0.

    >>> x, y = moons(4, noise=0.0)
    >>> sorted(x[y == 0, 0].tolist())  # the ends of the upper half circle
    [-1.0, 1.0]
    """
    from sklearn.datasets import make_moons

    n, seed = _check.integer("n", n, 2), _check.integer("seed", seed)
    noise = float(_check.array("noise", noise, ()))
    if noise < 0:
        raise ValueError(f"noise: expected a number >= 0, got {noise:g}")
    return make_moons(n, noise=noise, random_state=seed)


def mnist(split: str = "test") -> Dataset:
    """MNIST (LeCun, Cortes & Burges), 60,000 "train" or 10,000 "test" digits, as a `Dataset`.

    Raises OSError for a file that is there but is not the official one.
    """
    return _images("MNIST", split)


def fashion_mnist(split: str = "test") -> Dataset:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), 60,000 "train" or 10,000 "test" articles, as a `Dataset`.

    Raises OSError for a file that is there but is not the official one.
    """
    return _images("FashionMNIST", split)


def _images(name, split):
    if not isinstance(split, str) or split not in _FILES:
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    paths = _obtain(name, split)
    if paths is None:
        warnings.warn(f"{name}: not in {_shown(roots())} and not downloaded; a STAND-IN is used", stacklevel=3)
        pixels, labels = _standin.draw(split)
        digest, source = hashlib.sha256(pixels.tobytes()).hexdigest(), _standin.SOURCE
    else:  # the checksums say that headers and lengths are right
        pixels = np.fromfile(paths[0], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.fromfile(paths[1], np.uint8, offset=8)
        digest, source = _SHA256[f"{name}/raw/{_FILES[split][0]}"], "official IDX files"
    x = (pixels / np.float32(255)).reshape(-1, 1, 28, 28)
    return Dataset(name, split, x, labels.astype(np.int64), _CLASSES[name], digest, paths is None, source)


def _obtain(name, split):
    """The paths of the images and the labels, downloaded when they are not there; None when they cannot be had."""
    for may_download in (True, False):
        paths = [find(f"{name}/raw/{file}") for file in _FILES[split]]
        if None not in paths:
            return paths
        if may_download and os.environ.get("RPA_OFFLINE", "0") in ("", "0"):
            try:
                getattr(import_torchvision().datasets, name)(str(roots()[0]), download=True)
            except (OSError, EOFError, RuntimeError) as error:
                print(f"{name}: not downloaded ({error})", file=sys.stderr)
    return None


def roots() -> list[Path]:
    """The folders in which data are looked for, first the one that downloads go to."""
    if os.environ.get("RPA_DATA"):
        return [Path(os.environ["RPA_DATA"])]
    return [ROOT / "data", ROOT.parent / "shared" / "data"]


def find(relative):
    """The path of a data file that is there, its SHA-256 checked, or None.

    Raises OSError when its content is not what data/README.md says.
    """
    for root in roots():
        path = root / relative
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256[relative]:
                raise OSError(f"{path}: truncated or altered (SHA-256 differs); delete it, then run `make data`")
            return path
    return None


@dataclass(frozen=True, eq=False)
class ImageNetSample:
    """Photographs of ImageNet classes, read when asked for; photograph i shows class `indices[i]` named `names[i]`.

    paths, names: one per photograph; indices int64 (n,): torchvision's class numbers; sha256: of all photographs.
    """

    paths: tuple = field(repr=False)
    indices: np.ndarray = field(repr=False)
    names: tuple = field(repr=False)
    sha256: str

    MEAN = (0.485, 0.456, 0.406)
    STD = (0.229, 0.224, 0.225)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def provenance(self) -> dict[str, str]:
        """What a record of numbers says about its data: name -> SHA-256."""
        return {f"ImageNet sample, {len(self)} photographs": self.sha256}

    def pixels(self, which: Sequence[int]) -> np.ndarray:
        """The central 224 x 224 pixels of photographs `which` (a list of positions): uint8 (b, 224, 224, 3)."""
        places = [_check.index("which", i, len(self)) for i in which]
        if not places:
            raise ValueError("which: expected at least one position, got none")
        return np.stack([_centre_crop(self.paths[i]) for i in places])

    def batch(self, which: Sequence[int]) -> torch.Tensor:
        """The same as a torch float32 tensor (b, 3, 224, 224) in torchvision's normalization."""
        import torch

        x = torch.from_numpy(self.pixels(which)).permute(0, 3, 1, 2) / 255.0
        mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (self.MEAN, self.STD))
        return ((x - mean) / std).contiguous()


def imagenet_sample() -> ImageNetSample:
    """The photographs in imagenet/ of the data root, as an `ImageNetSample`.

    classes.csv has the columns index, wnid, name; images/<wnid>.jpg is the photograph. Raises FileNotFoundError
    when there are none; OSError for a photograph missing or altered.
    """
    for root in roots():
        table = root / "imagenet" / "classes.csv"
        if table.is_file():
            break
    else:
        raise FileNotFoundError(f"imagenet/classes.csv: not in {_shown(roots())}; see data/README.md")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    paths = tuple(table.parent / "images" / f"{row['wnid']}.jpg" for row in rows)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    ours = hashlib.sha256(table.read_bytes()).hexdigest() == _SHA256["imagenet/classes.csv"]
    # Another table of classes means photographs of the reader's own; their digest then stands in the records.
    if ours and digest.hexdigest() != _PHOTOGRAPHS:
        raise OSError(f"{table.parent / 'images'}: a photograph is truncated or altered (SHA-256 differs)")
    indices = np.array([int(row["index"]) for row in rows])
    return ImageNetSample(paths, indices, tuple(row["name"] for row in rows), digest.hexdigest())


def squeezenet_path():
    """Path of the ImageNet-trained SqueezeNet 1.0 state dict, SHA-256 checked.

    Raises FileNotFoundError when it is not there, OSError when it is truncated or altered.
    """
    path = find("imagenet/squeezenet1_0.pth")
    if path is None:
        raise FileNotFoundError(f"imagenet/squeezenet1_0.pth: not in {_shown(roots())}; see data/README.md")
    return path


def _centre_crop(path, short=256, size=224):
    """Short side to `short` pixels, then the centre: torchvision's evaluation transform."""
    from PIL import Image

    with Image.open(path) as image:
        image = image.convert("RGB")
    scale = short / min(image.size)
    if scale != 1:
        image = image.resize([round(scale * side) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - size) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _shown(folders):
    return " or ".join(str(folder) for folder in folders)


def report():
    """Fetches what is missing and prints one line per data set."""
    for load in (mnist, fashion_mnist):
        for split in _FILES:
            data = load(split)
            print(f"{data.title:22s}{split:6s}{len(data):6d} images  {data.source}  sha256 {data.sha256[:12]}")
    try:
        sample = imagenet_sample()
        print(f"{'ImageNet sample':22s}{'':6s}{len(sample):6d} images  sha256 {sample.sha256[:12]}")
    except FileNotFoundError as missing:
        print(f"{'ImageNet sample':22s}not there ({missing}); make data DATA=imagenet fetches it")


if __name__ == "__main__":
    report()
