"""Proposals that account for later rows: expectation propagation, then a backward pass of Gaussian conditioning.

Expectation propagation replaces each row by a Gaussian factor with the same effect on the mean and covariance (Minka
2001). Its probabilities are unreliable for polytopes (Cunningham, Hennig & Lacoste-Julien 2011) and not used. With the
rows that end after coordinate k replaced by their factors, the law of y_k given y_<k is a normal truncated by the rows
that end at k; later coordinates are integrated out by Schur complements. Importance weights correct the approximation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from rpa.polytopes.trapezoid import Conditionals, Plan, plain, truncated_above

DAMPING = 0.6
# A row that holds with room to spare is flat, its Gaussian factor is not: at full precision the weights get heavy tails
# there. Half of it, the slope at the centre kept, measured best over orthants, boxes and networks' regions.
SHARPNESS = 0.5
HARDEST = 1e12  # precision at which a factor is as good as an equality; an empty polytope would drive it to infinity


class Sites(NamedTuple):
    """Gaussian factors exp(-tau x^2 / 2 + nu x), x = row . y, of all rows: tau, nu (K, n).

    mean (K, c): approximate mean of y; push (K, n): approximate derivatives of log P with respect to the bounds.
    """

    tau: np.ndarray
    nu: np.ndarray
    mean: np.ndarray
    push: np.ndarray


def sites(p: Plan, sweeps: int = 40, tol: float = 1e-2) -> Sites:
    """The `Sites` of a plan, by parallel, damped updates on N(0, I) times the factors.

    They stop, for each polytope, when they move by less than tol standard deviations; for empty ones they may not
    converge.
    """
    tau, nu, push = np.zeros((3, *p.h.shape))
    eye = torch.eye(p.mean.shape[1], dtype=torch.float64)
    mean, index = np.zeros(p.mean.shape), np.arange(len(p.h))
    for _ in range(sweeps):
        h, rows, tau_, nu_ = (part[index] for part in (p.h, p.coef, tau, nu))
        # The precision is L L^T; rows L^-T has the variances of the rows as its squared lengths.
        factors, weights = torch.from_numpy(rows), torch.from_numpy(tau_[:, :, None] * rows)
        lower = torch.linalg.cholesky_ex(eye + factors.mT @ weights).L
        both = torch.cat([factors.mT, factors.mT @ torch.from_numpy(nu_[:, :, None])], dim=2)
        root = torch.linalg.solve_triangular(lower, both, upper=False)
        middle_y = torch.linalg.solve_triangular(lower.mT, root[:, :, -1:], upper=True)
        centre, middle_y = (factors @ middle_y)[:, :, 0].numpy(), middle_y.numpy()
        var = np.maximum((root[:, :, :-1] ** 2).sum(dim=1).numpy(), 1 / HARDEST)
        # Without its own factor a row sees a normal law of precision `rest`; truncated, it has the moments to match.
        rest = np.maximum(1 / var - tau_, 1 / HARDEST)
        middle, scale = (centre / var - nu_) / rest, 1 / np.sqrt(rest)
        shift, shrink = truncated_above((h - middle) / scale)
        target, precision = middle + scale * shift, rest / np.maximum(shrink, rest / HARDEST)
        # Padding, of zero rows and infinite bounds, keeps flat factors.
        tau[index] += DAMPING * (precision - rest - tau_)
        nu[index] += DAMPING * (target * precision - middle * rest - nu_)
        mean[index], push[index] = middle_y[:, :, 0], -shift / scale
        index = index[(np.abs(target - centre) > tol * np.sqrt(var)).any(axis=1)]
        if not len(index):
            break
    return Sites(tau, nu, mean, push)


def lookahead(p: Plan, fitted: Sites | None = None) -> list[Conditionals]:
    """Two `Conditionals`: one with the factors' precision times SHARPNESS, one with their slope alone.

    The weights of the second are bounded where the polytope is unbounded; a mixture of both keeps this. fitted:
    `sites(p)`.
    """
    tau, nu, mean, _ = sites(p) if fitted is None else fitted
    slope = nu - tau * (p.coef @ mean[:, :, None])[:, :, 0]
    later = p.owner[:, :, None] > np.arange(p.mean.shape[1])
    flat = plain(p, (np.where(later, p.coef, 0.0).mT @ slope[:, :, None])[:, :, 0])
    return [_backward(p, SHARPNESS * tau, slope + SHARPNESS * (nu - slope)), flat]


def _backward(p, tau, nu):
    """The proposal in which every later row is its Gaussian factor (tau, nu)."""
    count, c = p.mean.shape
    shift, slope, spread = np.zeros((count, c)), np.zeros((count, c, c)), np.ones((count, c))
    # exp(-y' precision y / 2 + pull' y): what N(0, I) and the rows to come say about the coordinates up to k.
    precision, pull = np.broadcast_to(np.eye(c), (count, c, c)), np.zeros((count, c))
    for k in reversed(range(c)):
        own, head, tail = precision[:, k, k, None], precision[:, k, :k], pull[:, k, None]
        shift[:, k], slope[:, k, :k], spread[:, k] = (tail / own)[:, 0], -head / own, 1 / np.sqrt(own[:, 0])
        rows, _, order = p.owned(k)
        weight, force = (np.take_along_axis(part, order, axis=1) for part in (tau, nu))
        # One row after the other: the last bits of a product of matrices would depend on the padding.
        for i in range(rows.shape[1]):
            row = rows[:, i]
            precision = precision + (weight[:, i, None] * row)[:, :, None] * row[:, None]
            pull = pull + force[:, i, None] * row
        own, head, tail = precision[:, k, k, None], precision[:, k, :k], pull[:, k, None]
        precision = precision[:, :k, :k] - head[:, :, None] * (head / own)[:, None]
        pull = pull[:, :k] - head * (tail / own)
    return Conditionals(shift, slope, spread)
