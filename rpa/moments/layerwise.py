"""Gaussian moments carried through a network layer by layer: every pre-activation is taken as Gaussian.

Affine layers are exact. ReLU uses `rpa.moments.relu` and max pooling `rpa.moments.pooling`; both are right for Gaussian
units. Units of a layer stay correlated. Small layers hold their covariance dense. Large layers hold it as factor^T
factor + diag(rest): off the diagonal only the linear response to the input is kept, which is the first term of the
series of `relu.covariance_series`. The variances are those of the exact rule in both cases.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rpa import _check
from rpa.moments import _checks, pooling, relu
from rpa.moments.modules import as_sequential, check_evaluable, pool_first

__all__ = ["Moments", "layerwise", "linear_part", "noise"]

MAX_ROWS = 16384  # a layer's independent noise enters the next affine layer as one row per unit
NOTHING = 1e-16  # beside 1; less, squared, is soon a denormal number in single precision, which takes ten times as long
NONLINEAR = (nn.ReLU, nn.MaxPool2d)
RULES = ("exact", "series", "linear", "diagonal")


class Moments(NamedTuple):
    """Means (b, k) and covariances (b, k, k) of the outputs of a network, for b inputs."""

    mean: torch.Tensor
    cov: torch.Tensor

    @property
    def var(self) -> torch.Tensor:
        """Variances (b, k)."""
        return self.cov.diagonal(dim1=-2, dim2=-1)


def layerwise(
    net: nn.Module, mean: torch.Tensor, cov: float | torch.Tensor, rule: str = "exact", *, max_dense: int = 4096
) -> Moments:
    """Moments of net(x), x ~ N(mean[i], cov), by moment matching after every layer.

    net: Sequential, AlexNet or SqueezeNet of Linear, Conv2d, ReLU, Max/Avg/AdaptiveAvgPool2d, Flatten, Dropout
    (evaluated). mean (b, *shape); cov: see `noise`. rule for the covariance of ReLU units: "exact"; "series", its
    first four terms; "linear", its first term (the diagonal exact); "diagonal", units independent in all layers:
    two passes of the network. Max pooling keeps two terms with "exact" and "series". A layer of more than max_dense
    units keeps the linear term only. Exact for one hidden layer of at most max_dense units. Returns `Moments` in the
    type of `mean`. Raises ValueError naming an unknown layer or rule.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double().requires_grad_(False)
    >>> net[0].weight[:], net[0].bias[:] = 1.0, 0.0
    >>> round(layerwise(net, torch.zeros(1, 1, dtype=torch.float64), 1.0).var.item(), 6)  # 1/2 - 1 / (2 pi)
    0.340845
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    max_dense = _check.integer("max_dense", max_dense)
    var, full = noise(cov, mean)
    check_evaluable(net, mean, "mean")
    layers = pool_first(as_sequential(net))
    if rule == "diagonal" and full is not None:
        raise ValueError("cov: the diagonal rule takes a variance or variances, got a full covariance")
    if rule == "diagonal":
        state = _State(mean, diag=var)
        for layer in layers:
            state = _through(layer, state, rule, max_dense)
        return Moments(state.mean.flatten(1), torch.diag_embed(state.var.flatten(1)))
    # Inputs with the same noise share the covariance up to the first layer that is not affine.
    common = full is not None or var.stride(0) == 0
    prefix = next((i for i, layer in enumerate(layers) if isinstance(layer, NONLINEAR)), len(layers)) if common else 0
    start = _State(mean, diag=var[:1] if common else var, dense=None if full is None else full[None])
    for layer in layers[:prefix]:
        start = _through(layer, start, rule, max_dense)
    results = []
    for i in range(len(mean)):
        state = start.input(i)
        for layer in layers[prefix:]:
            state = _through(layer, state, rule, max_dense)
        results.append((state.mean.flatten(1), _densified(state).dense))
    return Moments(*(torch.cat(parts) for parts in zip(*results)))


def noise(cov: float | torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(variances (b, *shape), full (n, n) or None) of the input noise `cov` around mean (b, *shape), n = prod(shape).

    cov: a variance; variances (*shape) or, one map per input, (b, *shape); or a covariance (n, n), which is what an
    (n, n) array is taken for when both readings fit. Raises ValueError for another shape, or negative or non-finite
    numbers.
    """
    _checks.batch("mean", mean)
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
    return var.expand(mean.shape), full


@dataclass(frozen=True)
class _State:
    """Mean (b, *shape) and covariance: dense (c, n, n), or else factor (c, r, *shape) (or None) and diag (c, *shape).

    c is b, or 1 for a covariance common to all b inputs.
    """

    mean: torch.Tensor
    factor: torch.Tensor | None = None
    diag: torch.Tensor | None = None
    dense: torch.Tensor | None = None

    @property
    def var(self):
        if self.dense is not None:
            return self.dense.diagonal(dim1=-2, dim2=-1).unflatten(1, self.mean.shape[1:])
        return self.diag if self.factor is None else self.diag + (self.factor**2).sum(1)

    def input(self, i):
        parts = (self.factor, self.diag, self.dense)
        parts = (None if p is None else p[i : i + 1] if len(p) > 1 else p for p in parts)
        return _State(self.mean[i : i + 1], *parts)


def _densified(state):
    if state.dense is not None:
        return state
    if state.factor is None:
        return _State(state.mean, dense=torch.diag_embed(state.diag.flatten(1)))
    rows = state.factor.flatten(2)
    return _State(state.mean, dense=_with_diagonal(rows.mT @ rows, state.diag))


def _with_diagonal(cov, diag):
    """cov (b, n, n), changed, with diag (b, *shape) added to its diagonal: large matrices are not copied."""
    cov.diagonal(dim1=-2, dim2=-1).add_(diag.flatten(1))
    return cov


def _through(layer, state, rule, max_dense):
    if isinstance(layer, nn.ReLU):
        return _relu(state, rule, max_dense)
    if isinstance(layer, nn.MaxPool2d):
        return _max_pool(state, layer, rule, max_dense)
    if isinstance(layer, nn.Flatten):
        factor, diag = state.factor, state.diag
        factor, diag = None if factor is None else factor.flatten(2), None if diag is None else diag.flatten(1)
        return replace(state, mean=layer(state.mean), factor=factor, diag=diag)
    if isinstance(layer, (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        return _affine(state, layer, rule, max_dense)
    raise ValueError(f"net: layer {type(layer).__name__} has no moment rule")


def linear_part(layer: nn.Module, x: torch.Tensor, power: int = 1) -> torch.Tensor:
    """The layer without its bias, its coefficients raised to `power` (2 carries variances of independent units)."""
    if isinstance(layer, nn.Linear):
        return functional.linear(x, layer.weight**power)
    if isinstance(layer, nn.Conv2d):
        pad = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
        options = (layer.stride, pad, layer.dilation, layer.groups)
        # In this memory layout many rows take half the time; the result has the usual one.
        x = x.contiguous(memory_format=torch.channels_last) if len(x) > 1 else x
        return functional.conv2d(x, layer.weight**power, None, *options).contiguous()
    if not isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        raise ValueError(f"net: expected only affine layers and ReLU or MaxPool2d here, got {type(layer).__name__}")
    if pooling.pair(getattr(layer, "padding", 0)) != (0, 0):
        raise ValueError(f"net: {type(layer).__name__} with padding has no moment rule")
    return layer(x) if power == 1 else layer(x) / _window_size(layer, x.shape[-2:])


def _window_size(layer, size):
    """Members of each averaging window of a plane of `size`."""
    if isinstance(layer, nn.AvgPool2d):
        kernel = pooling.pair(layer.kernel_size)
        return kernel[0] * kernel[1]
    planes = layer(torch.zeros(1, 1, *size)).shape[-2:]
    ends = [[(math.ceil((i + 1) * n / m) - i * n // m) for i in range(m)] for n, m in zip(size, planes)]
    return torch.tensor(ends[0])[:, None] * torch.tensor(ends[1])


def _rows(layer, rows):
    """The linear part applied to rows (b, r, *shape)."""
    return linear_part(layer, rows.flatten(0, 1)).unflatten(0, rows.shape[:2])


def _affine(state, layer, rule, max_dense):
    mean = layer(state.mean)
    if rule == "diagonal":
        return _State(mean, diag=linear_part(layer, state.diag, 2))
    shape, n, m = state.mean.shape[1:], state.mean[0].numel(), mean[0].numel()
    if n > MAX_ROWS:
        raise ValueError(f"net: {type(layer).__name__} of {n} correlated inputs is too large; use rule='diagonal'")
    if m <= max_dense and not (rule == "linear" and _shorter_as_factor(state, m)):
        half = _rows(layer, _densified(state).dense.unflatten(2, shape)).flatten(2)
        return _State(mean, dense=_rows(layer, half.mT.unflatten(2, shape)).flatten(2))
    rows = state.factor
    if state.dense is not None:
        values, vectors = torch.linalg.eigh(state.dense)
        rows = (vectors * values.clamp(min=0).sqrt()[:, None]).mT.unflatten(2, shape)
    elif rows is None or state.diag.any():
        independent = torch.diag_embed(_without_nothing(state.diag.flatten(1).sqrt())).unflatten(2, shape)
        rows = independent if rows is None else torch.cat([rows, independent], 1)
    rows = _rows(layer, rows)
    return _State(mean, factor=rows, diag=torch.zeros_like(rows[:, 0]))


def _shorter_as_factor(state, units):
    """Whether the factor has fewer rows than a layer of so many units; never with gradients, which roots may lack."""
    parts = [part for part in (state.mean, state.factor, state.diag) if part is not None]
    held = 0 if state.factor is None else state.factor.shape[1]
    return state.dense is None and held < units and not any(part.requires_grad for part in parts)


def _without_nothing(part):
    """Numbers >= 0, in any shape; those that are NOTHING beside the largest of all become 0."""
    return part.where(part > NOTHING * part.max(), 0.0)


def _relu(state, rule, max_dense):
    mu, var = state.mean, state.var
    mean, variance = relu.mean(mu, var), relu.variance(mu, var)
    if rule == "diagonal":
        return _State(mean, diag=variance)
    if state.dense is None and rule != "linear" and mu[0].numel() <= max_dense:
        state = _densified(state)
    if state.dense is not None:
        flat = mu.flatten(1)
        return _State(mean, dense=_relu_covariance(flat, state.dense, rule))
    factor = None if state.factor is None else state.factor * _without_nothing(relu.gain(mu, var))[:, None]
    return _rest(mean, variance, factor)


def _relu_covariance(mu, cov, rule):
    if rule == "exact":
        return relu.covariance(mu, cov)
    return relu.covariance_series(mu, cov, 4 if rule == "series" else 1)


def _rest(mean, variance, factor):
    """factor^T factor with the diagonal made up to `variance`, of which it is a part but for rounding."""
    rest = variance if factor is None else (variance - (factor**2).sum(1)).clamp(min=0)
    return _State(mean, factor=factor, diag=rest)


def _max_pool(state, layer, rule, max_dense):
    pooled = layer(state.mean).shape
    windows = pooling.windows_of(layer, state.mean.shape, pooled)
    members = _members(state)
    inside = state.mean.flatten(1)[:, windows], _window_covariance(state, windows, members)
    if rule == "diagonal":
        mean, variance, _ = pooling.clark(*inside)
        return _State(mean.reshape(pooled), diag=variance.reshape(pooled))
    top = pooling.maximum(*inside)
    mean, none = top.mean.reshape(pooled), torch.zeros_like(top.mean).reshape(pooled)
    along = partial(_along, members, windows)
    if state.dense is not None:
        response = _State(mean, dense=_cross(windows, along(top.gains), top.gains))
    else:
        factor = along(top.gains)
        response = _State(mean, factor=None if factor is None else factor.mT.unflatten(2, pooled[1:]), diag=none)
    if rule != "linear" and len(windows) <= max_dense and members is not None:
        directions = [(d, along(d)) for d in top.directions.unbind(-1)]
        if state.dense is None:
            bend = pooling.second_order_local(top.curvatures[0], torch.cat([rows for _, rows in directions]))[None]
        else:
            cross = lambda a, b: _cross(windows, directions[a][1], directions[b][0])
            bend = pooling.second_order(top.curvatures, cross)
        response = _State(mean, dense=_densified(response).dense + bend)
    # What neither term explains is each maximum's own; rounding and the cubature may leave a little less than nothing.
    rest = (top.var.reshape(pooled) - response.var).clamp(min=0)
    if response.dense is None:
        return replace(response, diag=rest)
    return replace(response, dense=_with_diagonal(response.dense, rest))


def _members(state):
    """The covariance (b, n, n) or the factor (b, n, r), a row for each unit: whole rows are gathered quickly."""
    return state.dense if state.factor is None else state.factor.flatten(2).mT.contiguous()


def _along(members, windows, weights):
    """Covariance with all units (b, o, n), or the factor, of a combination of each window's members (b, o, w)."""
    return None if members is None else pooling.combine(members.expand(len(weights), -1, -1), windows, weights)


def _cross(windows, along, weights):
    """Covariances (b, o, o) between two combinations of the windows' members: `_along` of one, weights of the other."""
    return pooling.combine(along.mT, windows, weights).mT


def _window_covariance(state, windows, members):
    """Covariances (b, o, w, w) within each window (o, w) of flat positions."""
    first, second = windows[:, :, None], windows[:, None, :]
    if state.dense is not None:
        return state.dense[:, first, second]
    cov = state.diag.flatten(1)[:, windows][..., None] * (first == second)
    if members is not None:
        inside = members[:, windows]
        cov = cov + inside @ inside.mT
    return cov
