"""Integrals over polytopes by randomized quasi-Monte Carlo, to a relative accuracy that is asked for.

The points are one scrambled Sobol sequence under independent random digital shifts. Each shift makes an unbiased
quadrature of its own, and their scatter is the error. Points are doubled until it is small enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import qmc

from rpa.polytopes.reduction import inscribed_ball, is_empty, log_slab
from rpa.polytopes.trapezoid import Sampler

if TYPE_CHECKING:
    from rpa.polytopes.trapezoid import Plan, Proposal


__all__ = ["Effort", "draws", "estimate", "moments", "one_thread", "uniforms"]

REPLICATES = 16
FIRST = 32  # points per replicate to begin with
EXTRA = 8  # points of the first proposal for each of the second
CHUNK = 2**14  # (polytope, point) pairs in flight: what fits the cache
SAFETY = 1.3  # times the standard error: 16 replicates estimate it themselves, and weights are skewed


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: its tensors are small here, and on a busy machine its threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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

    rtol: relative error; log_floor: log of a probability whose absolute error is good enough for smaller ones; seed: of
    the points; budget: most points; first: points per replicate to begin with; device: where they are drawn.
    """

    rtol: float
    seed: int
    budget: int
    device: str | None = None
    first: int = FIRST
    log_floor: float = -np.inf


@one_thread()
def estimate(
    p: Plan,
    proposals: Sequence[Proposal],
    effort: Effort,
    margin: np.ndarray | float = 0.0,
    shifts: np.ndarray | None = None,
) -> Any:
    """log P (K,), relative error (K,), relative deviation of each replicate (K, R) of a `Plan`.

    Points are doubled from `effort.first` per replicate until the error is at most rtol times P or times
    exp(log_floor), if that is larger, or the budget is spent. proposals: one or two, see `draws`. log P = -inf has an
    error of 0 if the polytope is proved empty even with its bounds moved outward by `margin` (K, n), and an infinite
    one if no point in it was found. shifts: see `draws`.
    """
    count = len(p.mean)
    log_p, rel_error = np.full(count, -np.inf), np.full(count, np.inf)
    sums, sampler = np.full((count, REPLICATES), -np.inf), Sampler(p, proposals, effort.device)
    pending, start, stop, outer = np.arange(count), 0, effort.first, p.h + margin
    while len(pending) and stop * REPLICATES <= effort.budget:
        for part, _, log_w in draws(sampler, pending, start, stop, effort.seed, shifts=shifts):
            fresh = torch.logsumexp(log_w, dim=2).numpy(force=True)
            sums[part] = np.logaddexp(sums[part], fresh)
        log_p[pending], rel_error[pending] = _summary(sums[pending], _points(stop, sampler))
        settled = rel_error[pending] <= effort.rtol * np.exp(np.clip(effort.log_floor - log_p[pending], 0.0, 700.0))
        if start == 0:
            nothing = np.isneginf(log_p[pending])
            rows, bounds = p.coef[pending[nothing]], outer[pending[nothing]]
            y = inscribed_ball(rows, bounds)
            empty = is_empty(rows, bounds, y)
            rel_error[pending[nothing]] = np.where(empty, 0.0, np.inf)
            settled[nothing] = empty | (log_slab(rows, bounds, y) <= effort.log_floor + np.log(effort.rtol))
        pending = pending[~settled]
        start, stop = stop, 2 * stop
    seen = np.isfinite(log_p)
    deviation = np.zeros(sums.shape)
    weight = np.exp(sums[seen] - sums[seen].max(axis=1, keepdims=True))
    deviation[seen] = weight / weight.mean(axis=1, keepdims=True) - 1
    return log_p, rel_error, deviation


def _points(stop, sampler):
    return sum(stop // pace for pace in (1, EXTRA)[: sampler.sources])


def draws(
    sampler: Sampler,
    pending: np.ndarray,
    start: int,
    stop: int,
    seed: int,
    last: bool = False,
    shifts: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """(indices, y (K, c, R, M), log weights (K, R, M)) of points start..stop per replicate, chunk by chunk.

    With two proposals each EXTRA points of the first are joined by one of the second, and the weights are those of the
    mixture (the balance heuristic of Veach & Guibas 1995): never above 1 + EXTRA times those of the second alone.
    last: draw the last coordinate too. shifts (K, c): added to the uniforms of each polytope, modulo 1, so that the
    errors of different polytopes are not alike and average out in sums.
    """
    pace = (1, EXTRA)[: sampler.sources]
    share = -torch.tensor(pace, dtype=torch.float64, device=sampler.device).mul(sum(1 / s for s in pace)).log()[:, None]
    dim = sampler.dim - (not last)
    u = [uniforms(dim, start // s, stop // s, seed, sampler.device) for s in pace]
    chunk = max(1, CHUNK // u[0].shape[1])
    for first in range(0, len(pending), chunk):
        part, ys, logs = pending[first : first + chunk], [], []
        moved = None if shifts is None else torch.as_tensor(shifts[part, :dim].T, device=sampler.device)[:, :, None]
        for source, points in enumerate(u):
            if moved is not None:
                points = (points[:, None] + moved).remainder_(1.0).clamp_(min=2.0**-31)
            y, log_w = sampler.points(part, points, source)
            mixed = -torch.logsumexp(share - log_w, dim=1)
            ys.append(y.unflatten(2, (REPLICATES, -1)))
            logs.append(mixed.unflatten(1, (REPLICATES, -1)))
        yield part, torch.cat(ys, dim=3), torch.cat(logs, dim=2)


def _summary(log_sums, n):
    """Log of the mean (K,) and its relative error (K,), from sums over the n points of each replicate (K, R).

    The error is SAFETY standard errors plus the weight of one point: a part of the polytope that no point has met
    would be worth about that much.
    """
    top = log_sums.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    means = np.exp(log_sums - top)
    mean, scatter = means.mean(axis=1), means.std(axis=1, ddof=1) / np.sqrt(REPLICATES)
    with np.errstate(divide="ignore", invalid="ignore"):
        rel_error = np.hypot(SAFETY * scatter / mean, 1 / (n * REPLICATES))
        return np.log(mean) + top[:, 0] - np.log(n), np.where(mean > 0, rel_error, np.inf)


@one_thread()
def moments(p: Plan, proposals: Sequence[Proposal], rtol: float, seed: int, budget: int) -> Any:
    """log P (K,), mean (K, c) and covariance (K, c, c) of y inside each polytope of a `Plan`.

    Points are doubled until log P, every mean and every standard deviation are known to rtol, the latter two in
    standard deviations, or the budget is spent.
    """
    count, c = p.mean.shape
    log_p, mean, cov = np.full(count, -np.inf), np.zeros((count, c)), np.zeros((count, c, c))
    sampler, pending, stop = Sampler(p, proposals), np.arange(count), 4 * FIRST
    while len(pending) and stop * REPLICATES <= budget:
        unfinished = []
        for part, y, log_w in draws(sampler, pending, 0, stop, seed, last=True):
            log_p[part], error = _summary(torch.logsumexp(log_w, dim=2).numpy(), _points(stop, sampler))
            w = torch.exp(log_w - log_w.amax(dim=(1, 2), keepdim=True).clamp_min(-1e300))[:, None]
            w = w / w.sum(dim=(2, 3), keepdim=True).clamp_min(1e-300)
            centre = (w * y).sum(dim=(2, 3), keepdim=True)
            y = y - centre
            mean[part], cov[part] = centre[:, :, 0, 0].numpy(), ((w * y).flatten(2) @ y.flatten(2).mT).numpy()
            var = torch.from_numpy(np.diagonal(cov[part], axis1=1, axis2=2).copy())[:, :, None, None]
            drifts = [(w * scaled).sum(dim=3).std(dim=2) for scaled in (y / var.sqrt(), (y * y / var - 1) / 2)]
            drift = SAFETY * np.sqrt(REPLICATES) * torch.maximum(*drifts).amax(dim=1).numpy()
            unfinished.append(part[(error > rtol) | (drift > rtol)])
        pending, stop = np.concatenate(unfinished), 2 * stop
    return log_p, mean, cov
