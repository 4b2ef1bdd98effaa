"""Data sets: strict parsing, checks, fall-backs; the real files where they are."""

import hashlib
import socket
import struct
import subprocess
import sys
import urllib.error
import zlib
from http.client import BadStatusLine
from pathlib import Path

import numpy as np
import pytest
from helpers import refusals

from rpa.subjects import datasets

test_other_splits_are_refused = refusals({datasets.mnist: {"split": ["validation", 0, None, np.array(["test"])]}})
IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 28, 28) + bytes(range(256)) * 6 + bytes(32)
FILES = ["MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"]


class Downloads:
    """In the place of torchvision: writes these contents to the root, in turn; raises those that are exceptions."""

    def __init__(self, *contents):
        self.contents, self.calls, self.datasets = list(contents), 0, self

    def MNIST(self, root, download):
        content, self.calls = self.contents[self.calls], self.calls + 1
        if isinstance(content, Exception):
            raise content
        for file in FILES:
            path = Path(root) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.seen = [path for path in FILES if datasets.find(path)]
        assert socket.getdefaulttimeout() == datasets.TIMEOUT


def test_what_is_missing_is_replaced_by_the_stand_in_until_it_is_downloaded_and_checked(data_root, monkeypatch):
    monkeypatch.delenv("RPA_OFFLINE")
    monkeypatch.setattr(datasets, "_checksums", lambda: dict.fromkeys(FILES, hashlib.sha256(IDX).hexdigest()))
    errors = BadStatusLine("no http"), zlib.error("invalid block"), TimeoutError(), urllib.error.URLError("no route")
    library = Downloads(*errors, IDX)
    monkeypatch.setattr(datasets, "import_torchvision", lambda: library)
    for _ in errors:
        with pytest.warns(UserWarning, match="STAND-IN"):
            assert datasets.mnist("test").stand_in
        assert socket.getdefaulttimeout() is None and not list(data_root.iterdir())
    for _ in range(2):
        data = datasets.mnist("test")
        assert not data.stand_in and np.array_equal(data.x.ravel()[:256] * 255, np.arange(256)) and library.calls == 5
    assert library.seen == []  # another process finds no file that is still being written
    (data_root / FILES[0]).unlink()
    library.contents.append(b"<html>")
    with pytest.raises(OSError, match="t10k-images-idx3-ubyte.*delete it, then run `make data`"):
        datasets.mnist("test")


@pytest.mark.parametrize("load", [datasets.mnist, datasets.fashion_mnist])
def test_the_stand_in_warns_is_marked_and_is_the_same_each_time(data_root, load):
    with pytest.warns(UserWarning, match="STAND-IN"):
        data, again = load("test"), load("test")
    assert data.stand_in and "STAND-IN" in data.title and list(data.provenance) == [f"{data.title}, test"]
    assert np.array_equal(data.x, again.x) and data.sha256 == again.sha256
    assert data.x.shape == (10_000, 1, 28, 28) and data.x.dtype == np.float32
    assert data.x.min() >= 0 and 0.9 < data.x.max() <= 1 and set(data.y) == set(range(10))
    centres = np.array([data.rows[:5000][data.y[:5000] == c].mean(0) for c in range(10)])
    distance = (centres**2).sum(1) - 2 * data.rows[5000:] @ centres.T
    assert (distance.argmin(1) == data.y[5000:]).mean() > 0.5


def test_a_relative_data_root_is_that_of_the_checkout_wherever_a_kernel_works(monkeypatch, tmp_path):
    monkeypatch.setenv("RPA_DATA", "mine")
    monkeypatch.chdir(tmp_path)
    assert datasets.roots() == [datasets.ROOT / "mine"]


@pytest.mark.skipif(not any((root / "MNIST").exists() for root in datasets.roots()), reason="needs the real MNIST")
def test_the_real_digits():
    train, test = datasets.mnist("train"), datasets.mnist("test")
    assert (len(train), len(test)) == (60_000, 10_000) and not test.stand_in and test.title == "MNIST"
    assert test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert test.rows.shape == (10_000, 784) and test.x.max() == 1.0
    assert abs(train.x.mean(dtype=np.float64) - 0.1307) < 5e-5 and abs(train.x.std(dtype=np.float64) - 0.3081) < 5e-5


# A torchvision without its compiled operators, whatever the one installed is: `_load_library` finds nothing to load.
WITHOUT_OPERATORS = """
import torch
torch.ops.load_library = lambda path: (_ for _ in ()).throw(OSError("built for another torch"))
try:
    import torchvision
except RuntimeError as error:
    assert "torchvision::nms does not exist" in str(error)
else:
    raise AssertionError("it does without them")
from rpa.subjects.datasets import import_torchvision
torchvision = import_torchvision()
from torchvision.models import squeezenet1_0
assert torchvision.models.squeezenet1_0 is squeezenet1_0
print(len(list(squeezenet1_0().parameters())))
"""


def test_torchvision_builds_a_model_without_its_compiled_operators():
    done = subprocess.run([sys.executable, "-c", WITHOUT_OPERATORS], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "52", done.stderr


def test_other_errors_of_its_import_pass_through(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="something else"):
        datasets.import_torchvision()
