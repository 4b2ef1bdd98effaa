"""Minimax tilting (Botev 2017): the shifts for which the largest likelihood ratio is smallest.

The weights are bounded, by a known number where there are as many rows as coordinates; exact sampling needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from rpa.polytopes.normal import log_interval
from rpa.polytopes.trapezoid import Conditionals, Plan, plain, truncated_above, truncated_normal


def minimax(p: Plan, steps: int = 40) -> tuple[Conditionals, float]:
    """The tilted `Conditionals` of a `Plan` of one, and psi: the log of the largest weight, when each coordinate but
    the last is bounded by one row or two parallel ones and the last by one row.

    Newton's method on the gradient, a monotone operator: its direction reduces the norm, and the step is halved until
    it does. psi is infinite where that did not converge; any shift gives an unbiased estimate.
    """
    saddle = _saddle(p)
    y, mu = p.mean[0, :-1], np.zeros(p.mean.shape[1] - 1)
    state = saddle.slopes(y, mu)
    merit = _squares(*state)
    for _ in range(steps if y.size else 0):
        dy, dmu = saddle.newton_step(*state)
        for step in 0.5 ** np.arange(20):
            state = saddle.slopes(y + step * dy, mu + step * dmu)
            trial = _squares(*state)
            if trial < merit:
                break
        else:
            break
        y, mu, merit = y + step * dy, mu + step * dmu, trial
        if merit <= 1e-20:
            break
    return plain(p, np.append(mu, 0.0)), saddle.value(y, mu) if merit < 1e-10 else np.inf


def _squares(in_y, in_mu, *_):
    return in_y @ in_y + in_mu @ in_mu


@dataclass(frozen=True, eq=False)
class _Saddle:
    """The exponent of Botev (2017, eq. 11), extended to more rows than coordinates; y, mu (m,) with m = c - 1:

    psi = sum_k [mu_k^2 / 2 - mu_k y_k + log P(lower_k < Z + mu_k + (C y)_k < upper_k)] + sum_j log Phi(b_j - (S y)_j),

    concave in y, convex in mu. C, lower, upper: one row per coordinate with its parallels; S, b: all other rows.
    """

    C: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    S: np.ndarray
    b: np.ndarray

    def value(self, y, mu):
        shift = mu + self.C @ y
        inner = log_interval(self.lower - shift, self.upper - shift) + mu * (mu / 2 - y)
        return inner.sum() + log_ndtr(self.b - self.S @ y).sum()

    def slopes(self, y, mu):
        """Gradients in y and mu, and the curvatures of the two kinds of rows."""
        shift = mu + self.C @ y
        mean, variance = truncated_normal(self.lower - shift, self.upper - shift)
        rate, left = truncated_above(self.b - self.S @ y)
        return -mu + mean @ self.C + rate @ self.S, mu - y + mean, variance, 1 - left

    def newton_step(self, in_y, in_mu, variance, curve):
        """Newton's step (dy, dmu) for gradient = 0, mu eliminated."""
        C, S = self.C, self.S
        stiff, bend = np.maximum(variance, 1e-12), (1 - variance)[:, None]
        cross = -np.eye(len(C)) - bend * C
        curvature = C.T @ (bend * C) + S.T @ (curve[:, None] * S) + cross.T @ (cross / stiff[:, None])
        dy = np.linalg.solve(curvature, in_y - (in_mu / stiff) @ cross)
        return dy, -(in_mu + cross @ dy) / stiff


def parallels(p: Plan) -> tuple:
    """Of a `Plan` of one: rows (n, c) before their last coefficient, and bounds (n,), both divided by it; last (n,);
    the row (c,) that bounds each coordinate most closely from above; and whether a row is parallel to that one, (n,).
    """
    owner, c = p.owner[0], p.mean.shape[1]
    last = np.where(owner >= 0, p.coef[0, np.arange(len(owner)), owner], 1.0)
    rows, bound = np.where(np.arange(c) < owner[:, None], p.coef[0], 0.0) / last[:, None], p.h[0] / last
    slack = np.where(last > 0, bound - rows @ p.mean[0], np.inf)
    pivots = np.where(owner == np.arange(c)[:, None], slack, np.inf).argmin(axis=1)
    return rows, bound, last, pivots, (owner >= 0) & (np.abs(rows - rows[pivots[owner]]).max(axis=1) < 1e-8)


def _saddle(p):
    rows, bound, last, pivots, parallel = parallels(p)
    owner, m = p.owner[0], p.mean.shape[1] - 1
    own = (owner == np.arange(m)[:, None]) & parallel
    upper = np.where(own & (last > 0), bound, np.inf).min(axis=1)
    lower = np.where(own & (last < 0), bound, -np.inf).max(axis=1)
    C = np.where(own.any(axis=1)[:, None], rows[pivots[:m], :m], 0.0)
    others = (owner >= 0) & ~own.any(axis=0)
    sign = np.sign(last[others])
    return _Saddle(C, lower, upper, rows[others, :m] * sign[:, None], bound[others] * sign)
