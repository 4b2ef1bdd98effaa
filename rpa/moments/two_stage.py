"""Output moments of a piecewise-linear network with Gaussian input, without sampling (P2), and their Monte Carlo check.

Start here: `affine_relu_affine` is exact for one hidden layer; `two_stage` is P2's two-stage linearization of a deep
network cut at one ReLU, y = first(x), f(x) = second(relu(y)); `layerwise` carries the moments through every layer.
Networks are `ReLUNetwork`s or torch modules in evaluation mode; inputs are a `Gaussian`, a `GaussianMixture`, or a
batch of means (b, *shape) with noise: a variance, variances per pixel or a full covariance, see
`rpa.moments.prepared.noise`. Everything is differentiable with respect to means and noise, except the max pooling of
`layerwise` with other rules than "diagonal".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from rpa import _check
from rpa.inputs import RandomInput
from rpa.moments import _checks, activation, relu
from rpa.moments.layerwise import MAX_DENSE, RULES
from rpa.moments.linearized import Stages, inner_jacobian, jacobian_at, pushed
from rpa.moments.prepared import Moments, as_module, noise, prepared, traced
from rpa.moments.sampling import monte_carlo as monte_carlo
from rpa.network import ReLUNetwork
from rpa.tracing.graph import fx_graph
from rpa.tracing.nonlinear import act
from rpa.tracing.parts import Cut, as_rows, as_values, size

ADJOINT = ("linear", "diagonal")  # rules that need no covariance of the units


def affine_relu_affine(
    A: torch.Tensor, c1: torch.Tensor, B: torch.Tensor, c2: torch.Tensor, mean: torch.Tensor, cov: float | torch.Tensor
) -> Moments:
    """Exact moments of B relu(A x + c1) + c2 for x ~ N(mean, cov) (P2's corollary, for any mean and covariance).

    A (m, d), c1 (m,), B (k, m), c2 (k,); mean (b, d); cov as in `noise` -> `Moments` (b, k), (b, k, k). Tensors of one
    type; lists and arrays are taken as float64.

    >>> one, zero = torch.eye(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    >>> found = affine_relu_affine(one, zero, one, zero, mean=zero[None], cov=1.0)  # relu of N(0, 1)
    >>> round(found.mean.item(), 6), round(found.var.item(), 6)  # 1 / sqrt(2 pi), 1/2 - 1 / (2 pi)
    (0.398942, 0.340845)
    """
    mean = _checks.tensor("mean", mean)
    var, full = noise(cov, mean, "mean")
    named = {"A": A, "c1": c1, "B": B, "c2": c2}
    A, c1, B, c2 = (_checks.tensor(name, value) for name, value in named.items())
    m, k = (value.numel() for value in (c1, c2))
    shapes = {"A": (m, mean.shape[-1]), "c1": (m,), "B": (k, m), "c2": (k,)}
    if mean.ndim != 2:
        raise ValueError(f"mean: expected shape (b, d), got {tuple(mean.shape)}")
    for (name, shape), value in zip(shapes.items(), (A, c1, B, c2)):
        if value.shape != shape or value.dtype != mean.dtype:
            found = f"{value.dtype} {tuple(value.shape)}"
            raise ValueError(f"{name}: expected {mean.dtype} as in mean, of shape {shape}, got {found}")
        _checks.finite(name, value)
    hidden = A @ full @ A.T if full is not None else (A * var[:, None]) @ A.T
    mu = mean @ A.T + c1
    inner = activation.covariance(mu, hidden.expand(len(mu), *hidden.shape[-2:]), None, "exact")
    var = hidden.diagonal(dim1=-2, dim2=-1).clamp(min=0).expand_as(mu)
    return Moments(relu.mean(mu, var) @ B.T + c2, B @ inner @ B.T)


def splits(net: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """[(first, second), ...]: the two stages of `net` at each of its ReLUs, input side first; weights are shared.

    Raises ValueError where a later layer reads more than one ReLU's output; `two_stage(net, ..., relu=i)` takes these.
    """
    recorded, root, _ = fx_graph(as_module(net))
    result = []
    for number in range(sum(node.target is act for node in recorded.nodes)):
        first, second = copy.deepcopy(recorded), copy.deepcopy(recorded)
        last, before = ([n for n in graph.nodes if n.target is act][number] for graph in (first, second))
        if last.args[1] != 0:
            raise ValueError(f"net: activation {number} is no ReLU; use two_stage(net, inputs, relu={number})")
        first.output_node().args = (last.args[0],)
        start = next(iter(second.nodes))
        with second.inserting_after(start):
            before.replace_all_uses_with(second.placeholder("q"))
        for graph in (first, second):
            graph.eliminate_dead_code(lambda each: each.op in ("placeholder", "output"))
        if start.users:
            raise ValueError(f"net: a layer behind ReLU {number} reads values before it; "
                             f"use two_stage(net, inputs, relu={number})")  # fmt: skip
        second.erase_node(start)
        result.append((fx.GraphModule(root, first).eval(), fx.GraphModule(root, second).eval()))
    return result


def two_stage_mean(
    net: nn.Module | ReLUNetwork,
    inputs: RandomInput | torch.Tensor,
    cov: float | torch.Tensor | None = None,
    *stage_arguments: Any,
    relu: int = 0,
    at: str = "point",
    input_shape: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """E[f(x)] (b, k), at the cost of about three forward passes and no Jacobian; arguments as in `two_stage`.

    The means mu and variances of y = first(x + noise) come from `first` linearized at x, the units of its layers
    taken as independent: exact when `first` is one affine part (only then may cov be a full covariance). Then E =
    second(p) + J_second(p) (E[relu(y)] - p), a Jacobian-vector product, with p = relu(mu) for at="point" (P2) and p
    = E[relu(y)], where the product vanishes, for at="mean".
    """
    if at not in ("point", "mean"):
        raise ValueError(f"at: expected 'point' or 'mean', got {at!r}")
    stages, law, _ = _prepared(net, inputs, cov, stage_arguments, relu, input_shape)
    with law.graph():
        mean = mean_of_stages(stages, law.mean, law.var, law.full, at)
    return mean if law.weights is None else (law.weights @ mean)[None]


def mean_of_stages(
    stages: Stages, x: torch.Tensor, var: torch.Tensor, full: torch.Tensor | None = None, at: str = "point"
) -> torch.Tensor:
    """`two_stage_mean` for means x (b, *shape) and noise as `rpa.moments.prepared.noise` returns it.

    Or for one mean and several noise levels: x (1, *shape) and var (b, *shape) share the noise-free pass.
    """
    mu, var = torch.broadcast_tensors(*_local_moments(stages, x, var, full))
    expected = activation.moments(mu, var, stages.cut.slope_vector(), accurate=mu.dtype == torch.float64)[0]
    if at == "mean":
        return stages.after(expected)
    point, shapes = stages.activated(mu[: len(x)]), stages.cut.shapes
    values, changes = pushed(stages.second, as_values(point, shapes), as_values(expected - point, shapes))
    return (values[0] + changes[0]).reshape(len(expected), -1)


def two_stage(
    net: nn.Module | ReLUNetwork,
    inputs: RandomInput | torch.Tensor,
    cov: float | torch.Tensor | None = None,
    *stage_arguments: Any,
    relu: int = 0,
    points: torch.Tensor | None = None,
    rule: str = "linear",
    outputs: Sequence[int] | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Moments:
    """P2's two-stage moments of f(x) = second(relu(first(x))): `Moments` (b, k), (b, k, k).

    net: a `ReLUNetwork` or a torch module, cut at its ReLU number `relu`. inputs: the law of x, a `Gaussian` or a
    `GaussianMixture` (b = 1; input_shape where the network takes no rows), or means (b, *shape) of b laws with
    covariance cov. Or, for stages at hand (see `splits`): two_stage(first, second, means, cov, points).

    first is linearized at the means, y ~ N(mu, J1 cov J1^T), and second at relu(mu): second(relu(mu)) + J2 (E[relu(y)]
    - relu(mu)) and J2 Cov[relu(y)] J2^T. points (p, *shape): linearize at the nearest of them instead; equal inputs,
    given with several noise levels, share Jacobians anyway. outputs: indices of the outputs wanted, default all. rule
    for Cov[relu(y)]: "exact"; "series", its first four terms; "linear", its first term with exact variances;
    "diagonal", independent units. Jacobians are constants to autograd, as they are almost everywhere.

    Cost: k + min(n, m) Jacobian products (n inputs, m units of y) per point or per different input. With "linear" and
    "diagonal" and one affine part before the ReLU, or more than 4096 units there, 2 k products and no J1; then
    deeper `first` have their variances as in `two_stage_mean`. Raises ValueError beyond 4096 units for the other rules
    and a full cov, and for points unless `first` is affine.
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    stages, law, points = _prepared(net, inputs, cov, stage_arguments, relu, input_shape, points)
    count = size(stages.second[-1].shapes)
    given = range(count) if outputs is None else _check.several("outputs", outputs)
    if not given:
        raise ValueError(f"outputs: expected indices from 0 to {count - 1}, got none")
    wanted = [_check.index("outputs", k.tolist() if hasattr(k, "tolist") else k, count) for k in given]
    return law.moments(_moments, stages, points, rule, wanted)


def _prepared(net, inputs, cov, stage_arguments, relu, input_shape, points=None):
    """(stages, law of the inputs, points)."""
    second = None
    if callable(inputs):
        second, inputs = as_module(inputs), cov
        cov, points = (*stage_arguments, points)[:2] if stage_arguments else (None, points)
    elif stage_arguments:
        raise ValueError(f"net, inputs, cov: expected no more without a name, got {len(stage_arguments)} more")
    net, law = prepared(net, inputs, cov, input_shape)
    if second is None:
        return Stages.of(net, relu), law, points
    shapes = net.parts[-1].shapes
    behind = traced(second, law.mean.new_zeros(shapes[0]), "first: its output")
    return Stages(net.parts, Cut(shapes, net.like, (0.0,)), behind.parts), law, points


def _moments(law, stages, points, rule, outputs):
    x, var, full, _ = law
    units = size(stages.cut.shapes)
    wide = full is not None and units * x[0].numel() > MAX_DENSE**2
    if units > MAX_DENSE and (rule not in ADJOINT or wide or (points is not None and not stages.affine)):
        only = f"only {ADJOINT}, without a full cov of so many inputs, and with points only if it is affine"
        raise ValueError(f"first: {units} units; above {MAX_DENSE} {only}")
    if points is None:
        points, places = torch.unique(x.detach(), dim=0, return_inverse=True)
    else:
        _checks.batch("points", points)
        if points.shape[1:] != x.shape[1:]:
            shape = ", ".join(map(str, x.shape[1:]))
            raise ValueError(f"points: expected shape (any, {shape}), got {tuple(points.shape)}")
        points = points.to(x).detach()
        apart = torch.cdist(x.detach().flatten(1), points.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        used, places = apart.argmin(1).unique(return_inverse=True)
        points = points[used]
    with torch.no_grad():
        inner = stages.before(points)
        start = stages.activated(inner)
    behind = *jacobian_at(stages.after, start, outputs), start
    slope = stages.cut.slope_vector()
    if rule in ADJOINT and full is None and (stages.affine or units > MAX_DENSE):
        # No Jacobian of `first`: products with it, of all inputs at once.
        mu, variances = torch.broadcast_tensors(*_local_moments(stages, x, var, None))
        response = lambda rows: _spread(_pulled(stages.before, x, rows), var.flatten(1), None)
        return _combined(slope, mu, variances, *(part[places] for part in behind), rule, response)
    found = Moments(x.new_zeros(len(x), len(outputs)), x.new_zeros(len(x), len(outputs), len(outputs)))
    jacobian_of = inner_jacobian(stages)
    for i, point in enumerate(points.split(1)):
        members = places == i
        with torch.no_grad():
            jacobian = jacobian_of(point)
        mu = inner[i] + (x[members] - point).flatten(1) @ jacobian.T
        own, cov = (part if part is None or len(part) == 1 else part[members] for part in (var.flatten(1), full))
        variances = own @ (jacobian**2).T if full is None else ((jacobian @ cov) * jacobian).sum(2).clamp(min=0)
        response = lambda rows: _spread(rows @ jacobian, own, cov)
        hidden = None if rule in ADJOINT else _spread(jacobian, own, cov).expand(len(mu), -1, -1)
        at_point = (part[i : i + 1] for part in behind)
        moments = _combined(slope, mu, variances.expand_as(mu), *at_point, rule, response, hidden)
        for result, part in zip(found, moments):
            result[members] = part
    return found


def _combined(slope, mu, var, value, outer, start, rule, response, hidden=None):
    """Moments of value + outer (act(y) - start) for y ~ N(mu, hidden), of variances var.

    outer (b or 1, k, m). response: rows (b, k, m) of coefficients of y to their covariances (b, k, k).
    """
    # In double precision of full relative accuracy, as all units may be in their tails.
    expected, rest, gain = activation.moments(mu, var, slope, accurate=mu.dtype == torch.float64)
    mean = value + (outer @ (expected - start)[..., None]).squeeze(-1)
    if hidden is not None:
        return Moments(mean, outer @ activation.covariance(mu, hidden, slope, rule) @ outer.mT)
    if rule == "diagonal":
        return Moments(mean, (outer * rest[:, None]) @ outer.mT)
    return Moments(mean, response(outer * gain[:, None]) + (outer * (rest - gain**2 * var)[:, None]) @ outer.mT)


def _local_moments(stages, x, var, full):
    """Mean and variances (b or 1, m) of y, first linearized at x, the units of every layer independent."""
    if full is None:
        rows = var if stages.affine or len(x) == 1 else var.expand_as(x)
        mu, var = pushed(stages.first, [x], [rows], squared=True)
        return as_rows(mu, stages.cut.shapes), as_rows(var, stages.cut.shapes)
    if not stages.affine:
        raise ValueError("cov: a full covariance needs one affine part before the ReLU here; see two_stage")
    jacobian = stages.first[0].matrix()
    return stages.before(x), ((jacobian @ full) * jacobian).sum(2).clamp(min=0)


def _spread(rows, var, full):
    """rows Cov[noise] rows^T (b or 1, k, k) for rows (..., k, n): variances (b or 1, n), or full covariances."""
    return rows @ full @ rows.mT if full is not None else (rows * var[:, None]) @ rows.mT


def _pulled(function, x, rows):
    """rows (b, k, m) times the Jacobian of the function at x, (b, k, n), differentiable in rows."""
    with torch.inference_mode(False):
        x = x.detach().clone().requires_grad_()
        y = function(x)
        products = [torch.autograd.grad(y, x, row, True, rows.requires_grad)[0] for row in rows.unbind(1)]
    return torch.stack(products, 1).flatten(2)
