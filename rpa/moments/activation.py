"""Moments of piecewise-linear activations, act(x) = x for x > 0 and slope x elsewhere, for a Gaussian x.

act(x) = slope x + (1 - slope) relu(x), so all follow from `rpa.moments.relu`: a leaky ReLU, |x| (slope -1), and a value
that passes (slope 1) beside activated ones.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from rpa.moments import relu


def moments(
    mu: torch.Tensor, var: torch.Tensor, slope: float | torch.Tensor | None = None, accurate: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(E[act(x)], Var[act(x)], E[act'(x)]) for x ~ N(mu, var), elementwise; the last is the linear response to x.

    mu and var are finite and of one shape, var >= 0; slope broadcasts to them, None is a ReLU. accurate: of the
    relative accuracy of `rpa.moments.relu`, and much slower; gradients take that way too. Otherwise the absolute error
    is a few roundings of sigma or var, enough for sums of many units.
    """
    if accurate or (torch.is_grad_enabled() and (mu.requires_grad or var.requires_grad)):
        (mean, spread), gain = relu.mean_and_variance(mu, var), relu.gain(mu, var)
    else:
        # relu(mu) + sigma e and var (P - e (t + e)), where t = |mu| / sigma, e = phi(t) - t Phi(-t), P = P(x > 0).
        sigma = (var + torch.finfo(var.dtype).tiny).sqrt_()  # a variance of 0 has a root to divide by
        # Beyond 8 sigma e is lost beside 1, and its denormal numbers would cost most of the time.
        t = (mu / sigma).abs_().clamp_(max=8.0)
        tail = torch.erfc(t * math.sqrt(0.5)).mul_(0.5)
        e = (t * t).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi)).addcmul_(t, tail, value=-1)
        gain = tail.sub_(0.5).neg_().copysign_(mu).add_(0.5)
        spread = torch.addcmul(gain, e, t.add_(e), value=-1).mul_(var).clamp_(min=0)
        mean = torch.relu(mu).addcmul_(sigma, e)
    if slope is None or (not isinstance(slope, torch.Tensor) and slope == 0):
        return mean, spread, gain
    both = slope**2 + 2 * slope * (1 - slope) * gain  # Cov[x, relu(x)] = gain var (Stein)
    spread = (both * var + (1 - slope) ** 2 * spread).clamp(min=0)
    return slope * mu + (1 - slope) * mean, spread, gain + slope * (1 - gain)


def covariance(mu: torch.Tensor, cov: torch.Tensor, slope: torch.Tensor | None, rule: str) -> torch.Tensor:
    """Cov[act(x)] (b, n, n) for x ~ N(mu, cov), slope (n,) or None for ReLU.

    rule for pairs of activations: "exact"; "series", the first four terms; "linear", the first. A pair of which one
    passes has gain_1 gain_2 cov_12, exactly.
    """
    # Rounding in earlier layers may have moved |cov_12| beyond sigma_1 sigma_2 or off cov_21, or a variance below 0.
    cov = (cov + cov.mT) / 2
    given = cov.detach()
    sigma = given.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    limit = (1 + 4 * torch.finfo(cov.dtype).eps) * sigma[..., :, None] * sigma[..., None, :]
    cov = cov + (given.clamp(-limit, limit) - given)
    series = partial(relu.covariance_series, terms=4 if rule == "series" else 1)
    rectified = relu.covariance if rule == "exact" else series
    if slope is None:
        return rectified(mu, cov)
    bent = (slope != 1).nonzero().squeeze(1)
    if not len(bent):
        return cov
    gain = relu.gain(mu, cov.diagonal(dim1=-2, dim2=-1))
    response = gain + slope * (1 - gain)
    inner, some, positive = cov[:, bent][:, :, bent], mu[:, bent], gain[:, bent]
    bend = rectified(some, inner) - positive[:, :, None] * inner * positive[:, None]
    bend = (1 - slope[bent])[:, None] * bend * (1 - slope[bent])
    rows = torch.zeros_like(cov[:, bent]).index_add(2, bent, bend)
    return (response[:, :, None] * cov * response[:, None]).index_add(1, bent, rows)
