"""The bivariate normal law, accurate in its tails and up to correlation +-1, vectorised in torch.

Plackett's identity d Phi2 / d rho = phi2 and Price's theorem d Cov / d rho = Phi2 give, for rho >= 0,

    Phi2(a1, a2; rho) = Phi(a1) Phi(a2) + int_0^rho phi2(a1, a2; r) dr,
    Cov(relu(z1 + a1), relu(z2 + a2)) = rho Phi(a1) Phi(a2) + int_0^rho (rho - r) phi2(a1, a2; r) dr.

All terms are positive, so no digits cancel. With r = tanh y and t = exp(2 y),

    phi2(a1, a2; r) dr = sech(y) exp(-A (1 + 1/t) - B (1 + t)) dy / (2 pi),   A = (a1 + a2)^2 / 8, B = (a1 - a2)^2 / 8,

which is log-concave: its peak and the interval with all but 1e-16 of it solve quadratics in t, and Gauss-Legendre
quadrature on that interval converges exponentially even for rho = 1.
"""

import math
from functools import lru_cache

import numpy as np
import torch

FAR = 40.0  # exp(-FAR^2 / 2) underflows: beyond FAR standard deviations every density and tail is 0
DROP = 37.0  # exp(-DROP) is 1e-16: what is left out of an integral, relative to its peak
PAIRS_AT_ONCE = 4096  # pairs worked on at once, so that the nodes x pairs arrays stay in cache


def ndtr(x: torch.Tensor) -> torch.Tensor:
    """Phi(x) with relative accuracy in the lower tail, where torch.special.ndtr loses all digits (2 % off at -8)."""
    return torch.special.erfc(x * -math.sqrt(0.5)) / 2


def cdf(a1: torch.Tensor, a2: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
    """Phi2(a1, a2; rho) = P(z1 <= a1, z2 <= a2) for standard normals of correlation rho.

    a1, a2, rho: float64 tensors of one shape, finite, |rho| <= 1. Error 1e-14 absolute, and relative unless Phi2 is a
    difference of two nearly equal probabilities. For rho < 0 the integral starts at rho = -1, where Phi2 =
    max(0, Phi(a1) - Phi(-a2)). No autograd: use `relu.covariance` for gradients.
    """
    a1, a2, rho = torch.broadcast_tensors(a1, a2, rho)
    a1, a2 = a1.clamp(-FAR, FAR), a2.clamp(-FAR, FAR)
    start = torch.atanh(rho.abs())
    negative = rho < 0
    low = torch.where(negative, start.clamp(max=FAR), 0.0)  # beyond y = FAR less than exp(-FAR) is left
    high = torch.where(negative, math.inf, start)
    # Phi(a1) - Phi(-a2) is taken in the tail where both are small, never between two numbers close to 1.
    upper = (a1 > 0) & (a2 < 0)
    overlap = torch.where(upper, ndtr(a2) - ndtr(-a1), ndtr(a1) - ndtr(-a2))
    base = torch.where(negative, overlap.clamp(min=0), ndtr(a1) * ndtr(a2))
    return base + _integral(a1, torch.where(negative, -a2, a2), low, high, None)


def relu_covariance(a1: torch.Tensor, a2: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
    """Cov(relu(z1 + a1), relu(z2 + a2)), z standard normal of correlation rho; arguments as for `cdf`.

    For rho < 0 it is a difference of two terms, which loses a factor of about max(1, a1 a2) in relative accuracy when
    both means are far below zero.
    """
    a1, a2, rho = torch.broadcast_tensors(a1, a2, rho)
    a1, a2 = a1.clamp(-FAR, FAR), a2.clamp(-FAR, FAR)
    size = rho.abs()
    bend = _integral(a1, torch.where(rho < 0, -a2, a2), torch.zeros_like(rho), torch.atanh(size), size)
    return rho * ndtr(a1) * ndtr(a2) + bend


def _integral(a1, a2, low, high, size):
    """int phi2(a1, a2; tanh y) dr over y in [low, high], with the weight size - tanh y unless size is None."""
    A, B, low, high = (part.reshape(-1) for part in ((a1 + a2) ** 2 / 8, (a1 - a2) ** 2 / 8, low, high))
    decay = 1.0 if size is None else 3.0  # sech(y), times 1 - tanh(y), falls like exp(-decay y)
    # The peak of -A/t - B t - decay y, and the roots of A/t + B t = c: outside the integrand is below exp(-DROP) of it.
    peak = 8 * A / (2 * decay + torch.sqrt(4 * decay**2 + 64 * A * B))
    y = (0.5 * peak.log()).clamp(min=low).clamp(max=high)
    t = torch.exp(2 * y)
    root = lambda level: torch.sqrt((level - 2 * torch.sqrt(A * B)) * (level + 2 * torch.sqrt(A * B)))
    level = A / t + B * t + DROP
    high = torch.minimum(high, y + DROP / decay)
    high = torch.minimum(high, 0.5 * torch.log((level + root(level)) / (2 * B)))
    level = level + decay * y
    low = torch.maximum(low, 0.5 * torch.log(2 * A / (level + root(level))))
    low = torch.minimum(low, high)
    # An interval this short carries a factor of at most exp(-4), which 12 nodes resolve to rounding.
    first, last = torch.exp(2 * low), torch.exp(2 * high)
    short = (high - low <= 0.8) & ((A / first - A / last).abs() + (B * last - B * first).abs() <= 4.0)
    result = torch.empty_like(A)
    weight = None if size is None else size.reshape(-1)
    for members, nodes in ((short, 14), (~short, 40 if size is not None else 64)):
        index = members.nonzero().squeeze(1)
        for part in index.split(PAIRS_AT_ONCE):
            args = (A[part], B[part], low[part], high[part], None if weight is None else weight[part])
            result[part] = _gauss_legendre(*args, nodes)
    return result.reshape(a1.shape)


@lru_cache
def rule(nodes: int) -> tuple:
    """Gauss-Legendre nodes and weights on [0, 1], float64."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def _gauss_legendre(A, B, low, high, size, nodes):
    x, w = rule(nodes)
    width = high - low
    e = torch.addcmul(low, x[:, None], width).exp_()
    t = e * e
    exponent = torch.addcdiv(A + B, A, t).addcmul_(B, t)
    t += 1
    value = exponent.neg_().exp_().mul_(e).div_(t)
    if size is not None:
        value *= t.reciprocal_().mul_(2).sub_(1 - size)  # size - tanh y = 2 / (1 + t) - (1 - size)
    return (w @ value) * width / math.pi
