"""Minimax tilting (Botev 2017): the shifts for which the largest likelihood ratio is smallest.

The weights are bounded, by a known number where there are as many rows as coordinates; exact sampling needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from rpa.polytopes.normal import log_interval
from rpa.polytopes.trapezoid import Conditionals, Plan, truncated_above, truncated_normal


def minimax(p: Plan, steps: int = 40) -> tuple[Conditionals, np.ndarray]:
    """The tilted `Conditionals`, and psi (K,): the log of the largest weight, when each coordinate but the last is
    bounded by one row or two parallel ones and the last by one row.

    Newton's method on the gradient, a monotone operator: its direction reduces the norm, and the step is halved until
    it does. psi is infinite where that did not converge; any shift gives an unbiased estimate.
    """
    saddle = _saddle(p)
    y, mu = p.mean[:, :-1].copy(), np.zeros_like(p.mean[:, :-1])
    index, residual = np.arange(len(y)), np.zeros(len(y))
    state = saddle.slopes(y, mu, index)
    merit = _squares(*state)
    for _ in range(steps if y.size else 0):
        dy, dmu = saddle.newton_step(*state, index)
        step = np.ones((len(index), 1))
        for _ in range(20):
            state = saddle.slopes(y[index] + step * dy, mu[index] + step * dmu, index)
            trial = _squares(*state)
            worse = ~(trial < merit)
            if not worse.any():
                break
            step[worse] /= 2
        step[worse] = 0.0
        y[index] += step * dy
        mu[index] += step * dmu
        residual[index] = np.where(worse, merit, trial)
        going = (trial > 1e-20) & ~worse
        if not going.any():
            break
        index, merit, state = index[going], trial[going], tuple(part[going] for part in state)
    shift = np.concatenate([mu, np.zeros((len(mu), 1))], axis=1)
    psi = np.where(residual < 1e-10, saddle.value(y, mu), np.inf)
    return Conditionals(shift, None, np.ones_like(shift)), psi


def _squares(in_y, in_mu, *_):
    return (in_y**2).sum(axis=1) + (in_mu**2).sum(axis=1)


@dataclass(frozen=True, eq=False)
class _Saddle:
    """The exponent of Botev (2017, eq. 11), extended to more rows than coordinates; y, mu (K, m) with m = c - 1:

    psi = sum_k [mu_k^2 / 2 - mu_k y_k + log P(lower_k < Z + mu_k + (C y)_k < upper_k)] + sum_j log Phi(b_j - (S y)_j),

    concave in y, convex in mu. C, lower, upper: one row per coordinate with its parallels; S, b: all other rows.
    """

    C: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    S: np.ndarray
    b: np.ndarray

    def value(self, y, mu):
        """psi (K,)."""
        shift = mu + (self.C @ y[:, :, None])[:, :, 0]
        inner = log_interval(self.lower - shift, self.upper - shift) + mu * (mu / 2 - y)
        return inner.sum(axis=1) + log_ndtr(self.b - (self.S @ y[:, :, None])[:, :, 0]).sum(axis=1)

    def slopes(self, y, mu, index):
        """Gradients in y and mu, and the curvatures of the two kinds of rows, for the polytopes `index`."""
        C, S = self.C[index], self.S[index]
        shift = mu + (C @ y[:, :, None])[:, :, 0]
        mean, variance = truncated_normal(self.lower[index] - shift, self.upper[index] - shift)
        rate, left = truncated_above(self.b[index] - (S @ y[:, :, None])[:, :, 0])
        return -mu + (mean[:, None] @ C + rate[:, None] @ S)[:, 0], mu - y + mean, variance, 1 - left

    def newton_step(self, in_y, in_mu, variance, curve, index):
        """Newton's step (dy, dmu) for gradient = 0, mu eliminated."""
        C, S = self.C[index], self.S[index]
        stiff = np.maximum(variance, 1e-12)
        bend = (1 - variance)[:, :, None]
        cross = -np.eye(C.shape[1]) - bend * C
        curvature = C.mT @ (bend * C) + S.mT @ (curve[:, :, None] * S) + cross.mT @ (cross / stiff[:, :, None])
        right = in_y - ((in_mu / stiff)[:, None] @ cross)[:, 0]
        dy = np.linalg.solve(curvature, right[:, :, None])[:, :, 0]
        return dy, -(in_mu + (cross @ dy[:, :, None])[:, :, 0]) / stiff


def _saddle(p):
    count, n, c = p.coef.shape
    m, batch = c - 1, np.arange(count)
    present = p.owner >= 0
    last = np.take_along_axis(p.coef, np.maximum(p.owner, 0)[:, :, None], axis=2)[:, :, 0]
    scale = np.where(present, last, 1.0)
    before = np.arange(m) < p.owner[:, :, None]
    rows, bound = np.where(before, p.coef[:, :, :m], 0.0) / scale[:, :, None], np.where(present, p.h, np.inf) / scale
    C, lower, upper = np.zeros((count, m, m)), np.full((count, m), -np.inf), np.full((count, m), np.inf)
    margin = bound - (rows @ p.mean[:, :m, None])[:, :, 0]
    single = np.zeros((count, n), dtype=bool)
    for k in range(m):
        own = p.owner == k
        first = np.where(own & (last > 0), margin, np.inf).argmin(axis=1)
        C[:, k] = np.where(own[batch, first, None], rows[batch, first], 0.0)
        parallel = own & (np.abs(rows - C[:, k, None]).max(axis=2, initial=0.0) < 1e-8)
        upper[:, k] = np.where(parallel & (last > 0), bound, np.inf).min(axis=1)
        lower[:, k] = np.where(parallel & (last < 0), bound, -np.inf).max(axis=1)
        single |= parallel
    others = present & ~single
    order = np.argsort(~others, axis=1, kind="stable")[:, : others.sum(axis=1).max(initial=0)]
    sign = np.where(others, np.sign(scale), 0.0)
    S = np.take_along_axis(rows * sign[:, :, None], order[:, :, None], axis=1)
    b = np.take_along_axis(np.where(others, bound * np.sign(scale), np.inf), order, axis=1)
    return _Saddle(C, lower, upper, S, b)
