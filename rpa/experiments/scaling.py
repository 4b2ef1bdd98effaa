"""How the cost of each task grows: processor seconds beside plain sampling at equal error and the least work possible.

A task computes its answer on one random network and says how exact it is; `row` times it, and says how long plain
sampling would take for the same error and how long the arithmetic takes that any answer needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rpa.experiments.coverage import processor_seconds
from rpa.inputs import Gaussian
from rpa.moments.layerwise import layerwise
from rpa.network import ReLUNetwork
from rpa.parallel import one_thread
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.regions import affine_pieces
from rpa.patterns.support import best_first
from rpa.reliability.failure import failure_probability

PASSED = 5000  # inputs that time a sample
THRESHOLD_DRAWS, FAILING = 200_000, 1e-4  # inputs that set the threshold of the failure, and its probability


def problem(sizes: Sequence[int], uncertain: int, seed: int) -> tuple[ReLUNetwork, Gaussian]:
    """A random network with layers of these sizes, He's weights, and white noise around a random input.

    uncertain: hidden units within one standard deviation of their threshold, which the noise is set for: networks of
    any size then have about as many patterns.
    """
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((b, a)) * np.sqrt(2 / a) for a, b in zip(sizes, sizes[1:])]
    net = ReLUNetwork(tuple(weights), tuple(0.1 * rng.standard_normal(b) for b in sizes[1:]))
    mean = rng.standard_normal(sizes[0])
    G, g, _, _ = affine_pieces(net, net.patterns(mean[None]))
    distance = np.sort(np.abs(G[0] @ mean + g[0]) / np.linalg.norm(G[0], axis=1))
    return net, Gaussian(mean, distance[min(uncertain, len(distance)) - 1] ** 2)


TASKS = ("search", "PMF", "output law", "layerwise", "failure")


def _answer(task, net, inputs, k, threshold):
    """(samples of plain sampling for the same standard error, its multiplications per weight of the network)."""
    if task == "search":
        best_first(net, inputs, max_patterns=k, mass=1.0)
        return np.inf, k
    if task == "layerwise":
        layerwise(net, inputs)
        return np.inf, max(net.hidden_sizes)
    if task == "failure":
        result = failure_probability(net, inputs, direction=np.eye(net.output_dim)[0], threshold=threshold)
        if not 0 < result.p < 1 or not np.isfinite(result.rel_error):
            return np.inf, 1
        return (1 - result.p) / (result.p * result.rel_error**2), 1 / result.rel_error**2
    pmf = pattern_pmf(net, inputs, search="best_first", max_patterns=k, mass=1.0)
    if task == "PMF":
        error = max(pmf.covered_error, 1e-12)
        missing = np.clip(pmf.uncovered, error, 1 - error)
        variance = missing * (1 - missing)
    else:
        law = pmf.output()
        error, variance = max(law.mean.error[0], 1e-12), np.asarray(law.cov)[0, 0]
    return variance / error**2, k * min(net.hidden_sizes[0], net.input_dim)


def row(task: str, net: ReLUNetwork, inputs: Gaussian, k: int, repeats: int) -> dict[str, float]:
    """Processor seconds of a task for k patterns, median of `repeats`, on one thread.

    samples, sampling: draws and seconds of plain sampling for the same standard error (infinite where the task states
    none); least: seconds of the arithmetic alone, at the speed of a matrix product.
    """
    threshold = np.inf
    if task == "failure":
        small, rng = net.whitened(inputs), np.random.default_rng(0)
        threshold = np.quantile(small(rng.standard_normal((THRESHOLD_DRAWS, small.input_dim)))[:, 0], 1 - FAILING)
    with one_thread():
        answers = [processor_seconds(lambda: _answer(task, net, inputs, k, threshold)) for _ in range(repeats)]
        seconds, (samples, passes) = np.median([s for s, _ in answers]), answers[-1][1]
        passed = min(processor_seconds(lambda: net(inputs.sample(PASSED, 1)))[0] for _ in range(3)) / PASSED
        square = torch.ones(500, 500, dtype=torch.float64)
        speed = 500**3 / min(processor_seconds(lambda: square @ square)[0] for _ in range(5))
    least = passes * sum(weight.size for weight in net.weights) / speed
    times = {"seconds": float(seconds), "sampling": samples * passed, "least": least}
    return {"task": task, "samples": samples} | times
