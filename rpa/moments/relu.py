"""Moments of relu(x) for a Gaussian x: exact for any mean and covariance, batched, differentiable.

With sigma = sqrt(var), a = mu / sigma and z standard normal, relu(x) = sigma relu(z + a). Everything follows from the
two tail integrals e_k(t) = E[relu(z - t)^k], k = 1, 2, t >= 0, and from `rpa.polytopes.bivariate`. P2 (Bibi, Alfadly &
Ghanem 2018) gives the mean for every mu (theorem 1) and the correlation for mu = 0 (theorem 2); `covariance` drops that
condition.

Tensors of float32 or float64; the result has the type of `mu`, and covariances of pairs are computed in float64.
Gradients are analytic and finite everywhere; where a derivative is infinite (that of the mean with respect to var
at mu = var = 0) it is returned as 0. Raises ValueError for NaN or infinite entries, negative variances,
|correlation| > 1 beyond rounding, or wrong shapes. Numbers, lists and arrays are taken as float64 tensors.
"""

import math
from typing import Any, TypeAlias

import torch

from rpa._check import integer
from rpa.moments import _checks
from rpa.moments._checks import tensor
from rpa.polytopes import bivariate
from rpa.polytopes.bivariate import FAR, ndtr

TensorLike: TypeAlias = Any  # a tensor; numbers, lists and arrays are taken as float64
TAILS_AT_ONCE = 1 << 14  # elements worked on at once by the tail integrals, to stay in cache


def mean(mu: TensorLike, var: TensorLike) -> torch.Tensor:
    """E[relu(x)] = mu Phi(a) + sigma phi(a) for x ~ N(mu, var), elementwise (P2, theorem 1); mu, var of one shape.

    Computed as max(mu, 0) + sigma e_1(|a|), which keeps its relative accuracy where the two terms nearly cancel.

    >>> [f"{value:.10e}" for value in mean([0.0, -8.0], [1.0, 1.0])]  # phi(0), and phi(8) - 8 Phi(-8)
    ['3.9894228040e-01', '7.5502624119e-17']
    """
    return _Moments.apply(*_pair_of_one_shape(mu, var), 1)[0]


def gain(mu: TensorLike, var: TensorLike) -> torch.Tensor:
    """P(x > 0) = E[relu'(x)] = Phi(a), elementwise; the linear response of relu to its input (1/2 at mu = var = 0)."""
    return ndtr(_differentiable(*_pair_of_one_shape(mu, var))[1])


def variance(mu: TensorLike, var: TensorLike) -> torch.Tensor:
    """Var[relu(x)] for x ~ N(mu, var), elementwise; relatively accurate for any a."""
    return mean_and_variance(mu, var)[1]


def mean_and_variance(mu: TensorLike, var: TensorLike) -> tuple[torch.Tensor, torch.Tensor]:
    """Both, as quickly as the variance alone."""
    return _Moments.apply(*_pair_of_one_shape(mu, var), 2)


def second_moment(mu: TensorLike, var: TensorLike) -> torch.Tensor:
    """E[relu(x)^2] = (mu^2 + var) Phi(a) + mu sigma phi(a), elementwise (P2, lemma 1 integrated)."""
    first, rest = mean_and_variance(mu, var)
    return rest + first**2


def squared_pdf(y: TensorLike, mu: TensorLike, var: TensorLike) -> tuple[torch.Tensor, torch.Tensor]:
    """Law of relu(x)^2 (P2, lemma 1): (density at y, mass of the atom at 0).

    For y > 0 the density is exp(-(sqrt(y) - mu)^2 / (2 var)) / (2 sqrt(2 pi var y)); for y <= 0 it is 0 and the
    atom has mass Phi(-a). y, mu, var broadcast; var > 0.
    """
    y, mu, var = _checked("y", y), _checked("mu", mu), _checked("var", var)
    try:
        torch.broadcast_shapes(y.shape, mu.shape, var.shape)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in (y, mu, var))
        raise ValueError(f"y, mu, var: expected shapes that broadcast, got {shapes}") from error
    if not (var > 0).all():
        raise ValueError(f"var: expected positive numbers, for a density to exist, got {var.min():g}")
    atom = ndtr(-mu / var.sqrt())
    root = torch.where(y > 0, y, 1.0).sqrt()
    density = torch.exp(-((root - mu) ** 2) / (2 * var)) / (2 * root * torch.sqrt(2 * math.pi * var))
    return torch.where(y > 0, density, 0.0), atom


def covariance(mu: TensorLike, cov: TensorLike) -> torch.Tensor:
    """Cov[relu(x)] for x ~ N(mu, cov): mu (..., n), cov (..., n, n), any mean, singular cov welcome -> (..., n, n).

    With rho the correlation, Cov_12 = sigma_1 sigma_2 (rho Phi(a1) Phi(a2) + int_0^rho (rho - r) phi2(a1, a2; r) dr);
    see `rpa.polytopes.bivariate`. Relative error about 1e-14, also in the tails and at rho = +-1. The gradient with
    respect to the covariance of a pair is the orthant probability Phi2 (Price's theorem, P2's lemma 2).

    >>> covariance([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]])[0, 1].item()
    0.145...
    """
    mu = tensor("mu", mu)
    cov = _symmetric(mu, cov)
    i, j = torch.triu_indices(mu.shape[-1], mu.shape[-1], 1, device=mu.device)
    var = cov.diagonal(dim1=-2, dim2=-1)
    pairs = (mu[..., i], mu[..., j], var[..., i], var[..., j], cov[..., i, j])
    upper = torch.zeros_like(cov)
    upper[..., i, j] = _PairCovariance.apply(*(part.double() for part in pairs)).to(cov.dtype)
    return upper + upper.mT + torch.diag_embed(variance(mu, var))


def covariance_zero_mean(cov: TensorLike) -> torch.Tensor:
    """Cov[relu(x)] for x ~ N(0, cov), cov (..., n, n), in closed form (P2, theorem 2).

    E[q1 q2] = (sigma_12 asin(rho) + sqrt(var_1 var_2 - sigma_12^2)) / (2 pi) + sigma_12 / 4, minus the product
    sigma_1 sigma_2 / (2 pi) of the means. Wrong for any other mean: notebook 06 shows by how much.
    """
    cov = _symmetric(None, cov)
    var = cov.diagonal(dim1=-2, dim2=-1).double()
    sigma = _differentiable(var, var)[0]
    scale = sigma[..., :, None] * sigma[..., None, :]
    return (scale * _ZeroMean.apply((cov.double() / scale).clamp(-1, 1))).to(cov.dtype)


def covariance_series(mu: TensorLike, cov: TensorLike, terms: int = 4) -> torch.Tensor:
    """`covariance` with its off-diagonal series cut after rho^terms: positive semidefinite, and arithmetic only.

    Cov_12 / (sigma_1 sigma_2) = rho Phi Phi + sum_{k >= 2} rho^k / k! He_{k-2}(a1) He_{k-2}(a2) phi(a1) phi(a2)
    (Mehler). Four terms err by at most 0.006 sigma_1 sigma_2; one term, `terms=1`, is the linear response J cov J^T
    with J = Phi(a).
    """
    terms = integer("terms", terms, 1)
    mu = tensor("mu", mu)
    cov = _symmetric(mu, cov)
    var = cov.diagonal(dim1=-2, dim2=-1)
    sigma, a = _differentiable(mu, var)
    rho = cov / (sigma[..., :, None] * sigma[..., None, :])
    result, power = torch.zeros_like(cov), 1.0
    for n in range(1, terms + 1):
        power, factor = power * rho, sigma * coefficient(n, a)
        result = result + power * factor[..., :, None] * factor[..., None, :]
    return result + torch.diag_embed(variance(mu, var) - result.diagonal(dim1=-2, dim2=-1))


def coefficient(n: int, a: torch.Tensor) -> torch.Tensor:
    """c_n = E[relu(z + a) He_n(z)] / sqrt(n!), z standard normal, n >= 1, elementwise in a.

    c_1 = Phi(a), and c_n = (-1)^n He_{n-2}(a) phi(a) / sqrt(n!) above.
    """
    if n == 1:
        return ndtr(a)
    before, hermite = torch.zeros_like(a), torch.ones_like(a)  # He_k / sqrt(k!)
    for degree in range(n - 2):
        before, hermite = hermite, (a * hermite - math.sqrt(degree) * before) / math.sqrt(degree + 1)
    # The density first: far from the kink a may be 1e9, and its powers would overflow.
    density = _pdf(a)
    return torch.where(density > 0, (-1) ** n * hermite * density / math.sqrt(n * (n - 1)), 0.0)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mu, var, powers):
        sigma, a = _standard(mu, var)
        t = a.abs()
        first, *second = _tail(t, powers)
        ctx.save_for_backward(sigma, a, first)
        mean = mu.clamp(min=0) + sigma * first
        if powers == 1:
            return (mean,)
        # relu(z + a) = z + a + relu(-z - a): for a > 0 only tail terms are subtracted from 1.
        return mean, var * (torch.where(a > 0, 1 - second[0] - 2 * t * first, second[0]) - first**2)

    @staticmethod
    def backward(ctx, of_mean, of_var=0.0):
        sigma, a, first = ctx.saved_tensors
        unit_mean, above, density = a.clamp(min=0) + first, ndtr(a), _pdf(a)
        by_mu = of_mean * above + of_var * 2 * sigma * unit_mean * ndtr(-a)
        return by_mu, of_mean * _ratio(density, 2 * sigma, 0.0) + of_var * (above - unit_mean * density), None


class _PairCovariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mu1, mu2, var1, var2, cov12):
        ctx.save_for_backward(mu1, mu2, var1, var2, cov12)
        sigma1, sigma2, a1, a2, rho = _pair(mu1, mu2, var1, var2, cov12)
        return sigma1 * sigma2 * bivariate.relu_covariance(a1, a2, rho)

    @staticmethod
    def backward(ctx, grad):
        sigma1, sigma2, a1, a2, rho = _pair(*ctx.saved_tensors)
        both = bivariate.cdf(a1, a2, rho)
        rest = torch.sqrt((1 - rho) * (1 + rho))
        u1, u2 = _ratio(a1 - rho * a2, rest, FAR), _ratio(a2 - rho * a1, rest, FAR)
        q1, q2 = (_mean(a, torch.ones_like(a)) for a in (a1, a2))
        # d/dmu_1 = Cov[x1 > 0, relu(x2)] and d/dvar_1 = (E[relu(x2) | x1 = 0] - E[relu(x2)]) pdf(x1 = 0) / 2.
        mu1 = sigma2 * (a2 * both + _pdf(a2) * ndtr(u1) + rho * _pdf(a1) * ndtr(u2) - ndtr(a1) * q2)
        mu2 = sigma1 * (a1 * both + _pdf(a1) * ndtr(u2) + rho * _pdf(a2) * ndtr(u1) - ndtr(a2) * q1)
        var1 = _ratio(sigma2 * _pdf(a1) * (_mean(a2 - rho * a1, rest) - q2), 2 * sigma1, 0.0)
        var2 = _ratio(sigma1 * _pdf(a2) * (_mean(a1 - rho * a2, rest) - q1), 2 * sigma2, 0.0)
        return grad * mu1, grad * mu2, grad * var1, grad * var2, grad * both


class _ZeroMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rho):
        ctx.save_for_backward(rho)
        bend = rho * torch.asin(rho) - rho**2 / (1 + torch.sqrt((1 - rho) * (1 + rho)))
        return bend / (2 * math.pi) + rho / 4

    @staticmethod
    def backward(ctx, grad):
        return grad * (torch.asin(ctx.saved_tensors[0]) / (2 * math.pi) + 0.25)


def _pair(mu1, mu2, var1, var2, cov12):
    (sigma1, a1), (sigma2, a2) = _standard(mu1, var1), _standard(mu2, var2)
    return sigma1, sigma2, a1, a2, _ratio(cov12, sigma1 * sigma2, 1.0)


def _standard(mu, var):
    """(sigma, a = mu / sigma), a within +-FAR (where every tail underflows); 0 / 0 = 0."""
    sigma = var.sqrt()
    return sigma, _ratio(mu, sigma, FAR)


def _differentiable(mu, var):
    """`_standard` with finite derivatives: sigma is 1 for a variance of 0, and its square is no denormal number."""
    sigma = torch.where(var > 0, var.clamp(min=torch.finfo(var.dtype).tiny), 1.0).sqrt()
    limit = FAR * sigma  # before the division, whose derivative overflows for small variances
    return sigma, torch.where(var > 0, mu, mu.sign() * FAR).clamp(-limit, limit) / sigma


def _ratio(numerator, denominator, limit=math.inf):
    """numerator / denominator within +-limit, with 0 / 0 = 0; a limit of 0 means that x / 0 = 0 for every x."""
    if limit == 0:
        return torch.where(denominator > 0, numerator / denominator, 0.0)
    return torch.where(numerator == 0, 0.0, numerator / denominator).clamp(-limit, limit)


def _pdf(a):
    return torch.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)


def _mean(shift, scale):
    """E[relu(shift + scale z)]."""
    return shift.clamp(min=0) + scale * _tail(_ratio(shift, scale, FAR).abs(), 1)[0]


def _tail(t, powers):
    """[e_1(t), ..., e_powers(t)], e_k(t) = E[relu(z - t)^k] = phi(t) int_0^inf x^k exp(-x^2 / 2 - t x) dx, for t >= 0.

    The closed forms cancel like t^(2k); the integrand is positive, and beyond `end` below 1e-16 of its total.
    """
    count, drop = (24, bivariate.DROP) if t.dtype == torch.float64 else (12, 18.0)
    nodes, weights = (v.to(t.dtype) for v in bivariate.rule(count))
    parts = []
    for piece in t.reshape(-1).split(TAILS_AT_ONCE):
        end = 2 * drop / (piece + torch.sqrt(piece**2 + 2 * drop))
        x = nodes[:, None] * end
        value = torch.exp(x * (x / -2 - piece)).mul_(x)
        scale = _pdf(piece) * end
        sums = [weights @ value * scale]
        if powers == 2:
            sums.append(weights @ value.mul_(x) * scale)
        parts.append(torch.stack(sums))
    return [row.reshape(t.shape) for row in torch.cat(parts, 1)] if parts else [torch.empty_like(t)] * powers


def _pair_of_one_shape(mu, var):
    mu, var = _checked("mu", mu), _checked("var", var)
    if mu.shape != var.shape:
        raise ValueError(f"mu: expected shape {tuple(var.shape)} as var, got {tuple(mu.shape)}")
    if (var < 0).any():
        raise ValueError(f"var: expected numbers >= 0, got {var.min():g}")
    return mu, var.to(mu.dtype)


def _checked(name, value):
    value = tensor(name, value)
    if not value.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point tensor, got {value.dtype}")
    _checks.finite(name, value)
    return value


def _symmetric(mu, cov):
    """`cov` made exactly symmetric, after checking its shape (that of mu and one more axis) and its entries."""
    cov = _checked("cov", cov)
    if cov.ndim < 2 or cov.shape[-1] != cov.shape[-2] or (mu is not None and cov.shape[:-1] != mu.shape):
        raise ValueError(f"cov: expected shape (..., n, n) beside mu (..., n), got {tuple(cov.shape)}")
    if cov.numel() == 0:
        raise ValueError(f"cov: expected at least one variable, got shape {tuple(cov.shape)}")
    _checks.covariance("cov", cov)
    return (cov + cov.mT) / 2
