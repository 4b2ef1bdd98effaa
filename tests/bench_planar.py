"""The complete exact PMF of a 2-16-16-1 network, beside SciPy's orthant integrator and beside Monte Carlo."""

import numpy as np
from bench import seconds, table
from helpers import random_network
from scipy.stats import multivariate_normal

from rpa.experiments.montecarlo import pattern_counts
from rpa.inputs import Gaussian
from rpa.patterns.pmf import pattern_pmf


def by_scipy(region, gaussian):
    """P(H x <= h) from the singular orthant of dimension N that P1 writes down."""
    cov = region.H @ gaussian.cov @ region.H.T
    return multivariate_normal(region.H @ gaussian.mean, cov, allow_singular=True).cdf(region.h)


def main():
    net, gaussian = random_network((2, 16, 16, 1), 3), Gaussian([0.5, -0.5], [[1.0, 0.3], [0.3, 0.5]])
    pmf = pattern_pmf(net, gaussian)
    ours = seconds(lambda: pattern_pmf(net, gaussian), repeat=5)
    per_region = ours / len(pmf)
    rows = [["rpa, all regions", len(pmf), ours, per_region, 1.0, float(pmf.rel_error[pmf.p > 1e-20].max())]]
    few = [0, 10, 40]
    for i in few:
        region = pmf.region(i)
        once = seconds(lambda: by_scipy(region, gaussian), repeat=1)
        error = abs(by_scipy(region, gaussian) / pmf.p[i] - 1)
        rows.append([f"SciPy, region of p = {pmf.p[i]:.1e}", 1, once, once, once / per_region, error])
    n = 1_000_000
    sampled = seconds(lambda: pattern_counts(net, gaussian, pmf.patterns, n, 0), repeat=1)
    error = float(np.sqrt((1 - pmf.p[10]) / pmf.p[10] / n))
    method = f"Monte Carlo, {n:.0e} samples, at p = {pmf.p[10]:.1e}"
    rows.append([method, len(pmf), sampled, sampled / len(pmf), sampled / ours, error])
    equal = n * (error / pmf.rel_error[10]) ** 2
    columns = ["method", "regions", "seconds", "s/region", "time / ours", "relative error"]
    table("Exact planar PMF, network 2-16-16-1", columns, rows)
    print(f"  Monte Carlo needs {equal:.0e} samples, {sampled * equal / n / ours:.0e} times our time, for our error")
