"""What the functions of this room take: any torch module or `ReLUNetwork`, and random inputs or batches of means."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from rpa.inputs import RandomInput, components_of
from rpa.moments import _checks
from rpa.network import ReLUNetwork
from rpa.tracing.conversion import checked_shape
from rpa.tracing.graph import check_evaluable, unwrapped
from rpa.tracing.traced import Traced


class Moments(NamedTuple):
    """Means (b, k) and covariances (b, k, k) of the outputs of a network, for b inputs."""

    mean: torch.Tensor
    cov: torch.Tensor

    @property
    def var(self) -> torch.Tensor:
        """Variances (b, k)."""
        return self.cov.diagonal(dim1=-2, dim2=-1)


class Law(NamedTuple):
    """b Gaussian inputs: means (b, *shape), variances (c, *shape) and covariances (c, n, n) or None, c = b or 1.

    weights (b,): the inputs are the parts of a mixture; None: each is a law of its own.
    """

    mean: torch.Tensor
    var: torch.Tensor
    full: torch.Tensor | None
    weights: torch.Tensor | None = None

    def graph(self) -> torch.set_grad_enabled:
        """A context that records a graph only where the means or the noise require gradients."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and (self.mean.requires_grad or self.var.requires_grad))

    def moments(self, function: Callable[..., Moments], *arguments: Any) -> Moments:
        """function(law, *arguments), for a mixture by the law of total covariance."""
        with self.graph():
            mean, cov = function(self, *arguments)
        if self.weights is None:
            return Moments(mean, cov)
        total = self.weights @ mean
        gap = mean - total
        return Moments(total[None], torch.tensordot(self.weights[None], cov + gap[:, :, None] * gap[:, None], 1))


def as_module(net: ReLUNetwork | nn.Module) -> nn.Module:
    """A torch module in float32 or float64; ValueError for what is no network, or none in evaluation mode."""
    module: Any = net.to_torch() if isinstance(net, ReLUNetwork) else unwrapped(net)
    check_evaluable(module)
    return module if dtype_of(module) in (torch.float32, torch.float64) else copy.deepcopy(module).float()


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of the module's weights, float64 for one without."""
    weights = (p for p in [*module.parameters(), *module.buffers()] if p.is_floating_point())
    return next((p.dtype for p in weights), torch.float64)


def on_images(net: ReLUNetwork | nn.Module, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    """(module, x): the network as a module that takes images x (b, c, H, W), or their pixels as rows; x in its type.

    A network that takes both gets rows if its output then has fewer axes: its first layer meets the last axis alone.
    """
    module = as_module(net)
    x = x.to(dtype_of(module))
    _checks.batch("x", x)
    axes = {}
    for each in (module, nn.Sequential(nn.Flatten(), module).eval()):
        with suppress(Exception), torch.no_grad():
            axes[each] = each(x[:1]).ndim
    if not axes:
        check_evaluable(module, x)
    return min(axes, key=axes.__getitem__), x


def traced(net: ReLUNetwork | nn.Module | Traced, x: torch.Tensor, name: str = "inputs", **options: Any) -> Traced:
    """The network prepared for inputs like x (b, *shape)."""
    if isinstance(net, Traced):
        return net
    try:
        with torch.inference_mode(False), torch.no_grad():  # its constants serve gradients, whatever the caller's mode
            result = Traced(as_module(net), x.clone(), inputs=name, **options)
    except ValueError as error:
        if x.ndim > 2 or not str(error).startswith("inputs: the network does not take"):
            raise
        raise ValueError(f"{error}; for images give the shape of one, as in input_shape=(1, 28, 28)") from error
    if result.head:
        raise ValueError(f"net: ends in {result.head[0]}, which is smooth; expected the network without it")
    return result


def prepared(
    net: ReLUNetwork | nn.Module | Traced,
    inputs: RandomInput | torch.Tensor,
    cov: float | torch.Tensor | None,
    input_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> tuple[Traced, Law]:
    """The network prepared for the inputs, and their law in its type."""
    dtype = net.like.dtype if isinstance(net, Traced) else dtype_of(net := as_module(net))
    if isinstance(inputs, RandomInput):
        if cov is not None:
            raise ValueError("cov: expected None beside a Gaussian or GaussianMixture, which has its own")
        shape = (inputs.dim,) if input_shape is None else checked_shape(input_shape)
        if math.prod(shape) != inputs.dim:
            raise ValueError(f"input_shape: expected {inputs.dim} entries in all, as inputs have, got {shape}")
        weights, parts = zip(*components_of(inputs))
        stack = lambda arrays: torch.tensor(np.stack(arrays), dtype=dtype)
        mean, var = (stack(arrays).unflatten(1, shape) for arrays in zip(*((p.mean, p.variances) for p in parts)))
        _checks.finite("inputs", torch.cat([mean, var]))
        dense = inputs.dim > 1 and any(p.cov_given.ndim == 2 for p in parts)
        full = stack([p.cov for p in parts]) if dense else None
        law = Law(mean, var, full, torch.tensor(weights, dtype=dtype))
    elif cov is None:
        raise ValueError("cov: expected the noise's variance, variances or covariance beside means, got None")
    else:
        means = _checks.tensor("inputs", inputs).to(dtype)
        law = Law(means, *noise(cov, means))
    return traced(net, law.mean, **options), law


def noise(
    cov: float | torch.Tensor, mean: torch.Tensor, name: str = "inputs"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(variances, covariances or None) of the input noise `cov` around mean (b, *shape), n = prod(shape).

    cov: a variance; variances (*shape) or, one map per input, (b, *shape); or covariances (n, n) or (b, n, n), which is
    what an (n, n) array is taken for when both readings fit. The variances returned are (b, *shape) and the covariances
    (b, n, n), with 1 in place of b where the inputs share them. Raises ValueError for another shape, or negative or
    non-finite numbers.
    """
    _checks.batch(name, mean)
    cov = _checks.tensor("cov", cov).to(mean)
    _checks.finite("cov", cov)
    b, *shape = mean.shape
    n = math.prod(shape)
    if cov.shape in ((n, n), (b, n, n)):
        _checks.covariance("cov", cov)
        full = cov.reshape(-1, n, n)
        return full.diagonal(dim1=1, dim2=2).reshape(-1, *shape), full if n > 1 else None
    if cov.shape not in ((), tuple(shape), mean.shape):
        expected = f"(), {tuple(shape)}, {tuple(mean.shape)}, {(n, n)} or {(b, n, n)}"
        raise ValueError(f"cov: expected shape {expected}, got {tuple(cov.shape)}")
    if (cov < 0).any():
        raise ValueError(f"cov: variances must not be negative, got {cov.min():g}")
    return cov.expand(mean.shape if cov.ndim == mean.ndim else mean[:1].shape), None
