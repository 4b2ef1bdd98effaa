"""Sensitivity of all scores to noise in each of the 784 pixels: analytic maps against sampling of equal error.

A sampled variance has the relative error sqrt(2 / n). Sampling is charged for the n whose error equals the analytic
map's distance from a referee of 20,000 samples at some pixels, less the referee's own error.
"""

import numpy as np
from bench import beside, interleaved
from torch import nn

from rpa.inputs import Gaussian
from rpa.moments import sensitivity, two_stage
from rpa.subjects import datasets, train

N, PIXELS, NOISE = 20_000, (350, 378, 406, 434), 0.05
CASES = (("784-128-64-10", "mnist_784-128-64-10", "two-stage"), ("LeNet", "lenet_mnist", "lines"))


def main():
    data = datasets.mnist("test")
    laws = [Gaussian(data.rows[0], np.eye(784)[p] * NOISE**2) for p in PIXELS]
    for label, stored, method in CASES:
        net = train.load_module(stored)
        flat = net if isinstance(net[0], nn.Linear) else nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *net)
        ((spent, sampled),) = interleaved(lambda: [two_stage.monte_carlo(flat, law, N, 0) for law in laws], repeat=1)
        ((seconds, found),) = interleaved(lambda: sensitivity.noise_map(net, data.x[0], NOISE, method=method))
        found = found.flatten(1).numpy()[:, PIXELS].T
        error2 = np.mean([(f / s.var - 1) ** 2 for f, s in zip(found, sampled)])
        own2 = np.mean([(s.var_stderr / s.var) ** 2 for s in sampled])
        ours, theirs = (seconds, max(error2 - own2, own2 / 9) ** 0.5), (spent / len(PIXELS) * 784, own2**0.5)
        yield beside("variances for noise in each pixel", f"{label}, {method}", "seconds", ours, "sampling", theirs)
