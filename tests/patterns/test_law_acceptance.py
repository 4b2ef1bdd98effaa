"""Full size, minutes: run by `make test-slow`. The output law of networks of one's own against 10^7 inputs each."""

import numpy as np
import pytest
from helpers import random_network, small_network

from rpa.experiments.montecarlo import pattern_counts
from rpa.inputs import Gaussian
from rpa.patterns.packing import pattern_keys
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.support import best_first, draw_packed, monte_carlo

SAMPLES, CHUNK = 10_000_000, 100_000


def gaps(case):
    """Gaps of every functional to sampling, in standard errors of both: 3 to 30 inputs, two layers of 8 to 64 units."""
    rng = np.random.default_rng(case)
    sizes = (int(rng.integers(3, 31)), *map(int, rng.integers(8, 65, 2)), 3)
    inputs = Gaussian(rng.standard_normal(sizes[0]), float(rng.choice([0.01, 0.1, 1.0])) ** 2)
    net, max_patterns = random_network(sizes, case), int(rng.choice([20, 200, 1000]))
    law = pattern_pmf(net, inputs, max_patterns=max_patterns).output()
    rng = np.random.default_rng([case, 1])
    y = np.unique(np.quantile(net(inputs.sample(100_000, rng))[:, 0], np.linspace(0.025, 0.975, 20)))
    sums, centre = 0.0, np.asarray(law.mean)
    for _ in range(SAMPLES // CHUNK):
        f = net(inputs.sample(CHUNK, rng)) - centre
        won = (f + centre).argmax(axis=1)[:, None] == np.arange(3)
        values = np.concatenate([f, f**2, f[:, :1] + centre[0] <= y, won], axis=1)
        sums = sums + np.stack([values.sum(axis=0), (values.astype(float) ** 2).sum(axis=0)])
    truth, square = sums / SAMPLES
    noise = np.sqrt(np.maximum(square - truth**2, 1 / SAMPLES * (truth != truth.round())) / SAMPLES)
    cdf, classes = law.cdf(y), law.class_probabilities()
    difference = np.abs(np.concatenate([law.mean - centre, np.diag(law.cov), cdf, classes]) - truth)
    error = np.concatenate([law.mean.error, np.diag(law.cov.error), cdf.error, classes.error])
    return difference / np.maximum(np.hypot(error, noise), 1e-12 * (1 + np.abs(truth)))


@pytest.mark.slow
def test_a_hundred_networks_are_within_three_errors():
    """Mean, variances, distribution function and classes: at least 99 of 100 numbers."""
    every = np.concatenate([gaps(case) for case in range(100)])
    assert (every <= 3).mean() >= 0.99 and every.max() < 6


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(3, 16, 16, 2), (5, 16, 16, 2), (8, 32, 32, 2), (13, 16, 16, 3), (13, 32, 32, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_the_search_covers_as_much_as_counting(sizes, seed):
    net, inputs = random_network(sizes, seed), Gaussian(np.random.default_rng(seed).standard_normal(sizes[0]), 1.0)
    fresh = pattern_keys(draw_packed(net, inputs, 4_000_000, seed + 1000))
    supports = best_first(net, inputs, mass=1.0, seed=seed), monte_carlo(net, inputs, 1_000_000, seed, 2000)
    ours, counted = (np.isin(fresh, pattern_keys(np.packbits(each.patterns, axis=1))) for each in supports)
    assert ours.mean() - counted.mean() >= -2 * np.sqrt((ours != counted).mean() / len(fresh))


@pytest.mark.slow
def test_sixty_small_networks_cover_what_they_say():
    """With and without biases: the sum of a PMF against samples, and the mass where it ended the search."""
    n, mass, gaps = 300_000, 0.999, []
    for case in range(60):
        net, inputs = small_network(case)
        pmf = pattern_pmf(net, inputs, mass=mass)
        share = 1 - pattern_counts(net, inputs, pmf.patterns, n, case)[1] / n
        error = np.hypot(pmf.covered_error, np.sqrt(max(share * (1 - share), 1 / n) / n))
        gaps.append((pmf.covered - share) / error)
        assert pmf.covered <= 1 + 4 * max(pmf.covered_error, 1e-14)
        assert pmf.stopped in ("complete", "max_patterns") or share >= mass - 4 * error
    assert np.abs(gaps).max() < 4 and np.std(gaps) < 1.3
