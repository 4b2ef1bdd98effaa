"""Means and variances through networks of ImageNet size: two passes of every affine layer, single precision.

`moments` is the diagonal rule of `rpa.moments.layerwise`: units count as uncorrelated. `two_stage_mean` is P2's
linearization without a Jacobian. Both are quick and both err where the noise that neighbouring units share matters.

Networks come as the list of layers that `rpa.moments.layers.prepare` makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from rpa.moments import _checks, pooling
from rpa.moments.layers import Layer, prepare, taken_by

__all__ = ["moments", "prepare", "relu_mean", "relu_moments", "two_stage_mean", "variances"]


def relu_moments(mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(E[relu(x)], Var[relu(x)]) for x ~ N(mean, var), elementwise, in the type given.

    relu(mean) + sigma e and var (P - e (|a| + e)), see `pooling.excess`. The absolute error is a few roundings of sigma
    or var, enough for sums of many units; `rpa.moments.relu` is relatively accurate and much slower. A negative
    rounding error of the variance becomes 0.
    """
    mean, var = _checks.tensor("mean", mean), _checks.tensor("var", var)
    if mean.shape != var.shape:
        raise ValueError(f"mean, var: expected one shape, got {tuple(mean.shape)} and {tuple(var.shape)}")
    for name, value in (("mean", mean), ("var", var)):
        _checks.finite(name, value)
    if (var < 0).any():
        raise ValueError(f"var: expected numbers >= 0, got {var.min():g}")
    return _relu_moments(mean, var)


def _relu_moments(mean, var):
    sigma, t, e, positive = pooling.excess(mean, var)
    spread = positive.addcmul_(e, t + e, value=-1).mul_(var).clamp_(min=0)
    return torch.addcmul(torch.relu(mean), sigma, e), spread


def relu_mean(mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
    """E[relu(x)] = mean P(x > 0) + sigma phi(mean / sigma) for x ~ N(mean, var), as `relu_moments` but unchecked.

    For the inner loop of large networks: finite tensors, var >= 0 that broadcasts to mean.
    """
    sigma = (var + pooling.TINY).sqrt_().expand_as(mean)
    # Beyond 8 sigma a tail is lost beside 1, and its denormal numbers would cost most of the time.
    t = (mean / sigma).clamp_(-8.0, 8.0)
    positive = torch.erfc(t * -math.sqrt(0.5)).mul_(mean)
    return t.square_().mul_(-0.5).exp_().mul_(sigma).mul_(math.sqrt(2 / math.pi)).add_(positive).mul_(0.5)


def moments(layers: Sequence[Layer], x: torch.Tensor, scale: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(means, variances) (b, k) of the outputs for inputs x[i] + scale z, z standard normal: the diagonal rule.

    layers: from `prepare`; x (b, *shape); scale: standard deviation of the noise, a number or a tensor that broadcasts
    to x. Raises ValueError for a negative or infinite scale.
    """
    with taken_by(layers, x):
        mean, var = x, variances(x, scale)
        for layer in layers:
            mean, var = _independent(layer, mean, var)
        return mean, var


def _independent(layer, mean, var):
    if isinstance(layer.module, nn.ReLU):
        return _relu_moments(mean, var)
    if isinstance(layer.module, nn.MaxPool2d):
        return pooling.maxima(layer.module, mean, var)
    return layer.module(mean), layer.squared(var)


def two_stage_mean(
    layers: Sequence[Layer], x: torch.Tensor, scales: Sequence[float | torch.Tensor], cut: int = 0
) -> torch.Tensor:
    """P2's two-stage means at several noise levels (levels, b, k).

    The network is linear up to ReLU number `cut`, and that ReLU exact, E[q]. The rest is second(q) + J (E[q] - q), with
    q the noise-free activations and J the Jacobian there. layers: `prepare(net, pool_first=False)`; scales: standard
    deviations of the noise, as in `moments`.

    Variances before the cut are those of the network linearized at x with uncorrelated units: exact for cut=0. All
    levels share the noise-free pass; each adds one, a Jacobian-vector product. No Jacobian is built.
    """
    with taken_by(layers, x):
        relus = [i for i, layer in enumerate(layers) if isinstance(layer.module, nn.ReLU)]
        if not isinstance(cut, int) or not -len(relus) <= cut < len(relus):
            raise ValueError(f"cut: expected the number of one of {len(relus)} ReLUs, got {cut!r}")
        if not isinstance(scales, (list, tuple)) or not scales:
            raise ValueError(f"scales: expected a list of at least one standard deviation, got {scales!r}")
        return torch.stack([_two_stage(layers, relus[cut], image, scales) for image in x.split(1)], 1)


def _two_stage(layers, cut, image, scales):
    """Means (levels, k) for one image (1, *shape)."""
    point, var = image, torch.cat([variances(image, scale) for scale in scales])
    for layer in layers[:cut]:
        point, var = layer.module(point), _linearized(layer, point, var, layer.squared)
    mean = relu_mean(point.expand_as(var), var)
    point = torch.relu(point)
    change = mean - point
    for layer in layers[cut + 1 :]:
        point, change = layer.module(point), _linearized(layer, point, change, layer.linear)
    return point + change


def _linearized(layer, point, change, linear):
    """Changes, or variances, (n, *shape) behind a layer linearized at point (1, *shape); linear: the map if affine."""
    if isinstance(layer.module, nn.ReLU):
        return change * (point > 0)
    if isinstance(layer.module, nn.MaxPool2d):
        pool = layer.module
        options = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        index = functional.max_pool2d(point, *options, return_indices=True)[1]
        index = index.expand(len(change), -1, -1, -1)
        return change.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
    return linear(change)


def variances(x: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """scale^2 in the shape of x; ValueError naming the scale where it is negative, infinite or does not broadcast."""
    scale = _checks.tensor("scale", scale).to(x.dtype)
    if not scale.isfinite().all() or (scale < 0).any():
        raise ValueError(f"scale: expected finite numbers >= 0, got {scale.min():g} to {scale.max():g}")
    try:
        return (scale**2).expand_as(x)
    except RuntimeError as error:
        shapes = f"{tuple(x.shape)}, got shape {tuple(scale.shape)}"
        raise ValueError(f"scale: expected a number or a tensor that broadcasts to x, {shapes}") from error
