"""Sampling as the reference: pattern counts, coverage, and agreement with probabilities in exact standard errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, norm

from rpa.inputs import RandomInput
from rpa.network import ReLUNetwork
from rpa.patterns.packing import pattern_keys

EXCESS = 1e-6  # by so much a probability may leave [0, 1]
LARGEST_Z = 37.0  # beyond this many standard errors the tail probability underflows


def pattern_counts(
    net: ReLUNetwork, inputs: RandomInput, patterns: np.ndarray, n: int, seed: int, chunk: int = 250_000
) -> tuple[np.ndarray, int]:
    """(counts (K,), other): how often each pattern (K, N) occurs among n inputs, and how many inputs show none of them.

    Samples come in chunks with seeds (seed, chunk number); of each only the packed patterns are kept.
    """
    sizes = [min(chunk, n - start) for start in range(0, n, chunk)]
    packed = [np.packbits(net.patterns(inputs.sample(m, [seed, i])), axis=1) for i, m in enumerate(sizes)]
    counts = Fresh(np.concatenate(packed)).counts(patterns)
    return counts, n - int(counts.sum())


class Fresh:
    """Fresh samples of a network's patterns, packed (n, bytes), to measure how much probability patterns hold."""

    def __init__(self, packed: np.ndarray) -> None:
        self.n = len(packed)
        if self.n == 0:
            raise ValueError("packed: expected at least one sample, got none")
        self._keys, self._counts = np.unique(pattern_keys(packed), return_counts=True)

    def counts(self, patterns: np.ndarray) -> np.ndarray:
        """Samples that meet each pattern: (K,)."""
        keys = pattern_keys(np.packbits(patterns, axis=1))
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._counts[at], 0)

    def coverage(self, patterns: np.ndarray) -> float:
        """Share of the samples that meet one of the patterns, each of which counts once."""
        _, first = np.unique(pattern_keys(np.packbits(patterns, axis=1)), return_index=True)
        return float(self.counts(patterns[first]).sum() / self.n)


def binomial_sigmas(counts: ArrayLike, n: int, p: ArrayLike) -> np.ndarray:
    """How surprising each count is for a Binomial(n, p), in standard errors of a normal law, exact for rare events.

    The one-sided tail probability beyond the count is turned into the quantile that a normal law gives it, at most 37.
    counts, p: any shapes that broadcast; p may leave [0, 1] by rounding, and the answer is NaN where it is farther out.
    """
    counts, p = np.asarray(counts, dtype=float), np.asarray(p, dtype=float)
    p = np.where(np.abs(p - 0.5) <= 0.5 + EXCESS, np.clip(p, 0.0, 1.0), np.nan)
    tail = np.minimum(binom.cdf(counts, n, p), binom.sf(counts - 1, n, p))
    return np.clip(norm.isf(np.minimum(tail, 0.5)), 0.0, LARGEST_Z)


def law_gap(values: np.ndarray, p: np.ndarray, errors: np.ndarray, counts: np.ndarray) -> float:
    """Largest gap between two laws on the same atoms, in standard errors of both, over all distribution functions.

    values (K, r): atom i has r coordinates, each with a distribution function of its own; p (K,), errors (K,): computed
    probabilities with their standard errors; counts (K,): how often samples meet each atom. Both laws are normalized,
    so atoms that are missing in both make no difference.
    """
    n, total = counts.sum(), p.sum()
    if not min(n, total) > 0:
        raise ValueError(f"counts, p: expected samples and probability on the atoms, got {n} and {total:g}")
    order = np.argsort(values, axis=0, kind="stable")
    at = np.take_along_axis(values, order, axis=0)
    ends = np.diff(at, axis=0, append=np.inf) > 0  # a distribution function jumps once over equal values
    computed, sampled = (np.cumsum(part[order] / part.sum(), axis=0) for part in (p, counts))
    square = np.cumsum((errors[order] / total) ** 2, axis=0)
    spread = (1 - computed) ** 2 * square + computed**2 * (square[-1] - square)
    stderr = np.sqrt(np.maximum(computed * (1 - computed), 1 / n) / n + spread)
    return float((np.abs(computed - sampled) / stderr)[ends].max())
