"""Moments of piecewise-linear activations, act(x) = x for x > 0 and slope x elsewhere, for a Gaussian x.

act(x) = slope x + (1 - slope) relu(x), so all follow from `rpa.moments.relu`: a leaky ReLU, |x| (slope -1), and a value
that passes (slope 1) beside activated ones. slope is 0, a number, or a tensor that broadcasts to the mean.
`relu_moments` is quicker, to a few roundings of sigma.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from rpa.moments import relu

Slope = Any


def mean(mu: torch.Tensor, var: torch.Tensor, slope: Slope = 0) -> torch.Tensor:
    """E[act(x)] for x ~ N(mu, var), elementwise."""
    return relu.mean(mu, var) if _plain(slope) else slope * mu + (1 - slope) * relu.mean(mu, var)


def gain(mu: torch.Tensor, var: torch.Tensor, slope: Slope = 0) -> torch.Tensor:
    """E[act'(x)], the linear response of act to x."""
    positive = relu.gain(mu, var)
    return positive if _plain(slope) else positive + slope * (1 - positive)


def variance(mu: torch.Tensor, var: torch.Tensor, slope: Slope = 0) -> torch.Tensor:
    """Var[act(x)]; Cov[x, relu(x)] = Phi(mu / sigma) var (Stein)."""
    if _plain(slope):
        return relu.variance(mu, var)
    both = slope**2 + 2 * slope * (1 - slope) * relu.gain(mu, var)
    return both * var + (1 - slope) ** 2 * relu.variance(mu, var)


def covariance(mu: torch.Tensor, cov: torch.Tensor, slope: torch.Tensor | None, rule: str) -> torch.Tensor:
    """Cov[act(x)] (b, n, n) for x ~ N(mu, cov), slope (n,) or None for ReLU.

    rule for pairs of activations: "exact"; "series", the first four terms; "linear", the first. A pair of which one
    passes has gain_1 gain_2 cov_12, exactly.
    """
    cov = _within_bounds(cov)
    if slope is None:
        return _relu_covariance(mu, cov, rule)
    bent = (slope != 1).nonzero().squeeze(1)
    if not len(bent):
        return cov
    response = gain(mu, cov.diagonal(dim1=-2, dim2=-1), slope)
    inner, some = cov[:, bent][:, :, bent], mu[:, bent]
    positive = relu.gain(some, inner.diagonal(dim1=-2, dim2=-1))
    bend = _relu_covariance(some, inner, rule) - positive[:, :, None] * inner * positive[:, None]
    bend = (1 - slope[bent])[:, None] * bend * (1 - slope[bent])
    rows = torch.zeros_like(cov[:, bent]).index_add(2, bent, bend)
    return (response[:, :, None] * cov * response[:, None]).index_add(1, bent, rows)


def _within_bounds(cov):
    """The covariance, |cov_12| <= sigma_1 sigma_2, from which rounding in earlier layers may have moved it."""
    var = cov.diagonal(dim1=-2, dim2=-1)
    sigma = var.detach().clamp(min=0).sqrt()
    limit = sigma[..., :, None] * sigma[..., None, :]
    outside = (cov.detach().abs() > limit) & ~torch.eye(cov.shape[-1], dtype=torch.bool, device=cov.device)
    cov = torch.where(outside, limit * cov.detach().sign(), cov) if outside.any() else cov
    return cov if (var >= 0).all() else cov - torch.diag_embed(var.detach().clamp(max=0))


def _relu_covariance(mu, cov, rule):
    if rule == "exact":
        return relu.covariance(mu, cov)
    return relu.covariance_series(mu, cov, 4 if rule == "series" else 1)


def _plain(slope):
    return slope is None or (not isinstance(slope, torch.Tensor) and slope == 0)


def moments(mu: torch.Tensor, var: torch.Tensor, slope: Slope = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(E[act(x)], Var[act(x)]), quickly where no gradients are wanted."""
    if _plain(slope) and not (torch.is_grad_enabled() and (mu.requires_grad or var.requires_grad)):
        return relu_moments(mu, var)
    return mean(mu, var, slope), variance(mu, var, slope)


def excess(mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(sigma, t, e, P(x > 0)) of x ~ N(mean, var): t = |mean| / sigma, e = phi(t) - t Phi(-t) = (E[relu(x)] -
    relu(mean)) / sigma.

    Elementwise, in the type given; the absolute errors of e and P are a few roundings.
    """
    sigma = (var + torch.finfo(var.dtype).tiny).sqrt_()  # a variance of 0 has a root to divide by
    # Beyond 8 sigma e is lost beside 1, and its denormal numbers would cost most of the time.
    t = (mean / sigma).abs_().clamp_(max=8.0)
    tail = torch.erfc(t * math.sqrt(0.5)).mul_(0.5)
    e = (t * t).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi)).addcmul_(t, tail, value=-1)
    return sigma, t, e, tail.sub_(0.5).neg_().copysign_(mean).add_(0.5)


def relu_moments(mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(E[relu(x)], Var[relu(x)]) for x ~ N(mean, var), elementwise, in the type given, without gradients or checks.

    relu(mean) + sigma e and var (P - e (|a| + e)), see `excess`. The absolute error is a few roundings of sigma or var,
    enough for sums of many units; `rpa.moments.relu` is relatively accurate and much slower. A negative rounding error
    of the variance becomes 0. mean and var are finite and of one shape, var >= 0.
    """
    sigma, t, e, positive = excess(mean, var)
    spread = positive.addcmul_(e, t + e, value=-1).mul_(var).clamp_(min=0)
    return torch.addcmul(torch.relu(mean), sigma, e), spread
