"""A network as a list of layers; each affine layer comes with the maps that carry noise through it.

For an affine layer that is its linear part, which carries a response, and the linear part with squared weights, which
carries the variances of independent units. A max pooling that follows a ReLU is moved before it. The function stays the
same, and what is pooled is then Gaussian.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from rpa.moments import _checks, modules, pooling

__all__ = ["Layer", "prepare", "taken_by"]


@dataclass(frozen=True)
class Layer:
    """One step: the torch module; for an affine one also its linear part, its bias (or 0), and the linear part with
    squared weights, which carries the variances of independent units.
    """

    module: nn.Module
    linear: nn.Module | None = None
    bias: torch.Tensor | float = 0.0
    squared: nn.Module | None = None


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
            size = math.prod(pooling.pair(self.average.kernel_size))
        return mean / size


KNOWN = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.ReLU, nn.Flatten, _Parallel)


def prepare(net: nn.Module, *, pool_first: bool = True) -> tuple[Layer, ...]:
    """The layers of a Sequential, AlexNet or SqueezeNet for the functions below; weights are shared with `net`.

    pool_first: exchange a ReLU and the max pooling after it, for both `moments`; `two_stage_mean` leaves them in order.
    Raises ValueError naming a layer without a rule.
    """
    modules.check_evaluable(net)
    flat = modules.unrolled(net, lambda fire: _Parallel(fire.expand1x1, fire.expand3x3))
    unknown = [type(layer).__name__ for layer in flat if not isinstance(layer, KNOWN)]
    if unknown:
        raise ValueError(f"net: no moment rule for the layer {unknown[0]}")
    flat = modules.pool_first(flat) if pool_first else flat
    return tuple(Layer(module, _twin(module, 1), _bias(module), _twin(module, 2)) for module in flat)


@contextmanager
def taken_by(layers: Sequence[Layer], x: torch.Tensor) -> Iterator[None]:
    """A context in which x (b, *shape) goes through the layers.

    Raises ValueError for what is no list of layers, or no batch that they take. Shapes are examined only after
    something failed, so that the check costs no pass.
    """
    if not isinstance(layers, (list, tuple)) or not layers or not all(isinstance(each, Layer) for each in layers):
        raise ValueError(f"layers: expected the layers that `prepare` returns, got {type(layers).__name__}")
    _checks.batch("x", x)
    try:
        yield
    except RuntimeError:
        modules.check_evaluable(nn.Sequential(*(layer.module for layer in layers)), x)
        raise


def _twin(module, power):
    """The module without bias, its weights to the given power, 1 or 2; None for one that is not affine."""
    if isinstance(module, _Parallel):
        return _Parallel(*(_twin(branch, power) for branch in module.branches))
    if isinstance(module, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        return _WindowSum(module) if power == 2 else module
    if isinstance(module, nn.Flatten):
        return module
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        return None
    twin = nn.Linear(1, 1, bias=False)
    if isinstance(module, nn.Conv2d):
        options = {k: getattr(module, k) for k in ("kernel_size", "stride", "padding", "dilation", "groups")}
        twin = nn.Conv2d(module.in_channels, module.out_channels, bias=False, **options)
    twin.weight = module.weight if power == 1 else nn.Parameter(module.weight.detach() ** 2, requires_grad=False)
    return twin


def _bias(module):
    if isinstance(module, _Parallel):
        return torch.cat([_bias(branch) for branch in module.branches], 1)
    bias = getattr(module, "bias", None)
    return (
        0.0 if bias is None else bias.detach()[:, None, None][None] if isinstance(module, nn.Conv2d) else bias.detach()
    )
