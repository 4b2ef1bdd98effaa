"""The experiment of notebook 13: failure probabilities against noise, their referees, and what each costs.

`curve` asks for P(class changes) at noise levels that reach from frequent to unseen failures, `sampled` and
`rpa.reliability.splitting` check it, `sampled_gap` counts the distance in errors, `costs` compares at equal error.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from rpa import _check
from rpa.inputs import Gaussian
from rpa.reliability.event import events
from rpa.reliability.failure import failure_probability
from rpa.reliability.screening import first_order

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from rpa.network import ReLUNetwork
    from rpa.reliability.result import FailureProbability


__all__ = ["costs", "curve", "levels_for", "right_images", "row", "sampled", "sampled_gap"]

VISIBLE = 10  # failures that must be expected among the samples for them to be a referee
CHUNK = 20_000


def right_images(net: ReLUNetwork | nn.Module, x: np.ndarray, labels: np.ndarray, n: int) -> list[int]:
    """The first n of the leading 1,000 images that the network gets right; x (m, ...) as it takes them, labels (m,)."""
    import torch

    from rpa.network import ReLUNetwork

    many = x[:1000]
    f = net(many) if isinstance(net, ReLUNetwork) else net(torch.from_numpy(many)).numpy()
    return [int(i) for i in np.flatnonzero(f.argmax(1) == labels[: len(many)])[:n]]


def levels_for(net: ReLUNetwork, image: np.ndarray, label: int, targets: Sequence[float]) -> np.ndarray:
    """Standard deviations (m,) at which the nearest rival alone has the probabilities `targets` (m,), to first order.

    image (d,); P(nearest rival) = Phi(-distance / sigma), the distance being that of its design point.
    """
    distance = first_order(net, image[None], 1.0, [label]).distance.min()
    return distance / -ndtri(_check.array("targets", targets, (None,)))


def curve(
    net: ReLUNetwork | nn.Module, image: np.ndarray, label: int, levels: Sequence[float], **options: Any
) -> list[tuple[FailureProbability, float]]:
    """(`failure_probability`, seconds) under white noise of each standard deviation; options are passed on."""
    found = []
    for sigma in levels:
        start = perf_counter()
        result = failure_probability(net, Gaussian(image.ravel(), sigma**2), label=label, **options)
        found.append((result, perf_counter() - start))
    return found


def row(result: FailureProbability, **names: Any) -> dict:
    """A result as a row of the notebook's tables; where no digit of p is known its upper bound stands for it."""
    log_p = result.log_p if np.isfinite(result.rel_error) else result.upper
    numbers = {"log10_p": log_p / np.log(10), "rel_error": result.rel_error, "evaluations": result.n}
    return names | numbers | {"method": result.method, "converged": result.converged}


def sampled(
    net: ReLUNetwork | nn.Module, image: np.ndarray, label: int, sigma: float, n: int, seed: int, **options: Any
) -> int:
    """How many of n noisy images change class: plain sampling, in the coordinates of the first layer where it can."""
    ((_, event),) = events(net, Gaussian(image.ravel(), sigma**2), label=label, **options)
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
    return int(sum(np.count_nonzero(event(rng.standard_normal((size, event.dim))) >= 0) for size in sizes))


def sampled_gap(log10_p: float, rel_error: float, count: int, n: int) -> float:
    """Distance of the share count / n to p, in standard errors of both."""
    p = 10.0**log10_p
    return float(abs(p - count / n) / np.hypot(p * rel_error, np.sqrt(p * (1 - p) / n)))


def costs(ours: pd.DataFrame, splitting: pd.DataFrame, rtol: float) -> pd.DataFrame:
    """Evaluations of the network that each method needs for the relative error rtol, one row per row of `ours`.

    An error falls with the root of the evaluations; plain sampling needs (1 - p) / (p rtol^2) of them.
    """
    table = ours[["network", "image", "sigma", "log10_p"]].copy()
    for name, found in (("ours", ours), ("splitting", splitting)):
        table[name] = found.evaluations.to_numpy() * (found.rel_error.to_numpy() / rtol) ** 2
    p = 10.0 ** ours.log10_p.to_numpy()
    table["plain sampling"] = (1 - p) / (p * rtol**2)
    return table
