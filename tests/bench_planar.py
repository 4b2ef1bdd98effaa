"""The complete exact PMF of a planar network: SciPy's orthant integrator for each region, and Monte Carlo."""

import numpy as np
from bench import beside, interleaved
from helpers import random_network
from scipy.stats import multivariate_normal

from rpa.experiments.montecarlo import pattern_counts
from rpa.inputs import Gaussian
from rpa.patterns.pmf import pattern_pmf

SAMPLES = 1_000_000


def by_scipy(region, gaussian):
    """P(H x <= h) from the singular orthant of dimension N that P1 writes down."""
    cov = region.H @ gaussian.cov @ region.H.T
    return multivariate_normal(region.H @ gaussian.mean, cov, allow_singular=True).cdf(region.h)


def main():
    net, gaussian = random_network((2, 16, 16, 1), 3), Gaussian([0.5, -0.5], [[1.0, 0.3], [0.3, 0.5]])
    ours, sampled = interleaved(
        lambda: pattern_pmf(net, gaussian),
        lambda: pattern_counts(net, gaussian, pattern_pmf(net, gaussian).patterns, SAMPLES, 0),
    )
    pmf = ours[1]
    error = float(pmf.rel_error[pmf.p > 1e-20].max())
    for i in (0, 10, 40):
        region = pmf.region(i)
        ((seconds, p),) = interleaved(lambda region=region: by_scipy(region, gaussian))
        theirs = seconds, abs(p / pmf.p[i] - 1)
        task, size = "probability of a region", f"2-16-16-1, p = {pmf.p[i]:.0e}"
        yield beside(task, size, "seconds", (ours[0] / len(pmf), error), "SciPy", theirs, scales=False)
    theirs = sampled[0], float(np.sqrt((1 - pmf.p[10]) / pmf.p[10] / SAMPLES))
    size = f"2-16-16-1, {len(pmf)} patterns"
    yield beside("all patterns", size, "seconds", (ours[0], error), "Monte Carlo", theirs)
