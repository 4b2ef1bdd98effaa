"""Photographs and weights for AlexNet and SqueezeNet, fetched and checked: `make data DATA=imagenet`.

Into imagenet/ of the data root go the 1,000 photographs of github.com/EliSchwartz/imagenet-sample-images, one per
class, at a fixed commit, and torchvision's weights. A photograph is checked against git's own hash of it, a file of
weights against the SHA-256 in its name. What is there and right is not fetched again; nothing wrong is kept.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pooch
import torch
from tqdm import tqdm

from rpa import _files
from rpa.subjects import datasets

__all__ = ["main", "photographs", "weights"]

REPOSITORY, COMMIT = "EliSchwartz/imagenet-sample-images", "22d0a5c9c5c76d13532da2d29ea7fa2e9e034387"
TREE = f"https://api.github.com/repos/{REPOSITORY}/git/trees/{COMMIT}"
RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/"
WEIGHTS = "https://download.pytorch.org/models/"
FILES = ("alexnet-owt-7be5be79.pth", "squeezenet1_0-b66bff10.pth")
AT_A_TIME, TIMEOUT = 8, 30.0  # photographs; seconds without an answer


def photographs(folder: Path) -> int:
    """Fetch the photographs into <folder>/images/<wnid>.jpg and write <folder>/classes.csv; how many there are.

    Classes are numbered as torchvision does, by their names' order. Raises OSError naming the first that is missing.
    """
    with urllib.request.urlopen(TREE, timeout=TIMEOUT) as answer:
        listed = [entry for entry in json.load(answer)["tree"] if entry["path"].endswith(".JPEG")]
    listed.sort(key=lambda entry: entry["path"])
    if not listed:
        raise OSError(f"{TREE}: lists no photographs")
    pooch.get_logger().setLevel("ERROR")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for _ in tqdm(
            pool.map(partial(_photograph, folder), listed), total=len(listed), desc="photographs", disable=None
        ):
            pass
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("index", "wnid", "name"))
    for index, entry in enumerate(listed):
        table.writerow((index, entry["path"][:9], entry["path"][10:-5].replace("_", " ")))
    _files.replace(folder / "classes.csv", lambda temporary: temporary.write_text(text.getvalue()))
    return len(listed)


def _photograph(folder, entry):
    """Fetch one photograph unless it is there; entry: its path and its hash in git's tree."""
    url, path = RAW + urllib.parse.quote(entry["path"]), folder / "images" / f"{entry['path'][:9]}.jpg"
    if not (path.exists() and _blob(path) == entry["sha"]):
        path.unlink(missing_ok=True)
        pooch.retrieve(url, None, path.name, path.parent, downloader=pooch.HTTPDownloader(timeout=TIMEOUT))
        if _blob(path) != entry["sha"]:
            path.unlink()
            raise OSError(f"{url}: its content is not what its hash says")


def _blob(path):
    """Git's hash of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def weights(folder: Path, file: str) -> Path:
    """Fetch one of FILES, whose name ends with the first eight digits of its SHA-256, into the folder.

    Raises RuntimeError for a file of another hash, OSError where it cannot be had.
    """
    torch.hub.load_state_dict_from_url(WEIGHTS + file, str(folder), check_hash=True, progress=sys.stderr.isatty())
    return folder / file


def main() -> int:
    """Fetch what is missing, with progress; 1 when something could not be had."""
    folder, failed = datasets.roots()[0] / "imagenet", False
    steps: list[tuple[str, Callable[[], object]]] = [(file, partial(weights, folder, file)) for file in FILES]
    try:
        complete = len(datasets.imagenet_sample()) > 0
    except OSError:
        complete = False
    if not complete:
        steps.append(("photographs", partial(photographs, folder)))
    for name, step in steps:
        print(f"{name} ...", flush=True)
        try:
            step()
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            print(f"{name}: {error}; run it again, or put the files into {folder} yourself", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
