"""Probabilities of convex polytopes {x : H x <= h} under a Gaussian, in any dimension, far into the tails.

Start with `probability` or `orthant`; `probabilities` takes a batch of polytopes under N(0, I). The dimension that
counts is the rank of the rows that matter. Every relative error includes the union bound of the dropped rows.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr

from rpa import _check
from rpa.inputs import Gaussian
from rpa.polytopes import planar, quadrature, reduction
from rpa.polytopes.lookahead import lookahead, sites
from rpa.polytopes.normal import LOG_2PI, log_interval
from rpa.polytopes.trapezoid import plain, plan, take
from rpa.polytopes.truncated import Sample as Sample
from rpa.polytopes.truncated import minimax
from rpa.polytopes.truncated import moments as moments
from rpa.polytopes.truncated import sample as sample

BUDGET = 2**20
MINIMAL = np.log(1e-11)  # no guess of rtol times p below this before anything is known
PROPOSALS = {"lookahead": lookahead, "minimax": lambda p: [minimax(p)[0]], "genz": lambda p: [plain(p)]}
METHODS = ("auto", *PROPOSALS)
EPS = np.finfo(float).eps
SQUARE_OVERFLOWS = 1e150  # standard deviations whose square a double does not hold
BULK = 3.0  # standard deviations from its mean within which most of a law lies
STEEP = 1e8  # precision of a row's Gaussian factor beyond which its derivative is not trusted


@dataclass(frozen=True)
class Probability:
    """The log of a probability and its relative error; `converged`: rel_error <= rtol was reached.

    method: "certain", "empty", "interval" (rank 1), "planar" (rank 2), "lookahead", the requested method or "beyond",
    more than 1e150 standard deviations away. log_p is -inf for an empty polytope, with an infinite rel_error where no
    point was found but emptiness is not proved. Three times rel_error covers the true error in at least 99 % of cases.
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
    rows, slack, doubt = reduction.whiten(H, h, gaussian)
    rtol = _check.fraction("rtol", rtol)
    seed = _check.integer("seed", seed)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    budget = _check.integer("budget", budget, 512)
    log_p, rel_error, _, used = solve(rows, slack, quadrature.Effort(rtol, seed, budget), method, doubt)
    return Probability(float(log_p[0]), float(rel_error[0]), str(used[0]), bool(rel_error[0] <= rtol))


def orthant(
    mean: ArrayLike, cov: ArrayLike, *, rtol: float = 1e-3, method: str = "auto", seed: int = 0, budget: int = BUDGET
) -> Probability:
    """P(z > 0), all coordinates, for z ~ N(mean, cov); cov as for `Gaussian`. Otherwise as `probability`.

    >>> round(orthant([0.0, 0.0, 0.0], [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]).p, 3)  # 1 / (n + 1)
    0.25
    """
    gaussian = Gaussian(mean, cov)
    eye = np.eye(gaussian.dim)
    return probability(-eye, np.zeros(gaussian.dim), gaussian, rtol=rtol, method=method, seed=seed, budget=budget)


def probabilities(
    H: ArrayLike, h: ArrayLike, *, rtol: float = 1e-2, seed: int = 0, budget: int = BUDGET, device: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """log P(H_i z <= h_i) and its relative error, both (K,), for z ~ N(0, I_r) and K polytopes.

    H (K, n, r), h (K, n); rows of zeros may serve as padding. An error above rtol means that `budget` points were not
    enough. device: where to sample, as torch names it (None: the CPU).

    >>> log_p, rel_error = probabilities([[[1.0]], [[-1.0]]], [[0.0], [-1.0]])
    >>> np.exp(log_p).round(6)
    array([0.5     , 0.158655])
    """
    H = _check.array("H", H, (None, None, None))
    h = _check.array("h", h, H.shape[:2])
    rtol = _check.fraction("rtol", rtol)
    seed, budget = _check.integer("seed", seed), _check.integer("budget", budget, 512)
    return solve(H, h, quadrature.Effort(rtol, seed, budget, _check.device("device", device)))[:2]


def solve(
    H: np.ndarray,
    h: np.ndarray,
    effort: quadrature.Effort,
    method: str = "auto",
    doubt: reduction.Doubt | None = None,
    shifts: np.ndarray | None = None,
) -> Any:
    """log_p, rel_error (K,), relative deviations (K, R) and method (K,) of K polytopes; doubt: of a single one.

    The R replicates are independent: the scatter of sum_k p_k (1 + deviation_kr) over r is the error of sum_k p_k.
    shifts (K, r): see `quadrature.draws`.
    """
    rtol, log_floor = effort.rtol, effort.log_range[0]
    count, given = len(H), H if doubt is None else doubt.given[None]
    H, h, empty = reduction.unit_rows(H, h)
    H, h, places = reduction.distinct(H, h)
    shift = np.zeros(h.shape) if doubt is None else doubt.shift[places]
    # Rows that were given as exact opposites prove by themselves that nothing is between them.
    k, i, j = reduction.matching(H, h, -1)
    opposite = (given[k, places[k, i]] == -given[k, places[k, j]]).all(axis=1)
    empty[k[opposite & (h[k, i] + h[k, j] + shift[k, i] + shift[k, j] < 0)]] = True
    beyond = ~empty & (h.min(axis=1, initial=0.0) < -SQUARE_OVERFLOWS)
    log_p, rel_error = np.where(empty | beyond, -np.inf, 0.0), np.where(beyond, np.inf, 0.0)
    used = np.select([empty, beyond], ["empty", "beyond"], "certain").astype("<U9")
    deviation = np.zeros((count, quadrature.REPLICATES))
    # What is dropped must be small against p, guessed here as if the rows were independent and checked afterwards.
    guess = log_ndtr(h).cumsum(axis=1)[:, -1:].sum(axis=1) + np.log(rtol)
    log_budget = np.maximum(guess, MINIMAL) + np.log(reduction.NEGLIGIBLE)
    pending, relevant = np.flatnonzero(np.isfinite(log_p)), np.zeros(h.shape, dtype=bool)
    while len(pending):
        kept, log_dropped = reduction.uncertain(h[pending], log_budget[pending])
        relevant[pending] = kept
        for group, rows in reduction.groups(kept, H.shape[2]):
            index = pending[group]
            part_H, part_h = reduction.gather(H[index], h[index], kept[group], rows)
            part_shift = reduction.gather(shift[index, :, None], h[index], kept[group], rows)[0][:, :, 0]
            moved = None if shifts is None else shifts[index]
            answer = _estimate(part_H, part_h, part_shift, method, effort, moved)
            log_p[index], rel_error[index], used[index], deviation[index] = answer
        seen = np.isfinite(log_p[pending])
        log_dropped, pending = log_dropped[seen], pending[seen]
        rel_error[pending] += np.exp(np.minimum(log_dropped - log_p[pending], 700.0))  # finite: sums multiply it by p
        pending = pending[log_dropped > np.maximum(log_p[pending], log_floor) + np.log(rtol / 10)]
        log_budget[pending] = log_p[pending] + np.log(rtol * reduction.NEGLIGIBLE)
    if doubt is not None and not empty[0]:
        missed = np.exp(min(doubt.log_missed - log_p[0], 700.0)) if np.isfinite(log_p[0]) else 0.0
        rel_error += missed + doubt.of_law(H[0], h[0], relevant[0], doubt.rows[places[0]], log_p[0])
        if np.isfinite(doubt.log_ceiling):
            log_p, rel_error = np.minimum(log_p, doubt.log_ceiling), np.array([np.inf])
    return log_p, rel_error, deviation, used


def _estimate(H, h, shift, method, effort, shifts):
    """(log_p, rel_error, method, deviation) of {H z <= h} by the best way for each rank; shift: error of h."""
    p = plan(H, h)
    log_p, rel_error, deviation = np.zeros(len(H)), np.zeros(len(H)), np.zeros((len(H), quadrature.REPLICATES))
    used = np.full(len(H), "certain", dtype="<U9")
    exact = (p.rank <= 2) & (method == "auto")
    # In the plane itself no axes are needed, and a row that is all but parallel to another keeps its direction.
    flat = (H.shape[2] == 2) & (p.rank == 1) & (p.cut > 4 * EPS).any(axis=1)
    line = np.flatnonzero(exact & (p.rank == 1) & ~flat)
    plane = np.flatnonzero(exact & ((p.rank == 2) | flat))
    space = np.flatnonzero(~exact & (p.rank > 0))
    if len(line):
        first = H[line, :1]
        alike = ((H[line] == first).all(axis=2) | (H[line] == -first).all(axis=2)) & (shift[line] == 0)
        log_p[line], rel_error[line] = _interval(take(p, line), shift[line], (alike | np.isinf(h[line])).all(axis=1))
        used[line] = "interval"
    if len(plane):
        coef = H[plane] if H.shape[2] == 2 else p.coef[plane, :, :2]
        moved = shift[plane] + (0.0 if H.shape[2] == 2 else BULK * p.cut[plane])
        log_p[plane], rel_error[plane] = planar.log_probability(coef, h[plane], moved)
        used[plane] = "planar"
    if len(space):
        part = take(p, space)
        used[space] = "lookahead" if method == "auto" else method
        moved = None if shifts is None else shifts[space]
        answer = _sampled(part, shift[space], used[space[0]], effort, moved)
        log_p[space], rel_error[space], deviation[space] = answer
    used[np.isneginf(log_p) & (rel_error == 0)] = "empty"
    return log_p, rel_error, used, deviation


def _sampled(p, shift, method, effort, shifts):
    """(log_p, rel_error, deviation) by sampling; rel_error includes what rounding of the rows changes."""
    fitted = sites(p)
    proposals = lookahead(p, fitted) if method == "lookahead" else PROPOSALS[method](p)
    reach, size = BULK + np.linalg.norm(p.mean, axis=1)[:, None], np.where(p.owner >= 0, np.abs(p.h), 0.0)
    # Rows parallel to the first axis share its direction exactly: of them only the bounds are rounded.
    margin = shift + 2 * EPS * (size + (p.owner > 0) * reach) + p.cut * reach
    log_p, rel_error, deviation = quadrature.integrals(p, proposals, effort, margin, shifts)
    moved = (fitted.push * margin).sum(axis=1)
    # Where a factor is near its limits the derivative is too rough, and the rows are moved instead.
    steep = ~((fitted.tau < STEEP).all(axis=1) & (moved < 1e-3 * effort.rtol))
    steep = np.flatnonzero(steep & (np.isfinite(log_p) | np.isneginf(effort.log_range[0])))
    brief = quadrature.Effort(1.0, effort.seed, 512, effort.device)
    if len(steep):
        few, by = take(p, steep), margin[steep]
        proposals = [take(proposal, steep) for proposal in proposals]
        inner, middle, outer = (
            quadrature.integrals(replace(few, h=few.h + sign * by), proposals, brief)[0] for sign in (-1, 0, 1)
        )
        unseen = np.isneginf(log_p[steep]) & (rel_error[steep] > 0)
        log_p[steep] = np.where(unseen, outer, log_p[steep])
        with np.errstate(invalid="ignore", over="ignore"):  # where inner is less than a third no digit is known
            moved[steep] = np.where(middle - inner < 1.0, np.expm1(middle - inner), np.inf)
    return log_p, np.where(np.isfinite(log_p), rel_error + moved, rel_error), deviation


def _interval(p, shift, sharp):
    """Rank 1: the interval that the rows leave, exactly; sharp (K,): neither rows nor bounds lost a digit."""
    real, sides = p.owner >= 0, np.array([1.0, -1.0])[:, None, None]
    along = sides * p.coef[:, :, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.where(real & (along > 0), p.h / along, np.inf)  # of z and of -z
    moved = np.where(real, shift + 2 * EPS * np.abs(p.h) + BULK * p.cut, 0.0)
    ends, outer = bounds.min(axis=2), (bounds + moved).min(axis=2)
    log_p = log_interval(-ends[1], ends[0])
    # The density at each end by P, times how far rounding may have moved it.
    start = np.where(np.isfinite(log_p), log_p, 0.0)
    by = np.where(bounds == ends[:, :, None], moved, 0.0).max(axis=2)
    error = EPS * (8 - start) + (np.exp(np.minimum(-(ends**2 + LOG_2PI) / 2 - start, 700.0)) * by).sum(axis=0)
    with np.errstate(divide="ignore"):
        error /= np.maximum(1 - error, 0.0)
    empty = np.isneginf(log_p)
    # Nothing is left, or a point where the rows are the first or its opposite and nothing was subtracted.
    proved = (outer[0] < -outer[1]) | (sharp & (ends[0] == -ends[1]))
    rel_error = np.where(empty, np.where(proved, 0.0, np.inf), error)
    return np.where(empty & ~proved, log_interval(-outer[1], outer[0]), log_p), rel_error
