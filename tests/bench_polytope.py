"""Polytope probabilities beside SciPy's integrator and botorch's bivariate conditioning (Trinh & Genz 2015)."""

import warnings

import numpy as np
import torch
from bench import beside, interleaved, regions
from botorch.utils.probability.mvnxpb import MVNXPB
from scipy.stats import multivariate_normal

from rpa.experiments import known
from rpa.inputs import Gaussian
from rpa.polytopes.polytope import orthant, probabilities, probability

SEEDS = range(5)


def tail_orthant():
    """SciPy with more and more points; its error is the root mean square over seeds, ours has the same rtol."""
    (cov, log_p), mean = known.autoregressive(20, 0.5, -1.65), np.full(20, -1.65)
    rms = lambda logs: float(np.sqrt(np.mean(np.expm1(np.array(logs) - log_p) ** 2)))
    for points in (20_000, 200_000, 1_000_000):

        def scipy(points=points):
            options = dict(maxpts=points, abseps=1e-300, releps=1e-9)
            draws = (multivariate_normal.cdf(mean, cov=cov, rng=np.random.default_rng(s), **options) for s in SEEDS)
            return [np.log(p) for p in draws]

        theirs = rms(scipy())
        rtol = min(1.0, 1.3 * theirs)  # the stated error is 1.3 standard errors
        ours, rival = interleaved(lambda: [orthant(mean, cov, rtol=rtol, seed=s).log_p for s in SEEDS], scipy, repeat=3)
        size = f"dimension 20, p = {np.exp(log_p):.0e}"
        yield beside("tail orthant", size, "seconds", (ours[0] / 5, rms(ours[1])), "SciPy", (rival[0] / 5, theirs))


def network_regions():
    H, h = regions("784-32-32-10", 300)
    truth = probabilities(H[:5], h[:5], rtol=1e-3, seed=1)[0]

    def scipy():
        options = dict(allow_singular=True, maxpts=100_000, rng=np.random.default_rng(0))
        return [multivariate_normal.cdf(h[i], cov=H[i] @ H[i].T, **options) for i in range(5)]

    ((ours, (log_p, _)),) = interleaved(lambda: probabilities(H, h, rtol=1e-2))
    ((theirs, p),) = interleaved(scipy, repeat=1)
    errors = [float(np.abs(np.expm1(logs - truth)).max()) for logs in (log_p[:5], np.log(p))]
    size = "MNIST 784-32-32-10, sigma 0.2"
    yield beside("a network's region", size, "seconds", (ours / 300, errors[0]), "SciPy", (theirs / 5, errors[1]))


def botorch(H, h):
    bounds = torch.stack([torch.full((len(h),), -torch.inf, dtype=torch.float64), torch.as_tensor(h)], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(MVNXPB(torch.as_tensor(H @ H.T), bounds).solve())


def known_polytopes():
    """The polytopes of notebook 12; botorch has no accuracy to choose."""
    orthants = [(f"equicorrelated, dimension {n}", known.equicorrelated(n, 0.5), 0.0) for n in (3, 10, 30, 100)]
    orthants += [(f"dimension 20, mean {m:g}", known.autoregressive(20, 0.5, m), m) for m in (0.0, -2.0, -4.0, -8.0)]
    problems = {name: (-np.linalg.cholesky(cov), np.full(len(cov), m), log_p) for name, (cov, log_p), m in orthants}
    problems |= {f"{4 * b} rows, dimension {2 * b}": known.rotated_blocks(b, 4, 0) for b in (2, 5, 10)}
    for name, (H, h, log_p) in problems.items():
        standard = Gaussian(np.zeros(H.shape[1]), 1.0)
        both = interleaved(lambda: probability(H, h, standard, rtol=1e-3).log_p, lambda: botorch(H, h))
        ours, theirs = ((seconds, abs(np.expm1(min(found - log_p, 50.0)))) for seconds, found in both)
        yield beside("known polytope", name, "seconds", ours, "botorch", theirs, scales=False)


def main():
    for problems in (known_polytopes, tail_orthant, network_regions):
        yield from problems()
