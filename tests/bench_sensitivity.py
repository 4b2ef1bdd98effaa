"""Sensitivity of all scores to noise in each of the 784 pixels: analytic maps against sampling of equal error.

A sampled variance has the relative error sqrt(2 / n). Sampling is charged for the n whose error equals the analytic
map's distance from a referee of 20,000 samples at some pixels, less the referee's own error.
"""

import numpy as np
import torch
from bench import seconds, table
from torch import nn

from rpa.inputs import Gaussian
from rpa.moments import sensitivity, two_stage
from rpa.subjects import datasets, train

N, PIXELS, NOISE = 20_000, (350, 378, 406, 434), 0.05


def row(label, stored, method):
    net, data = train.load_module(stored), datasets.mnist("test")
    flat = net if isinstance(net[0], nn.Linear) else nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *net)
    laws = [Gaussian(data.rows[0], np.eye(784)[p] * NOISE**2) for p in PIXELS]
    sampled = [two_stage.monte_carlo(flat, law, N, 0) for law in laws]
    per_sample = seconds(lambda: two_stage.monte_carlo(flat, laws[0], N, 0), 1) / N
    run = lambda: sensitivity.noise_map(net, data.x[0], NOISE, method=method)
    found = run().flatten(1).numpy()[:, PIXELS].T
    error2 = np.mean([(f / s.var - 1) ** 2 for f, s in zip(found, sampled)])
    own2 = np.mean([(s.var_stderr / s.var) ** 2 for s in sampled])
    error2 = max(error2 - own2, own2 / 9)
    taken = seconds(run)
    return [label, method, 1e3 * taken, error2**0.5, 784 * per_sample * N * own2 / error2 / taken]


def main():
    torch.set_num_threads(1)
    cases = (("784-128-64-10", "mnist_784-128-64-10", "two-stage"), ("LeNet", "lenet_mnist", "lines"))
    columns = ["network", "method", "ms", "relative error", "Monte Carlo / ours"]
    table("variance of 10 scores for noise in each of 784 pixels", columns, [row(*case) for case in cases])
