"""The Gaussian restricted to a polytope: mean and covariance, and draws.

Both rest on sequential laws: weighted points of `rpa.polytopes.lookahead` give the moments, and since the weights of
`rpa.polytopes.tilting` have a known maximum, accepting each of its points with probability weight / maximum gives
independent exact draws.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr

from rpa import _check
from rpa.inputs import Gaussian
from rpa.polytopes import quadrature, reduction
from rpa.polytopes.lookahead import lookahead
from rpa.polytopes.tilting import minimax
from rpa.polytopes.trapezoid import Plan, Sampler, plan

__all__ = ["Sample", "batch_moments", "moments", "sample"]

BUDGET = 2**18
NEGLIGIBLE = 1e-3  # union bound of the dropped rows relative to rtol times the probability


class Sample(NamedTuple):
    """Draws points (n, d) and how they were made: "exact" (independent) or "slice" (a Markov chain)."""

    points: np.ndarray
    method: str


def moments(H: ArrayLike, h: ArrayLike, gaussian: Gaussian, *, rtol: float = 1e-2, seed: int = 0) -> Any:
    """(log P(H x <= h), mean (d,), cov (d, d)) of x ~ gaussian given H x <= h.

    Sampling goes on until log P and, in standard deviations, the mean and the standard deviations along the rows' axes
    are known to rtol, or 2^18 points are spent. Raises ValueError as `probability` does, and for an empty polytope.
    """
    rows, slack = _whitened(H, h, gaussian)
    log_p, mean, cov = (part[0] for part in batch_moments(rows, slack, rtol=rtol, seed=seed))
    if np.isneginf(log_p):
        raise ValueError("H, h: expected a polytope of positive probability, found no point in it")
    factor = gaussian.times_factor(np.eye(gaussian.dim))
    return float(log_p), gaussian.mean + factor @ mean, factor @ cov @ factor.T


def batch_moments(H: np.ndarray, h: np.ndarray, *, rtol: float = 1e-2, seed: int = 0) -> Any:
    """(log_p (K,), mean (K, r), cov (K, r, r)) of z ~ N(0, I_r) given H_i z <= h_i, for K polytopes.

    H (K, n, r), h (K, n); rows of zeros may serve as padding. Accuracy as for `moments`. Where no point was found
    log_p is -inf, the mean and the covariance are 0.
    """
    H = _check.array("H", H, (None, None, None))
    h = _check.array("h", h, H.shape[:2])
    rtol, seed = _check.fraction("rtol", rtol), _check.integer("seed", seed)
    H, h, empty = reduction.unit_rows(H, h)
    count, _, dim = H.shape
    log_p, mean, cov = np.where(empty, -np.inf, 0.0), np.zeros((count, dim)), np.tile(np.eye(dim), (count, 1, 1))
    cov[empty] = 0.0
    pending, log_budget = np.flatnonzero(~empty), log_ndtr(h).sum(axis=1) + np.log(rtol * NEGLIGIBLE)
    for _ in range(2):
        kept, log_dropped = reduction.uncertain(h[pending], log_budget[pending])
        for group, rows in reduction.groups(kept, dim):
            if rows and dim:
                index = pending[group]
                p = plan(*reduction.gather(H[index], h[index], kept[group], rows))
                log_p[index], y_mean, y_cov = quadrature.moments(p, lookahead(p), rtol, seed, BUDGET)
                mean[index] = (y_mean[:, None] @ p.axes)[:, 0]
                # Along the axes the unit variance becomes y_cov; axes beyond the rank are zero and do not matter.
                cov[index] = np.eye(dim) + p.axes.mT @ (y_cov - np.eye(y_cov.shape[1])) @ p.axes
        # What was dropped must be small against p; where the guess of p was too high, all rows are kept.
        pending = pending[np.isfinite(log_p[pending]) & (log_dropped > log_p[pending] + np.log(rtol / 10))]
        log_budget[pending] = -np.inf
    cov[np.isneginf(log_p)] = 0.0
    return log_p, mean, cov


def _whitened(H, h, gaussian):
    if not isinstance(gaussian, Gaussian):
        raise ValueError(f"gaussian: expected Gaussian, got {type(gaussian).__name__}")
    H = _check.array("H", H, (None, gaussian.dim))
    return reduction.whiten(H, _check.array("h", h, (len(H),)), gaussian)


def sample(H: ArrayLike, h: ArrayLike, gaussian: Gaussian, n: int, seed: int) -> Sample:
    """n draws of x ~ gaussian given H x <= h, as a `Sample`.

    "exact": independent draws. Points from the tilted law of as many rows as there are coordinates are accepted with
    probability weight / largest weight (Botev 2017) and, if the other rows hold as well, kept. Where fewer than one
    point in 500 would be, "slice": linear elliptical slice sampling (Gessner, Kanjilal & Hennig 2020), chains
    started from importance draws, each row the end of its own chain of 25 steps.
    Raises ValueError as `moments` does.
    """
    n = _check.integer("n", n)
    rows, slack, empty = reduction.unit_rows(*_whitened(H, h, gaussian))
    if empty[0]:
        raise ValueError("H, h: expected a polytope of positive probability, a row without variance never holds")
    kept, _ = reduction.uncertain(slack, log_ndtr(slack).sum(axis=1) + np.log(1e-14))
    p = plan(rows[:, kept[0]], slack[:, kept[0]])
    rng = np.random.default_rng(seed)
    y = _accepted(p, n, rng) if p.rank[0] else np.zeros((n, 0))
    method = "exact" if y is not None else "slice"
    if y is None:
        y = _chains(p, n, rng)
    axes = p.axes[0, : p.rank[0]]
    z = rng.standard_normal((n, rows.shape[2]))
    z += (y - z @ axes.T) @ axes
    return Sample(gaussian.mean + z @ gaussian.times_factor(np.eye(gaussian.dim)).T, method)


def _accepted(p, n, rng):
    """n exact draws of y (n, rank) by acceptance and rejection, or None if too few points are accepted."""
    simple, rest = _split(p)
    proposal, psi = minimax(simple)
    if not np.isfinite(psi[0]):
        return None
    sampler, found, tried = Sampler(simple, [proposal]), [np.zeros((0, p.rank[0]))], 0
    coef, h = p.coef[0, rest, : p.rank[0]], p.h[0, rest]
    while (kept := sum(map(len, found))) < n:
        if tried >= 20_000 and kept < tried / 500:
            return None
        size = int(np.clip(1.2 * (n - kept) * (tried + 1000) / (kept + 10), 1000, 50_000))
        y, log_w = sampler.points([0], rng.random((sampler.dim, size)))
        y, log_w = y[0, : p.rank[0]].numpy().T, log_w[0, 0].numpy()
        accept = np.log(rng.random(size)) <= log_w - psi[0]
        accept[accept] = (y[accept] @ coef.T <= h).all(axis=1)
        found.append(y[accept])
        tried += size
    return np.concatenate(found)[:n]


def _split(p):
    """The plan without the rows that make its largest weight unknown, and the places of those rows."""
    owner, coef = p.owner[0], p.coef[0]
    simple = np.zeros(len(owner), dtype=bool)
    for k in range(p.rank[0]):
        own = np.flatnonzero(owner == k)
        scaled = coef[own, : k + 1] / coef[own, k, None]
        slack = (p.h[0, own] - coef[own, :k] @ p.mean[0, :k]) / np.abs(coef[own, k])
        pivot = np.where(coef[own, k] > 0, slack, np.inf).argmin()
        simple[own] = np.abs(scaled - scaled[pivot]).max(axis=1) < 1e-8
    last = np.flatnonzero(simple & (owner == p.rank[0] - 1))
    simple[last[1:]] = False
    kept = np.flatnonzero(simple)
    part = Plan(p.coef[:, kept, : p.rank[0]], p.h[:, kept], p.owner[:, kept], p.axes, p.rank, p.mean[:, : p.rank[0]])
    return part, np.flatnonzero(~simple & (owner >= 0))


def _chains(p, n, rng, steps=25):
    """n states y (n, rank) of linear elliptical slice sampling, each `steps` after its own importance draw."""
    sampler, r = Sampler(p, lookahead(p)), p.rank[0]
    y, log_w = sampler.points([0], rng.random((sampler.dim, 2**15)))
    log_w = log_w[0, 0].numpy()
    weight = np.exp(log_w - max(log_w.max(), -1e300))
    if not weight.any():
        raise ValueError("H, h: expected a polytope of positive probability, found no point in it")
    state = y[0, :r].numpy().T[rng.choice(len(weight), n, p=weight / weight.sum())]
    rows, h = p.coef[0, p.owner[0] >= 0, :r], p.h[0, p.owner[0] >= 0]
    for _ in range(steps):
        state = _slice_step(state, rows, h, rng)
    return state


def _slice_step(state, rows, h, rng):
    """One move of every state (n, r) along a random ellipse x cos t + v sin t, uniformly on the part inside."""
    other = rng.standard_normal(state.shape)
    a, b = state @ rows.T, other @ rows.T
    size, angle = np.hypot(a, b), np.arctan2(b, a)
    # a cos t + b sin t = size cos(t - angle) > h on an arc around `angle`.
    half = np.arccos(np.clip(h / np.where(size > 0, size, 1.0), -1.0, 1.0)) * (size > h)
    start, stop = np.mod(angle - half, 2 * np.pi), np.mod(angle - half, 2 * np.pi) + 2 * half
    order = np.argsort(start, axis=1)
    start, stop = np.take_along_axis(start, order, 1), np.take_along_axis(stop, order, 1)
    covered = np.maximum.accumulate(stop, axis=1)
    # t = 0 is inside, so no forbidden arc passes over 2 pi: the free pieces are the gaps between the arcs.
    begin = np.concatenate([np.zeros((len(state), 1)), covered], axis=1).clip(0, 2 * np.pi)
    end = np.concatenate([start, np.full((len(state), 1), 2 * np.pi)], axis=1)
    length = np.maximum(end - begin, 0.0)
    total = np.cumsum(length, axis=1)
    where = rng.random(len(state)) * total[:, -1]
    piece = (total < where[:, None]).sum(axis=1).clip(max=length.shape[1] - 1)
    pick = np.arange(len(state)), piece
    t = (begin[pick] + where - (total[pick] - length[pick]))[:, None]
    return state * np.cos(t) + other * np.sin(t)
