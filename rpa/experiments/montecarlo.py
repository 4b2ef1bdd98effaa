"""Sampling as the referee: pattern counts, and agreement of counts with probabilities in exact standard errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, norm

from rpa import _check
from rpa.patterns.regions import singular_values
from rpa.patterns.support import commonest, draw_packed

if TYPE_CHECKING:
    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork


__all__ = ["binomial_sigmas", "pattern_counts", "sampled_singular_values", "step_gap"]

ROUNDING = 1e-6  # by so much a probability may leave [0, 1]
FARTHEST = 37.0  # beyond this many standard errors the tail probability underflows


def pattern_counts(
    net: ReLUNetwork, inputs: RandomInput, patterns: np.ndarray, n: int, seed: int, chunk: int = 250_000
) -> tuple[np.ndarray, int]:
    """(counts (K,), other): how often each pattern (K, N) occurs among n inputs, and how many inputs show none of them.

    Samples come in chunks with seeds (seed, chunk number), so memory does not grow with n.
    """
    n, seed, chunk = _check.integer("n", n, 1), _check.integer("seed", seed), _check.integer("chunk", chunk, 1)
    if np.ndim(patterns) != 2:
        raise ValueError(f"patterns: expected shape (K, {net.n_hidden}), got {np.shape(patterns)}")
    patterns = _check.pattern_array("patterns", patterns, net.n_hidden)
    index = {row.tobytes(): i for i, row in enumerate(np.packbits(patterns, axis=1))}
    counts = np.zeros(len(patterns) + 1, dtype=int)
    for part, start in enumerate(range(0, n, chunk)):
        x = inputs.sample(min(chunk, n - start), [seed, part])
        seen, times = np.unique(np.packbits(net.patterns(x), axis=1), axis=0, return_counts=True)
        np.add.at(counts, [index.get(row.tobytes(), len(patterns)) for row in seen], times)
    return counts[:-1], int(counts[-1])


def binomial_sigmas(counts: ArrayLike, n: int, p: ArrayLike) -> np.ndarray:
    """How surprising each count is for a Binomial(n, p), in standard errors of a normal law, exact for rare events.

    The one-sided tail probability beyond the count is turned into the quantile that a normal law gives it; 37 stands
    for 37 or more. counts, p: any shapes that broadcast; p may exceed 1 by rounding.
    """
    n = _check.integer("n", n, 1)
    counts, p = (_check.array(name, value, np.shape(value)) for name, value in (("counts", counts), ("p", p)))
    if (counts < 0).any() or (counts > n).any() or (counts != np.round(counts)).any():
        raise ValueError(f"counts: expected whole numbers from 0 to n = {n}, got {counts.min():g} to {counts.max():g}")
    if (p < -ROUNDING).any() or (p > 1 + ROUNDING).any():
        raise ValueError(f"p: expected probabilities in [0, 1], got {p.min():g} to {p.max():g}")
    p = np.clip(p, 0.0, 1.0)
    tail = np.minimum(binom.cdf(counts, n, p), binom.sf(counts - 1, n, p))
    return np.clip(norm.isf(np.minimum(tail, 0.5)), 0.0, FARTHEST)


def sampled_singular_values(net: ReLUNetwork, inputs: RandomInput, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(values (U, r), frequencies (U,)): singular values of the Jacobian at n inputs, one row per pattern seen."""
    n, seed = _check.integer("n", n, 1), _check.integer("seed", seed)
    seen = commonest(draw_packed(net, inputs, n, seed), net.n_hidden)
    return singular_values(net, seen.patterns), np.exp(seen.log_q)


def step_gap(
    values: np.ndarray,
    p: np.ndarray,
    sampled_values: np.ndarray,
    frequencies: np.ndarray,
    n: int,
    allowed: float,
    thresholds: int = 100,
) -> float:
    """Largest gap between two laws of singular values, in standard errors of n samples, less an allowed absolute gap.

    values (K, r) with probabilities p (K,) against sampled_values (U, r) with frequencies (U,); the distribution
    functions are compared, column by column, at `thresholds` quantiles of the samples, each moved up by 1e-9 of itself
    so that rounding does not decide on which side an atom falls.
    """
    values = _check.array("values", values, (None, None))
    p = _check.array("p", p, values.shape[:1])
    sampled_values = _check.array("sampled_values", sampled_values, (None, values.shape[1]))
    frequencies = _check.array("frequencies", frequencies, sampled_values.shape[:1])
    n, thresholds = _check.integer("n", n, 1), _check.integer("thresholds", thresholds, 1)
    allowed = float(_check.array("allowed", allowed, ()))
    if sampled_values.size == 0:
        raise ValueError(f"sampled_values: expected at least one value, got shape {sampled_values.shape}")
    worst = 0.0
    for column, seen in zip(values.T, sampled_values.T):
        order = np.argsort(seen)
        picks = np.searchsorted(np.cumsum(frequencies[order]), np.linspace(0.01, 0.99, thresholds))
        t = seen[order][np.minimum(picks, len(seen) - 1)] * (1 + 1e-9)
        analytic, empirical = _cdf(column, p, t), _cdf(seen, frequencies, t)
        stderr = np.sqrt(np.maximum(empirical * (1 - empirical), 1 / n) / n)
        worst = max(worst, np.max((np.abs(analytic - empirical) - allowed) / stderr))
    return worst


def _cdf(values, p, t):
    """Sum of the p (K,) whose values (K,) are at most t, for each t."""
    order = np.argsort(values)
    total = np.concatenate([[0.0], np.cumsum(p[order])])
    return total[np.searchsorted(values[order], t, side="right")]
