"""Output moments of a piecewise-linear network with Gaussian input, without sampling (P2), and their Monte Carlo check.

Start here: `affine_relu_affine` is exact for one hidden layer; `two_stage` is P2's two-stage linearization of a deep
network cut at one ReLU, y = first(x), f(x) = second(relu(y)); `layerwise` carries the moments through every layer.
Networks are torch modules in evaluation mode, inputs come in batches (b, *shape), and noise is a variance, variances
per pixel or a full covariance, see `rpa.moments.layerwise.noise`. Everything is differentiable with respect to means
and noise.
"""

import operator
from collections.abc import Sequence

import torch
from torch import nn

from rpa import _check
from rpa.moments import _checks, relu
from rpa.moments.jacobians import inner_jacobian, jacobian_at, pull_back, push_forward, pushed
from rpa.moments.layerwise import Moments, noise
from rpa.moments.modules import as_sequential, check_evaluable
from rpa.moments.sampling import Estimate, monte_carlo

__all__ = ["Estimate", "affine_relu_affine", "centres", "monte_carlo", "splits", "two_stage", "two_stage_mean"]

MAX_DENSE = 4096  # units of which a full covariance is held
ADJOINT = ("linear", "diagonal")
RULES = ("exact", "series", "linear", "diagonal", "zero_mean")


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
    var, full = noise(cov, mean)
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
    inner = relu.covariance(mu, hidden.expand(len(mu), *hidden.shape[-2:]))
    return Moments(relu.mean(mu, hidden.diagonal(dim1=-2, dim2=-1).expand_as(mu)) @ B.T + c2, B @ inner @ B.T)


def splits(net: nn.Module) -> list[tuple[nn.Sequential, nn.Sequential]]:
    """[(first, second), ...]: the two stages of `net` at each of its ReLUs, input side first; layers are shared."""
    check_evaluable(net)
    layers = list(as_sequential(net))
    cuts = [i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    return [(nn.Sequential(*layers[:i]), nn.Sequential(*layers[i + 1 :])) for i in cuts]


def centres(x: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """k-means centres (count, *shape) of the inputs x (b, *shape), for `two_stage(..., points=...)` (scikit-learn)."""
    from sklearn.cluster import KMeans

    _checks.batch("x", x)
    count, seed = _check.integer("count", count, 1), _check.integer("seed", seed)
    if len(x) < count:
        raise ValueError(f"x: expected at least count = {count} inputs, got {len(x)}")
    fit = KMeans(count, n_init=1, random_state=seed).fit(x.detach().flatten(1).double().numpy(force=True))
    return torch.as_tensor(fit.cluster_centers_, dtype=x.dtype, device=x.device).reshape(count, *x.shape[1:])


def two_stage_mean(
    first: nn.Module, second: nn.Module, x: torch.Tensor, cov: float | torch.Tensor, *, at: str = "point"
) -> torch.Tensor:
    """E[second(relu(first(x + noise)))] (b, k), at the cost of about three forward passes and no Jacobian.

    The means mu and variances of y = first(x + noise) come from `first` linearized at x, the units of its layers
    taken as independent: exact when `first` is one affine layer (only then may cov be a full covariance). Then E =
    second(p) + J_second(p) (E[relu(y)] - p), a Jacobian-vector product, with p = relu(mu) for at="point" (P2) and p
    = E[relu(y)], where the product vanishes, for at="mean".
    """
    if at not in ("point", "mean"):
        raise ValueError(f"at: expected 'point' or 'mean', got {at!r}")
    check_evaluable(first)
    check_evaluable(second)
    _checks.batch("x", x)
    try:
        mu, var = _local_moments(first, x, cov)
        expected = relu.mean(mu, var)
        if at == "mean":
            return second(expected)
        point = torch.relu(mu)
        value, shift = push_forward(second, point, expected - point)
        return value + shift
    except RuntimeError:
        _output_of_first(first, second, x)  # names the stage that does not take its input, if that is the reason
        raise


def two_stage(
    first: nn.Module,
    second: nn.Module,
    x: torch.Tensor,
    cov: float | torch.Tensor,
    points: torch.Tensor | None = None,
    *,
    rule: str = "linear",
    outputs: Sequence[int] | None = None,
) -> Moments:
    """P2's two-stage moments of second(relu(first(x + noise))): `Moments` (b, k), (b, k, k).

    first is linearized at x, y ~ N(mu, J1 cov J1^T), and second at relu(mu), giving second(relu(mu)) + J2
    (E[relu(y)] - relu(mu)) and J2 Cov[relu(y)] J2^T. points (p, *shape): linearize at the nearest of them instead,
    so that inputs share Jacobians; equal inputs, given with several noise levels, share them anyway. outputs: indices
    of the outputs wanted, default all. rule for Cov[relu(y)]: "exact"; "series", its first four terms; "linear", its
    first term with exact variances; "diagonal", independent units; "zero_mean", P2's theorem 2 off the diagonal,
    right for mu = 0 only. Jacobians are constants to autograd, as they are almost everywhere.

    Cost: k + min(n, m) Jacobian products (n inputs, m units of y) per point or per different input. With "linear" and
    "diagonal" and one affine layer before the ReLU, or more than 4096 units there, 2 k products and no J1; then
    deeper `first` have their variances as in `two_stage_mean`. Raises ValueError beyond 4096 units for the other rules
    and a full cov, and for points unless `first` is affine.
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    y = _output_of_first(first, second, x)
    outputs, affine = _checked_outputs(outputs, second, y), _is_affine(first)
    units, full = y.numel(), noise(cov, x)[1]
    if units > MAX_DENSE and (rule not in ADJOINT or full is not None or (points is not None and not affine)):
        only = f"only {ADJOINT}, without full cov, and with points only if it is affine"
        raise ValueError(f"first: {units} units; above {MAX_DENSE} {only}")
    if points is None:
        rows, nearest = torch.unique(x.detach().flatten(1), dim=0, return_inverse=True)
        points = rows.reshape(-1, *x.shape[1:])
    else:
        nearest = _nearest(x, points)
    if rule in ADJOINT and full is None and (affine or units > MAX_DENSE):
        return _adjoint(first, second, x, cov, rule, outputs, points.to(x), nearest)
    where, parts, order = points.to(x), [], []
    jacobian = inner_jacobian(first, where[:1].detach())
    for index in nearest.unique():
        members = (nearest == index).nonzero().squeeze(1)
        y, inner, value, outer = _stages(first, second, where[index : index + 1].detach(), jacobian, outputs)
        parts.append(
            _linearized(y, inner, value, outer, x[members] - where[index].detach(), _part(cov, x, members), rule)
        )
        order.append(members)
    back = torch.cat(order).argsort()
    return Moments(*(torch.cat(part)[back] for part in zip(*parts)))


def _output_of_first(first, second, x):
    """first(x[:1]); ValueError when a stage is no module in evaluation mode or does not take what it is given."""
    check_evaluable(first, x)
    check_evaluable(second)
    with torch.no_grad():
        y = first(x[:1])
    check_evaluable(second, y, "first: its output")
    return y


def _checked_outputs(outputs, second, y):
    if outputs is None:
        return None
    with torch.no_grad():
        count = second(y).numel()
    try:
        wanted = [operator.index(k) for k in outputs]
    except TypeError:
        wanted = []
    if not wanted or not all(0 <= k < count for k in wanted) or any(isinstance(k, bool) for k in outputs):
        raise ValueError(f"outputs: expected indices from 0 to {count - 1}, got {outputs!r}")
    return wanted


def _is_affine(module):
    return all(not isinstance(layer, (nn.ReLU, nn.MaxPool2d)) for layer in as_sequential(module))


def _local_moments(first, x, cov):
    """Mean and variances of y = first(x + noise), linearized at x, the units of every layer independent."""
    var, full = noise(cov, x)
    if full is None:
        return pushed(first, x, var, 2)
    if not _is_affine(first):
        raise ValueError("cov: a full covariance needs one affine layer before the ReLU here; see two_stage")
    mu, jacobian = first(x), inner_jacobian(first, x[:1])(x[:1])
    return mu, ((jacobian @ full) * jacobian).sum(1).expand(len(x), -1).reshape(mu.shape)


def _nearest(x, points):
    _checks.batch("points", points)
    if points.shape[1:] != x.shape[1:]:
        raise ValueError(f"points: expected shape (any, {', '.join(map(str, x.shape[1:]))}), got {tuple(points.shape)}")
    return torch.cdist(x.detach().flatten(1), points.flatten(1).to(x)).argmin(1)


def _part(cov, x, members):
    """The noise of the inputs `members`: their own variance maps, or what is common to all."""
    per_input = isinstance(cov, torch.Tensor) and cov.ndim == x.ndim and noise(cov, x)[1] is None
    return cov[members] if per_input else cov


def _stages(first, second, z, jacobian, outputs):
    """(y, J1, second(relu(y)), J2) at the input z (1, ...)."""
    with torch.no_grad():
        y = first(z)
    value, outer = jacobian_at(second, torch.relu(y), outputs)
    value = value.flatten()
    return y.flatten(), jacobian(z), value if outputs is None else value[outputs], outer


def _linearized(y, inner, value, outer, shift, cov, rule):
    """Moments (b, k), (b, k, k) around one point; shift (b, *shape): the inputs minus the point."""
    var, full = noise(cov, shift)
    mu = y + shift.flatten(1) @ inner.T
    # Inputs with common noise share what follows from it.
    common = (var[:1] if var.stride(0) == 0 else var).flatten(1)
    variances = common @ (inner**2).T if full is None else ((inner @ full) * inner).sum(1)
    variances = variances.expand_as(mu)
    mean = value + (relu.mean(mu, variances) - torch.relu(y)) @ outer.T
    if rule in ADJOINT:
        gain = relu.gain(mu, variances) if rule == "linear" else torch.zeros_like(mu)
        rest = relu.variance(mu, variances) - gain**2 * variances
        response = _spread((outer * gain[:, None]) @ inner, common, full)
        return mean, response + (outer * rest[:, None]) @ outer.T
    hidden = _spread(inner, common, full).expand(len(mu), -1, -1)
    return mean, outer @ _relu_covariance(mu, hidden, rule) @ outer.T


def _spread(rows, var, full):
    """rows Cov[noise] rows^T for rows (..., k, n): variances (b or 1, n), or a full covariance."""
    return (
        (rows * var[:, None]) @ rows.mT if full is None else (rows @ full @ rows.mT).reshape(-1, *[rows.shape[-2]] * 2)
    )


def _relu_covariance(mu, hidden, rule):
    """Cov[relu(y)] (b, m, m) for y ~ N(mu, hidden)."""
    if rule == "exact":
        return relu.covariance(mu, hidden)
    if rule == "series":
        return relu.covariance_series(mu, hidden)
    inner = relu.covariance_zero_mean(hidden)
    variances = relu.variance(mu, hidden.diagonal(dim1=-2, dim2=-1))
    return inner + torch.diag_embed(variances - inner.diagonal(dim1=-2, dim2=-1))


def _adjoint(first, second, x, cov, rule, outputs, points, nearest):
    """`two_stage` for the rules that need no covariance of y: k products through each stage, all inputs at once.

    points (p, *shape); nearest (b,): the point at which `second` is linearized for each input.
    """
    mu, var = _local_moments(first, x, cov)
    used, own = nearest.unique(return_inverse=True)
    with torch.no_grad():
        start = torch.relu(first(points[used])).requires_grad_()
    with torch.enable_grad():
        value = second(start)
        wanted = range(value[0].numel()) if outputs is None else outputs
        columns = [value.flatten(1)[:, j] for j in wanted]
        outer = torch.stack([torch.autograd.grad(c.sum(), start, retain_graph=True)[0] for c in columns], 1)[own]
    expected, variance = relu.mean(mu, var), relu.variance(mu, var)
    shift = expected - start.detach()[own]
    mean = torch.stack(columns, 1).detach()[own] + (outer * shift[:, None]).flatten(2).sum(2)
    rest = variance
    cov_out = 0.0
    if rule == "linear":
        gain = relu.gain(mu, var)
        rest = variance - gain**2 * var
        rows = (outer * gain[:, None]).transpose(0, 1)
        rows = torch.stack([pull_back(first, x, row) for row in rows], 1) * noise(cov, x)[0].sqrt()[:, None]
        cov_out = rows.flatten(2) @ rows.flatten(2).mT
    flat = outer.flatten(2)
    return Moments(mean, cov_out + (flat * rest.flatten(1)[:, None]) @ flat.mT)
