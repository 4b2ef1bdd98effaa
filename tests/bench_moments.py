"""Analytic moments against Monte Carlo at equal error, on MNIST networks.

Errors are root mean squares over images and scores, the mean's in standard deviations and the variance's relative, with
the referee's own noise taken off. Monte Carlo needs 1 / e^2 samples for the one and about 2 / e^2 for the other, and is
charged for the larger number. Seconds are processor seconds, which neighbours on the machine disturb less.
"""

import numpy as np
import torch
from bench import beside, interleaved
from torch import nn

from rpa.inputs import Gaussian
from rpa.moments import two_stage
from rpa.moments.layerwise import layerwise
from rpa.subjects import datasets, train

# Network, images analysed, images refereed, referee's samples, splits and rules timed.
CASES = (
    ("mnist_784-128-64-10", 100, 6, 100_000, ("exact", "linear", "diagonal"), (0, 1)),
    ("lenet_mnist", 2, 2, 40_000, ("linear",), (0,)),
)


def main():
    for case in CASES:
        for noise in (0.02, 0.1):
            yield from compare(*case, noise)


def compare(name, count, refereed, n, rules, cuts, noise):
    net = train.load_module(name)
    x = torch.as_tensor(datasets.mnist("test").x[:count])
    x = x if name.startswith("lenet") else x.flatten(1)
    flat = nn.Sequential(nn.Unflatten(1, x.shape[1:]), net)
    inputs = [Gaussian(image.flatten().numpy(), noise**2) for image in x[:refereed]]
    sample = lambda: [two_stage.monte_carlo(flat, each, n, i) for i, each in enumerate(inputs)]
    ((sampled, referee),) = interleaved(sample, repeat=1)
    mean, var, var_stderr = (np.stack([getattr(r, f) for r in referee]) for f in ("mean", "var", "var_stderr"))
    relative = np.sqrt(np.mean((var_stderr / var) ** 2))
    methods = {f"layerwise {rule}": lambda rule=rule: layerwise(net, x, noise**2, rule) for rule in rules}
    for cut in cuts:
        stages = two_stage.splits(net)[cut]
        methods[f"two-stage at ReLU {cut + 1}"] = lambda stages=stages: two_stage.two_stage(*stages, x, noise**2)
    for method, run in methods.items():
        ((seconds, found),) = interleaved(run)
        m, v = (part[:refereed].double().numpy() for part in (found.mean, found.var))
        mean_error = beyond(np.sqrt(np.mean((m - mean) ** 2 / var)), n**-0.5)
        var_error = beyond(np.sqrt(np.mean((v / var - 1) ** 2)), relative)
        for task, ours, theirs in (("mean", mean_error, n**-0.5), ("variance", var_error, relative)):
            costs = (seconds / count, ours), (sampled / refereed, theirs)
            yield beside(
                f"{task} of scores", f"{name}, noise {noise}, {method}", "seconds", costs[0], "sampling", costs[1]
            )


def beyond(error, noise):
    """An error measured against a noisy referee, without that noise; never below what the referee can resolve."""
    return max(np.sqrt(max(error**2 - noise**2, 0)), noise / 3)
