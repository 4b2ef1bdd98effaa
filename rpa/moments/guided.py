"""Means through networks of ImageNet size, guided by three copies of the input at fixed places: four forward passes.

What a ReLU does to a mean depends on the variance of its input, and neighbouring units share noise: the diagonal rule
of `rpa.moments.meanfield` gets that variance wrong. Here the network itself tells it. Beside the means it evaluates x +
z_1, x + z_2 and x + z_3, with z_j = scale (cos(2 pi j / 3) u + sin(2 pi j / 3) v), u and v two patterns of signs, the
same for all images. The three sum to zero, so the linear response cancels in their mean as it does in that of an
antithetic pair; but their mean square is that of two patterns, for three evaluations and not four.

Around a place, the copies' mean squares about the mean, over all channels and over the unit's own channel, each times a
constant for the channel, are averaged: that is the variance there. After each layer the means are pulled towards the
copies' mean, averaged over a plane, by a part that is fitted for the layer. `fit` measures constants and parts on
images of its own; only there is anything drawn at random. This is cubature and analysis in one: it does evaluate the
network beside the input, at places that are fixed once for all images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rpa import _check
from rpa.moments import pooling
from rpa.moments.layers import Layer, taken_by
from rpa.moments.meanfield import relu_mean, relu_moments, variances

__all__ = ["Correction", "Guide", "fit", "informed_mean", "moments"]

COPIES = 3
AROUND = 5  # places across which squares are averaged
LIFTED = 1.5  # correlation adds no more to maxima than this times what independent units have


class Correction(NamedTuple):
    """What `fit` found for one layer.

    pull: the part by which means go towards the copies' mean. shared, own: the constants per channel (1, channels, 1,
    1) or unit (1, units) of the mean squares over all channels and over one. lift (1, channels, 1, 1): the part, 0 to
    1.5, of what noise adds to maxima of independent units that it adds to these. known: the variances (1, *shape)
    themselves, where units are affine in the input.
    """

    pull: float = 0.0
    shared: torch.Tensor | None = None
    own: torch.Tensor | None = None
    lift: torch.Tensor | None = None
    known: torch.Tensor | None = None


class Guide(NamedTuple):
    """places (3, *shape): the copies less the input; corrections: one for each layer, None at ReLUs."""

    places: torch.Tensor
    corrections: tuple[Correction | None, ...]


class _State(NamedTuple):
    """One input: its means, then its copies, (1 + n, *shape); the means' variances, None behind a ReLU: not needed."""

    both: torch.Tensor
    var: torch.Tensor | None

    @property
    def mean(self):
        return self.both[:1]

    @property
    def copies(self):
        return self.both[1:]


@torch.no_grad()
def moments(layers: Sequence[Layer], x: torch.Tensor, guide: Guide) -> tuple[torch.Tensor, torch.Tensor]:
    """(means, variances) (b, k) of the outputs for inputs x (b, *shape) with the noise that the guide was fitted for.

    layers: from `prepare`; guide: from `fit`. Without gradients. Raises ValueError for a guide to another network.
    """
    found = []
    with _taken_by(layers, x, guide):
        for image in x.split(1):
            state = _start(image, guide.places)
            for layer, correction in zip(layers, guide.corrections):
                before, state = state, _step(layer, state, correction)
            found.append((state.mean, _variance(state, before)))
    mean, var = (torch.cat(part) for part in zip(*found))
    return mean, var


def _taken_by(layers, x, guide):
    if not isinstance(guide, Guide):
        raise ValueError(f"guide: expected what `fit` returns, got {type(guide).__name__}")
    if isinstance(x, torch.Tensor) and x.shape[1:] != guide.places.shape[1:]:
        shapes = f"{tuple(guide.places.shape[1:])}, got {tuple(x.shape[1:])}"
        raise ValueError(f"guide: made for inputs of shape {shapes}")
    return taken_by(layers, x, guide.corrections)


def _start(image, places):
    # cos^2 and sin^2 of the three angles average 1/2, their products 0: the mean square is scale^2 at every place.
    return _State(_fast(torch.cat([image, image + places])), places.square().mean(0, keepdim=True))


def _variance(state, before):
    return relu_moments(before.mean, before.var)[1] if state.var is None else state.var.expand_as(state.mean)


def _fast(t):
    """The tensor in the memory layout in which convolutions are fastest."""
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t


def _step(layer, state, correction):
    if isinstance(layer.module, nn.ReLU):
        both = torch.relu(state.both)
        both[:1] = relu_mean(state.mean, state.var)
        return _State(both, None)
    state = _moved(layer, state, correction.lift)
    _pull(state, correction.pull)
    return _varied(state, correction)


def _moved(layer, state, lift):
    """Means and copies behind an affine or pooling layer; variances are not known yet."""
    both = layer.module(state.both)
    if isinstance(layer.module, nn.MaxPool2d):
        both[:1] += lift * (_maxima(layer.module, state) - both[:1])
    return _State(both, None)


def _maxima(pool, state):
    return pooling.maxima(pool, state.mean, state.var.expand_as(state.mean))[0]


def _pull(state, part):
    if part:
        state.mean.add_(part * _away(state.copies, state.mean))


def _away(copies, mean):
    """Mean of the copies less the mean, averaged over planes: (1, channels, 1, 1) or (1, units)."""
    return _plane_mean(copies).mean(0, keepdim=True) - _plane_mean(mean)


def _plane_mean(t):
    return t.mean((2, 3), keepdim=True) if t.ndim == 4 else t


def _varied(state, correction):
    if correction.known is not None:
        return state._replace(var=correction.known)
    shared, own = _squares(state.copies, state.mean)
    return state._replace(var=(own * correction.own).addcmul_(shared, correction.shared))


def _squares(copies, mean):
    """Mean squares of the copies about the mean, averaged around each place: over all channels, and for each."""
    power = _mean_square(copies, mean)
    if power.ndim < 4:
        return power.mean(1, keepdim=True), power
    for kernel in ((AROUND, 1), (1, AROUND)):
        power = functional.avg_pool2d(power, kernel, 1, tuple(k // 2 for k in kernel), count_include_pad=False)
    return power.mean(1, keepdim=True), power


def _variance_of(copies):
    """Variances (1, *shape) of copies (n, *shape), n >= 2."""
    mean = sum(copies.split(1)) / len(copies)
    return _mean_square(copies, mean).mul_(len(copies) / (len(copies) - 1))


def _mean_square(copies, mean):
    # Image by image and in place: a mean along the first dimension is several times slower.
    first, *others = copies.split(1)
    total = (first - mean).square_()
    for copy in others:
        away = copy - mean
        total.addcmul_(away, away)
    return total.div_(len(copies))


@torch.no_grad()
def fit(layers: Sequence[Layer], x: torch.Tensor, scale: float | torch.Tensor, seed: int) -> Guide:
    """The `Guide` for `moments` at this noise: inputs x[i] + scale z, z standard normal.

    x (b, *shape): images to calibrate on, other ones than `moments` is for; scale: a number or a tensor that broadcasts
    to x. One antithetic pair of noisy copies of each image is carried along as truth. The pull of a layer is the least
    squares slope of truth on the copies, both less the means and averaged over planes. Each of the two mean squares is
    scaled to the truth's over all images and places of a channel; before a ReLU places count by exp(-a^2 / 2), a = mean
    / sigma, so that its mean feels an error. What noise adds to maxima is fitted channel by channel.
    """
    generator = torch.Generator().manual_seed(_check.integer("seed", seed))
    with taken_by(layers, x):
        var = variances(x, scale)[:1]
        draw = lambda n: torch.as_tensor(scale) * torch.randn(n, *x.shape[1:], generator=generator, dtype=x.dtype)
        signs = draw(2).sign() * var.sqrt()
        angles = 2 * math.pi * torch.arange(COPIES, dtype=x.dtype) / COPIES
        places = torch.tensordot(torch.stack([angles.cos(), angles.sin()], 1), signs, 1)
        states = [_start(image, places) for image in x.split(1)]
        truths = [_fast(torch.cat([image + z, image - z])) for image, z in zip(x.split(1), draw(len(x)).split(1))]
        return Guide(places, tuple(_fit(layers, states, truths, var)))


def _fit(layers, states, truths, var):
    """A correction for each layer; states and truths (2, *shape) of all images, layer after layer."""
    affine = True
    for layer, after in zip(layers, [*layers[1:], None]):
        truths, correction = [layer.module(truth) for truth in truths], None
        affine = affine and layer.linear is not None
        if affine:
            var = layer.squared(var)
            correction = Correction(known=_fast(var))
        elif not isinstance(layer.module, nn.ReLU):
            lift = _lift(layer.module, states, truths) if isinstance(layer.module, nn.MaxPool2d) else None
            states = [_moved(layer, state, lift) for state in states]
            part = _part(states, truths)
            for state in states:
                _pull(state, part)
            gates = after is not None and isinstance(after.module, nn.ReLU)
            correction = Correction(part, *_factors(states, truths, gates), lift)
            states = [_varied(state, correction) for state in states]
        if affine or correction is None:
            states = [_step(layer, state, correction) for state in states]
        yield correction


def _lift(pool, states, truths):
    """The slope, per channel, of what noise adds to maxima on what it adds to those of independent units."""
    product, power = 0.0, pooling.TINY
    for state, truth in zip(states, truths):
        top = pool(state.mean)
        alone = _maxima(pool, state) - top
        product = product + _plane_mean(alone * (truth.mean(0, keepdim=True) - top))
        power = power + _plane_mean(alone.square())
    # Where noise adds next to nothing the slope is one of errors.
    return (product / power).clamp(0, LIFTED)


def _part(states, truths):
    away = torch.cat([_away(state.copies, state.mean) for state in states])
    true = torch.cat([_away(truth, state.mean) for truth, state in zip(truths, states)])
    power = away.square().sum()
    return float((away * true).sum() / power) if power > pooling.TINY else 0.0


def _factors(states, truths, gates):
    """Half of true over computed mean squares, (shared, own), per channel or unit; half of 1 where nothing varies."""
    spread = [_mean_square(truth, state.mean) for truth, state in zip(truths, states)]
    typical = sum(_plane_mean(part) for part in spread) / len(spread) + pooling.TINY
    totals = [0.0, 0.0, 0.0]
    for state, true in zip(states, spread):
        weight = torch.exp(state.mean**2 / typical * -0.5) if gates else torch.ones_like(state.mean)
        parts = (true, *_squares(state.copies, state.mean))
        totals = [total + _plane_mean(weight * part) for total, part in zip(totals, parts)]
    true, *computed = totals
    return [torch.where(part > pooling.TINY, true / part, 1.0) / 2 for part in computed]


@torch.no_grad()
def informed_mean(
    layers: Sequence[Layer], x: torch.Tensor, scale: float | torch.Tensor, guide: Guide, pairs: int, seed: int
) -> torch.Tensor:
    """Means (b, k) by the rules of `moments`, but with each unit's variance measured on 2 * pairs noisy copies.

    It costs as much as sampling. It tells which part of the error of `moments` comes from its variances, and which part
    from its rules; there is no pull.
    """
    pairs, generator = _check.integer("pairs", pairs, 1), torch.Generator().manual_seed(_check.integer("seed", seed))
    means = []
    with _taken_by(layers, x, guide):
        var = variances(x, scale)[:1]
        for image in x.split(1):
            noise = torch.as_tensor(scale) * torch.randn(pairs, *x.shape[1:], generator=generator, dtype=x.dtype)
            state = _State(_fast(torch.cat([image, image + noise, image - noise])), var)
            for layer, correction in zip(layers, guide.corrections):
                if correction is None:
                    state = _step(layer, state, correction)
                else:
                    state = _moved(layer, state, correction.lift)
                    state = state._replace(var=_variance_of(state.copies))
            means.append(state.mean)
    return torch.cat(means)
