"""Atomic writes of files, and the paths of the checkout with notebooks, data and figures."""

import os
import uuid
import zlib
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

PACKAGE = Path(__file__).resolve().parent
# The checkout; without one the working directory, so that nothing is written into the installed package.
ROOT = PACKAGE.parent if (PACKAGE.parent / "notebooks").is_dir() else Path.cwd()


def in_checkout(name):
    """The path of a file of the checkout; FileNotFoundError where it is not there."""
    if not (ROOT / name).exists():
        raise FileNotFoundError(f"{name}: not in {ROOT}; it is part of the repository alone: use a git clone")
    return ROOT / name


def build(name=""):
    """build/<name> of the checkout, where runs write. RPA_BUILD names another folder, relative to the checkout."""
    return ROOT / (os.environ.get("RPA_BUILD") or "build") / name


def replace(path, write):
    """write(temporary), move the result to `path` and return it: a reader sees the old file or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def reading(path):
    """The open .npz `path`; OSError naming it where it is no such file or lacks what is read from it."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    # NotImplementedError is a RuntimeError: zipfile's answers to headers that name other methods or passwords.
    except (ValueError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        raise OSError(f"{path}: truncated, altered or of another version ({error}); restore or delete it") from error


def save_arrays(path, **arrays):
    """Write a compressed .npz of the arrays to `path`."""
    import numpy as np

    return replace(path, lambda temporary: np.savez_compressed(temporary, **arrays))
