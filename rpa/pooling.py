"""Maxima of jointly Gaussian variables, and the windows of max pooling.

A maximum is not Gaussian. `clark` folds ReLU moments, max(a, b) = b + relu(a - b), in closed form; `maximum` is
cubature, more accurate when variables are correlated; `fold` carries Clark's formula through all windows of a layer
jointly.
"""

from functools import lru_cache

import torch

from rpa import relu

__all__ = ["clark", "combine", "fold", "maximum", "pair", "relu_covariance", "windows_of"]


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


def maximum(mean, cov):
    """As `clark`, but by cubature over the w-dimensional normal law: 1024 Sobol points and their mirror images.

    The points are whitened, so that a maximum that is always the same variable is exact.
    """
    values, vectors = torch.linalg.eigh(cov.double())
    root = vectors * values.clamp(min=0).sqrt()[..., None, :]
    top = root @ _normal_points(mean.shape[-1]) + mean[..., None].double()
    top, which = top.max(-2)
    gains = torch.stack([(which == j).double().mean(-1) for j in range(mean.shape[-1])], -1)
    var, centre = torch.var_mean(top, -1, correction=0)
    return centre.to(mean.dtype), var.to(mean.dtype), gains.to(mean.dtype)


@lru_cache
def _normal_points(dim):
    """Points (dim, 2048) with mean 0 and covariance exactly the identity."""
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(1024, dtype=torch.float64)
    z = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).T
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z @ z.T / 1024), z, upper=False)
    return torch.cat([z, -z], 1)


def fold(mean, blocks, rule):
    """What the linear response leaves out of the covariance (b, o, o) of the maxima of o windows, by Clark's formula.

    mean (b, o, w): Gaussian variables by window; blocks[j][k - j] (c, o, o): covariances of the j-th of each window with
    the k-th of each, j <= k. In max(top, x) = x + relu(d), d = top - x, the covariance of relu(d) with every Gaussian is
    linear in it (Stein's lemma), and that of two relu(d) follows `rule`; the part beyond the linear one adds up here.
    """
    width = mean.shape[-1]
    beyond, top, cross = 0.0, mean[..., 0], blocks[0]
    var = blocks[0][0]
    for j in range(1, width):
        own = blocks[j][0]
        difference = var - cross[j] - cross[j].mT + own
        gap, spread = top - mean[..., j], difference.diagonal(dim1=-2, dim2=-1).clamp(min=0).expand_as(top)
        keep = relu.gain(gap, spread)[..., None]
        difference = difference.expand(len(mean), *own.shape[1:])
        inner = relu_covariance(gap, difference, rule)
        beyond = beyond * keep * keep.mT + inner - difference * keep * keep.mT
        mixed = keep * (cross[j] - own)
        var = own + mixed + mixed.mT + inner
        cross = [None if k <= j else keep * cross[k] + (1 - keep) * blocks[j][k - j] for k in range(width)]
        top = mean[..., j] + relu.mean(gap, spread)
    return beyond


def relu_covariance(mu, cov, rule):
    """Cov[relu(x)] by rule: "exact", "series" (four terms) or "linear" (one)."""
    if rule == "exact":
        return relu.covariance(mu, cov)
    return relu.covariance_series(mu, cov, 4 if rule == "series" else 1)


def combine(rows, windows, gains):
    """rows (b, r, n) -> (b, r, o): each window's members weighted by its gains (b, o, w)."""
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
