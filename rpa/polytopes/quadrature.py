"""Integrals over polytopes by randomized quasi-Monte Carlo, to a requested relative accuracy.

The points are one scrambled Sobol sequence under independent digital shifts. Each shift gives an unbiased estimate, and
their scatter is the error. Points are doubled until it is small enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import qmc

from rpa.parallel import one_thread
from rpa.polytopes.reduction import inscribed_ball, is_empty, log_slab
from rpa.polytopes.trapezoid import Conditionals, Plan, PolytopeSampler

REPLICATES = 16
FIRST = 32  # points per replicate to begin with
EXTRA = 8  # points of the first proposal for each of the second
POINTS_AT_ONCE = 2**14  # (polytope, point) pairs in flight: what fits the cache
SAFETY = 1.3  # times the standard error: 16 replicates estimate it themselves, and weights are skewed


def uniforms(dim: int, start: int, stop: int, seed: int, device: str | None = None) -> torch.Tensor:
    """Points start..stop of all replicates, in (0, 1): (dim, REPLICATES * (stop - start)). stop is a power of two."""
    shifts = np.random.default_rng([seed, 1]).integers(0, 2**30, (REPLICATES, max(dim, 1))).T[:dim]
    points = _sobol(max(dim, 1), int(stop).bit_length() - 1, seed)[:dim, start:stop].to(device)
    shifted = points[:, None, :] ^ torch.as_tensor(np.ascontiguousarray(shifts), device=device)[:, :, None]
    return ((shifted.double() + 0.5) * 2.0**-30).reshape(dim, REPLICATES * (stop - start))


@lru_cache(maxsize=16)
def _sobol(dim, log2_n, seed):
    points = qmc.Sobol(dim, rng=np.random.default_rng(seed)).random_base2(log2_n)
    return torch.from_numpy(np.ascontiguousarray((points.T * 2**30).astype(np.int64)))


@dataclass(frozen=True)
class Effort:
    """How accurate a probability has to be, and what it may cost.

    rtol: relative error; log_range: logs of the smallest and largest probability that need rtol, those beyond either
    need the absolute error at that end; seed: of the points; budget: most points; first: points per replicate to begin
    with; device: where to draw.
    """

    rtol: float
    seed: int
    budget: int
    device: str | None = None
    first: int = FIRST
    log_range: tuple[float, float] = (-np.inf, np.inf)


@one_thread()
def integrals(
    p: Plan,
    proposals: Sequence[Conditionals],
    effort: Effort,
    margin: np.ndarray | float = 0.0,
    shifts: np.ndarray | None = None,
) -> Any:
    """log P (K,), relative error (K,), relative deviation of each replicate (K, R) of a `Plan`.

    Points are doubled from `effort.first` per replicate until the error is small enough or the budget is spent.
    proposals, shifts: see `draws`. log P = -inf has error 0 if the polytope is proved empty even with its bounds moved
    outward by `margin` (K, n), and infinity if no point in it was found.
    """
    count = len(p.mean)
    log_p, rel_error = np.full(count, -np.inf), np.full(count, np.inf)
    sums, sampler = np.full((count, REPLICATES), -np.inf), PolytopeSampler(p, proposals, effort.device)
    pending, start, stop, outer = np.arange(count), 0, effort.first, p.h + margin
    while len(pending) and stop * REPLICATES <= effort.budget:
        for part, _, log_w in draws(sampler, pending, start, stop, effort.seed, shifts=shifts):
            fresh = torch.logsumexp(log_w, dim=2).numpy(force=True)
            sums[part] = np.logaddexp(sums[part], fresh)
        log_p[pending], rel_error[pending] = _summary(sums[pending], stop, sampler)
        with np.errstate(invalid="ignore"):
            size = np.exp(log_p[pending] - np.clip(log_p[pending], *effort.log_range))
            settled = rel_error[pending] * size <= effort.rtol
        if start == 0:
            nothing = np.isneginf(log_p[pending])
            rows, bounds = p.coef[pending[nothing]], outer[pending[nothing]]
            y = inscribed_ball(rows, bounds)
            empty = is_empty(rows, bounds, y)
            rel_error[pending[nothing]] = np.where(empty, 0.0, np.inf)
            settled[nothing] = empty | (log_slab(rows, bounds, y) <= effort.log_range[0] + np.log(effort.rtol))
        pending = pending[~settled]
        start, stop = stop, 2 * stop
    seen = np.isfinite(log_p)
    deviation = np.zeros(sums.shape)
    deviation[seen] = REPLICATES * softmax(sums[seen], axis=1) - 1
    return log_p, rel_error, deviation


def draws(
    sampler: PolytopeSampler,
    pending: np.ndarray,
    start: int,
    stop: int,
    seed: int,
    last: bool = False,
    shifts: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """(indices, y (K, c, R, M), log weights (K, R, M)) of points start..stop per replicate, chunk by chunk.

    With two proposals EXTRA points of the first are joined by one of the second, and the weights are those of the
    mixture (balance heuristic, Veach & Guibas 1995): at most 1 + EXTRA times those of the second alone. last: draw the
    last coordinate too. shifts (K, c): added to the uniforms of each polytope, modulo 1, so that errors average out in
    sums.
    """
    pace = (1, EXTRA)[: sampler.sources]
    share = -torch.tensor(pace, dtype=torch.float64, device=sampler.device).mul(sum(1 / s for s in pace)).log()[:, None]
    dim = sampler.dim - (not last)
    parts = [uniforms(dim, start // s, stop // s, seed, sampler.device) for s in pace]
    counts, u = [part.shape[1] for part in parts], torch.cat(parts, dim=1)
    chunk = max(1, POINTS_AT_ONCE // counts[0])
    for first in range(0, len(pending), chunk):
        index, points = pending[first : first + chunk], u
        if shifts is not None:
            moved = torch.as_tensor(shifts[index, :dim].T, device=sampler.device)[:, :, None]
            points = (u[:, None] + moved).remainder_(1.0).clamp_(min=2.0**-31)
        y, log_w = sampler.points(index, points, counts)
        log_w = -torch.logsumexp(share - log_w, dim=1)
        # Points of one replicate side by side, whichever proposal drew them.
        ys = [part.unflatten(2, (REPLICATES, -1)) for part in y.split(counts, dim=2)]
        logs = [part.unflatten(1, (REPLICATES, -1)) for part in log_w.split(counts, dim=1)]
        yield index, torch.cat(ys, dim=3), torch.cat(logs, dim=2)


def _summary(log_sums, stop, sampler):
    """Log of the mean and its relative error, each (K,), from sums over all points of each replicate (K, R)."""
    n = sum(stop // pace for pace in (1, EXTRA)[: sampler.sources])
    # SAFETY standard errors plus the weight of one point, which a part of the polytope without any might have.
    top = log_sums.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    means = np.exp(log_sums - top)
    mean, scatter = means.mean(axis=1), means.std(axis=1, ddof=1) / np.sqrt(REPLICATES)
    with np.errstate(divide="ignore", invalid="ignore"):
        rel_error = np.hypot(SAFETY * scatter / mean, 1 / (n * REPLICATES))
        return np.log(mean) + top[:, 0] - np.log(n), np.where(mean > 0, rel_error, np.inf)


@one_thread()
def weighted_moments(p: Plan, proposals: Sequence[Conditionals], rtol: float, seed: int, budget: int) -> Any:
    """log P, mean (c,) and covariance (c, c) of y inside the polytope of a `Plan` of one.

    Points are doubled until log P, every mean and every standard deviation are known to rtol, the latter two in
    standard deviations, or the budget is spent.
    """
    sampler, stop, unsettled = PolytopeSampler(p, proposals), 4 * FIRST, True
    while unsettled and stop * REPLICATES <= budget:
        _, y, log_w = next(draws(sampler, np.array([0]), 0, stop, seed, last=True))
        log_p, error = (part[0] for part in _summary(torch.logsumexp(log_w, dim=2).numpy(), stop, sampler))
        y, w = y[0], torch.exp(log_w[0] - log_w.max().clamp_min(-1e300))
        w = w / w.sum().clamp_min(1e-300)
        mean = (w * y).sum(dim=(1, 2))
        y = y - mean[:, None, None]
        cov = (w * y).flatten(1) @ y.flatten(1).T
        var = torch.diagonal(cov)[:, None, None]
        drifts = [(w * scaled).sum(dim=2).std(dim=1).max() for scaled in (y / var.sqrt(), (y * y / var - 1) / 2)]
        unsettled = error > rtol or SAFETY * np.sqrt(REPLICATES) * max(drifts) > rtol
        stop *= 2
    return log_p, mean.numpy(), cov.numpy()
