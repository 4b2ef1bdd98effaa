"""The nonlinearities of a recorded network, `act` and `max_pool`, and the calls of torch that are recorded as them."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.nn import functional

# The ends of the names of smooth functions. Some are almost affine where their input is small.
SMOOTH = ("softmax", "sigmoid", "tanh", "elu", "silu", "swish", "softplus", "mish", "exp")


def is_smooth(kind: str) -> bool:
    """Whether a layer or function of this name is a smooth function that is not affine."""
    return kind.lower().replace("_", "").endswith(SMOOTH)


def advice(kind: str) -> str:
    """What to do about a layer or function that is not affine."""
    if is_smooth(kind) or "norm" in kind.lower() or "attention" in kind.lower():
        return "smooth functions have no exact rule: expected piecewise-linear ones (ReLU, Hardtanh, max pooling)"
    return "expected affine operations, ReLU and its kin, maximum, minimum, clamp, abs and max pooling"


Extremes = namedtuple("Extremes", ("values", "indices"), defaults=(None,))


# fx.wrap: while a module is recorded, a call of the function becomes one node of the graph.
@fx.wrap
def act(x: Any, slope: Any) -> Any:
    """x where x > 0, slope x elsewhere."""
    if isinstance(slope, torch.Tensor):
        return torch.where(x > 0, x, broadcast(slope, x.ndim) * x)
    return torch.relu(x) if slope == 0 else torch.where(x > 0, x, slope * x)


@fx.wrap
def max_pool(x: Any, kind: str, options: dict, indices: bool = False) -> Any:
    """The function `kind` of torch.nn.functional; with the places of the maxima if `indices`."""
    return getattr(functional, kind)(x, **options, return_indices=indices)


@fx.wrap
def scaled(x: Any, weight: Any, bias: Any) -> Any:
    """Every channel times its weight, plus its bias or None."""
    x = x * broadcast(weight, x.ndim)
    return x if bias is None else x + broadcast(bias, x.ndim)


def broadcast(value: Any, ndim: int) -> Any:
    """One number for each channel, in the shape that broadcasts to (b, channels, ...); others as they are."""
    return value.reshape(-1, *[1] * (ndim - 2)) if isinstance(value, torch.Tensor) and value.ndim == 1 else value


def _clamp(input, min=None, max=None):
    if max is None or (isinstance(max, float) and max == math.inf):
        return act(input, 0.0) if isinstance(min, (int, float)) and min == 0 else min + act(input - min, 0.0)
    below = act(max - input, 0.0)
    # No sum of two activations: independent units, as the diagonal rule takes them, are right where both are off.
    return max - below if min is None else min + act((max - min) - below, 0.0)


def _maximum(input, other):
    return other + act(input - other, 0.0)


def _minimum(input, other):
    return input - act(input - other, 0.0)


def _pool(kind, input, *sizes, return_indices=False, **options):
    names = ("output_size",) if "adaptive" in kind else ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return None if return_indices else max_pool(input, kind, dict(zip(names, sizes)) | options)


def _extremes(sign, input, dim=None, keepdim=False):
    """The largest (sign 1) or smallest (-1) along one axis or several, as a max pooling over the members put last.

    No function of the indices is affine.
    """
    if isinstance(dim, (fx.Proxy, torch.Tensor)):
        return _maximum(input, dim) if sign > 0 else _minimum(input, dim)
    if dim is None:
        return None
    dims = [dim] if isinstance(dim, int) else list(dim)
    last = (sign * input).movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
    rows = last.reshape(last.shape[0], -1, last.shape[-1])
    top = sign * _pool("adaptive_max_pool1d", rows, 1).reshape(last.shape[:-1])
    for axis in sorted(dims, key=abs) if keepdim else ():
        top = top.unsqueeze(axis)
    return Extremes(top)


# Functions and methods by name, and what a call of them is recorded as; None leaves it as it is.
KNOWN: dict[str, Callable] = {
    "relu": lambda input, inplace=False: act(input, 0.0),
    "leaky_relu": lambda input, negative_slope=0.01, inplace=False: act(input, negative_slope),
    "prelu": lambda input, weight: act(input, weight),
    "rrelu": lambda input, lower=1 / 8, upper=1 / 3, training=False, inplace=False: (
        None if training else act(input, (lower + upper) / 2)
    ),
    "threshold": lambda input, threshold, value, inplace=False: (
        _clamp(input, threshold) if threshold == value else None
    ),
    **dict.fromkeys(("abs", "absolute"), lambda input: act(input, -1.0)),
    **dict.fromkeys(("clamp", "clip", "clamp_min"), _clamp),
    "clamp_max": lambda input, max: _clamp(input, None, max),
    "hardtanh": lambda input, min_val=-1.0, max_val=1.0, inplace=False: _clamp(input, min_val, max_val),
    "relu6": lambda input, inplace=False: _clamp(input, 0.0, 6.0),
    "hardsigmoid": lambda input, inplace=False: _clamp(input / 6 + 0.5, 0.0, 1.0),
    "maximum": _maximum,
    "minimum": _minimum,
    "max": partial(_extremes, 1),
    "min": partial(_extremes, -1),
    "amax": lambda input, dim, keepdim=False: _extremes(1, input, dim, keepdim).values,
    "amin": lambda input, dim, keepdim=False: _extremes(-1, input, dim, keepdim).values,
    **{
        name: partial(_pool, name)
        for name in ("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
    },
    "dropout": lambda input, p=0.5, training=True, inplace=False: None if training else input,
    **dict.fromkeys(
        ("float", "double", "half", "bfloat16", "to", "type", "type_as", "detach"), lambda input, *_, **__: input
    ),
}
