"""The output law beside plain sampling of the same seconds, on networks of one's own: errors of each.

The tail is `failure_probability`'s, with the seconds it takes and the error that sampling of these seconds would have.
"""

import time

import numpy as np
import torch
from bench import table
from helpers import random_network

from rpa import failure_probability
from rpa.inputs import Gaussian
from rpa.patterns.pmf import pattern_pmf

NETWORKS = {"3-8-8-2": 0, "5-16-16-2": 1, "8-16-16-2": 2, "13-32-32-3": 3, "30-64-64-3": 4}
RATE = 400_000  # samples that measure the seconds of one


def row(name, seed):
    sizes = tuple(map(int, name.split("-")))
    net, inputs = random_network(sizes, seed), Gaussian(np.random.default_rng(seed).standard_normal(sizes[0]), 0.25)
    start = time.perf_counter()
    f = net(inputs.sample(RATE, 1))
    each = (time.perf_counter() - start) / RATE
    y = np.quantile(f[:, 0], [0.5, 0.001])
    start = time.perf_counter()
    law = pattern_pmf(net, inputs).output()
    mean, cdf = law.mean, law.cdf(y)
    seconds = time.perf_counter() - start
    n = seconds / each
    start = time.perf_counter()
    far = float(f[:, 0].mean() + 6 * f[:, 0].std())
    tail = failure_probability(net, inputs, direction=np.eye(sizes[-1])[0], threshold=far, seed=seed)
    tail_seconds = time.perf_counter() - start
    p, chance = np.array([0.5, 0.001]), max(tail.p, 1e-300)
    ours = [mean.error[0] / f[:, 0].std(), *cdf.error, tail.rel_error]
    theirs = [1 / np.sqrt(n), *np.sqrt(p * (1 - p) / n), 1 / np.sqrt(chance * tail_seconds / each)]
    cells = [number for pair in zip(ours, theirs) for number in pair]
    return [name, len(law.pmf), law.uncovered, seconds, n, *cells[:6], tail.p, tail_seconds, *cells[6:]]


def main():
    torch.set_num_threads(1)
    quantities = ["mean, sd", "cdf at 0.5", "cdf at 0.001"]
    pairs = [f"{quantity}: {who}" for quantity in quantities for who in ("ours", "sampling")]
    columns = ["network", "patterns", "uncovered", "seconds", "samples", *pairs, "tail", "tail seconds"]
    rows = [row(name, seed) for name, seed in NETWORKS.items()]
    title = "Errors of the output law and of as many samples as its seconds buy; relative in the tail"
    table(title, [*columns, "tail: ours", "tail: sampling"], rows, keep="law")
