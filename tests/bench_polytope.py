"""Polytope probabilities beside SciPy: one tail orthant at equal accuracy, and all regions of a network at once."""

import warnings

import numpy as np
import torch
from bench import regions, seconds, table
from botorch.utils.probability.mvnxpb import MVNXPB
from scipy.stats import multivariate_normal

from rpa.experiments import known
from rpa.inputs import Gaussian
from rpa.polytopes.polytope import orthant, probabilities, probability


def tail_orthant():
    """d = 20, autoregressive, p about 1e-12: SciPy with more and more points, and ours at the accuracy each reached."""
    (cov, log_p), mean = known.autoregressive(20, 0.5, -1.65), np.full(20, -1.65)
    rows, repeats = [], range(5)

    def run(f):
        errors = [abs(np.expm1(f(seed) - log_p)) for seed in repeats]
        times = [seconds(lambda s=s: f(s), 2) for s in repeats]
        return float(np.sqrt(np.mean(np.square(errors)))), float(np.median(times))

    error, asked = run(lambda s: orthant(mean, cov, rtol=1e-3, seed=s).log_p)
    rows.append(["rpa, rtol 1e-3", error, asked, "", ""])
    for points in (20_000, 200_000, 1_000_000):

        def scipy(s, points=points):
            rng, no = np.random.default_rng(s), 1e-300
            return np.log(multivariate_normal.cdf(mean, cov=cov, maxpts=points, abseps=no, releps=1e-9, rng=rng))

        theirs, time = run(scipy)
        # The reported error is 1.3 standard errors: asked for 1.3 times SciPy's error, ours has SciPy's.
        rtol = min(1.0, 1.3 * theirs)
        ours, quick = run(lambda s: orthant(mean, cov, rtol=rtol, seed=s).log_p)
        rows.append([f"SciPy, {points} points", theirs, time, time / quick, f"{ours:.1e} in {quick * 1e3:.0f} ms"])
    columns = ["method", "error (rms)", "median seconds", "time / ours at its error", "ours at its error"]
    table(f"Tail orthant, d = 20, p = {np.exp(log_p):.1e}", columns, rows)


def network_patterns():
    """The 300 commonest patterns of MNIST 784-32-32-10 around one test image, and SciPy on a few of the same."""
    H, h = regions("784-32-32-10", 300)
    ours = seconds(lambda: probabilities(H, h, rtol=1e-2), repeat=5) / len(H)
    log_p, error = probabilities(H, h, rtol=1e-2)
    truth = probabilities(H[:5], h[:5], rtol=1e-3, seed=1)[0]
    rows = [["rpa, rtol 1e-2, all 300", 1 / ours, 1.0, float(np.abs(np.expm1(log_p[:5] - truth)).max())]]

    def scipy(i):
        cov, rng = H[i] @ H[i].T, np.random.default_rng(0)
        return multivariate_normal.cdf(h[i], cov=cov, allow_singular=True, maxpts=100_000, rng=rng)

    theirs = seconds(lambda: [scipy(i) for i in range(5)], repeat=1) / 5
    error = max(abs(scipy(i) / np.exp(truth[i]) - 1) for i in range(5))
    rows.append(["SciPy, 100000 points, first 5", 1 / theirs, theirs / ours, float(error)])
    columns = ["method", "patterns/s", "time / ours", "error (worst of 5)"]
    table("Patterns of MNIST 784-32-32-10, sigma 0.2", columns, rows)


def _problems():
    """The polytopes of notebook 12: {(family, dimension or -log10 p): (H, h, log p)}."""
    orthants = [(f"equicorrelated, dimension {n}", known.equicorrelated(n, 0.5), 0.0) for n in (3, 10, 30, 100)]
    orthants += [(f"tail, mean {m:g}", known.autoregressive(20, 0.5, m), m) for m in (0.0, -2.0, -4.0, -8.0)]
    found = {name: (-np.linalg.cholesky(cov), np.full(len(cov), m), log_p) for name, (cov, log_p), m in orthants}
    return found | {f"{4 * b} rows, dimension {2 * b}": known.rotated_blocks(b, 4, 0) for b in (2, 5, 10)}


def _botorch(H, h):
    bounds = torch.stack([torch.full((len(h),), -torch.inf, dtype=torch.float64), torch.as_tensor(h)], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(MVNXPB(torch.as_tensor(H @ H.T), bounds).solve())


def bivariate_conditioning():
    """Ours at rtol 1e-3 beside botorch's MVNXPB: bivariate conditioning (Trinh & Genz 2015), no accuracy to choose."""
    rows = []
    for name, (H, h, log_p) in _problems().items():
        standard = Gaussian(np.zeros(H.shape[1]), 1.0)
        ours, theirs = lambda: probability(H, h, standard, rtol=1e-3).log_p, lambda: _botorch(H, h)
        errors = [abs(np.expm1(min(f() - log_p, 50.0))) for f in (ours, theirs)]
        times = [seconds(f) for f in (ours, theirs)]
        rows.append([name, log_p / np.log(10), errors[0], times[0], errors[1], times[1], times[1] / times[0]])
    columns = ["polytope", "log10 p", "error rpa", "seconds rpa", "error botorch", "seconds botorch", "botorch / rpa"]
    table("Polytopes of known probability, beside bivariate conditioning", columns, rows, keep="polytope_methods")


def main():
    bivariate_conditioning()
    tail_orthant()
    network_patterns()
