"""Noise attacks (P2): the Gaussian noise, of a given energy, that makes the expected output prefer another class.

The noise added to image x is N(shift, diag(variance)), pixel by pixel. Its energy E|noise|^2 = |shift|^2 +
sum(variance) is at most budget^2, and `share` of that energy has to be random. With share = 0 this is an ordinary
adversarial example. With share = 1 the noise has mean zero; it can act only through the kinks of the network, and a
plain gradient does not see these. The attack ascends the margin of the expected output along gradients through the
moments of `rpa.moments.two_stage`. `expected_output` judges any noise by sampling the network itself. Sparse and smooth
noise follow Alfadly et al., Network Moments: Extensions and Sparse-Smooth Attacks (2020).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from rpa import _check
from rpa.moments import _checks
from rpa.moments.layerwise import layerwise
from rpa.moments.prepared import on_images, traced
from rpa.moments.two_stage import two_stage_mean
from rpa.network import ReLUNetwork

GRADIENTS = ("two-stage", "layerwise", "sampled", "plain", "plain squared")

STEP = 0.25  # first step of the shift, as a fraction of its largest norm; the steps shrink linearly to zero
RATE = 0.5  # first step of the logarithm of the variances
LEAST_NORM = 1e-30  # divisor that lets a gradient of zero move nothing


class Noise(NamedTuple):
    """Noise N(shift, diag(variance)) per image; both (b, c, H, W)."""

    shift: torch.Tensor
    variance: torch.Tensor


class Outcome(NamedTuple):
    """Sampled output under noise: its mean (b, k) and standard error (b, k), and how often each class wins (b, k)."""

    mean: torch.Tensor
    stderr: torch.Tensor
    frequency: torch.Tensor


def noise_attack(
    net: nn.Module | ReLUNetwork,
    x: torch.Tensor,
    label: torch.Tensor,
    *,
    budget: float,
    share: float = 0.9,
    target: torch.Tensor | None = None,
    gradient: str = "two-stage",
    steps: int = 40,
    sparse: int | None = None,
    smooth: float | None = None,
    seed: int = 0,
) -> Noise:
    """The `Noise` that makes the expected output prefer another class, or class `target`, for each image.

    net: a torch module in evaluation mode that takes images or rows of pixels, or a `ReLUNetwork`; x (b, c, H, W);
    label, target (b,) int. budget: root of the energy, > 0, in units of the pixel; share: its random part, in [0, 1].
    Pixels may leave their range; Gaussian noise always lets them.

    Ascends `margin` of the expected output by normalized steps of the shift within its ball, and multiplicative ones of
    the variances. gradient says how the expected output is approximated: through the moments by "two-stage" and by
    "layerwise" (independent units); "sampled" at one draw of the noise per step, reparametrized; "plain" by the network
    at x + shift, the variance being uniform, or, for "plain squared", proportional to the square of the last gradient.
    sparse: only so many pixels of an image carry noise, those with the largest shares of the shift's and the variance's
    energy in an attack without that condition.
    smooth: shift and variances are blurred by a Gaussian of so many pixels.
    Raises ValueError for wrong shapes, classes out of range, a target equal to its label, or options out of range.
    """
    net, x, classes = _network(net, x)
    budget, share = _check.positive("budget", budget), float(_check.array("share", share, ()))
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number in [0, 1], got {share:g}")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient: expected one of {', '.join(GRADIENTS)}; got {gradient!r}")
    _check_classes("label", label, len(x), classes)
    if target is not None:
        _check_classes("target", target, len(x), classes)
        if (target == label).any():
            raise ValueError(f"target: expected a class other than the label, not so for {(target == label).sum():d}")
    steps, seed = _check.integer("steps", steps, 1), _check.integer("seed", seed)
    if smooth is not None and _check.positive("smooth", smooth) > max(x.shape[2:]):
        raise ValueError(f"smooth: expected at most the {max(x.shape[2:])} pixels of a side, got {smooth}")
    if smooth is None:
        blur = lambda images: images
    else:
        options = {"radius": int(3 * smooth + 1), "mode": "constant", "axes": (2, 3)}
        blur = lambda images: torch.from_numpy(ndimage.gaussian_filter(images.numpy(), smooth, **options))
    ascend = partial(_ascend, net, x, label, target, budget, share, gradient, steps, blur, seed)
    noise = ascend(torch.ones_like(x))
    if sparse is None:
        return noise
    sparse = _check.integer("sparse", sparse, 1)
    if sparse > x[0, 0].numel():
        raise ValueError(f"sparse: expected at most {x[0, 0].numel()} pixels, got {sparse}")
    # The shift counts as much as the variance, however little of the energy it has: it does most of the harm.
    weight = (_normalized(noise.shift**2) + _normalized(noise.variance)).sum(1).flatten(1)
    kept = torch.zeros_like(weight).scatter_(1, weight.topk(sparse, 1).indices, 1.0)
    return ascend(kept.reshape(len(x), 1, *x.shape[2:]).expand_as(x))


def margin(output: torch.Tensor, label: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """By how much the best other class leads `label`, or `target` leads the best other class: (b,); > 0 is success."""
    _checks.batch("output", output)
    if output.ndim != 2 or output.shape[1] < 2:
        raise ValueError(f"output: expected shape (b, k) with k >= 2 classes, got {tuple(output.shape)}")
    _check_classes("label", label, *output.shape)
    if target is not None:
        _check_classes("target", target, *output.shape)
    own = functional.one_hot(label if target is None else target, output.shape[1]).bool()
    lead = output.masked_fill(own, -torch.inf).amax(1) - output[own]
    return lead if target is None else -lead


@torch.no_grad()
def expected_output(net: nn.Module, x: torch.Tensor, noise: Noise, n: int, seed: int, chunk: int = 1024) -> Outcome:
    """`Outcome` of n >= 2 draws of the noise for each image x (b, c, H, W), on the network itself."""
    net, x, _ = _network(net, x)
    n, chunk = _check.integer("n", n, 2), _check.integer("chunk", chunk, 1)
    if not isinstance(noise, Noise):
        raise ValueError(f"noise: expected a Noise(shift, variance), got {type(noise).__name__}")
    for name, value in noise._asdict().items():
        _checks.batch(f"noise.{name}", value)
        if value.shape != x.shape:
            raise ValueError(f"noise.{name}: expected shape {tuple(x.shape)} as x, got {tuple(value.shape)}")
    if (noise.variance < 0).any():
        raise ValueError(f"noise.variance: expected numbers >= 0, got {noise.variance.min():g}")
    generator = torch.Generator().manual_seed(_check.integer("seed", seed))
    total = square = wins = torch.zeros(())
    centre = net(x + noise.shift)
    rows = max(1, chunk // len(x))
    for start in range(0, n, rows):
        draws = min(rows, n - start)
        z = torch.randn(draws, *x.shape, generator=generator, dtype=x.dtype)
        y = net((x + noise.shift + z * noise.variance.sqrt()).flatten(0, 1)).unflatten(0, (draws, len(x)))
        wins = wins + functional.one_hot(y.argmax(2), y.shape[2]).sum(0)
        y = y.double() - centre
        total, square = total + y.sum(0), square + (y**2).sum(0)
    mean = total / n
    variance = (square / n - mean**2).clamp(min=0) * n / (n - 1)
    return Outcome(centre + mean, (variance / n).sqrt(), wins / n)


def _ascend(net, x, label, target, budget, share, gradient, steps, blur, seed, kept):
    expected = _approximation(net, x, gradient, seed)
    reach, energy = (1 - share) ** 0.5 * budget, share * budget**2
    # The map of variances is a blurred density, the shift a sum of blurred steps: both are as smooth as the kernel.
    spread = lambda density: energy * _normalized(blur(density) * kept)
    shift, density = torch.zeros_like(x), _normalized(kept)
    for step in range(steps):
        to_shift, to_variance = _gradients(expected, x, shift, spread(density), label, target)
        shrink = 1 - step / steps
        if share < 1:
            ascent = blur(to_shift * kept) * kept
            shift = shift + STEP * shrink * reach * ascent / _norm(ascent)
            shift = shift * (reach / _norm(shift)).clamp(max=1)
        if share > 0 and to_variance is not None:
            ascent = blur(to_variance * kept)
            largest = ascent.abs().amax((1, 2, 3), keepdim=True).clamp(min=LEAST_NORM)
            # Mirror ascent on the simplex: variances stay positive and keep their sum.
            density = _normalized(density * torch.exp(RATE * shrink * ascent / largest))
    if gradient == "plain squared":
        slope = _gradients(expected, x, shift, spread(density), label, target)[0].abs() * kept
        largest = slope.amax((1, 2, 3), keepdim=True)
        density = torch.where(largest > 0, (slope / largest) ** 2, kept)  # uniform where the network is constant
    return Noise(shift, spread(density))


def _normalized(images):
    return images / images.sum((1, 2, 3), keepdim=True).clamp(min=LEAST_NORM)


def _gradients(expected, x, shift, variance, label, target):
    """Derivatives of the margin by shift and by variance; None for what it does not depend on."""
    with torch.inference_mode(False):
        shift, variance = shift.clone().requires_grad_(), variance.clone().requires_grad_()
        total = margin(expected(x + shift, variance), label, target).sum()
        return torch.autograd.grad(total, (shift, variance), allow_unused=True)


def _approximation(net, x, gradient, seed):
    if gradient.startswith("plain"):
        return lambda mean, variance: net(mean)
    if gradient == "layerwise":
        prepared = traced(net, x, "x", pool_first=True)
        return lambda mean, variance: layerwise(prepared, mean, variance, "diagonal").mean
    if gradient == "sampled":
        generator = torch.Generator().manual_seed(seed)
        draw = lambda mean: torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return lambda mean, variance: net(mean + draw(mean) * variance.clamp(min=LEAST_NORM).sqrt())
    prepared = traced(net, x, "x")
    return lambda mean, variance: two_stage_mean(prepared, mean, variance, at="mean")


def _norm(images):
    return images.flatten(1).norm(dim=1).clamp(min=LEAST_NORM).reshape(-1, 1, 1, 1)


def _network(net, x):
    """(module that takes images, images in its type, number of outputs); ValueError unless they fit."""
    if not isinstance(x, torch.Tensor) or x.ndim != 4:
        got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"x: expected a tensor of images (b, c, H, W), got {got}")
    net, x = on_images(net, x)
    with torch.no_grad():
        shape = net(x[:1]).shape
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(f"net: expected outputs (b, k) for k >= 2 classes, got {('b', *shape[1:])}")
    return net, x, shape[1]


def _check_classes(name, value, b, classes):
    if not isinstance(value, torch.Tensor) or value.dtype != torch.int64 or value.shape != (b,):
        raise ValueError(f"{name}: expected an int64 tensor of shape ({b},), one class per image")
    if (value < 0).any() or (value >= classes).any():
        raise ValueError(f"{name}: expected classes in [0, {classes}), got {value.min():d} to {value.max():d}")
