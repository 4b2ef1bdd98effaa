"""Data sets by name: the moons, MNIST, Fashion-MNIST, and a sample of ImageNet.

A data set is read from the data roots (`roots`), else downloaded by torchvision, else replaced by a stand-in with a
warning. Every file is checked against data/SHA256SUMS. `python -m rpa.subjects.datasets` fetches what is missing and
reports.

Environment: RPA_DATA names the only data root, relative to the checkout; RPA_OFFLINE=1 forbids downloads.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import os
import socket
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from rpa._files import ROOT, in_checkout

if TYPE_CHECKING:
    import torch


CLASSES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
}
TIMEOUT = 30.0  # seconds without an answer
SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}  # first part of the files' names, number of images


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled grey images.

    x float32 (n, 1, 28, 28) in [0, 1]; y int64 (n,), an index into `classes`; sha256: of the file of images, or of
    the pixels where `stand_in` is True.
    """

    name: str
    split: str
    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    classes: tuple
    sha256: str
    stand_in: bool

    def __len__(self) -> int:
        return len(self.y)

    @property
    def rows(self) -> np.ndarray:
        """The images as rows (n, 784), a view of x: what a fully connected network takes."""
        return self.x.reshape(len(self.x), -1)

    @property
    def title(self) -> str:
        """The name for a figure; a stand-in is marked."""
        return f"{self.name} STAND-IN" if self.stand_in else self.name

    @property
    def provenance(self) -> dict[str, str]:
        """The entry of a record about its data: name (a stand-in is marked) -> SHA-256."""
        return {f"{self.title}, {self.split}": self.sha256}


def moons(n: int = 1000, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaving half circles (scikit-learn): points x (n, 2) float64 and classes y (n,), 0 and 1.

    noise: standard deviation of the Gaussian noise added to each coordinate, >= 0.

    >>> x, y = moons(4, noise=0.0)
    >>> sorted(x[y == 0, 0].tolist())  # the ends of the upper half circle
    [-1.0, 1.0]
    """
    from sklearn.datasets import make_moons

    return make_moons(n, noise=noise, random_state=seed)


def mnist(split: str = "test") -> Dataset:
    """MNIST (LeCun, Cortes & Burges): 60,000 "train" or 10,000 "test" digits; OSError for an altered file."""
    return _images("MNIST", split)


def fashion_mnist(split: str = "test") -> Dataset:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): 60,000 "train" or 10,000 "test" articles; errors as of `mnist`."""
    return _images("FashionMNIST", split)


def _images(name, split):
    if not isinstance(split, str) or split not in SPLITS:
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    files = [f"{name}/raw/{SPLITS[split][0]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    paths = [find(file) for file in files]
    if None in paths and os.environ.get("RPA_OFFLINE", "0") in ("", "0"):
        try:
            _download(name, roots()[0])
        except (OSError, EOFError, RuntimeError, HTTPException, zlib.error) as error:
            print(f"{name}: not downloaded ({error})", file=sys.stderr)
        paths = [find(file) for file in files]
    stand_in = None in paths
    if stand_in:
        places = " or ".join(map(str, roots()))
        warnings.warn(f"{name}: not in {places} and not downloaded; a STAND-IN is used", stacklevel=3)
        pixels, labels = _digits(split)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    else:  # the checksums guarantee headers and lengths
        pixels = np.fromfile(paths[0], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.fromfile(paths[1], np.uint8, offset=8)
        digest = _checksums()[files[0]]
    x = (pixels / np.float32(255)).reshape(-1, 1, 28, 28)
    return Dataset(name, split, x, labels.astype(np.int64), CLASSES[name], digest, stand_in)


@contextmanager
def answers_in_time() -> Iterator[None]:
    """Let a server that does not answer fail after TIMEOUT, where torch and torchvision would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def import_torchvision() -> ModuleType:
    """The module torchvision, also when its wheel was built for another torch (CPU torch, CUDA torchvision).

    Such a wheel cannot load its compiled operators, and its import stops because two of them are not declared. Models
    and data sets need neither: both are declared after exactly that error. Raises any other error of the import.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # modules that the failed import left incomplete
    from torch.library import define

    for name in ("nms", "qnms"):
        define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def _download(name, root):
    """Let torchvision download a data set; a file appears in the root when it is complete, whoever else downloads."""
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root) as folder:
        with answers_in_time():
            getattr(import_torchvision().datasets, name)(folder, download=True)
        for path in Path(folder).rglob("*-ubyte"):
            target = root / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def _digits(split):
    """scikit-learn's digits as 20 x 20 pixels in 28 x 28, repeated to the size of the real set: pixels, labels."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    part = slice(-500) if split == "train" else slice(-500, None)
    large = zoom(digits[part].reshape(-1, 8, 8) * (255 / 16), (1, 2.5, 2.5), order=1).astype(np.uint8)
    index = np.arange(SPLITS[split][1]) % len(large)
    return np.pad(large, ((0, 0), (4, 4), (4, 4)))[index], labels[part][index]


def roots() -> list[Path]:
    """The folders in which data are looked for; downloads go to the first."""
    if os.environ.get("RPA_DATA"):
        return [ROOT / os.environ["RPA_DATA"]]
    return [ROOT / "data", ROOT.parent / "shared" / "data"]


def find(relative: str) -> Path | None:
    """The path of a data file, None where it is not there; OSError where its SHA-256 is not that of data/SHA256SUMS."""
    for root in roots():
        path = root / relative
        if path.is_file():
            if _sha256(path).hexdigest() != _checksums()[relative]:
                raise OSError(f"{path}: truncated or altered (SHA-256 differs); delete it, then run `make data`")
            return path
    return None


def _checksums():
    """SHA-256 of each file; that of the photographs is over their binary digests."""
    lines = in_checkout("data/SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _sha256(path):
    return hashlib.sha256(path.read_bytes())


@dataclass(frozen=True, eq=False)
class ImageNetSample:
    """Photographs of ImageNet classes, read on demand; photograph i shows class `indices[i]` named `names[i]`.

    paths, names: one per photograph; indices int64 (n,): torchvision's class numbers; sha256: of all photographs.
    """

    paths: tuple = field(repr=False)
    indices: np.ndarray = field(repr=False)
    names: tuple = field(repr=False)
    sha256: str

    STD = (0.229, 0.224, 0.225)  # of torchvision's normalization

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, which: Sequence[int]) -> torch.Tensor:
        """The central pixels of photographs `which`, normalized, as torchvision evaluates: float32 (b, 3, 224, 224)."""
        import torch
        from PIL import Image

        transform = import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1.transforms()
        return torch.stack([transform(Image.open(self.paths[i]).convert("RGB")) for i in which])


def imagenet_sample() -> ImageNetSample:
    """The photographs in imagenet/ of the data root, as an `ImageNetSample`.

    Either classes.csv with the columns index, wnid, name, and images/<wnid>.jpg; or one folder of images for each class
    in images/ or val/. Raises FileNotFoundError without any; OSError for a photograph missing or altered.
    """
    for root in roots():
        if (table := root / "imagenet" / "classes.csv").is_file():
            try:
                with table.open(newline="") as stream:
                    rows = [tuple(row)[:3] for row in csv.reader(stream) if row][1:]
                images = table.parent / "images"
                sample = _sample([(int(index), name, images / f"{wnid}.jpg") for index, wnid, name in rows])
            except (ValueError, FileNotFoundError) as error:
                wanted = "expected the columns index, wnid, name and a photograph images/<wnid>.jpg for each row"
                raise OSError(f"{table}: {wanted} ({error}); make data DATA=imagenet fetches them") from error
            known = _checksums()
            # Another table of classes describes other photographs; records contain their digest.
            ours = _sha256(table).hexdigest() == known["imagenet/classes.csv"]
            if ours and sample.sha256 != known["imagenet/images/*.jpg"]:
                raise OSError(f"{images}: a photograph is truncated or altered (SHA-256 differs)")
            return sample
    for folder in (root / "imagenet" / kind for root in roots() for kind in ("images", "val")):
        classes = sorted(path for path in folder.glob("*") if path.is_dir())
        files = [sorted(path for path in each.glob("[!.]*") if path.is_file()) for each in classes]
        if any(files):
            return _sample([(i, classes[i].name, path) for i, paths in enumerate(files) for path in paths])
    raise FileNotFoundError(f"imagenet/classes.csv: not in {' or '.join(map(str, roots()))}; see data/README.md")


def _sample(shown):
    """An `ImageNetSample` of (class number, class name, path) triples."""
    indices, names, paths = zip(*shown)
    digest = hashlib.sha256(b"".join(_sha256(path).digest() for path in paths)).hexdigest()
    return ImageNetSample(paths, np.array(indices), names, digest)


if __name__ == "__main__":
    for load in (mnist, fashion_mnist):
        for part in SPLITS:
            data = load(part)
            print(f"{data.title:22s}{part:6s}{len(data):6d} images  sha256 {data.sha256[:12]}")
    try:
        photographs = imagenet_sample()
        print(f"{'ImageNet sample':28s}{len(photographs):6d} images  sha256 {photographs.sha256[:12]}")
    except FileNotFoundError as missing:
        print(f"{'ImageNet sample':28s}not there ({missing}); make data DATA=imagenet fetches it")
