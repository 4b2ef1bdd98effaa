"""Sampling as the referee: pattern counts, and agreement of counts with probabilities in exact standard errors."""

import numpy as np
from scipy.stats import binom, norm

from rpa import _check

__all__ = ["binomial_sigmas", "pattern_counts"]

FARTHEST = 37.0  # beyond this many standard errors the tail probability underflows


def pattern_counts(net, inputs, patterns, n, seed, chunk=250_000):
    """(counts (K,), other): how often each pattern (K, N) occurs among n inputs, and how many inputs show none of them.

    Samples come in chunks with seeds (seed, chunk number), so memory does not grow with n.
    """
    n = _check.integer("n", n, 1)
    patterns = _check.pattern_array("patterns", patterns, net.n_hidden)
    index = {row.tobytes(): i for i, row in enumerate(np.packbits(patterns, axis=1))}
    counts = np.zeros(len(patterns) + 1, dtype=int)
    for part, start in enumerate(range(0, n, chunk)):
        x = inputs.sample(min(chunk, n - start), [seed, part])
        seen, times = np.unique(np.packbits(net.patterns(x), axis=1), axis=0, return_counts=True)
        np.add.at(counts, [index.get(row.tobytes(), len(patterns)) for row in seen], times)
    return counts[:-1], int(counts[-1])


def binomial_sigmas(counts, n, p):
    """How surprising each count is for a Binomial(n, p), in standard errors of a normal law, exact for rare events.

    The one-sided tail probability beyond the count is turned into the quantile that a normal law gives it; 37 stands
    for 37 or more. counts, p: any shapes that broadcast; p may exceed 1 by rounding.
    """
    p = np.clip(p, 0.0, 1.0)
    tail = np.minimum(binom.cdf(counts, n, p), binom.sf(np.asarray(counts) - 1, n, p))
    return np.clip(norm.isf(np.minimum(tail, 0.5)), 0.0, FARTHEST)
