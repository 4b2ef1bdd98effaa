"""Means and variances through networks of ImageNet size: two passes of every affine layer, single precision.

What a ReLU does to a mean depends on the variance of its input. The diagonal rule of `rpa.moments.layerwise` gets that
variance wrong: neighbouring units share noise, so the variance of a weighted sum is not the sum of variances. `moments`
without a fit is that rule. With a fit, the second pass carries no variances. It carries the network's linear response
to one pattern of signs, +-scale at every pixel and the same for all images (a Jacobian-vector product). The mean square
of this response around a place, times a constant for each channel, is taken as the variance there; correlations between
units are thus included. `fit` measures the constants on images of its own, and only there is anything sampled. Layers
with too few places to average over carry variances, with a constant for each unit.

Networks come as the list of layers that `rpa.moments.layers.prepare` makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rpa import _check
from rpa.moments import _checks, pooling
from rpa.moments.layers import Layer, prepare, taken_by

__all__ = ["Correction", "fit", "informed_mean", "moments", "prepare", "relu_moments", "two_stage_mean"]

AROUND, PRIOR = 5, 0.1  # places across whose response is averaged, and the weight of the whole image beside them
PLACES = 100  # every place is one sample of the noise; with fewer of them the response to one pattern is no estimate


class Correction(NamedTuple):
    """What `fit` found for one layer.

    deviation: standard deviations over those computed, per channel (1, channels, 1, 1) or unit (1, units); softness: of
    max pooling, see `pooling.soft_maximum`; independent: variances are carried as those of independent units from here
    on. response: while units are affine in the input, deviations and the response to the sign pattern are the same for
    all images; then deviation and response are these themselves, (1, *shape).
    """

    deviation: torch.Tensor
    softness: torch.Tensor | None = None
    independent: bool = False
    response: torch.Tensor | None = None


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


def moments(
    layers: Sequence[Layer], x: torch.Tensor, scale: float | torch.Tensor, fitted: Sequence | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(means, variances) (b, k) of the outputs for inputs x[i] + scale z, z standard normal.

    layers: from `prepare`; x (b, *shape); scale: standard deviation of the noise, a number or a tensor that broadcasts
    to x; fitted: from `fit` at the same scale, or None for the plain diagonal rule. Either way two passes of the affine
    layers. With a fit there are no gradients. Raises ValueError for a negative or infinite scale, and for a fit to
    another network.
    """
    with taken_by(layers, x, fitted):
        if fitted is None:
            mean, var = x, _variances(x, scale)
            for layer in layers:
                mean, var = _independent(layer, mean, var)
            return mean, var
        with torch.no_grad():
            state = _State(_fast(x), var=_variances(x, scale))
            for layer, correction in zip(layers, fitted):
                state = _step(layer, state, correction)
            return state.mean, state.variance


def _independent(layer, mean, var):
    if isinstance(layer.module, nn.ReLU):
        return _relu_moments(mean, var)
    if isinstance(layer.module, nn.MaxPool2d):
        return pooling.maxima(layer.module, mean, var)
    return layer.module(mean), layer.squared(var)


class _State(NamedTuple):
    """Means (b, *shape), with either the variances of units taken as independent, or standard deviations as two factors
    that broadcast to them (which saves work) and the response to the sign pattern.

    pair (2 b, *shape): the means, then the responses, None while these are the same for all images; before: the state
    before a ReLU.
    """

    mean: torch.Tensor
    factors: tuple | None = None
    response: torch.Tensor | None = None
    pair: torch.Tensor | None = None
    before: tuple | None = None
    var: torch.Tensor | None = None

    @property
    def deviation(self):
        """Standard deviations in the shape and memory layout of the means; after a ReLU, those before it."""
        if self.var is not None:
            return self.var.sqrt()
        return torch.mul(*(factor.expand_as(self.mean) for factor in self.factors), out=torch.empty_like(self.mean))

    @property
    def variance(self):
        if self.var is not None:
            return self.var
        if self.before is not None:
            return _relu_moments(self.before.mean, self.before.deviation.square())[1]
        return self.deviation.square()


def _paired(pair, factors=None, before=None):
    return _State(pair[: len(pair) // 2], factors, pair[len(pair) // 2 :], pair, before)


def _step(layer, state, correction):
    if isinstance(layer.module, nn.ReLU):
        return _rectified(state)
    if correction.response is not None:
        return _State(layer.module(state.mean), (correction.deviation, torch.ones(())), correction.response)
    if correction.independent:
        return _alone(layer, state, correction)
    if isinstance(layer.module, nn.MaxPool2d):
        mean, where = pooling.soft_maximum(layer.module, state.mean, state.factors, correction.softness)
        state = _paired(torch.cat([mean, _picked(state.response.expand_as(state.mean), where)]))
    else:
        state = _paired(layer.linear(state.pair))
        state.mean.add_(layer.bias)
    return state._replace(factors=(correction.deviation, _around(state.response)))


def _alone(layer, state, correction):
    """An affine or pooling layer whose units are taken as independent, but for the correction."""
    mean, var = state.mean, state.variance
    if isinstance(layer.module, nn.MaxPool2d):
        mean, where = pooling.soft_maximum(layer.module, mean, (var.sqrt(), torch.ones(())), correction.softness)
        var = _picked(var, where)
    else:
        mean, var = layer.module(mean), layer.squared(var)
    return _State(mean, var=var * correction.deviation**2)


def _fast(t):
    """The tensor in the memory layout in which convolutions are fastest."""
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t


def _picked(plane, where):
    """The values of a plane at flat positions, both (b, c, h, w): fastest channel by channel, as they lie in memory."""
    rows, index = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (plane, where))
    return rows.gather(1, index).unflatten(1, where.shape[2:]).permute(0, 3, 1, 2)


def _around(response):
    """Root mean square of the response (b, c, h, w) over channels and the places around: (b, 1, h, w)."""
    power = torch.linalg.vector_norm(response, dim=1, keepdim=True).square_()
    whole = power.mean((2, 3), keepdim=True)
    power = functional.avg_pool2d(power, AROUND, 1, AROUND // 2, count_include_pad=False).lerp_(whole, PRIOR)
    return power.div_(response.shape[1]).sqrt_()


def _rectified(state):
    """E[relu(x)] = mean P + sigma phi(mean / sigma), P = P(x > 0), and the response times P; or, without one, the
    variance.
    """
    if state.var is not None:
        mean, var = _relu_moments(state.mean, state.var)
        return _State(mean, var=var)
    result = _paired(_fast(state.mean.new_empty(2 * len(state.mean), *state.mean.shape[1:])), state.factors, state)
    width = state._replace(factors=(-math.sqrt(2) * state.factors[0], state.factors[1] + pooling.TINY)).deviation
    # Beyond 8 sqrt(2) sigma a tail is lost beside 1, and its denormal numbers would cost most of the time.
    z = (state.mean / width).clamp_(-8.0, 8.0)
    positive = torch.erfc(z).mul_(0.5)
    torch.mul(positive, state.response, out=result.response)
    torch.mul(positive, state.mean, out=result.mean)
    result.mean.addcmul_(z.mul_(z).neg_().exp_(), width, value=-0.5 / math.sqrt(math.pi))
    return result


@torch.no_grad()
def informed_mean(
    layers: Sequence[Layer], x: torch.Tensor, scale: float | torch.Tensor, fitted: Sequence, pairs: int, seed: int
) -> torch.Tensor:
    """Means (b, k) by the rules of `moments`, but with the deviations of 2 * pairs noisy copies in place of those
    computed.

    It costs as much as sampling. It tells which part of the error of `moments` comes from its variances, and which part
    from its rules.
    """
    pairs = _check.integer("pairs", pairs, 1)
    means, generator = [], torch.Generator().manual_seed(_check.integer("seed", seed))
    with taken_by(layers, x, () if fitted is None else fitted):
        _variances(x, scale)
        for image in x.split(1):
            noise = torch.as_tensor(scale) * torch.randn(pairs, *x.shape[1:], generator=generator, dtype=x.dtype)
            samples = _fast(torch.cat([image + noise, image - noise]))
            state = _State(_fast(image), var=_variances(image, scale))
            for layer, correction in zip(layers, fitted):
                samples, state = layer.module(samples), _step(layer, state, correction)
                if not isinstance(layer.module, nn.ReLU):
                    deviation = samples.std(0, keepdim=True)
                    known = {"var": deviation**2} if state.var is not None else {"factors": (deviation, torch.ones(()))}
                    state = state._replace(**known)
            means.append(state.mean)
    return torch.cat(means)


def two_stage_mean(
    layers: Sequence[Layer], x: torch.Tensor, scale: float | torch.Tensor, cut: int = 0, *, at: str = "mean"
) -> torch.Tensor:
    """P2's two-stage mean (b, k): linear up to ReLU number `cut`, that ReLU exact, then second(E[q]) for at="mean", or
    for at="point" second(q) + J_second (E[q] - q) with q the noise-free activations. layers: `prepare(net,
    pool_first=False)`.

    Variances before the cut are those of the network linearized at x with uncorrelated units: exact for cut=0. One and
    a half passes, or three and a half; a Jacobian-vector product, no Jacobian.
    """
    if at not in ("mean", "point"):
        raise ValueError(f"at: expected 'mean' or 'point', got {at!r}")
    with taken_by(layers, x):
        relus = [i for i, layer in enumerate(layers) if isinstance(layer.module, nn.ReLU)]
        if not isinstance(cut, int) or not -len(relus) <= cut < len(relus):
            raise ValueError(f"cut: expected the number of one of {len(relus)} ReLUs, got {cut!r}")
        mean, var = x, _variances(x, scale)
        for layer in layers[: relus[cut]]:
            var = _linearized(layer, mean, var)
            mean = layer.module(mean)
        second = nn.Sequential(*[layer.module for layer in layers[relus[cut] + 1 :]])
        expected, point = _relu_moments(mean, var)[0], torch.relu(mean)
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
    scale = _checks.tensor("scale", scale).to(x.dtype)
    if not scale.isfinite().all() or (scale < 0).any():
        raise ValueError(f"scale: expected finite numbers >= 0, got {scale.min():g} to {scale.max():g}")
    try:
        return (scale**2).expand_as(x)
    except RuntimeError as error:
        shapes = f"{tuple(x.shape)}, got shape {tuple(scale.shape)}"
        raise ValueError(f"scale: expected a number or a tensor that broadcasts to x, {shapes}") from error


@torch.no_grad()
def fit(
    layers: Sequence[Layer], x: torch.Tensor, scale: float | torch.Tensor, seed: int
) -> tuple[Correction | None, ...]:
    """A `Correction` for each layer, None where there is none, for `moments` at this noise level.

    One antithetic pair of noisy copies of each image x (b, *shape) is carried along with the means. Each layer gets the
    factor that makes its variance right on average, over images and places of a channel, over all units of a vector.
    Before a ReLU, units count by exp(-a^2 / 2), a = mean / sigma: so the mean of the ReLU feels an error of their
    variance. Max pooling gets the softness that makes its means right on average.
    """
    with taken_by(layers, x):
        return _fit(layers, x, scale, torch.Generator().manual_seed(_check.integer("seed", seed)))


def _fit(layers, x, scale, generator):
    var = _variances(x, scale)[:1]
    response = torch.as_tensor(scale) * torch.randn(1, *x.shape[1:], generator=generator, dtype=x.dtype).sign()
    noise = torch.as_tensor(scale) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    samples = torch.stack([x + noise, x - noise])
    state, corrections, affine = _State(_fast(x), var=_variances(x, scale)), [], True
    for layer, after in zip(layers, [*layers[1:], None]):
        samples, correction = layer.module(samples.flatten(0, 1)).unflatten(0, (2, -1)), None
        affine = affine and layer.linear is not None
        if affine:
            var, response = layer.squared(var), layer.linear(response)
            correction = Correction(_fast(var.sqrt()), response=_fast(response))
        elif not isinstance(layer.module, nn.ReLU):
            few = samples.ndim < 5 or samples.shape[3] * samples.shape[4] < PLACES
            correction = Correction(torch.ones(()), independent=few or state.var is not None)
            if isinstance(layer.module, nn.MaxPool2d):
                factors = (state.deviation, torch.ones(())) if state.factors is None else state.factors
                softness = pooling.softness_of(layer.module, state.mean, factors, samples.mean(0))
                correction = correction._replace(softness=softness)
            if not isinstance(layer.module, nn.Flatten):
                correction = correction._replace(deviation=_ratio(samples, _step(layer, state, correction), after))
        state = _step(layer, state, correction)
        corrections.append(correction)
    return tuple(corrections)


def _ratio(samples, state, after):
    """Root mean square deviation of the samples over the deviations of a state; 1 where nothing varies."""
    gates = after is not None and isinstance(after.module, nn.ReLU)
    var = state.deviation.square().expand_as(state.mean)
    weight = torch.exp(state.mean**2 / (var + pooling.TINY) * -0.5) if gates else torch.ones_like(state.mean)
    true, computed = _per_channel(weight * (samples - state.mean).square().mean(0)), _per_channel(weight * var)
    return torch.where(computed > pooling.TINY, true / computed, 1.0).sqrt()


def _per_channel(t):
    return t.mean((0, 2, 3) if t.ndim == 4 else 0, keepdim=True)
