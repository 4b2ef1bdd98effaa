"""What several test files share: random networks and inputs, and Monte-Carlo agreement by exact binomial tails."""

from itertools import pairwise

import numpy as np

from rpa.companion.montecarlo import binomial_sigmas
from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork


def random_network(sizes, seed, slope=0.0):
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(sizes))
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
    weights = np.random.default_rng(seed).uniform(0.2, 1, n_components)
    return GaussianMixture(weights / weights.sum(), parts)


def assert_binomial(counts, n, p):
    """Every count is within six standard errors of n p, judged by the exact binomial tail."""
    sigmas = np.atleast_1d(binomial_sigmas(counts, n, p))
    worst = int(np.argmax(sigmas))
    assert sigmas[worst] < 6, f"item {worst}: {np.atleast_1d(counts)[worst]} of {n}, p = {np.atleast_1d(p)[worst]:.6g}"
