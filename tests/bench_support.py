"""Support search against drawing and counting 10^6 samples: coverage of fresh samples, and seconds."""

import numpy as np
import torch
from bench import seconds, table

from rpa.experiments.montecarlo import Fresh
from rpa.inputs import Gaussian
from rpa.patterns.support import best_first, draw_packed, monte_carlo
from rpa.subjects import datasets, train

K, N, IMAGE = 2000, 1_000_000, 3


def row(name, net, sigma, image):
    inputs = Gaussian(image, sigma**2)
    fresh = Fresh(draw_packed(net, inputs, N, 1))
    methods = [lambda: best_first(net, inputs, max_patterns=K, mass=1.0), lambda: monte_carlo(net, inputs, N, 0, K)]
    ours, rival = (fresh.coverage(method().patterns) for method in methods)
    mine, theirs = (seconds(method, 2) for method in methods)
    return [name, sigma, ours, rival, ours / max(rival, 1 / N), mine, theirs, mine / theirs]


def main():
    torch.set_num_threads(2)
    columns = ["network", "sigma", "search", "counted", "ratio", "search, s", "counting, s", "ratio of seconds"]
    rows = []
    for data, images in (("mnist", datasets.mnist("test")), ("fashion", datasets.fashion_mnist("test"))):
        for layers in ("784-32-32-10", "784-128-64-10"):
            net = train.load_network(f"{data}_{layers}")
            image = np.float64(images.rows[IMAGE])
            rows += [row(f"{data} {layers}", net, sigma, image) for sigma in (0.05, 0.1, 0.2, 0.3)]
    table(f"Coverage of {K} patterns, against the commonest of {N:,} samples (want >= 1 and <= 1)", columns, rows)
