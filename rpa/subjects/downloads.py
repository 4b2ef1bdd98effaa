"""Photographs and weights for AlexNet and SqueezeNet, downloaded and checked: `make data DATA=imagenet`.

Into imagenet/ of the data root go the 1,000 photographs of github.com/EliSchwartz/imagenet-sample-images, one per
class, at a fixed commit, and torchvision's weights. Each photograph is checked against its hash in git's tree of that
commit, each file of weights against the SHA-256 in its name. Files that are correct are not downloaded again.
"""

import hashlib
import json
import sys
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pandas as pd
import pooch
import torch
from tqdm.contrib.concurrent import thread_map

from rpa import _files
from rpa.subjects import datasets, imagenet

REPOSITORY, COMMIT = "EliSchwartz/imagenet-sample-images", "22d0a5c9c5c76d13532da2d29ea7fa2e9e034387"
TREE = f"https://api.github.com/repos/{REPOSITORY}/git/trees/{COMMIT}"
RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/"
WEIGHTS = "https://download.pytorch.org/models/"


def photographs(folder: Path) -> None:
    """Download the photographs to <folder>/images/<wnid>.jpg and write <folder>/classes.csv.

    Classes are numbered as torchvision does, in the order of their names. Raises OSError for a missing or wrong file.
    """
    with urlopen(TREE, timeout=datasets.TIMEOUT) as answer:
        entries = sorted((e["path"], e["sha"]) for e in json.load(answer)["tree"] if e["path"].endswith(".JPEG"))
    pooch.get_logger().setLevel("ERROR")
    fetch = partial(_photograph, folder)
    thread_map(fetch, *zip(*entries), max_workers=8, desc="photographs", disable=None)
    rows = [(index, path[:9], path[10:-5].replace("_", " "), sha) for index, (path, sha) in enumerate(entries)]
    # The fourth column tells this table from that of other sizes of the same photographs.
    table = pd.DataFrame(rows, columns=["index", "wnid", "name", "git hash"])
    _files.replace(folder / "classes.csv", lambda temporary: table.to_csv(temporary, index=False))


def _photograph(folder, name, sha):
    """Download one photograph, unless it is there with the hash `sha` of git."""
    url, path = RAW + quote(name), folder / "images" / f"{name[:9]}.jpg"
    if path.exists() and _git_hash(path) == sha:
        return
    path.unlink(missing_ok=True)
    pooch.retrieve(url, None, path.name, path.parent, downloader=pooch.HTTPDownloader(timeout=datasets.TIMEOUT))
    if _git_hash(path) != sha:
        path.unlink()
        raise OSError(f"{url}: its content is not what its hash says")


def _git_hash(path):
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def main() -> int:
    """Download what is missing, with progress; returns 1 when something was not available."""
    folder, failed = datasets.roots()[0] / "imagenet", 0
    load = partial(torch.hub.load_state_dict_from_url, model_dir=folder, check_hash=True, progress=sys.stderr.isatty())
    steps = {file: partial(load, WEIGHTS + file) for file in imagenet.WEIGHTS.values()}
    try:
        datasets.imagenet_sample()
    except OSError:
        steps["photographs"] = partial(photographs, folder)
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
    sys.exit(main())
