"""The Gaussian restricted to a polytope: mean and covariance, and draws.

Both rest on the tilted sequential law of `rpa.tilting`: its weighted points give the moments, and where the weights
have a known maximum accepting each point with probability weight / maximum gives independent exact draws.
"""

from typing import NamedTuple

import numpy as np

from rpa import _check, quadrature, reduction
from rpa.inputs import Gaussian
from rpa.lookahead import lookahead
from rpa.trapezoid import plan

__all__ = ["Sample", "moments"]

BUDGET = 2**18
NEGLIGIBLE = 1e-14


class Sample(NamedTuple):
    """Draws points (n, d) and how they were made: "exact" (independent) or "slice" (a Markov chain)."""

    points: np.ndarray
    method: str


def moments(H, h, gaussian, *, rtol=1e-3, seed=0):
    """(log P(H x <= h), mean (d,), cov (d, d)) of x ~ gaussian given H x <= h.

    Sampling goes on until the mean is known to rtol standard deviations (or 2^18 points are spent); the covariance then
    has a relative error of about rtol too. Raises ValueError as `probability` does, and for an empty polytope.
    """
    rows, slack = _problem(H, h, gaussian, rtol, seed)
    p = plan(rows, slack)
    log_p, mean, cov = (part[0] for part in quadrature.moments(p, lookahead(p), rtol, seed, BUDGET))
    if np.isneginf(log_p):
        raise ValueError("H, h: expected a polytope of positive probability, found no point in it")
    axes = gaussian.times_factor(np.eye(gaussian.dim)) @ p.axes[0].T
    shrink = cov - np.eye(len(cov)) * (np.arange(len(cov)) < p.rank[0])
    return float(log_p), gaussian.mean + axes @ mean, gaussian.cov + axes @ shrink @ axes.T


def _problem(H, h, gaussian, rtol, seed):
    """The uncertain rows, whitened, of norm 1, as a batch of one."""
    if not isinstance(gaussian, Gaussian):
        raise ValueError(f"gaussian: expected Gaussian, got {type(gaussian).__name__}")
    H = _check.array("H", H, (None, gaussian.dim))
    h = _check.array("h", h, (len(H),))
    _check.fraction("rtol", rtol)
    _check.integer("seed", seed)
    rows, slack, empty = reduction.unit_rows(*reduction.whiten(H, h, gaussian))
    if empty[0]:
        raise ValueError("H, h: expected a polytope of positive probability, a row without variance never holds")
    kept, _ = reduction.uncertain(slack, np.array([np.log(NEGLIGIBLE)]))
    return rows[:, kept[0]], slack[:, kept[0]]
