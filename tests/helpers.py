"""What several test files share: random networks and Monte-Carlo agreement by exact binomial tails."""

import numpy as np
from scipy.stats import binom

from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork

SIX_SIGMA = 2e-9  # two-sided probability of a six-sigma event


def random_network(sizes, seed, slope=0.0):
    rng = np.random.default_rng(seed)
    pairs = list(zip(sizes, sizes[1:]))
    weights = [rng.standard_normal((m, n)) * np.sqrt(2 / n) for n, m in pairs]
    return ReLUNetwork(weights, [0.5 * rng.standard_normal(m) for _, m in pairs], slope)


def random_gaussian(dim, seed, spread=1.0):
    """Full covariance, mean up to `spread` from the origin."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((dim, dim))
    mean = rng.standard_normal(dim)
    return Gaussian(spread * mean / np.linalg.norm(mean), factor @ factor.T / dim)


def random_mixture(dim, seed, n_components=3, spread=1.0):
    parts = [random_gaussian(dim, 100 * seed + c, spread) for c in range(n_components)]
    return GaussianMixture(np.random.default_rng(seed).uniform(0.2, 1, n_components), parts)


def pattern_counts(net, inputs, patterns, n, seed, chunk=500_000):
    """How often each pattern occurs among n samples, and how many samples show none of them."""
    index = {row.tobytes(): i for i, row in enumerate(np.packbits(patterns, axis=1))}
    counts, other = np.zeros(len(patterns), dtype=int), 0
    for part in range(0, n, chunk):
        x = inputs.sample(min(chunk, n - part), [seed, part])
        seen, times = np.unique(np.packbits(net.patterns(x), axis=1), axis=0, return_counts=True)
        for row, many in zip(seen, times):
            if row.tobytes() in index:
                counts[index[row.tobytes()]] += many
            else:
                other += many
    return counts, other


def assert_binomial(counts, n, p):
    """Every count is within six sigma of n p, judged by the exact binomial tail on either side."""
    counts, p = np.asarray(counts), np.clip(p, 0, 1)
    tail = np.minimum(binom.cdf(counts, n, p), binom.sf(counts - 1, n, p))
    worst = int(np.argmin(tail))
    assert 2 * tail[worst] >= SIX_SIGMA, f"item {worst}: {counts[worst]} of {n}, expected p = {p[worst]:.6g}"
