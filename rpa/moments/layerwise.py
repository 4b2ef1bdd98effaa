"""Gaussian moments carried through a network layer by layer: every pre-activation is taken as Gaussian.

Affine parts are exact. Activations use `rpa.moments.activation` and max pooling `rpa.moments.pooling`; both are right
for Gaussian units. Units of a layer stay correlated. Small layers hold their covariance dense. Large layers hold it as
factor^T factor + diag(rest): off the diagonal only the linear response to the input is kept, which is the first term of
the series of `relu.covariance_series`. The variances are those of the exact rule in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from rpa.inputs import RandomInput
from rpa.moments import activation, pooling
from rpa.moments.prepared import Moments, mixed, prepared
from rpa.network import ReLUNetwork
from rpa.tracing.conversion import windows
from rpa.tracing.parts import Affine, Cut, as_rows, as_values, size

MAX_ROWS = 16384  # a layer's independent noise enters the next affine part as one row per unit
MAX_DENSE = 4096  # units of which a full covariance is held
COVARIANCES = 2**20  # numbers in the covariances of a layer that are worked on at once: inputs times units^2
RELATIVE_ZERO = 1e-16  # smaller factors are set to 0: their squares are denormal numbers, which are slow
RULES = ("exact", "series", "linear", "diagonal")


def layerwise(
    net: nn.Module | ReLUNetwork,
    inputs: RandomInput | torch.Tensor,
    cov: float | torch.Tensor | None = None,
    rule: str = "exact",
    *,
    input_shape: tuple[int, ...] | None = None,
) -> Moments:
    """Moments of net(x) by moment matching after every layer.

    net: a `ReLUNetwork`, or a torch module of affine layers, piecewise-linear activations and max pooling. inputs: the
    law of x, a `Gaussian` or `GaussianMixture` (b = 1; input_shape where the network takes no rows); or means (b,
    *shape) of b laws with covariance cov, see `noise`. rule for the covariance of activations: "exact"; "series", its
    first four terms; "linear", its first term (the diagonal exact); "diagonal", units independent in all layers: two
    passes of the network. Max pooling keeps two terms with "exact" and "series". A layer of more than 4096 units keeps
    the linear term only. Exact for one hidden layer of at most 4096 units. Returns `Moments` in the type of
    the network. Raises ValueError naming a layer that is neither affine nor known, or the argument.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double().requires_grad_(False)
    >>> net[0].weight[:], net[0].bias[:] = 1.0, 0.0
    >>> round(layerwise(net, torch.zeros(1, 1, dtype=torch.float64), 1.0).var.item(), 6)  # 1/2 - 1 / (2 pi)
    0.340845
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    net, laws = prepared(net, inputs, cov, input_shape, pool_first=True)
    return mixed(laws, lambda law: _moments(net.parts, law, rule))


def _moments(parts, law, rule):
    _, mean, var, full = law
    if rule == "diagonal":
        if full is not None and full.count_nonzero() > full.diagonal().count_nonzero():
            raise ValueError("cov: the diagonal rule takes a variance or variances, got a full covariance")
        mean, var = independent(parts, mean, var)
        return Moments(mean, torch.diag_embed(var))
    start = _State(mean.flatten(1), var.new_zeros(len(var), 0, var[0].numel()), var.flatten(1))
    start = start if full is None else _State(start.mean, dense=full[None])
    if len(var) == 1:
        # Inputs with the same noise share the covariance up to the first layer that is not affine.
        start, parts = _through(parts[0], start, rule), parts[1:]
    largest = max([start.mean.shape[1], *(size(part.shapes) for part in parts)])
    results, together = [], max(1, COVARIANCES // largest**2)
    for i in range(0, len(mean), together):
        state = start.inputs(slice(i, i + together))
        for part in parts:
            state = _through(part, state, rule)
        results.append((state.mean, _densified(state).dense))
    return Moments(*(torch.cat(column) for column in zip(*results)))


def independent(
    parts: Sequence[Affine | Cut], mean: torch.Tensor, var: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(means, variances) (b, k) behind the parts, for inputs of mean and var (b, *shape); all units independent."""
    means, variances = [mean], [var.expand_as(mean)]
    for part in parts:
        if isinstance(part, Affine):
            means, variances = part(means), part.squared(variances)
        elif part.pool:
            top, spread = pooling.maxima(part, means[0], variances[0])
            means, variances = [top, *means[1:]], [spread, *variances[1:]]
        else:
            new = [activation.moments(*each) for each in zip(means, variances, part.slopes)]
            means = [m for m, _ in new] + means[len(new) :]
            variances = [v for _, v in new] + variances[len(new) :]
    return means[0].reshape(len(mean), -1), variances[0].reshape(len(mean), -1)


@dataclass(frozen=True)
class _State:
    """Mean (b, n) and covariance: dense (c, n, n), or else factor (c, r, n) and diag (c, n).

    c is b, or 1 for a covariance common to all b inputs.
    """

    mean: torch.Tensor
    factor: torch.Tensor | None = None
    diag: torch.Tensor | None = None
    dense: torch.Tensor | None = None

    @property
    def var(self):
        if self.dense is not None:
            return self.dense.diagonal(dim1=-2, dim2=-1).clamp(min=0)
        return self.diag + (self.factor**2).sum(1)

    def inputs(self, some):
        each = lambda part: None if part is None else part.expand(len(self.mean), *part.shape[1:])[some]
        return _State(self.mean[some], *map(each, (self.factor, self.diag, self.dense)))


def _densified(state):
    if state.dense is not None:
        return state
    return _State(state.mean, dense=state.factor.mT @ state.factor + torch.diag_embed(state.diag))


def _through(part, state, rule):
    if isinstance(part, Affine):
        return _affine(state, part, rule)
    if rule != "linear" and state.mean.shape[1] <= MAX_DENSE:
        state = _densified(state)
    return (_max_pool if part.pool else _activate)(state, part, rule)


def _affine(state, part, rule):
    if part.inputs == part.outputs:
        return state
    mean = as_rows(part(as_values(state.mean, part.taken)), part.shapes)
    carry = lambda rows: as_rows(part.linear(as_values(rows.flatten(0, 1), part.taken)), part.shapes)
    through = lambda rows: carry(rows).unflatten(0, rows.shape[:2])
    n, m = state.mean.shape[1], mean.shape[1]
    if n > MAX_ROWS:
        raise ValueError(f"net: an affine part of {n} correlated inputs is too large; use rule='diagonal'")
    # With the linear rule a factor may be shorter than a dense covariance; its roots lack gradients.
    shorter = rule == "linear" and state.dense is None and (state.factor.shape[1] or n) < m
    if m <= MAX_DENSE and not (shorter and not state.var.requires_grad):
        half = through(_densified(state).dense)
        return _State(mean, dense=through(half.mT.contiguous()))
    rows = state.factor
    if state.dense is not None:
        values, vectors = torch.linalg.eigh(state.dense.detach())
        rows = (vectors * values.clamp(min=0).sqrt()[:, None]).mT
        if state.dense.requires_grad:
            # Roots have no derivative where eigenvalues are equal or 0; (e + d / 2e)^2 = d + ... has that of d = 0.
            change, e = state.dense - state.dense.detach(), _next_to_nothing(values).sqrt()
            rows = torch.cat([rows, e * torch.eye(n).to(rows) + change / (2 * e)], 1)
    elif state.diag.requires_grad:
        rows = torch.cat([rows, torch.diag_embed((state.diag + _next_to_nothing(state.diag)).sqrt())], 1)
    elif state.diag.any():
        rows = torch.cat([rows, torch.diag_embed(_without_denormals(state.diag.sqrt()))], 1)
    rows = through(rows)
    return _State(mean, rows, rows.new_zeros(len(rows), m))


def _next_to_nothing(variances):
    """A positive variance that is too small to change any of these."""
    largest = variances.detach().max()
    return (RELATIVE_ZERO**2 * largest).where(largest > 0, torch.finfo(variances.dtype).tiny ** 0.5)


def _without_denormals(part):
    """Numbers >= 0, in any shape; 0 for those that are RELATIVE_ZERO times the largest at most."""
    return part.where(part > RELATIVE_ZERO * part.max(), 0.0)


def _activate(state, cut, rule):
    slope, mu, var = cut.slope_vector(), state.mean, state.var
    mean = activation.mean(mu, var, slope)
    if state.dense is not None:
        return _State(mean, dense=activation.covariance(mu, state.dense, slope, rule))
    gain = activation.gain(mu, var, slope)
    gain = _without_denormals(gain) if slope is None else gain
    factor = state.factor * gain[:, None]
    # What the linear response does not explain is each unit's own.
    rest = (activation.variance(mu, var, slope) - (factor**2).sum(1)).clamp(min=0)
    return _State(mean, factor, rest)


def _max_pool(state, cut, rule):
    if torch.is_grad_enabled() and (state.mean.requires_grad or state.var.requires_grad):
        raise ValueError("net: max pooling has gradients with rule='diagonal' only")
    index = windows(cut)
    # What is carried is a window of one member.
    carried = torch.arange(size(cut.shapes[:1]), size(cut.shapes))[:, None].expand(-1, index.shape[1])
    index = torch.cat([torch.from_numpy(index), carried])
    members = state.factor.mT.contiguous() if state.dense is None else state.dense
    top = pooling.maximum(state.mean[:, index], _window_covariance(state, index, members))
    along = partial(_along, members, index)
    if state.dense is not None:
        response = _State(top.mean, dense=_cross(index, along(top.gains), top.gains))
    else:
        response = _State(top.mean, along(top.gains).mT, torch.zeros_like(top.mean))
    if rule != "linear" and len(index) <= MAX_DENSE and members.numel():
        directions = [(d, along(d)) for d in top.directions.unbind(-1)]
        if state.dense is None:
            bend = pooling.second_order_local(top.curvatures[0], torch.cat([rows for _, rows in directions]))[None]
        else:
            cross = lambda a, b: _cross(index, directions[a][1], directions[b][0])
            bend = pooling.second_order(top.curvatures, cross)
        response = _State(top.mean, dense=_densified(response).dense + bend)
    # What neither term explains is each maximum's own; rounding and the cubature may leave a little less than nothing.
    rest = (top.var - response.var).clamp(min=0)
    if response.dense is None:
        return replace(response, diag=rest)
    return replace(response, dense=response.dense + torch.diag_embed(rest))


def _along(members, index, weights):
    """Covariance with all units (b, o, n), or the factor, of a combination of each window's members (b, o, w)."""
    return pooling.combine(members.expand(len(weights), -1, -1), index, weights)


def _cross(index, along, weights):
    """Covariances (b, o, o) between two combinations of the windows' members: `_along` of one, weights of the other."""
    return pooling.combine(along.mT, index, weights).mT


def _window_covariance(state, index, members):
    """Covariances (b, o, w, w) within each window (o, w) of flat positions."""
    first, second = index[:, :, None], index[:, None, :]
    if state.dense is not None:
        return state.dense[:, first, second]
    inside = members[:, index]
    return state.diag[:, index][..., None] * (first == second) + inside @ inside.mT
