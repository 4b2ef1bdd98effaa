"""The output law, the exact PMF of a planar network, and the search for patterns, beside sampling and SciPy."""

import numpy as np
from bench import beside, interleaved
from helpers import random_network
from scipy.stats import multivariate_normal

from rpa import failure_probability
from rpa.experiments.coverage import processor_seconds
from rpa.experiments.montecarlo import Fresh, pattern_counts
from rpa.inputs import Gaussian
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.support import best_first, draw_packed, monte_carlo
from rpa.subjects import datasets, train

N = 1_000_000  # samples that show patterns
K = 2_000  # patterns that a search may find
RATE = 400_000  # samples that measure the seconds of one


def law():
    """Errors of the output law and of sampling that takes as long; the tail is `failure_probability`'s."""
    p = np.array([0.5, 0.001])
    for seed, name in enumerate(("3-8-8-2", "5-16-16-2", "8-16-16-2", "13-32-32-3", "30-64-64-3")):
        sizes = tuple(map(int, name.split("-")))
        net, inputs = random_network(sizes, seed), Gaussian(np.random.default_rng(seed).standard_normal(sizes[0]), 0.25)
        seconds, f = processor_seconds(lambda: net(inputs.sample(RATE, 1))[:, 0])
        each, spread, y = seconds / RATE, f.std(), np.quantile(f, p)

        def answers():
            law = pattern_pmf(net, inputs).output()
            return law, law.mean.error[0] / spread, *law.cdf(y).error

        seconds, (found, *errors) = processor_seconds(answers)
        sampled = np.array([1, *np.sqrt(p * (1 - p))]) / np.sqrt(seconds / each)
        tasks = "mean, standard deviations", "distribution function at 0.5", "distribution function at 0.001"
        size = f"{name}, {len(found.pmf)} patterns, uncovered {found.uncovered:.2g}"
        for task, error, theirs in zip(tasks, errors, sampled):
            yield beside(task, size, (seconds, error), "plain sampling", (seconds, theirs))
        options = dict(direction=np.eye(sizes[-1])[0], threshold=float(f.mean() + 6 * spread), seed=seed)
        seconds, tail = processor_seconds(lambda: failure_probability(net, inputs, **options))
        ours, theirs = (seconds, tail.rel_error), (seconds, 1 / np.sqrt(tail.p * seconds / each))
        yield beside("tail, relative", f"{name}, p = {tail.p:.0e}", ours, "plain sampling", theirs)


def planar():
    """All patterns of a planar network; SciPy gets the singular orthant of dimension N that P1 writes down."""
    net, gaussian = random_network((2, 16, 16, 1), 3), Gaussian([0.5, -0.5], [[1.0, 0.3], [0.3, 0.5]])
    patterns = pattern_pmf(net, gaussian).patterns
    (spent, pmf), (sampled, _) = interleaved(
        lambda: pattern_pmf(net, gaussian), lambda: pattern_counts(net, gaussian, patterns, N, 0)
    )
    error = float(pmf.rel_error[pmf.p > 1e-20].max())
    for i in (0, 10, 40):
        region, rng = pmf.region(i), np.random.default_rng(0)
        mean, cov = region.H @ gaussian.mean, region.H @ gaussian.cov @ region.H.T
        ((seconds, p),) = interleaved(lambda: multivariate_normal.cdf(region.h, mean, cov, True, rng=rng))
        size, theirs = f"2-16-16-1, p = {pmf.p[i]:.0e}", (seconds, abs(p / pmf.p[i] - 1))
        yield beside("probability of a region", size, (spent / len(pmf), error), "SciPy", theirs, scales=False)
    theirs = sampled, float(np.sqrt((1 - pmf.p[10]) / pmf.p[10] / N))
    yield beside("all patterns", f"2-16-16-1, {len(pmf)} patterns", (spent, error), "Monte Carlo", theirs)


def support():
    """The share of fresh samples that K patterns do not cover: best-first search and counting of samples."""
    for data, images in (("mnist", datasets.mnist("test")), ("fashion", datasets.fashion_mnist("test"))):
        for layers in ("784-32-32-10", "784-128-64-10"):
            net = train.load_network(f"{data}_{layers}")
            for sigma in (0.05, 0.1, 0.2, 0.3):
                inputs = Gaussian(np.float64(images.rows[3]), sigma**2)
                fresh = Fresh(draw_packed(net, inputs, N, 1))
                both = interleaved(
                    lambda: best_first(net, inputs, max_patterns=K, mass=1.0), lambda: monte_carlo(net, inputs, N, 0, K)
                )
                ours, theirs = ((seconds, 1 - fresh.coverage(found.patterns)) for seconds, found in both)
                size = f"{data} {layers}, sigma {sigma}"
                yield beside(f"{K} patterns", size, ours, "counting 10^6 samples", theirs, scales=False)
