"""Probabilities of convex polytopes {x : H x <= h} under a Gaussian, in any dimension, far into the tails.

Start with `probability` (or `orthant`); `probabilities` does the same for a batch of polytopes under N(0, I), as the
regions of a network need. The work happens in as many dimensions as the rows that matter have rank: rank one is an
interval and rank two a polygon, both exact; above that `rpa.polytopes.quadrature` integrates, with the proposals of
`rpa.polytopes.lookahead`, until the asked accuracy is met. Every answer carries a relative error. The union bound of
the rows that were left out is part of it. `moments` and `sample` describe the Gaussian restricted to the polytope.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr

from rpa import _check
from rpa.inputs import Gaussian
from rpa.polytopes import planar, quadrature, reduction
from rpa.polytopes.lookahead import lookahead
from rpa.polytopes.normal import log_interval
from rpa.polytopes.tilting import minimax
from rpa.polytopes.trapezoid import plain, plan
from rpa.polytopes.truncated import Sample, batch_moments, moments, sample

__all__ = [
    "Probability",
    "Sample",
    "batch_moments",
    "moments",
    "orthant",
    "probabilities",
    "probability",
    "replicates",
    "sample",
]

BUDGET = 2**20
SMALLEST = 8  # points per replicate that a polytope of little weight in a sum gets at least
NEGLIGIBLE = 1e-3  # union bound of the dropped rows relative to rtol times the probability
MINIMAL = np.log(1e-11)  # no guess of rtol times p below this before anything is known
PROPOSALS = {"lookahead": lookahead, "minimax": lambda p: [minimax(p)[0]], "genz": lambda p: [plain(p)]}
METHODS = ("auto", *PROPOSALS)
EPS = np.finfo(float).eps


@dataclass(frozen=True)
class Probability:
    """A probability in logs with its relative error; `converged` tells whether rel_error <= rtol was reached.

    method: "certain", "empty", "interval" (rank 1), "planar" (rank 2), "lookahead" or the method asked for.
    log_p is -inf for an empty polytope, and with an infinite rel_error where no point was found. Three times rel_error
    covers the true error in at least 99 % of cases.
    """

    log_p: float
    rel_error: float
    method: str
    converged: bool

    @property
    def p(self) -> float:
        """The probability itself; 0 where it underflows."""
        return float(np.exp(self.log_p))


def probability(
    H: ArrayLike,
    h: ArrayLike,
    gaussian: Gaussian,
    *,
    rtol: float = 1e-3,
    method: str = "auto",
    seed: int = 0,
    budget: int = BUDGET,
) -> Probability:
    """P(H x <= h) for x ~ gaussian. H (n, d), h (n,).

    A singular covariance is fine; a row without variance either always or never holds. method: "auto", or to
    sample even at rank one and two: "lookahead", "minimax" (Botev 2017) or "genz" (Genz 1992). budget: points after
    which sampling stops even if rtol is not met (it never starts with fewer than 512).
    Raises ValueError for wrong shapes, non-finite entries, an unknown method, rtol outside (0, 1] or budget < 512.

    >>> from rpa import Gaussian
    >>> found = probability([[1.0, 0.0], [0.0, 1.0]], [-8.0, -8.0], Gaussian([0.0, 0.0], 1.0))
    >>> f"{found.p:.6e}"  # Phi(-8)^2
    '3.870035e-31'
    """
    if not isinstance(gaussian, Gaussian):
        raise ValueError(f"gaussian: expected Gaussian, got {type(gaussian).__name__}")
    H = _check.array("H", H, (None, gaussian.dim))
    h = _check.array("h", h, (len(H),))
    rtol = _check.fraction("rtol", rtol)
    seed = _check.integer("seed", seed)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    budget = _check.integer("budget", budget, 512)
    log_p, rel_error, used, _ = _solve(*reduction.whiten(H, h, gaussian), rtol, seed, method, budget)
    return Probability(float(log_p[0]), float(rel_error[0]), str(used[0]), bool(rel_error[0] <= rtol))


def orthant(
    mean: ArrayLike, cov: ArrayLike, *, rtol: float = 1e-3, method: str = "auto", seed: int = 0, budget: int = BUDGET
) -> Probability:
    """P(z > 0), all coordinates, for z ~ N(mean, cov); cov as for `Gaussian`. Otherwise as `probability`.

    >>> round(orthant([0.0, 0.0, 0.0], [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]).p, 3)  # 1 / (n + 1)
    0.25
    """
    gaussian = Gaussian(mean, cov)
    # The event does not depend on the scales, but the rank found by rounding does.
    scale = np.where(gaussian.variances > 0, np.sqrt(gaussian.variances), 1.0)
    if gaussian.cov_given.ndim == 2:
        gaussian = Gaussian(gaussian.mean / scale, gaussian.cov / np.outer(scale, scale))
    eye = np.eye(gaussian.dim)
    return probability(-eye, np.zeros(gaussian.dim), gaussian, rtol=rtol, method=method, seed=seed, budget=budget)


def probabilities(
    H: ArrayLike, h: ArrayLike, *, rtol: float = 1e-2, seed: int = 0, budget: int = BUDGET, device: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """log P(H_i z <= h_i) and its relative error, both (K,), for z ~ N(0, I_r) and K polytopes.

    H (K, n, r), h (K, n); rows of zeros may serve as padding. An error above rtol means that `budget` points did not
    suffice. device: where the sampling runs, as torch names it (None: the CPU).

    >>> log_p, rel_error = probabilities([[[1.0]], [[-1.0]]], [[0.0], [-1.0]])
    >>> np.exp(log_p).round(6)
    array([0.5     , 0.158655])
    """
    H = _check.array("H", H, (None, None, None))
    h = _check.array("h", h, H.shape[:2])
    rtol = _check.fraction("rtol", rtol)
    seed, budget = _check.integer("seed", seed), _check.integer("budget", budget, 512)
    return _solve(H, h, rtol, seed, "auto", budget, _check.device("device", device))[:2]


def replicates(
    H: np.ndarray, h: np.ndarray, *, rtol: float, seed: int, log_floor: float, shifts: np.ndarray | None = None
) -> Any:
    """`probabilities` for sums over many polytopes: log_p (K,), rel_error (K,) and relative deviations (K, R).

    The R replicates are independent, and the same one uses the same random points in all polytopes: the scatter of
    sum_k p_k (1 + deviation_kr) over r is the error of sum_k p_k. The error of a polytope is at most rtol times its
    probability or times exp(log_floor), if that is larger: then few points do.
    """
    log_p, rel_error, _, deviation = _solve(H, h, rtol, seed, "auto", BUDGET, None, SMALLEST, log_floor, shifts)
    return log_p, rel_error, deviation


def _solve(H, h, rtol, seed, method, budget, device=None, first=quadrature.FIRST, log_floor=-np.inf, shifts=None):
    """(log_p, rel_error, method), each (K,), and deviations (K, R), for z ~ N(0, I_r)."""
    count = len(H)
    H, h, empty = reduction.unit_rows(H, h)
    log_p = np.where(empty, -np.inf, 0.0)
    rel_error, used = np.zeros(count), np.where(empty, "empty", "certain").astype("<U9")
    deviation = np.zeros((count, quadrature.REPLICATES))
    # What is dropped must be small against p, guessed here as if the rows were independent and checked afterwards.
    log_budget = np.maximum(log_ndtr(h).sum(axis=1) + np.log(rtol), MINIMAL) + np.log(NEGLIGIBLE)
    pending = np.flatnonzero(~empty)
    while len(pending):
        kept, log_dropped = reduction.uncertain(h[pending], log_budget[pending])
        for group, rows in reduction.groups(kept, H.shape[2]):
            index = pending[group]
            part_H, part_h = reduction.gather(H[index], h[index], kept[group], rows)
            log_p[index], rel_error[index], used[index], deviation[index] = _estimate(
                part_H,
                part_h,
                method,
                (rtol, seed, budget, device, first, log_floor),
                None if shifts is None else shifts[index],
            )
        with np.errstate(over="ignore", invalid="ignore"):
            enough = rtol / 10 * np.exp(np.clip(log_floor - log_p[pending], 0.0, 700.0))
            share = np.where(np.isneginf(log_dropped), 0.0, np.exp(np.minimum(log_dropped - log_p[pending], 700.0)))
        rel_error[pending] = np.where(np.isneginf(log_p[pending]), rel_error[pending], rel_error[pending] + share)
        again = (share > enough) & np.isfinite(log_p[pending])
        pending = pending[again]
        log_budget[pending] = log_p[pending] + np.log(rtol * NEGLIGIBLE)
    return log_p, rel_error, used, deviation


def _estimate(H, h, method, accuracy, shifts=None):
    """(log_p, rel_error, method, deviation) by the best way for each rank. H (K, n, r), h (K, n)."""
    p = plan(H, h)
    log_p, rel_error, deviation = np.zeros(len(H)), np.zeros(len(H)), np.zeros((len(H), quadrature.REPLICATES))
    used = np.full(len(H), "certain", dtype="<U9")
    highest_exact = 2 if method == "auto" else 0
    line = np.flatnonzero((p.rank == 1) & (highest_exact >= 1))
    plane = np.flatnonzero((p.rank == 2) & (highest_exact >= 2))
    space = np.flatnonzero(p.rank > highest_exact)
    if len(line):
        log_p[line], rel_error[line] = _interval(p.take(line))
        used[line] = "interval"
    if len(plane):
        real = np.isfinite(h[plane])
        coef = np.where(real[:, :, None], p.coef[plane, :, :2], 0.0)
        log_p[plane], rel_error[plane] = planar.log_probability(coef, np.where(real, h[plane], 0.0))
        used[plane] = "planar"
    if len(space):
        part = p.take(space)
        used[space] = "lookahead" if method == "auto" else method
        proposals = PROPOSALS[used[space[0]]](part)
        log_p[space], rel_error[space], deviation[space] = quadrature.estimate(
            part, proposals, *accuracy, None if shifts is None else shifts[space]
        )
    used[np.isneginf(log_p) & (rel_error == 0)] = "empty"
    return log_p, rel_error, used, deviation


def _interval(p):
    """Rank 1: the interval that the rows leave, exactly."""
    coef, real = p.coef[:, :, 0], p.owner >= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = p.h / coef
    upper = np.where(real & (coef > 0), bound, np.inf).min(axis=1)
    lower = np.where(real & (coef < 0), bound, -np.inf).max(axis=1)
    near = np.maximum(np.maximum(lower, -upper), 0.0)
    width = np.maximum(upper - lower, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rounding = 8 * EPS * (1 + near) * (1 + near + np.where(width > 0, 1 / width, 0.0))
    log_p = log_interval(lower, upper)
    return log_p, np.where(np.isneginf(log_p), 0.0, rounding)
