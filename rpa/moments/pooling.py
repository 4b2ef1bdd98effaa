"""Maxima of jointly Gaussian variables, and the windows of max pooling.

A maximum is not Gaussian. `maximum` is cubature, for correlated variables; `maxima` folds ReLU moments, max(a, b) = b +
relu(a - b), in closed form, for all windows of a large layer of independent units at once.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch.nn import functional

from rpa.moments import activation
from rpa.tracing.conversion import pool_tables
from rpa.tracing.parts import Cut

ALIKE = 100  # roundings of an input's largest deviation by which moments of windows computed once may differ
CERTAIN_LEAD = 6.0  # a lead of so many deviations is never lost, nor do the points of the cubature reach farther
CUBATURES_AT_ONCE = 64  # windows whose cubature is done at once, to stay in cache
WINDOWS_AT_ONCE = 256  # windows whose shared inputs are looked for at once


def maxima(cut: Cut, mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(means, variances) of the maxima over the windows of a max pooling, units (b, c, ...) Gaussian and independent.

    Clark's fold (1961), max(x, y) = y + relu(x - y), along the first axis of each window, then along the second of
    these maxima. Exact for windows of two.
    """
    for dim, table in enumerate(pool_tables(cut), 2):
        members = [[v.index_select(dim, torch.from_numpy(column)) for v in (mean, var)] for column in table.T.clip(0)]
        top = members[0]
        for column, member in zip(table.T[1:], members[1:]):
            held = torch.from_numpy(column >= 0).reshape(-1, *[1] * (mean.ndim - 1 - dim))
            larger = _larger(*top, *member)
            top = larger if held.all() else [torch.where(held, *each) for each in zip(larger, top)]
        mean, var = top
    return mean, var


def _larger(a, var_a, b, var_b):
    """Mean and variance of the larger of two independent Gaussian variables."""
    gap = a - b
    mean, var, keep = activation.moments(gap, var_a + var_b)
    # The larger mean first: what is added to it is small, and it keeps its digits beside a lower one of any size.
    mean = torch.where(gap > 0, a + (mean - gap), b + mean)
    return mean, torch.addcmul(var + var_b, keep, var_b, value=-2).clamp(min=0)


class Maximum(NamedTuple):
    """Maxima of w variables: their mean and variance (...), and the expected derivatives of the maximum function.

    Gradient: gains (..., w). Hessian: D diag(curvatures) D^T, curvatures (..., w - 1), D = directions (..., w, w - 1);
    the direction left out, that of a common shift, has none.
    """

    mean: torch.Tensor
    var: torch.Tensor
    gains: torch.Tensor
    curvatures: torch.Tensor
    directions: torch.Tensor


def maximum(mean: torch.Tensor, cov: torch.Tensor) -> tuple:
    """The `Maximum` of jointly Gaussian variables, mean (..., w), cov (..., w, w), by cubature over their w dimensions.

    1024 Sobol points and their mirror images, whitened so that a maximum that is always the same variable is exact. The
    Hessian follows from Stein's lemma, E[grad^2 f(z)] = E[f(z) (z z^T - I)], in coordinates where the law is standard.
    """
    rows, squares = mean.reshape(-1, mean.shape[-1]).double(), cov.expand(*mean.shape, -1).flatten(0, -3).double()
    # One of each group of windows that are alike: on a flat background most are.
    eps = torch.finfo(mean.dtype).eps
    deviations = squares.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    sizes = torch.cat([eps * rows.abs(), deviations], 1).reshape(len(mean), -1).amax(1)
    scale = sizes.where(sizes > 0, 1.0).min()  # of the quietest input; without noise, what rounding leaves
    key = torch.cat([rows / scale, (squares / scale / scale).flatten(1)], 1)
    groups, back = key.div(ALIKE * eps).round().unique(dim=0, return_inverse=True)
    first = back.new_zeros(len(groups)).scatter_reduce(0, back, torch.arange(len(back)), "amin", include_self=False)
    rows, squares = rows[first], squares[first]
    # Cubature where the winner is not certain.
    var = squares.diagonal(dim1=-2, dim2=-1)
    highest, winner = rows.max(-1, keepdim=True)
    row = squares.gather(-2, winner[..., None].expand(-1, 1, rows.shape[-1])).squeeze(-2)
    spread = (var.gather(-1, winner) + var - 2 * row).clamp(min=0).sqrt()
    open_ = (highest - rows < CERTAIN_LEAD * spread).any(-1).nonzero().squeeze(1)
    bends = torch.zeros_like(rows[:, 1:]), torch.zeros_like(squares[..., 1:])
    gains = functional.one_hot(winner.squeeze(-1), rows.shape[-1]).to(rows)
    found = [highest.squeeze(-1), var.gather(-1, winner).squeeze(-1), gains, *bends]
    for part in open_.split(CUBATURES_AT_ONCE) if len(open_) else ():
        for whole, value in zip(found, _cubature(rows[part], squares[part], mean.dtype)):
            whole[part] = value.to(whole)
    return Maximum(*(part[back].unflatten(0, mean.shape[:-1]).to(mean.dtype) for part in found))


def _cubature(mean, cov, dtype):
    """The fields of `Maximum` for mean (n, w), cov (n, w, w), float64; the points in `dtype`."""
    values, vectors = torch.linalg.eigh(cov)
    scale = torch.where(values > 1e-12 * values[..., -1:], values, 0.0).sqrt()
    points = _normal_points(mean.shape[-1]).to(dtype)
    highest = mean.max(-1, keepdim=True).values
    members = (vectors * scale[..., None, :]).to(dtype) @ points + (mean - highest).to(dtype)[..., None]
    top = members.amax(-2)
    # Of equal members the first wins.
    open_, wins = torch.ones_like(top, dtype=torch.bool), []
    for member in members.unbind(-2):
        below = member < top
        wins.append((open_ & ~below).count_nonzero(-1))
        open_ &= below
    gains = torch.stack(wins, -1).double() / points.shape[1]
    centre = top.mean(-1, keepdim=True)
    away = top - centre
    products = (points[:, None] * points).flatten(0, 1)
    hessian = (away @ products.T / points.shape[1]).unflatten(-1, [len(points)] * 2)
    curvatures, axes = torch.linalg.eigh(hessian.double())
    directions = vectors * torch.where(scale > 0, 1 / scale, 0.0)[..., None, :] @ axes
    return (centre + highest).squeeze(-1), away.square().mean(-1), gains, curvatures[..., 1:], directions[..., 1:]


@lru_cache
def _normal_points(dim):
    """Points (dim, 2048) with mean 0 and covariance exactly the identity."""
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(1024, dtype=torch.float64)
    z = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).T
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z @ z.T / 1024), z, upper=False)
    return torch.cat([z, -z], 1)


def second_order(curvatures: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
    """What maxima share through their curvature, tr(H_i S_ij H_j S_ji) / 2, S_ij the covariance of their members.

    curvatures (b, o, a); cross(a, b): the covariances (b, o, o) of the windows' members along directions a and b.
    The next term of the expansion in expected derivatives of which the linear response is the first.
    """
    total = 0.0
    for a in range(curvatures.shape[-1]):
        for b in range(a, curvatures.shape[-1]):
            term = curvatures[..., :, None, a] * cross(a, b) ** 2 * curvatures[..., None, :, b] / 2
            total = total + (term if a == b else term + term.mT)
    return total


def second_order_local(curvatures: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`second_order` where the members of a window respond to few of r independent inputs: rows (a, o, r) -> (o, o).

    curvatures (o, a). Windows are taken in the order of their first input, in blocks; blocks that share no input are
    uncorrelated.
    """
    used = (rows != 0).any(0)
    order = used.byte().argmax(1).argsort(stable=True)
    rows, curvatures, used = rows[:, order], curvatures[order].T, used[order]
    parts = [slice(start, start + WINDOWS_AT_ONCE) for start in range(0, len(order), WINDOWS_AT_ONCE)]
    inputs = [used[part].any(0) for part in parts]
    total = rows.new_zeros(len(order), len(order))
    for i, one in enumerate(parts):
        for j in range(i, len(parts)):
            shared = (inputs[i] & inputs[j]).nonzero().squeeze(1)
            if len(shared):
                other = parts[j]
                left, right = (rows[:, part][..., shared].flatten(0, 1) for part in (one, other))
                cross = (left @ right.T).square_().unflatten(0, (len(rows), -1))
                cross = (cross * curvatures[:, one, None]).sum(0).unflatten(1, (len(rows), -1))
                total[one, other] = (cross * curvatures[:, other]).sum(1) / 2
                total[other, one] = total[one, other].T
    back = order.argsort()
    return total[back[:, None], back]


def combine(members: torch.Tensor, windows: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """members (b, n, r) -> (b, o, r): the rows of those in each window (o, w) weighted by its gains (b, o, w)."""
    total = partial(functional.embedding_bag, windows, mode="sum")
    rows = members.expand(len(gains), -1, -1)
    return torch.stack([total(each, per_sample_weights=own) for each, own in zip(rows, gains)])
