"""Analytic moments against Monte Carlo at equal error, on MNIST networks.

Errors are root mean squares over images and scores, the mean's in standard deviations and the variance's relative, with
the referee's own noise taken off. Monte Carlo needs 1 / e^2 samples for the one and about 2 / e^2 for the other, and is
charged for the larger number. Seconds are processor seconds, which neighbours on the machine disturb less.

Two rivals by published formulas, without an accuracy to choose, meet the connected network's images:
those of P2's authors beside two-stage linearization, cumulant propagation beside the layerwise rules.
"""

import math
from functools import partial

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


def rectified(mean: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E[relu(y)], Var[relu(y)], P(y > 0) for y ~ N(mean, sigma^2) (Bibi et al. 2018, theorem 1)."""
    share = torch.special.ndtr(mean / sigma)
    peak = sigma * torch.exp(-((mean / sigma) ** 2) / 2) / math.sqrt(2 * math.pi)
    first = mean * share + peak
    return first, (mean**2 + sigma**2) * share + mean * peak - first**2, share


def linearized(layers: list[nn.Linear], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(values (b, k), Jacobians (b, k, n), or (k, n) of one layer) at rows x, ReLUs between layers."""
    y, jacobian = layers[0](x), layers[0].weight
    for layer in layers[1:]:
        jacobian = layer.weight @ ((y > 0)[:, :, None] * jacobian)
        y = layer(y.relu())
    return y, jacobian


def authors_moments(
    layers: list[nn.Linear], cut: int, x: torch.Tensor, noise: float
) -> tuple[torch.Tensor, torch.Tensor]:
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


def cumulants(layers: list[nn.Linear], x: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (b, k) and covariance (b, k, k) by cumulant propagation, K = 2 (Wu et al. 2026, 2605.05179).

    Basic algorithm, equations 13 and 14. A unit's mean and variance are those of a Gaussian before
    its ReLU; a pair's covariance is the first term of its Hermite series.
    """
    mean, cov = layers[0](x), (noise**2 * layers[0].weight @ layers[0].weight.T)[None]
    for layer in layers[1:]:
        mean, variance, share = rectified(mean, cov.diagonal(dim1=-2, dim2=-1).sqrt())
        cov = share[:, :, None] * cov * share[:, None]
        cov.diagonal(dim1=-2, dim2=-1).copy_(variance)
        mean, cov = layer(mean), layer.weight @ cov @ layer.weight.T
    return mean, cov


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
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    rival = "cumulant propagation, K = 2", partial(cumulants, layers, x, noise)
    methods = {f"layerwise {rule}": (partial(layerwise, net, x, noise**2, rule), *rival) for rule in rules}
    for cut in cuts:
        run = partial(two_stage.two_stage, net, x, noise**2, relu=cut)
        rival = "network_moments", partial(authors_moments, layers, cut, x, noise)
        methods[f"two-stage at ReLU {cut + 1}"] = run, *rival

    def errors(m, cov):
        m, v = (part[:refereed].double().numpy() for part in (m, cov.diagonal(dim1=-2, dim2=-1)))
        mean_error = beyond(np.sqrt(np.mean((m - mean) ** 2 / var)), n**-0.5)
        return mean_error, beyond(np.sqrt(np.mean((v / var - 1) ** 2)), relative)

    for method, (run, peer, formula) in methods.items():
        connected = x.ndim == 2
        (seconds, found), *theirs = interleaved(run, *[formula] * connected)
        size = f"{name}, noise {noise}, {method}"
        rows = [("sampling", sampled / refereed, (n**-0.5, relative), True)]
        rows += [(peer, spent / count, errors(*other), False) for spent, other in theirs]
        for other, cost, other_errors, scales in rows:
            for task, mine, error in zip(("mean", "variance"), errors(found.mean, found.cov), other_errors):
                ours = seconds / count, mine
                yield beside(f"{task} of scores", size, "seconds", ours, other, (cost, error), scales)


def beyond(error, noise):
    """An error measured against a noisy referee, without that noise; never below what the referee can resolve."""
    return max(np.sqrt(max(error**2 - noise**2, 0)), noise / 3)
