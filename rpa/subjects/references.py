"""Monte Carlo references of large networks: chunked, seeded, and kept with all they depend on.

data/references/<network>.npz holds the references that the notebooks use, an entry each, "sigma0.02 n512 seed1" for
instance. Others are kept one by one in a folder of build/.

A reference holds the leading outputs of each input and their moments under Gaussian noise. It is made of antithetic
pairs x + e, x - e. The part of the output that is odd in the noise cancels in the mean of a pair, so the mean is
several times as accurate as from as many single samples. Where leading outputs of an input are nearly equal, sampling
can go on for that input alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rpa import _check, _files
from rpa._files import ROOT

FOLDER = ROOT / "data" / "references"
PARTS = ("top", "mean", "var", "stderr", "n")
KEEP = 10
LEADING, CLEAR = 5, 3.0  # outputs whose order is wanted; standard errors between neighbours that settle it
IN_CACHE = 2**17  # numbers of one batch of noise: SqueezeNet is 1.6 times faster than with batches of 16 images


@dataclass(frozen=True)
class Reference:
    """The k largest means of each of b inputs, best first, k at most `KEEP`; all arrays are (b, k), n is (b,).

    top: output numbers; mean, var: moments of those outputs; stderr: standard error of the mean, infinite for one pair;
    n: samples of each input.
    """

    top: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    stderr: np.ndarray
    n: np.ndarray


def sample(
    net: nn.Module,
    x: torch.Tensor,
    scale: float | torch.Tensor | Callable[[int], torch.Tensor],
    n: int,
    seed: int,
    *,
    most: int | None = None,
) -> Reference:
    """`Reference` of net(x[i] + scale z), z standard normal, from n samples (n/2 antithetic pairs) per input.

    x (b, *shape); scale: a number, a tensor that broadcasts to an input, or a function of i that returns a root R
    (d, d) of input i's covariance R R^T. most: inputs whose five leading means are less than 3 standard errors apart,
    from each other or from the sixth, get twice the samples, again and again, up to this number (default: n, the same
    for all). Input i has its own random stream (seed, i).
    """
    n, rows = _check.integer("n", n, 2), []
    most = n if most is None else _check.integer("most", most, n)
    with torch.inference_mode():
        for i in range(len(x)):
            stream = int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1)
            generator = torch.Generator().manual_seed(stream)
            root = scale(i) if callable(scale) else None
            rows.append(_one(net, x[i : i + 1], scale, root, (n // 2, most // 2), generator))
    return Reference(*map(np.stack, zip(*rows)))


def _one(net, x, scale, root, pairs, generator):
    """The PARTS of one input (1, *shape) from (least, most) pairs; sums are taken about the noise-free output."""
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    centre, sums = net(x.contiguous(memory_format=layout)).double(), 0.0
    done, (wanted, most), chunk = 0, pairs, max(2, IN_CACHE // x.numel())
    while True:
        for start in range(done, wanted, chunk):
            z = torch.randn(min(chunk, wanted - start), *x.shape[1:], generator=generator, dtype=x.dtype)
            noise = scale * z if root is None else (z.flatten(1) @ root.T).reshape(z.shape)
            y = net(torch.cat([x + noise, x - noise]).contiguous(memory_format=layout)).double() - centre
            if not y.isfinite().all():
                raise ValueError("net: returned NaN or infinite values")
            plus, minus = y.chunk(2)
            middle = (plus + minus) / 2
            sums = sums + torch.stack([middle.sum(0), (middle**2).sum(0), ((plus**2 + minus**2) / 2).sum(0)])
        shift, squares, power = sums / wanted
        mean, var = centre[0] + shift, (power - shift**2) * (2 * wanted) / (2 * wanted - 1)
        spread = (squares - shift**2).clamp(min=0) if wanted > 1 else torch.full_like(shift, torch.inf)
        stderr = (spread / max(wanted - 1, 1)).sqrt()
        top = mean.topk(min(KEEP, len(mean))).indices
        mean, var, stderr = (part[top].float().numpy() for part in (mean, var, stderr))
        gaps, errors = -np.diff(mean[: LEADING + 1]), np.hypot(stderr[:-1], stderr[1:])[:LEADING]
        if wanted == most or (gaps > CLEAR * errors).all():
            return top.numpy(), mean, var, stderr, np.int32(2 * wanted)
        done, wanted = wanted, min(2 * wanted, most)


def fingerprint(net: nn.Module) -> str:
    """SHA-256 of a torch module: its architecture in words and every number in its state."""
    digest = hashlib.sha256(repr(net).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def entry_of(key: dict) -> str:
    """The name of a reference in its file: noise level, samples (least, most) and seed."""
    most = f"-{key['most']}" if key.get("most") else ""
    return f"sigma{key['sigma']:g} n{key['n']}{most} seed{key['seed']}"


def load(key: dict, path: Path) -> Reference | None:
    """The `Reference` with this key, all that its numbers depend on, in the file `path`; None where there is none."""
    name = f"{entry_of(key)}/"
    if not path.is_file():
        return None
    with _files.reading(path) as stored:
        if f"{name}key" not in stored.files or json.loads(str(stored[f"{name}key"])) != json.loads(json.dumps(key)):
            return None
        return Reference(*(stored[f"{name}{part}"] for part in PARTS))


def save(references: list[tuple[dict, Reference]], path: Path) -> None:
    """Add references with their keys to the file `path`."""
    arrays = {}
    if path.is_file():
        with _files.reading(path) as stored:
            arrays = dict(stored)
    for key, reference in references:
        parts = vars(reference) | {"top": reference.top.astype(np.int32), "key": np.array(json.dumps(key))}
        arrays |= {f"{entry_of(key)}/{name}": value for name, value in parts.items()}
    _files.save_arrays(path, **dict(sorted(arrays.items())))
