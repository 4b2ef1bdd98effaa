"""Photographs and weights for AlexNet and SqueezeNet, fetched and checked: `python -m rpa.subjects.downloads`.

`make data DATA=imagenet` puts into imagenet/ of the data root what `rpa.subjects.imagenet` looks for: the 1,000
photographs of github.com/EliSchwartz/imagenet-sample-images, one per class, and torchvision's weights. A photograph is
held against git's own hash of it, a file of weights against the SHA-256 in its name. What is there and right is not
fetched again; a file that was cut off goes on where it stopped; nothing wrong is kept.
"""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from rpa import _files
from rpa.subjects import datasets

__all__ = ["fetch", "main", "photographs", "weights"]

REPOSITORY = "EliSchwartz/imagenet-sample-images"
TREE = f"https://api.github.com/repos/{REPOSITORY}/git/trees/master"
RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/master/"
WEIGHTS = "https://download.pytorch.org/models/"
FILES = ("alexnet-owt-7be5be79.pth", "squeezenet1_0-b66bff10.pth")
AT_A_TIME, BLOCK = 8, 1 << 20
BROKEN = (OSError, http.client.HTTPException)


def fetch(url: str, path: Path, right: Callable[[bytes], bool], tries: int = 3) -> Path:
    """The file of `url` at `path`; what is there and `right` stays. A part that was cut off is kept and gone on from.

    Raises OSError naming the address when it cannot be had, or is not what it should be.
    """
    if path.is_file() and right(path.read_bytes()):
        return path
    part, reason = path.with_name(f"{path.name}.part"), "nothing came"
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(tries):
        try:
            _append(url, part)
        except BROKEN as error:
            reason = str(error)
            continue
        if right(part.read_bytes()):
            part.replace(path)
            return path
        part.unlink()
        reason = "its content is not what its hash says"
    raise OSError(f"{url}: could not be fetched ({reason}); run it again, or put the file at {path} yourself")


def _append(url, part):
    """Fetch what `part` lacks; http.client.IncompleteRead when the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=datasets.TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is lacking
            return
        raise
    with answer, open(part, "ab" if answer.status == 206 else "wb") as stream:
        expected, got = answer.headers.get("Content-Length"), 0
        while block := answer.read(BLOCK):
            stream.write(block)
            got += len(block)
        if expected is not None and got < int(expected):
            raise http.client.IncompleteRead(b"", int(expected) - got)


def photographs(folder: Path) -> int:
    """Fetch the photographs into <folder>/images/<wnid>.jpg and write <folder>/classes.csv; how many there are.

    Classes are numbered as torchvision does, by their names' order. Raises OSError naming the first that is missing.
    """
    with urllib.request.urlopen(TREE, timeout=datasets.TIMEOUT) as answer:
        listed = [entry for entry in json.load(answer)["tree"] if entry["path"].endswith(".JPEG")]
    listed.sort(key=lambda entry: entry["path"])
    if not listed:
        raise OSError(f"{TREE}: lists no photographs")

    def one(entry):
        url, sha = RAW + urllib.parse.quote(entry["path"]), entry["sha"]
        return fetch(url, folder / "images" / f"{entry['path'][:9]}.jpg", lambda content: _blob(content) == sha)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for _ in tqdm(pool.map(one, listed), total=len(listed), desc="photographs", disable=None):
            pass
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("index", "wnid", "name"))
    for index, entry in enumerate(listed):
        table.writerow((index, entry["path"][:9], entry["path"][10:-5].replace("_", " ")))
    _files.replace(folder / "classes.csv", lambda temporary: temporary.write_text(text.getvalue()))
    return len(listed)


def _blob(content):
    """Git's name for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def weights(folder: Path, file: str) -> Path:
    """Fetch one of FILES, whose name ends with the first eight digits of its SHA-256, into the folder."""
    digest = file.rpartition("-")[2].partition(".")[0]
    right = lambda content: hashlib.sha256(content).hexdigest().startswith(digest)
    return fetch(WEIGHTS + file, folder / file, right)


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
        except (*BROKEN, ValueError, KeyError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
