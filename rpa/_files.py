"""Files that are either whole or not there, and the checkout in which notebooks, data and figures lie."""

import os
import uuid
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# The checkout, or the working directory where the package is installed without one: nothing is written into it.
ROOT = PACKAGE.parent if (PACKAGE.parent / "notebooks").is_dir() else Path.cwd()


def in_checkout(name):
    """The path of a file of the checkout; FileNotFoundError where it is not there."""
    if not (ROOT / name).exists():
        reason = "it is part of the repository, not of the installed package: use a git clone"
        raise FileNotFoundError(f"{name}: not in {ROOT}; {reason}")
    return ROOT / name


def build(name=""):
    """build/<name> of the checkout, for all that runs write; the environment variable RPA_BUILD replaces build/."""
    return Path(os.environ.get("RPA_BUILD") or ROOT / "build") / name


def replace(path, write):
    """write(temporary) and move the result to `path`, which is returned: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_arrays(path, **arrays):
    """A compressed .npz of the arrays at `path`."""

    import numpy as np

    def write(temporary):
        with open(temporary, "wb") as stream:  # given a name, NumPy would append .npz to it
            np.savez_compressed(stream, **arrays)

    return replace(path, write)
