"""Means and variances through networks of ImageNet size: two passes of every affine part, single precision.

`moments` is the diagonal rule of `rpa.moments.layerwise`: units count as uncorrelated. `two_stage_mean` is P2's
linearization without a Jacobian. Both are quick and both err where the noise that neighbouring units share matters.

A network is prepared once, by `prepare`, for all its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from rpa.moments import _checks
from rpa.moments.layerwise import independent
from rpa.moments.linearized import Stages
from rpa.moments.prepared import as_module, traced
from rpa.moments.two_stage import mean_of_stages
from rpa.tracing.traced import Traced


class Prepared(NamedTuple):
    """A network and how it is traced: at the first inputs of each shape and type."""

    net: nn.Module
    pool_first: bool
    traced: dict[tuple, Traced]


def prepare(net: nn.Module, *, pool_first: bool = True) -> Prepared:
    """The network for the functions below; weights are shared with `net`.

    pool_first: exchange an activation and the max pooling after it, for `moments`; `two_stage_mean` leaves them in
    order. Raises ValueError for what is no module in evaluation mode.
    """
    return Prepared(as_module(net), pool_first, {})


def _at(layers, x):
    if not isinstance(layers, Prepared):
        raise ValueError(f"layers: expected what `prepare` returns, got {type(layers).__name__}")
    _checks.batch("x", x)
    key = (x.shape[1:], x.dtype)
    if key not in layers.traced:
        layers.traced[key] = traced(layers.net, x, "x", pool_first=layers.pool_first)
    return layers.traced[key]


@torch.no_grad()
def moments(layers: Prepared, x: torch.Tensor, scale: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(means, variances) (b, k) of the outputs for inputs x[i] + scale z, z standard normal: the diagonal rule.

    layers: from `prepare`; x (b, *shape); scale: standard deviation of the noise, a number or a tensor that broadcasts
    to x. Without gradients. Raises ValueError for a negative or infinite scale.
    """
    return independent(_at(layers, x).parts, x, variances(x, scale))


@torch.no_grad()
def two_stage_mean(
    layers: Prepared, x: torch.Tensor, scales: Sequence[float | torch.Tensor], cut: int = 0
) -> torch.Tensor:
    """P2's two-stage means at several noise levels (levels, b, k).

    The network is linear up to ReLU number `cut`, and that ReLU exact, E[q]. The rest is second(q) + J (E[q] - q), with
    q the noise-free activations and J the Jacobian there. layers: `prepare(net, pool_first=False)`; scales: standard
    deviations of the noise, as in `moments`.

    Variances before the cut are those of the network linearized at x with uncorrelated units: exact for cut=0. All
    levels share the noise-free pass; each adds one, a Jacobian-vector product. No Jacobian is built.
    """
    stages = Stages.of(_at(layers, x), cut)
    if not isinstance(scales, (list, tuple)) or not scales:
        raise ValueError(f"scales: expected a list of at least one standard deviation, got {scales!r}")
    levels = lambda image: torch.cat([variances(image, scale) for scale in scales])
    return torch.stack([mean_of_stages(stages, image, levels(image)) for image in x.split(1)], 1)


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
