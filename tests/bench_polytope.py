"""Polytope probabilities beside SciPy, R, and botorch's bivariate conditioning (Trinh & Genz 2015).

Packages of R, where they are installed: mvtnorm (Genz & Bretz 2009) and TruncatedNormal, which is
minimax tilting (Botev 2017).
"""

import shutil
import subprocess
import warnings
from functools import partial

import numpy as np
import torch
from bench import beside, interleaved, regions
from botorch.utils.probability.mvnxpb import MVNXPB
from scipy.stats import multivariate_normal

from rpa.experiments import known
from rpa.inputs import Gaussian
from rpa.polytopes.polytope import orthant, probabilities, probability

SEEDS = range(5)
OF_R = {
    "mvtnorm": "pmvnorm(upper = h, sigma = S, algorithm = GenzBretz(n, 1e-300, 1e-9))",
    "TruncatedNormal": "mvNcdf(rep(-Inf, m), h, S, n)$prob",
}


def rms(logs, log_p):
    return float(np.sqrt(np.mean(np.expm1(np.array(logs) - log_p) ** 2)))


def as_accurate(task, size, ours, log_p, peer, rival):
    """A row of the table: our cost at the error that the peer reached. No row without a rival.

    ours: (rtol, seed) -> log p. rival: (seconds, log p of each of SEEDS). Errors are root mean
    squares over seeds; the stated one is 1.3 standard errors.
    """
    if rival:
        theirs = rms(rival[1], log_p)
        rtol = np.clip(1.3 * theirs, 1e-5, 1.0)
        ((seconds, logs),) = interleaved(lambda: [ours(rtol, seed) for seed in SEEDS], repeat=3)
        yield beside(task, size, "seconds", (seconds / 5, rms(logs, log_p)), peer, (rival[0], theirs))


def in_r(package, cov, h, points, seeds=SEEDS):
    """(processor seconds of a seed, log P(z <= h) of each), z ~ N(0, cov), by R; None where it fails."""
    code = f"""options(digits = 17); library({package}); x <- scan(file("stdin"), quiet = TRUE)
        m <- {len(h)}; n <- {points}; h <- x[1:m]; S <- matrix(x[-(1:m)], m)
        for (seed in c({", ".join(map(str, seeds))})) {{
            set.seed(seed)
            spent <- system.time(p <- {OF_R[package]})
            cat(sum(spent[1:2]), log(p), "\\n") }}"""
    numbers = "\n".join(map(str, np.append(h, cov).tolist()))
    run = subprocess.run(["Rscript", "-e", code], input=numbers, capture_output=True, text=True)
    if run.returncode:
        return print(f"R's {package}, {len(h)} rows: {run.stderr.strip()}")
    seconds, logs = np.array(run.stdout.split(), dtype=float).reshape(-1, 2).T
    return seconds.mean(), logs


def installed(package):
    """Whether R has the package; prints it where not."""
    ask = ["Rscript", "-e", f"library({package})"]
    found = shutil.which("Rscript") and not subprocess.run(ask, capture_output=True).returncode
    return bool(found) or print(f"R's {package}: missing")


def tail_orthant(packages):
    """SciPy and R with more and more points."""
    (cov, log_p), mean = known.autoregressive(20, 0.5, -1.65), np.full(20, -1.65)
    row = partial(as_accurate, "tail orthant", f"dimension 20, p = {np.exp(log_p):.0e}")
    ours = lambda rtol, seed: orthant(mean, cov, rtol=rtol, seed=seed).log_p
    for points in (20_000, 200_000, 1_000_000):

        def scipy(points=points):
            options = dict(maxpts=points, abseps=1e-300, releps=1e-9)
            draws = (multivariate_normal.cdf(mean, cov=cov, rng=np.random.default_rng(s), **options) for s in SEEDS)
            return [np.log(p) for p in draws]

        ((seconds, logs),) = interleaved(scipy, repeat=3)
        yield from row(ours, log_p, "SciPy", (seconds / 5, logs))
        for name in packages:
            yield from row(ours, log_p, f"R, {name}", in_r(name, cov, mean, points))


def network_regions(packages):
    H, h = regions("784-32-32-10", 300)
    truth = probabilities(H[:5], h[:5], rtol=1e-3, seed=1)[0]

    def scipy():
        options = dict(allow_singular=True, maxpts=100_000, rng=np.random.default_rng(0))
        return [np.log(multivariate_normal.cdf(h[i], cov=H[i] @ H[i].T, **options)) for i in range(5)]

    ((ours, (log_p, _)),) = interleaved(lambda: probabilities(H, h, rtol=1e-2))
    rivals = {"SciPy": interleaved(scipy, repeat=1)[0]}
    for name in packages:
        each = [in_r(name, H[i] @ H[i].T, h[i], 100_000, [0]) for i in range(5)]
        if all(each):
            rivals[f"R, {name}"] = sum(seconds for seconds, _ in each), [logs[0] for _, logs in each]
    for peer, (theirs, logs) in rivals.items():
        errors = [float(np.abs(np.expm1(found - truth)).max()) for found in (log_p[:5], np.array(logs))]
        size = "MNIST 784-32-32-10, sigma 0.2"
        yield beside("a network's region", size, "seconds", (ours / 300, errors[0]), peer, (theirs / 5, errors[1]))


def botorch(H, h):
    bounds = torch.stack([torch.full((len(h),), -torch.inf, dtype=torch.float64), torch.as_tensor(h)], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(MVNXPB(torch.as_tensor(H @ H.T), bounds).solve())


def known_polytopes(packages):
    """The polytopes of notebook 12; botorch has no accuracy to choose, R takes 100,000 points."""
    orthants = [(f"equicorrelated, dimension {n}", known.equicorrelated(n, 0.5), 0.0) for n in (3, 10, 30, 100)]
    orthants += [(f"dimension 20, mean {m:g}", known.autoregressive(20, 0.5, m), m) for m in (0.0, -2.0, -4.0, -8.0)]
    problems = {name: (-np.linalg.cholesky(cov), np.full(len(cov), m), log_p) for name, (cov, log_p), m in orthants}
    problems |= {f"{4 * b} rows, dimension {2 * b}": known.rotated_blocks(b, 4, 0) for b in (2, 5, 10)}
    for name, (H, h, log_p) in problems.items():
        standard = Gaussian(np.zeros(H.shape[1]), 1.0)
        both = interleaved(lambda: probability(H, h, standard, rtol=1e-3).log_p, lambda: botorch(H, h))
        ours, theirs = ((seconds, abs(np.expm1(min(found - log_p, 50.0)))) for seconds, found in both)
        yield beside("known polytope", name, "seconds", ours, "botorch", theirs, scales=False)
        again = lambda rtol, seed, H=H, h=h: probability(H, h, standard, rtol=rtol, seed=seed).log_p
        for package in packages:
            rival = in_r(package, H @ H.T, h, 100_000)
            yield from as_accurate("known polytope", name, again, log_p, f"R, {package}", rival)


def main():
    packages = [package for package in OF_R if installed(package)]
    for problems in (known_polytopes, tail_orthant, network_regions):
        yield from problems(packages)
