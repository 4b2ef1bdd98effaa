"""Integrals over polytopes by randomized quasi-Monte Carlo, to a relative accuracy that is asked for.

The points are one scrambled Sobol sequence under independent random digital shifts. Each shift makes an unbiased
quadrature of its own, and their scatter is the error. Points are doubled until it is small enough.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import qmc

from rpa.reduction import is_empty
from rpa.trapezoid import Sampler

__all__ = ["estimate", "moments", "uniforms"]

REPLICATES = 16
FIRST = 32  # points per replicate to begin with
CHUNK = 2**15  # (polytope, point) pairs in flight
SAFETY = 1.3  # times the standard error: 16 replicates estimate it themselves, and weights are skewed


def uniforms(dim, start, stop, seed, device=None):
    """Points start..stop of all replicates, in (0, 1): (dim, REPLICATES * (stop - start)). stop is a power of two."""
    shifts = np.random.default_rng([seed, 1]).integers(0, 2**30, (REPLICATES, max(dim, 1))).T[:dim]
    points = _sobol(max(dim, 1), int(stop).bit_length() - 1, seed)[:dim, start:stop].to(device)
    shifted = points[:, None, :] ^ torch.as_tensor(np.ascontiguousarray(shifts), device=device)[:, :, None]
    return ((shifted.double() + 0.5) * 2.0**-30).reshape(dim, REPLICATES * (stop - start))


@lru_cache(maxsize=16)
def _sobol(dim, log2_n, seed):
    points = qmc.Sobol(dim, rng=np.random.default_rng(seed)).random_base2(log2_n)
    return torch.from_numpy(np.ascontiguousarray((points.T * 2**30).astype(np.int64)))


def estimate(p, proposal, rtol, seed, budget, device=None):
    """log P (K,) and relative error (K,) of a `Plan`, until the error is at most rtol or `budget` points are spent.

    log P = -inf has an error of 0 if the polytope is empty, and an infinite one if no point in it was found.
    """
    count, c = p.mean.shape
    log_p, rel_error = np.full(count, -np.inf), np.full(count, np.inf)
    sums, sampler = np.full((count, REPLICATES), -np.inf), Sampler(p, proposal, device)
    todo, start, stop = np.arange(count), 0, FIRST
    while len(todo) and stop * REPLICATES <= budget:
        u = uniforms(c - 1, start, stop, seed, device)
        chunk = max(1, CHUNK // u.shape[1])
        for first in range(0, len(todo), chunk):
            part = todo[first : first + chunk]
            log_w = sampler.points(part, u)[1]
            fresh = torch.logsumexp(log_w.reshape(len(part), REPLICATES, -1), dim=2).numpy(force=True)
            sums[part] = np.logaddexp(sums[part], fresh)
        log_p[todo], rel_error[todo] = _summary(sums[todo] - np.log(stop), stop)
        if start == FIRST:
            nothing = [i for i in todo if np.isneginf(log_p[i]) and is_empty(p.coef[i], p.h[i])]
            rel_error[nothing] = 0.0
        todo = todo[rel_error[todo] > rtol]
        start, stop = stop, 2 * stop
    return log_p, rel_error


def _summary(log_means, n):
    """Log of the mean over replicates (K, R) of n points each, and its relative error, both (K,).

    The error is SAFETY standard errors and one point in all: what no point has met may still be there.
    """
    top = log_means.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    means = np.exp(log_means - top)
    mean, scatter = means.mean(axis=1), means.std(axis=1, ddof=1) / np.sqrt(REPLICATES)
    with np.errstate(divide="ignore", invalid="ignore"):
        rel_error = np.hypot(SAFETY * scatter / mean, 1 / (n * REPLICATES))
        return np.log(mean) + top[:, 0], np.where(mean > 0, rel_error, np.inf)


def moments(p, proposal, rtol, seed, budget):
    """log P (K,), mean (K, c) and covariance (K, c, c) of y inside each polytope of a `Plan`.

    Points are doubled until log P and, in standard deviations, every mean is known to rtol, or the budget is spent.
    """
    count, c = p.mean.shape
    log_p, mean, cov = np.full(count, -np.inf), np.zeros((count, c)), np.zeros((count, c, c))
    sampler, todo, stop = Sampler(p, proposal), np.arange(count), FIRST
    while len(todo) and stop * REPLICATES <= budget:
        u = uniforms(c, 0, stop, seed)
        chunk, open_ = max(1, CHUNK // u.shape[1]), []
        for first in range(0, len(todo), chunk):
            part = todo[first : first + chunk]
            y, log_w = sampler.points(part, u)
            log_means = torch.logsumexp(log_w.reshape(len(part), REPLICATES, -1), dim=2).numpy() - np.log(stop)
            log_p[part], error = _summary(log_means, stop)
            top = log_w.amax(dim=1, keepdim=True).clamp_min(-1e300)
            w = torch.exp(log_w - top)
            w = (w / w.sum(dim=1, keepdim=True).clamp_min(1e-300))[:, None]
            centre = (w * y).sum(dim=2, keepdim=True)
            spread = (w * (y - centre)) @ (y - centre).mT
            drift = (w * (y - centre)).reshape(len(part), c, REPLICATES, -1).sum(dim=3)
            mean[part], cov[part] = centre[:, :, 0].numpy(), spread.numpy()
            step = SAFETY * drift.std(dim=2).numpy() * np.sqrt(REPLICATES)
            known = (step <= rtol * np.sqrt(np.diagonal(cov[part], axis1=1, axis2=2))).all(axis=1)
            open_.append(part[(error > rtol) | ~known])
        todo, stop = np.concatenate(open_), 2 * stop
    return log_p, mean, cov
