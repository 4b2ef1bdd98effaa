"""What the functions of this room take: any torch module or `ReLUNetwork`, and random inputs or batches of means."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from rpa.inputs import Gaussian, GaussianMixture, RandomInput, components_of
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
    """Gaussian inputs: their weight in a mixture, means (b, *shape), variances and covariance as `noise` returns."""

    weight: float
    mean: torch.Tensor
    var: torch.Tensor
    full: torch.Tensor | None


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
        result = Traced(as_module(net), x, inputs=name, **options)
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
) -> tuple[Traced, list[Law]]:
    """The network prepared for the inputs, and their laws in its type: one, or one for each part of a mixture."""
    dtype = net.like.dtype if isinstance(net, Traced) else dtype_of(net := as_module(net))
    parts = _laws(inputs, cov, input_shape, dtype)
    return traced(net, parts[0].mean, **options), parts


def _laws(inputs, cov, input_shape, dtype):
    if not isinstance(inputs, (Gaussian, GaussianMixture)):
        if cov is None:
            raise ValueError("cov: expected the noise's variance, variances or covariance beside means, got None")
        means = _checks.tensor("inputs", inputs).to(dtype)
        return [Law(1.0, means, *noise(cov, means))]
    if cov is not None:
        raise ValueError("cov: expected None beside a Gaussian or GaussianMixture, which has its own")
    shape = (inputs.dim,) if input_shape is None else checked_shape(input_shape)
    if torch.Size(shape).numel() != inputs.dim:
        raise ValueError(f"input_shape: expected {inputs.dim} entries in all, as inputs have, got {shape}")
    parts = []
    for weight, part in components_of(inputs):
        given = torch.tensor(part.cov_given, dtype=dtype)
        mean = torch.tensor(part.mean, dtype=dtype).reshape(1, *shape)
        parts.append(Law(weight, mean, *noise(given.reshape(shape) if given.ndim == 1 else given, mean)))
    return parts


def each(laws: list[Law], function: Callable[[Law], Any]) -> list:
    """function(law) of all laws, with a graph only where the means or the noise require gradients."""
    results = []
    for law in laws:
        with torch.set_grad_enabled(torch.is_grad_enabled() and (law.mean.requires_grad or law.var.requires_grad)):
            results.append(function(law))
    return results


def mixed(laws: list[Law], function: Callable[[Law], Moments]) -> Moments:
    """Moments of a mixture, function(law) those of a part, by the law of total covariance."""
    parts = each(laws, function)
    if len(parts) == 1:
        return parts[0]
    mean = sum(law.weight * part.mean for law, part in zip(laws, parts))
    gaps = [(law.weight, part.cov, part.mean - mean) for law, part in zip(laws, parts)]
    return Moments(mean, sum(weight * (cov + gap[:, :, None] * gap[:, None]) for weight, cov, gap in gaps))


def noise(
    cov: float | torch.Tensor, mean: torch.Tensor, name: str = "inputs"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(variances, full (n, n) or None) of the input noise `cov` around mean (b, *shape), n = prod(shape).

    cov: a variance; variances (*shape) or, one map per input, (b, *shape); or a covariance (n, n), which is what an
    (n, n) array is taken for when both readings fit. The variances returned are (b, *shape), or (1, *shape) where the
    inputs share them. Raises ValueError for another shape, or negative or non-finite numbers.
    """
    _checks.batch(name, mean)
    cov = _checks.tensor("cov", cov).to(mean)
    _checks.finite("cov", cov)
    n = mean[0].numel()
    full = cov if cov.shape == (n, n) and n > 1 else None
    if full is None and cov.shape not in ((), mean.shape[1:], mean.shape):
        expected = f"(), {tuple(mean.shape[1:])}, {tuple(mean.shape)} or {(n, n)}"
        raise ValueError(f"cov: expected shape {expected}, got {tuple(cov.shape)}")
    var = cov if full is None else full.diagonal().reshape(mean.shape[1:])
    if (var < 0).any():
        raise ValueError(f"cov: variances must not be negative, got {var.min():g}")
    if full is not None:
        _checks.covariance("cov", full)
    return var.expand(mean.shape if var.ndim == mean.ndim else mean[:1].shape), full
