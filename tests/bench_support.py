"""Support search against drawing and counting 10^6 samples: the share of fresh samples not covered, and seconds."""

import numpy as np
from bench import beside, interleaved

from rpa.experiments.montecarlo import Fresh
from rpa.inputs import Gaussian
from rpa.patterns.support import best_first, draw_packed, monte_carlo
from rpa.subjects import datasets, train

K, N, IMAGE = 2000, 1_000_000, 3


def main():
    for data, images in (("mnist", datasets.mnist("test")), ("fashion", datasets.fashion_mnist("test"))):
        for layers in ("784-32-32-10", "784-128-64-10"):
            net = train.load_network(f"{data}_{layers}")
            for sigma in (0.05, 0.1, 0.2, 0.3):
                inputs = Gaussian(np.float64(images.rows[IMAGE]), sigma**2)
                fresh = Fresh(draw_packed(net, inputs, N, 1))
                both = interleaved(
                    lambda: best_first(net, inputs, max_patterns=K, mass=1.0), lambda: monte_carlo(net, inputs, N, 0, K)
                )
                ours, theirs = ((seconds, 1 - fresh.coverage(found.patterns)) for seconds, found in both)
                size = f"{data} {layers}, sigma {sigma}"
                yield beside(f"{K} patterns", size, "seconds", ours, "counting 10^6 samples", theirs, scales=False)
