"""Maxima of jointly Gaussian variables, and the windows of max pooling.

A maximum is not Gaussian. `clark` folds ReLU moments, max(a, b) = b + relu(a - b), in closed form; `maximum` is
cubature, more accurate when variables are correlated; `fold` carries Clark's formula through all windows of a layer
jointly.
"""

from functools import lru_cache
from typing import NamedTuple

import torch

from rpa import relu

__all__ = ["Maximum", "clark", "combine", "maximum", "pair", "second_order", "windows_of"]


def clark(mean, cov):
    """Moments of the maximum of w jointly Gaussian variables, folded in one at a time (Clark 1961).

    mean (..., w), cov (..., w, w) -> mean (...), variance (...) and gains (..., w), the derivatives of the mean,
    which sum to 1: Cov[max, y] = sum_j gains_j Cov[x_j, y] for y jointly Gaussian. Exact for w = 2; above, the
    maximum so far is taken as Gaussian.
    """
    top, var, cross = mean[..., 0], cov[..., 0, 0], cov[..., 0, :]
    gains = torch.zeros_like(mean)
    gains[..., 0] = 1
    for j in range(1, mean.shape[-1]):
        # max(top, x) = x + relu(d) with d = top - x; the clamp removes a negative rounding error of Var[d].
        gap, spread = top - mean[..., j], (var + cov[..., j, j] - 2 * cross[..., j]).clamp(min=0)
        keep = relu.gain(gap, spread)
        top = mean[..., j] + relu.mean(gap, spread)
        var = cov[..., j, j] + relu.variance(gap, spread) + 2 * keep * (cross[..., j] - cov[..., j, j])
        cross = keep[..., None] * cross + (1 - keep)[..., None] * cov[..., j, :]
        gains = gains * keep[..., None]
        gains[..., j] = 1 - keep
    return top, var.clamp(min=0), gains


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


def maximum(mean, cov):
    """The `Maximum` of jointly Gaussian variables, mean (..., w), cov (..., w, w), by cubature over their w dimensions.

    1024 Sobol points and their mirror images, whitened so that a maximum that is always the same variable is exact. The
    Hessian follows from Stein's lemma, E[grad^2 f(z)] = E[f(z) (z z^T - I)], in coordinates where the law is standard.
    """
    values, vectors = torch.linalg.eigh(cov.double())
    scale = torch.where(values > 1e-12 * values[..., -1:], values, 0.0).sqrt()
    points = _normal_points(mean.shape[-1])
    top, which = ((vectors * scale[..., None, :]) @ points + mean[..., None].double()).max(-2)
    gains = torch.stack([(which == j).double().mean(-1) for j in range(mean.shape[-1])], -1)
    var, centre = torch.var_mean(top, -1, correction=0)
    hessian = ((top - centre[..., None])[..., None, :] * points) @ points.T / points.shape[1]
    curvatures, axes = torch.linalg.eigh(hessian)
    directions = vectors * torch.where(scale > 0, 1 / scale, 0.0)[..., None, :] @ axes
    return Maximum(*(v.to(mean.dtype) for v in (centre, var, gains, curvatures[..., 1:], directions[..., 1:])))


@lru_cache
def _normal_points(dim):
    """Points (dim, 2048) with mean 0 and covariance exactly the identity."""
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(1024, dtype=torch.float64)
    z = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).T
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z @ z.T / 1024), z, upper=False)
    return torch.cat([z, -z], 1)


def second_order(curvatures, cross):
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


def combine(rows, windows, gains):
    """rows (b, r, n) -> (b, r, o): the members of each of the windows (o, w) weighted by its gains (b, o, w)."""
    return sum(rows[:, :, windows[:, j]] * gains[:, None, :, j] for j in range(windows.shape[1]))


def windows_of(layer, shape, pooled):
    """Flat positions (o, w) of the members of each pooling window, o over the planes and places of `pooled`.

    A window that reaches over the edge counts its last member more than once, which leaves the maximum as it is.
    """
    if len(shape) != 4 or pair(layer.dilation) != (1, 1):
        raise ValueError(f"net: MaxPool2d takes (b, channels, height, width) and no dilation, got shape {tuple(shape)}")
    axes = zip(shape[2:], pooled[2:], *(pair(v) for v in (layer.kernel_size, layer.stride, layer.padding)))
    rows, columns = (
        (torch.arange(out)[:, None] * stride - pad + torch.arange(kernel)).clamp(0, size - 1)
        for size, out, kernel, stride, pad in axes
    )
    plane = (rows[:, None, :, None] * shape[3] + columns[None, :, None, :]).reshape(pooled[2] * pooled[3], -1)
    planes = torch.arange(shape[1])[:, None, None] * (shape[2] * shape[3])
    return (planes + plane).flatten(0, 1)


def pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
