"""Polytope probabilities beside SciPy, R, and botorch's bivariate conditioning (Trinh & Genz 2015).

Packages of R, where they are installed: mvtnorm (Genz & Bretz 2009) and TruncatedNormal, which is
minimax tilting (Botev 2017).
"""

import subprocess
import warnings
from functools import partial

import numpy as np
import torch
from bench import beside, interleaved, regions
from botorch.utils.probability.mvnxpb import MVNXPB
from scipy.stats import multivariate_normal

from rpa.experiments import known
from rpa.experiments.coverage import processor_seconds
from rpa.inputs import Gaussian
from rpa.polytopes.polytope import orthant, probabilities, probability

SEEDS = range(5)
OF_R = {
    "mvtnorm": "pmvnorm(upper = h, sigma = S, algorithm = GenzBretz(n, 1e-300, 1e-9))",
    "TruncatedNormal": "mvNcdf(rep(-Inf, m), h, S, n)$prob",
}


def by_r(h, cov, points, seeds=SEEDS):
    """{package of R: (processor seconds of a seed, log P(z <= h) of each)}, z ~ N(0, cov), without those that fail."""
    answers = {}
    for package, call in OF_R.items():
        code = f"""options(digits = 17); library({package}); x <- scan(file("stdin"), quiet = TRUE)
            m <- {len(h)}; n <- {points}; h <- x[1:m]; S <- matrix(x[-(1:m)], m)
            for (seed in c({", ".join(map(str, seeds))})) {{
                set.seed(seed)
                spent <- system.time(p <- {call})
                cat(sum(spent[1:2]), log(p), "\\n") }}"""
        numbers = "\n".join(map(str, np.append(h, cov).tolist()))
        run = subprocess.run(["env", "Rscript", "-e", code], input=numbers, capture_output=True, text=True)
        if run.returncode:
            warnings.warn(f"R's {package}: {run.stderr.strip()}", stacklevel=2)
        else:
            seconds, logs = np.array(run.stdout.split(), dtype=float).reshape(-1, 2).T
            answers[f"R, {package}"] = seconds.mean(), logs
    return answers


def by_scipy(h, cov, points, seeds=SEEDS, **options):
    """The same of SciPy; seeds may be generators."""
    cdf = partial(multivariate_normal.cdf, h, cov=cov, allow_singular=True, maxpts=points, **options)
    seconds, logs = processor_seconds(lambda: [np.log(cdf(rng=np.random.default_rng(seed))) for seed in seeds])
    return {"SciPy": (seconds / len(seeds), logs)}


def by_botorch(H, h):
    bounds = torch.stack([torch.full((len(h),), -torch.inf, dtype=torch.float64), torch.as_tensor(h)], dim=1)
    return float(MVNXPB(torch.as_tensor(H @ H.T), bounds).solve())


def as_accurate(task, size, ours, log_p, rivals):
    """Rows of the table: our cost at the error that each peer reached.

    ours: (rtol=, seed=) -> a result with log_p. rivals: {peer: (seconds, log p of each of SEEDS)}. Errors are root mean
    squares over seeds; the stated one is 1.3 standard errors.
    """
    rms = lambda logs: float(np.sqrt(np.mean(np.expm1(np.array(logs) - log_p) ** 2)))
    for peer, (spent, logs) in rivals.items():
        rtol = np.clip(1.3 * rms(logs), 1e-5, 1.0)
        ((seconds, found),) = interleaved(lambda: [ours(rtol=rtol, seed=seed).log_p for seed in SEEDS], repeat=3)
        yield beside(task, size, (seconds / 5, rms(found)), peer, (spent, rms(logs)))


def polytope():
    # The polytopes of notebook 12, where botorch has no accuracy to choose.
    orthants = [(f"equicorrelated, dimension {n}", known.equicorrelated(n, 0.5), 0.0) for n in (3, 10, 30, 100)]
    orthants += [(f"dimension 20, mean {m:g}", known.autoregressive(20, 0.5, m), m) for m in (0.0, -2.0, -4.0, -8.0)]
    problems = {name: (-np.linalg.cholesky(cov), np.full(len(cov), m), log_p) for name, (cov, log_p), m in orthants}
    problems |= {f"{4 * b} rows, dimension {2 * b}": known.rotated_blocks(b, 4, 0) for b in (2, 5, 10)}
    for name, (H, h, log_p) in problems.items():
        ours = partial(probability, H, h, Gaussian(np.zeros(H.shape[1]), 1.0))
        both = interleaved(lambda: ours(rtol=1e-3).log_p, lambda: by_botorch(H, h))
        costs = [(seconds, abs(np.expm1(min(found - log_p, 50.0)))) for seconds, found in both]
        yield beside("known polytope", name, costs[0], "botorch", costs[1], scales=False)
        yield from as_accurate("known polytope", name, ours, log_p, by_r(h, H @ H.T, 100_000))

    (cov, log_p), mean = known.autoregressive(20, 0.5, -1.65), np.full(20, -1.65)
    for points in (20_000, 200_000, 1_000_000):
        rivals = by_scipy(mean, cov, points, abseps=1e-300, releps=1e-9) | by_r(mean, cov, points)
        size = f"dimension 20, p = {np.exp(log_p):.0e}"
        yield from as_accurate("tail orthant", size, partial(orthant, mean, cov), log_p, rivals)

    # Peers get five of a network's regions, ours all of them at once.
    H, h = regions("784-32-32-10", 300)
    truth = probabilities(H[:5], h[:5], rtol=1e-3, seed=1)[0]
    error = lambda logs: float(np.abs(np.expm1(logs - truth)).max())
    ((spent, (log_p, _)),) = interleaved(lambda: probabilities(H, h, rtol=1e-2))
    rng, each = np.random.default_rng(0), [(h[i], H[i] @ H[i].T, 100_000) for i in range(5)]
    answers = [by_scipy(*region, [rng]) | by_r(*region, [0]) for region in each]
    for peer in answers[0]:
        if all(peer in answer for answer in answers):
            costs, logs = zip(*(answer[peer] for answer in answers))
            ours, theirs = (spent / 300, error(log_p[:5])), (np.mean(costs), error(np.ravel(logs)))
            yield beside("a network's region", "MNIST 784-32-32-10, sigma 0.2", ours, peer, theirs)
