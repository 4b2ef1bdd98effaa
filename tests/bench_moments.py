"""Analytic moments and sensitivity maps of MNIST networks against sampling at equal error, and published formulas.

Errors are root mean squares over images and scores, the mean's in standard deviations and the variance's relative, with
the referee's own noise taken off. The formulas of P2's authors meet two-stage linearization, cumulant propagation meets
the layerwise rules; they have no accuracy to choose.
"""

import math
from functools import partial
from itertools import product

import numpy as np
import torch
from bench import beside, interleaved
from torch import nn

from rpa.experiments.coverage import processor_seconds
from rpa.inputs import Gaussian
from rpa.moments.layerwise import layerwise
from rpa.moments.sensitivity import noise_map
from rpa.moments.two_stage import monte_carlo, two_stage
from rpa.subjects import datasets, train

# Network, images analysed, images refereed, referee's samples, layerwise rules and cuts of two stages timed.
CASES = (
    ("mnist_784-128-64-10", 100, 6, 100_000, ("exact", "linear", "diagonal"), (0, 1)),
    ("lenet_mnist", 2, 2, 40_000, ("linear",), (0,)),
)
N, PIXELS, NOISE = 20_000, (350, 378, 406, 434), 0.05  # of the maps' referee


def rectified(mean, sigma):
    """E[relu(y)], Var[relu(y)], P(y > 0) for y ~ N(mean, sigma^2) (Bibi et al. 2018, theorem 1)."""
    share = torch.special.ndtr(mean / sigma)
    peak = sigma * torch.exp(-((mean / sigma) ** 2) / 2) / math.sqrt(2 * math.pi)
    first = mean * share + peak
    return first, (mean**2 + sigma**2) * share + mean * peak - first**2, share


def linearized(layers, x):
    """(values (b, k), Jacobians (b, k, n), or (k, n) of one layer) at rows x, ReLUs between layers."""
    y, jacobian = layers[0](x), layers[0].weight
    for layer in layers[1:]:
        jacobian = layer.weight @ ((y > 0)[:, :, None] * jacobian)
        y = layer(y.relu())
    return y, jacobian


def authors_moments(layers, cut, x, noise):
    """Mean (b, k) and covariance (b, k, k) by the formulas of network_moments (Bibi et al. 2018).

    Two stages, cut at a ReLU: theorem 1's mean, theorem 2's covariance, for units of mean zero.
    """
    mu, jacobian = linearized(layers[: cut + 1], x)
    cov = noise**2 * jacobian @ jacobian.mT
    sigma = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    sizes = sigma[..., :, None] * sigma[..., None, :]
    rho = (cov / sizes).clamp(-1, 1)
    inner = (cov * (rho.asin() + math.pi / 2) + sizes * ((1 - rho**2).sqrt() - 1)) / (2 * math.pi)
    value, outer = linearized(layers[cut + 1 :], mu.relu())
    change = rectified(mu, sigma)[0] - mu.relu()
    return value + (outer @ change[..., None]).squeeze(-1), outer @ inner @ outer.mT


def cumulants(layers, x, noise):
    """Mean (b, k) and covariance (b, k, k) by cumulant propagation, K = 2 (Wu et al. 2026, 2605.05179).

    Equations 13 and 14: a unit's mean and variance are those of a Gaussian before its ReLU, a pair's
    covariance is the first term of its Hermite series.
    """
    mean, cov = layers[0](x), (noise**2 * layers[0].weight @ layers[0].weight.T)[None]
    for layer in layers[1:]:
        mean, variance, share = rectified(mean, cov.diagonal(dim1=-2, dim2=-1).sqrt())
        cov = share[:, :, None] * cov * share[:, None]
        cov.diagonal(dim1=-2, dim2=-1).copy_(variance)
        mean, cov = layer(mean), layer.weight @ cov @ layer.weight.T
    return mean, cov


def rms(x):
    return np.sqrt(np.mean(x**2))


def beyond(error, noise):
    """An error measured against a noisy referee, without that noise; never below what the referee can resolve."""
    return max(np.sqrt(max(error**2 - noise**2, 0)), noise / 3)


def subject(name):
    """A network and the shape of an image as it takes it."""
    return train.load_module(name), (1, 28, 28) if name.startswith("lenet") else (784,)


def sampled(net, shape, laws, n, seeds):
    """(processor seconds of a law, means (laws, k), variances, their relative error) by n samples of each law."""
    flat = nn.Sequential(nn.Unflatten(1, shape), net)
    seconds, found = processor_seconds(lambda: [monte_carlo(flat, law, n, seed) for law, seed in zip(laws, seeds)])
    mean, var, stderr = (np.stack([getattr(each, field) for each in found]) for field in ("mean", "var", "var_stderr"))
    return seconds / len(laws), mean, var, rms(stderr / var)


def moments():
    for (name, count, refereed, n, rules, cuts), noise in product(CASES, (0.02, 0.1)):
        net, shape = subject(name)
        x = torch.as_tensor(datasets.mnist("test").x[:count]).reshape(count, *shape)
        laws = [Gaussian(image.flatten().numpy(), noise**2) for image in x[:refereed]]
        spent, mean, var, relative = sampled(net, shape, laws, n, range(refereed))
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        peer = "cumulant propagation, K = 2", partial(cumulants, layers, x, noise)
        methods = {f"layerwise {rule}": (partial(layerwise, net, x, noise**2, rule), *peer) for rule in rules}
        for cut in cuts:
            peer = "network_moments", partial(authors_moments, layers, cut, x, noise)
            methods[f"two-stage at ReLU {cut + 1}"] = partial(two_stage, net, x, noise**2, relu=cut), *peer

        def errors(m, cov):
            m, v = (part[:refereed].double().numpy() for part in (m, cov.diagonal(dim1=-2, dim2=-1)))
            return beyond(rms((m - mean) / np.sqrt(var)), n**-0.5), beyond(rms(v / var - 1), relative)

        for method, (run, peer, formula) in methods.items():
            (seconds, found), *others = interleaved(run, *[formula] * (len(shape) == 1))  # for connected networks
            size, rows = f"{name}, noise {noise}, {method}", [("sampling", spent, (n**-0.5, relative), True)]
            rows += [(peer, cost / count, errors(*other), False) for cost, other in others]
            for other, cost, theirs, scales in rows:
                for task, mine, error in zip(("mean", "variance"), errors(*found), theirs):
                    ours = seconds / count, mine
                    yield beside(f"{task} of scores", size, ours, other, (cost, error), scales=scales)


def sensitivity():
    """Variances for noise in each of the 784 pixels; a sampled variance has the relative error sqrt(2 / n)."""
    data = datasets.mnist("test")
    laws = [Gaussian(data.rows[0], np.eye(784)[p] * NOISE**2) for p in PIXELS]
    cases = ("784-128-64-10", "mnist_784-128-64-10", "two-stage"), ("LeNet", "lenet_mnist", "lines")
    for label, stored, method in cases:
        net, shape = subject(stored)
        spent, _, var, own = sampled(net, shape, laws, N, [0] * len(laws))
        ((seconds, found),) = interleaved(lambda: noise_map(net, data.x[0], NOISE, method=method))
        error = beyond(rms(found.flatten(1).numpy()[:, PIXELS].T / var - 1), own)
        task, size = "variances for noise in each pixel", f"{label}, {method}"
        yield beside(task, size, (seconds, error), "sampling", (spent * 784, own))
