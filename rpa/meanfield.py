"""Means and variances through networks of ImageNet size: two passes' work, single precision, units uncorrelated.

The diagonal rule of `rpa.layerwise` made fast, and one correction to it. Neighbouring units share noise, so the variance of a
weighted sum is not the sum of variances; but their ratio turns out to be almost the same for all images, channel by channel.
`fit` measures it once for a network and a noise level, on images of its own; `moments` then needs no sample.

`prepare(net)` first turns a network into a list of layers. A max pooling that follows a ReLU is done before it, which is the
same function, and leaves a Gaussian to be pooled.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Correction", "Layer", "fit", "max_pool", "moments", "prepare", "relu_moments", "two_stage_mean"]

AFFINE = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
CHUNK = 1 << 16
TINY = 1e-30  # a variance that is zero in single precision, yet has a square root to divide by


@dataclass(frozen=True)
class Layer:
    """One step: the torch module, and for an affine one the module that carries variances of independent units."""

    module: nn.Module
    squared: nn.Module | None = None


class Correction(NamedTuple):
    """What `fit` found for one layer: the true variance over that of independent units, and for max pooling also the
    correlation within a window and the mean still missing; numbers, or one per channel (1, channels, 1, 1).
    """

    ratio: torch.Tensor
    correlation: torch.Tensor | None = None
    shift: torch.Tensor | None = None


class _Parallel(nn.Module):
    """Two convolutions of the same input, their channels one after the other: the expansion of a Fire module."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class _WindowSum(nn.Module):
    """Variance of an average of independent units: the average of their variances over the window's size."""

    def __init__(self, average):
        super().__init__()
        self.average = average

    def forward(self, v):
        mean = self.average(v)
        if isinstance(self.average, nn.AdaptiveAvgPool2d):
            size = math.prod(max(1, -(-n // m)) for n, m in zip(v.shape[2:], mean.shape[2:]))
        else:
            size = math.prod(_pair(self.average.kernel_size))
        return mean / size


def prepare(net, *, pool_first=True):
    """The layers of a Sequential, AlexNet or SqueezeNet for the functions below; weights are shared with `net`.

    pool_first: exchange a ReLU and the max pooling after it, for `moments` and `fit`; `two_stage_mean` leaves them in order.
    Raises ValueError naming a layer without a rule.
    """
    flat = _flat(net)
    for i in range(len(flat) - 1 if pool_first else 0):
        if isinstance(flat[i], nn.ReLU) and isinstance(flat[i + 1], nn.MaxPool2d):
            flat[i], flat[i + 1] = flat[i + 1], flat[i]
    return tuple(Layer(module, _squared(module)) for module in flat)


def _flat(module):
    name = type(module).__name__
    if isinstance(module, nn.Sequential):
        return [layer for child in module for layer in _flat(child)]
    if isinstance(module, (nn.Dropout, nn.Identity)):
        return []
    if name == "AlexNet":
        return [*_flat(module.features), module.avgpool, nn.Flatten(), *_flat(module.classifier)]
    if name == "SqueezeNet":
        return [*_flat(module.features), *_flat(module.classifier), nn.Flatten()]
    if name == "Fire":
        return [module.squeeze, nn.ReLU(), _Parallel(module.expand1x1, module.expand3x3), nn.ReLU()]
    if isinstance(module, nn.ReLU):
        return [nn.ReLU()]
    if isinstance(module, (*AFFINE, nn.MaxPool2d, nn.Flatten)):
        return [module]
    raise ValueError(f"net: expected Sequential, AlexNet or SqueezeNet of simple layers, got {name}")


def _squared(module):
    if isinstance(module, _Parallel):
        return _Parallel(*map(_squared, module.branches))
    if isinstance(module, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        return _WindowSum(module)
    if isinstance(module, nn.Flatten):
        return module
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        return None
    twin = nn.Linear(1, 1, bias=False)
    if isinstance(module, nn.Conv2d):
        options = {k: getattr(module, k) for k in ("kernel_size", "stride", "padding", "dilation", "groups")}
        twin = nn.Conv2d(module.in_channels, module.out_channels, bias=False, **options)
    twin.weight = nn.Parameter(module.weight.detach() ** 2, requires_grad=False)
    return twin


def relu_moments(mean, var):
    """(E[relu(x)], Var[relu(x)]) for x ~ N(mean, var), elementwise, in the type given.

    With a = mean / sigma, t = |a|, Q = Phi(-t) and e = phi(t) - t Q: relu(mean) + sigma e and var (Phi(a) - e (t + e)). The
    absolute error is a few roundings of sigma or var, enough for sums of many units; `rpa.relu` is relatively accurate
    and much slower. A negative rounding error of the variance becomes 0.
    """
    if mean.ndim != 4 or mean.numel() <= CHUNK:
        return _relu(mean, var)
    # Row by row, what is worked on stays in cache.
    rows = max(1, mean.shape[2] * CHUNK // mean.numel())
    parts = [_relu(m, v) for m, v in zip(mean.split(rows, 2), var.split(rows, 2))]
    return tuple(torch.cat(part, 2) for part in zip(*parts))


def _relu(mean, var):
    sigma = (var + TINY).sqrt_()
    # Beyond 8 sigma e is lost beside 1, and its denormal numbers would cost most of the time.
    t = (mean / sigma).abs_().clamp_(max=8.0)
    tail = torch.erfc(t * math.sqrt(0.5)).mul_(0.5)
    e = (t * t).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi)).addcmul_(t, tail, value=-1)
    positive = torch.where(mean > 0, 1 - tail, tail)
    spread = positive.addcmul_(e, t + e, value=-1).mul_(var).clamp_(min=0)
    return torch.addcmul(torch.relu(mean), sigma, e), spread


def moments(layers, x, scale, corrections=None):
    """(means, variances) (b, k) of the outputs for inputs x[i] + scale z, z standard normal.

    layers: from `prepare`; x (b, *shape); scale: standard deviation of the noise, a number or a tensor that broadcasts to x;
    corrections: from `fit` at the same scale, or None for the plain diagonal rule. Costs two passes, and the ReLUs.
    """
    mean, var = x, _variances(x, scale)
    for i, layer in enumerate(layers):
        mean, var = _step(layer, mean, var, corrections[i] if corrections else None)
    return mean, var


def two_stage_mean(layers, x, scale, cut=0, *, at="mean"):
    """P2's two-stage mean (b, k): linear up to ReLU number `cut`, that ReLU exact, then second(E[q]) for at="mean", or for
    at="point" second(q) + J_second (E[q] - q) with q the noise-free activations. layers: `prepare(net, pool_first=False)`.

    Variances before the cut are those of the network linearized at x with uncorrelated units: exact for cut=0. One and a half
    passes, or three and a half; a Jacobian-vector product, no Jacobian.
    """
    relus = [i for i, layer in enumerate(layers) if isinstance(layer.module, nn.ReLU)]
    if at not in ("mean", "point") or not -len(relus) <= cut < len(relus):
        raise ValueError(f"expected at 'mean' or 'point' and cut one of {len(relus)} ReLUs, got at={at!r}, cut={cut!r}")
    mean, var = x, _variances(x, scale)
    for layer in layers[: relus[cut]]:
        var = _linearized(layer, mean, var)
        mean = layer.module(mean)
    second = nn.Sequential(*[layer.module for layer in layers[relus[cut] + 1 :]])
    expected, point = relu_moments(mean, var)[0], torch.relu(mean)
    if at == "mean":
        return second(expected)
    value, shift = torch.func.jvp(second, (point,), (expected - point,))
    return value + shift


def _linearized(layer, mean, var):
    """Variances after a layer linearized at `mean`."""
    if isinstance(layer.module, nn.ReLU):
        return var * (mean > 0)
    if isinstance(layer.module, nn.MaxPool2d):
        pool = layer.module
        options = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        index = functional.max_pool2d(mean, *options, return_indices=True)[1]
        return var.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
    return layer.squared(var)


def _variances(x, scale):
    scale = torch.as_tensor(scale, dtype=x.dtype)
    if not scale.isfinite().all() or (scale < 0).any():
        raise ValueError("scale: expected finite numbers >= 0")
    return (scale**2).expand_as(x)


def _step(layer, mean, var, correction=None):
    if isinstance(layer.module, nn.ReLU):
        return relu_moments(mean, var)
    if isinstance(layer.module, nn.MaxPool2d):
        correlation = 0.0 if correction is None else correction.correlation
        mean, var = max_pool(layer.module, mean, var, correlation)
        return (mean, var) if correction is None else (mean + correction.shift, var * correction.ratio)
    var = layer.squared(var)
    return layer.module(mean), var if correction is None else var * correction.ratio


def max_pool(pool, mean, var, correlation=0.0):
    """Moments of the maxima over the windows of an `nn.MaxPool2d`, from the window's largest mean, mean and variance.

    With correlation r, a Gaussian of r times the window's variance is common to its w members and moves their maximum. The
    rest, of deviation s, adds s c exp(-0.6 t), t = (largest mean - average mean) / s, with c the expected maximum of w standard
    normals; its variance falls to their maximum's in the same way. Exact for equal means and for one member far above the
    others; between, an interpolation (0.6 fits means that are normal too), about as good as Clark's formula after `fit`, and
    several times faster.
    """
    if _pair(pool.dilation) != (1, 1):
        raise ValueError("net: MaxPool2d with dilation has no moment rule")
    geometry = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
    centre, spread = (functional.avg_pool2d(each, *geometry, count_include_pad=False) for each in (mean, var))
    own, top = (1 - correlation) * spread, pool(mean)
    rise, fall = _largest_normal(math.prod(_pair(pool.kernel_size)))
    s = (own + TINY).sqrt()
    tie = ((top - centre) / s).mul_(-0.6).exp_()
    return torch.addcmul(top, s, tie, value=rise), correlation * spread + own * (1 - fall * tie)


@lru_cache
def _largest_normal(count):
    """(mean, 1 - variance) of the largest of `count` standard normals."""
    y = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    density = count * torch.special.ndtr(y) ** (count - 1) * torch.exp(-(y**2) / 2) / math.sqrt(2 * math.pi)
    first, second = (torch.trapezoid(y**power * density, y).item() for power in (1, 2))
    return first, 1 - (second - first**2)


def fit(layers, x, scale, seed):
    """The `Correction` of each layer (None where there is none), for `moments` at this noise level.

    One antithetic pair of noisy copies of each image x (b, *shape) is carried along with the moments. Each affine layer gets the
    ratio that makes its variance right on average, over images and places of a channel, over all units of a vector. Before a
    ReLU, units count by exp(-a^2 / 2), a = mean / sigma: so the mean of the ReLU feels an error of their variance. Max
    pooling gets the correlation of neighbours and the mean and variance that are still missing then.
    """
    mean, var = x, _variances(x, scale)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.as_tensor(scale) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    samples, corrections = torch.stack([x + noise, x - noise]), []
    for layer, after in zip(layers, [*layers[1:], None]):
        deviations, samples = samples - mean, layer.module(samples.flatten(0, 1)).unflatten(0, (2, -1))
        if isinstance(layer.module, nn.MaxPool2d):
            corrections.append(_pool_correction(layer.module, mean, var, deviations, samples))
        elif layer.squared is not None and not isinstance(layer.module, nn.Flatten):
            centre, naive = layer.module(mean), layer.squared(var)
            gates = after is not None and isinstance(after.module, nn.ReLU)
            weight = torch.exp(centre**2 / (naive + TINY) * -0.5) if gates else torch.ones_like(centre)
            true = (samples - centre).square().mean(0)
            corrections.append(Correction(_ratio(_per_channel(weight * true), _per_channel(weight * naive))))
        else:
            corrections.append(None)
        mean, var = _step(layer, mean, var, corrections[-1])
    return tuple(corrections)


def _pool_correction(pool, mean, var, deviations, samples):
    correlation = _neighbours(deviations.flatten(0, 1))
    centre, spread = max_pool(pool, mean, var, correlation)
    shift = _per_channel((samples - centre).mean(0))
    true = _per_channel((samples - centre - shift).square().mean(0))
    return Correction(_ratio(true, _per_channel(spread)), correlation, shift)


def _ratio(true, naive):
    """true / naive; 1 where nothing varies."""
    return torch.where(naive > TINY, true / naive, 1.0)


def _per_channel(t):
    return t.mean((0, 2, 3), keepdim=True) if t.ndim == 4 and t.shape[2] * t.shape[3] > 1 else t.mean()


def _neighbours(d):
    """Correlation of horizontally or vertically neighbouring deviations (b, c, h, w), per channel, between 0 and 0.99: one
    common Gaussian cannot make it negative.
    """
    both = _per_channel(d[..., 1:] * d[..., :-1]) + _per_channel(d[..., 1:, :] * d[..., :-1, :])
    return (both / (2 * _per_channel(d * d) + TINY)).clamp(0, 0.99)


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
