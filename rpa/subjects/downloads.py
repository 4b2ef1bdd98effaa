"""Photographs and weights for AlexNet and SqueezeNet, downloaded and checked: `make data DATA=imagenet`.

Into imagenet/ of the data root go the 1,000 photographs of github.com/EliSchwartz/imagenet-sample-images, one per
class, and torchvision's weights. Git fetches the photographs at one commit, whose hash covers all of them; each file of
weights is checked against the SHA-256 in its name. What is there is not downloaded again.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from rpa import _files
from rpa.subjects import datasets, imagenet

REPOSITORY = "https://github.com/EliSchwartz/imagenet-sample-images"
COMMIT = "22d0a5c9c5c76d13532da2d29ea7fa2e9e034387"
WEIGHTS = "https://download.pytorch.org/models/"


def photographs(folder: Path) -> None:
    """Download the photographs to <folder>/images/<wnid>.jpg and write <folder>/classes.csv.

    Classes are numbered as torchvision does, in the order of their names. Raises OSError where there is no git,
    CalledProcessError where git fails.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as clone:
        for command in (["init", "-q"], ["fetch", "--depth=1", REPOSITORY, COMMIT], ["checkout", "-q", COMMIT]):
            subprocess.run(["git", "-C", clone, *command], check=True)
        paths = sorted(Path(clone).glob("*.JPEG"))
        for path in paths:
            path.replace(folder / "images" / f"{path.name[:9]}.jpg")
    rows = [(index, path.stem[:9], path.stem[10:].replace("_", " "), COMMIT) for index, path in enumerate(paths)]
    # The fourth column tells this table from that of other sizes of the same photographs.
    table = pd.DataFrame(rows, columns=["index", "wnid", "name", "commit"])
    _files.replace(folder / "classes.csv", lambda temporary: table.to_csv(temporary, index=False))


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
            step()
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}; run it again, or put the files into {folder} yourself", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
