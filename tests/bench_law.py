"""The output law beside plain sampling of the same seconds, on networks of one's own: errors of each.

The tail is `failure_probability`'s, with the seconds it takes and the error that sampling of these seconds would have.
"""

import numpy as np
from bench import beside
from helpers import random_network

from rpa import failure_probability
from rpa.experiments.coverage import processor_seconds
from rpa.inputs import Gaussian
from rpa.patterns.pmf import pattern_pmf

NETWORKS = {"3-8-8-2": 0, "5-16-16-2": 1, "8-16-16-2": 2, "13-32-32-3": 3, "30-64-64-3": 4}
RATE = 400_000  # samples that measure the seconds of one


def main():
    for name, seed in NETWORKS.items():
        sizes = tuple(map(int, name.split("-")))
        net, inputs = random_network(sizes, seed), Gaussian(np.random.default_rng(seed).standard_normal(sizes[0]), 0.25)
        seconds, f = processor_seconds(lambda: net(inputs.sample(RATE, 1)))
        each, spread = seconds / RATE, f[:, 0].std()
        y = np.quantile(f[:, 0], [0.5, 0.001])

        def answers():
            law = pattern_pmf(net, inputs).output()
            return law, law.mean.error[0] / spread, *law.cdf(y).error

        seconds, (law, *errors) = processor_seconds(answers)
        n, p = seconds / each, np.array([0.5, 0.001])
        sampled = 1 / np.sqrt(n), *np.sqrt(p * (1 - p) / n)
        size = f"{name}, {len(law.pmf)} patterns, uncovered {law.uncovered:.2g}"
        tasks = "mean, standard deviations", "distribution function at 0.5", "distribution function at 0.001"
        for task, ours, theirs in zip(tasks, errors, sampled):
            yield beside(task, size, "seconds", (seconds, ours), "plain sampling", (seconds, theirs))
        options = dict(direction=np.eye(sizes[-1])[0], threshold=float(f[:, 0].mean() + 6 * spread), seed=seed)
        seconds, tail = processor_seconds(lambda: failure_probability(net, inputs, **options))
        theirs = 1 / np.sqrt(tail.p * seconds / each)
        size = f"{name}, p = {tail.p:.0e}"
        yield beside("tail, relative", size, "seconds", (seconds, tail.rel_error), "plain sampling", (seconds, theirs))
