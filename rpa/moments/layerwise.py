"""Gaussian moments carried through a network layer by layer: every pre-activation is taken as Gaussian.

Affine parts are exact. Activations use `rpa.moments.activation` and max pooling `rpa.moments.pooling`; both are right
for Gaussian units. Units of a layer stay correlated. Small layers hold their covariance dense. Large layers hold it as
factor^T factor + diag(rest): off the diagonal only the linear response to the input is kept, which is the first term of
the series of `relu.covariance_series`. The variances are those of the exact rule in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from rpa.inputs import RandomInput
from rpa.moments import activation, pooling
from rpa.moments.prepared import Moments, prepared
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
    passes of the network, in which variances of units deep in their tails keep an absolute accuracy, not a relative
    one. Max pooling keeps two terms with "exact" and "series". A layer of more than 4096 units keeps
    the linear term only. Exact for one hidden layer of at most 4096 units. Returns `Moments` in the type of
    the network. Raises ValueError naming a layer that is neither affine nor known, or the argument.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double().requires_grad_(False)
    >>> net[0].weight[:], net[0].bias[:] = 1.0, 0.0
    >>> round(layerwise(net, torch.zeros(1, 1, dtype=torch.float64), 1.0).var.item(), 6)  # 1/2 - 1 / (2 pi)
    0.340845
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    net, law = prepared(net, inputs, cov, input_shape, pool_first=True)
    return law.moments(_moments, net.parts, rule)


def _moments(law, parts, rule):
    mean, var, full, _ = law
    if rule == "diagonal":
        if full is not None and full.count_nonzero() > full.diagonal(dim1=1, dim2=2).count_nonzero():
            raise ValueError("cov: the diagonal rule takes a variance or variances, got a full covariance")
        mean, var = independent(parts, mean, var)
        return Moments(mean, torch.diag_embed(var))
    mean, var = mean.flatten(1), var.flatten(1)
    state = _State(mean, full)
    if full is None:
        state = _State(mean, None, var.new_zeros(1, 0, len(mean[0])), var.new_zeros(1, 0), var)
    if len(var) == 1:
        # Inputs with the same noise share the covariance up to the first layer that is not affine.
        state, parts = _affine(state, parts[0], rule), parts[1:]
    largest = max([state.mean.shape[1], *(size(part.shapes) for part in parts)])
    results, together = [], max(1, COVARIANCES // largest**2)
    for i in range(0, len(mean), together):
        cut = lambda part: None if part is None else part.expand(len(mean), *part.shape[1:])[i : i + together]
        some = _State(*map(cut, state))
        for part in parts:
            if isinstance(part, Affine):
                some = _affine(some, part, rule)
            else:
                if rule != "linear" and some.mean.shape[1] <= MAX_DENSE:
                    some = some.densified()
                some = (_max_pool if part.pool else _activate)(some, part, rule)
        results.append((some.mean, some.densified().dense))
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
            new = [activation.moments(*each)[:2] for each in zip(means, variances, part.slopes)]
            means = [m for m, _ in new] + means[len(new) :]
            variances = [v for _, v in new] + variances[len(new) :]
    return means[0].reshape(len(mean), -1), variances[0].reshape(len(mean), -1)


class _State(NamedTuple):
    """Mean (b, n) and covariance: dense (c, n, n), or else rows^T diag(weight) rows + diag(rest).

    rows (c, r, n), weight (c, r), rest (c, n); c is b, or 1 for what is common to all b inputs.
    """

    mean: torch.Tensor
    dense: torch.Tensor | None = None
    rows: Any = None
    weight: Any = None
    rest: Any = None

    @property
    def var(self):
        if self.dense is not None:
            return self.dense.diagonal(dim1=-2, dim2=-1).clamp(min=0)
        return self.rest + (self.weight[:, None] @ self.rows**2).squeeze(1)

    def densified(self):
        if self.dense is not None:
            return self
        return _State(self.mean, self.rows.mT @ (self.weight[..., None] * self.rows) + torch.diag_embed(self.rest))

    def with_variance(self, var):
        """The state whose units have, each on its own, what is missing to these variances."""
        # Rounding, and the cubature of a maximum, may leave a little less than nothing.
        rest = (var - self.var).clamp(min=0)
        if self.dense is None:
            return self._replace(rest=rest)
        return self._replace(dense=self.dense + torch.diag_embed(rest))


def _affine(state, part, rule):
    if part.inputs == part.outputs:
        return state
    mean = as_rows(part(as_values(state.mean, part.taken)), part.shapes)
    carry = lambda rows: as_rows(part.linear(as_values(rows.flatten(0, 1), part.taken)), part.shapes)
    through = lambda rows: carry(rows).unflatten(0, rows.shape[:2])
    n, m = state.mean.shape[1], mean.shape[1]
    if n > MAX_ROWS:
        raise ValueError(f"net: an affine part of {n} correlated inputs is too large; use rule='diagonal'")
    if state.dense is None:
        rest, one = state.rest, torch.ones_like(state.rest)
        # A root has no derivative at 0, a weight has.
        scale, own = (one, rest) if rest.requires_grad else (_without_denormals(rest.sqrt()), one)
        rows = torch.cat([state.rows.expand(len(rest), -1, -1), torch.diag_embed(scale)], 1)
        weight = torch.cat([state.weight.expand(len(rest), -1), own], 1)
    elif m <= MAX_DENSE:
        return _State(mean, through(through(state.dense).mT.contiguous()))
    else:
        values, vectors = torch.linalg.eigh(state.dense.detach())
        rows = (vectors * values.clamp(min=0).sqrt()[:, None]).mT
        if state.dense.requires_grad:
            # Roots have no derivative where eigenvalues are equal or 0; (e + d / 2e)^2 = d + ... has that of d = 0.
            largest = values.max()
            e = (RELATIVE_ZERO**2 * largest).where(largest > 0, torch.finfo(values.dtype).tiny ** 0.5).sqrt()
            rows = torch.cat([rows, e * torch.eye(n).to(rows) + (state.dense - state.dense.detach()) / (2 * e)], 1)
        weight = torch.ones_like(rows[..., 0])
    rows = through(rows)
    result = _State(mean, None, rows, weight, rows.new_zeros(1, m))
    # The next affine part takes every row of a factor, and those of a dense covariance twice.
    keep = m > MAX_DENSE or (rule == "linear" and rows.shape[1] < 2 * m)
    return result if keep else result.densified()


def _without_denormals(part):
    """Numbers >= 0, in any shape; 0 for those that are RELATIVE_ZERO times the largest at most."""
    return part.where(part > RELATIVE_ZERO * part.max(), 0.0)


def _activate(state, cut, rule):
    slope = cut.slope_vector()
    mean, var, gain = activation.moments(state.mean, state.var, slope, accurate=True)
    if state.dense is not None:
        return _State(mean, activation.covariance(state.mean, state.dense, slope, rule))
    gain = _without_denormals(gain) if slope is None else gain
    return state._replace(mean=mean, rows=state.rows * gain[:, None], rest=torch.zeros_like(mean)).with_variance(var)


def _max_pool(state, cut, rule):
    if torch.is_grad_enabled() and (state.mean.requires_grad or state.var.requires_grad):
        raise ValueError("net: max pooling has gradients with rule='diagonal' only")
    index = windows(cut)
    # What is carried is a window of one member.
    carried = torch.arange(size(cut.shapes[:1]), size(cut.shapes))[:, None].expand(-1, index.shape[1])
    index = torch.cat([torch.from_numpy(index), carried])
    first, second = index[:, :, None], index[:, None, :]
    if state.dense is not None:
        members = state.dense
        inside = members[:, first, second]
    else:
        members = state.rows.mT.contiguous()  # of weight 1, as there are no gradients
        own = members[:, index]
        inside = state.rest[:, index][..., None] * (first == second) + own @ own.mT
    top = pooling.maximum(state.mean[:, index], inside)
    # Covariances with all units (b, o, n), or the rows, of a combination of each window's members (b, o, w).
    along = partial(pooling.combine, members, index)
    cross = lambda rows, weights: pooling.combine(rows.mT, index, weights).mT
    if state.dense is not None:
        response = _State(top.mean, cross(along(top.gains), top.gains))
    else:
        rows = along(top.gains).mT
        response = _State(top.mean, None, rows, torch.ones_like(rows[..., 0]), torch.zeros_like(top.mean))
    if rule != "linear" and len(index) <= MAX_DENSE and members.numel():
        directions = [(d, along(d)) for d in top.directions.unbind(-1)]
        if state.dense is None:
            bend = pooling.second_order_local(top.curvatures[0], torch.cat([rows for _, rows in directions]))[None]
        else:
            bend = pooling.second_order(top.curvatures, lambda a, b: cross(directions[a][1], directions[b][0]))
        response = _State(top.mean, response.densified().dense + bend)
    return response.with_variance(top.var)
