"""The Gaussian restricted to a polytope: mean, covariance and draws.

Weighted points of `lookahead` give the moments. Minimax tilting (Botev 2017) takes the shifts for which the largest
weight is smallest: accepting points with probability weight / maximum gives independent exact draws.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, softmax

from rpa import _check
from rpa.inputs import Gaussian
from rpa.polytopes import quadrature, reduction
from rpa.polytopes.lookahead import lookahead
from rpa.polytopes.normal import log_interval
from rpa.polytopes.trapezoid import Conditionals, Plan, PolytopeSampler, plain, plan, truncated_above, truncated_normal

MOST_POINTS = 2**18  # of `moments`
ROUNDS = 20  # times that points outside by rounding are drawn again


class Sample(NamedTuple):
    """Draws points (n, d) and how they were made: "exact" (independent) or "slice" (a Markov chain)."""

    points: np.ndarray
    method: str


def moments(H: ArrayLike, h: ArrayLike, gaussian: Gaussian, *, rtol: float = 1e-2, seed: int = 0) -> Any:
    """(log P(H x <= h), mean (d,), cov (d, d)) of x ~ gaussian given H x <= h.

    Sampling goes on until log P and, in standard deviations, the mean and the standard deviations along the rows' axes
    are known to rtol, or 2^18 points are spent. Raises ValueError as `probability` does, and for a polytope that is
    empty or so thin or far away that doubles do not resolve its deviations (from some 1e7 off).
    """
    rows, slack, _, _ = _whitened(H, h, gaussian)
    rtol, seed = _check.fraction("rtol", rtol), _check.integer("seed", seed)
    mean, cov, log_p = np.zeros(rows.shape[2]), np.eye(rows.shape[2]), 0.0
    log_bound = log_ndtr(slack).sum(axis=1) + np.log(rtol * reduction.NEGLIGIBLE)
    while True:
        kept, log_dropped = reduction.uncertain(slack, log_bound)
        if kept.any() and rows.shape[2]:
            p = plan(rows[:, kept[0]], slack[:, kept[0]])
            log_p, y_mean, y_cov = quadrature.weighted_moments(p, lookahead(p), rtol, seed, MOST_POINTS)
            axes = p.axes[0, : p.rank[0]]
            apart = rtol * np.sqrt(np.diag(y_cov)) >= np.finfo(float).eps * np.abs(y_mean)
            if np.isfinite(log_p) and not apart[: len(axes)].all():
                raise ValueError("H, h: expected deviations that doubles resolve, got a polytope too thin or far away")
            mean = y_mean[: len(axes)] @ axes
            cov = np.eye(len(mean)) - axes.T @ axes if len(axes) < len(mean) else np.zeros((len(mean), len(mean)))
            cov = cov + axes.T @ y_cov[: len(axes), : len(axes)] @ axes
        # What was dropped must be small against p; where the guess of p was too high, all rows are kept.
        if not np.isfinite(log_p) or log_dropped[0] <= log_p + np.log(rtol / 10):
            break
        log_bound[:] = -np.inf
    if not np.isfinite(log_p):
        raise ValueError("H, h: expected a polytope of positive probability, found no point in it")
    factor = gaussian.times_factor(np.eye(gaussian.dim))
    return float(log_p), gaussian.mean + factor @ mean, factor @ cov @ factor.T


def _whitened(H, h, gaussian):
    """Rows of norm one and bounds where the law is N(0, I), each a batch of one, and the rows and bounds as given."""
    whitened, slack, doubt = reduction.whiten(H, h, gaussian)
    rows, slack, empty = reduction.unit_rows(whitened, slack)
    if np.isfinite(doubt.log_ceiling) or empty[0]:
        raise ValueError("H, h: expected a polytope of positive probability, a row without variance never holds")
    live = whitened[0].any(axis=1)
    return *reduction.distinct(rows, slack)[:2], doubt.given[live], _check.array("h", h, (None,))[live]


def sample(H: ArrayLike, h: ArrayLike, gaussian: Gaussian, n: int, seed: int) -> Sample:
    """n draws of x ~ gaussian given H x <= h, as a `Sample`; every one fulfils H x <= h as computed in floats, unless
    the polytope is so thin that no float in it was met.

    "exact": independent draws, accepted with probability weight / largest weight (Botev 2017). Where fewer than one
    point in 500 would be accepted, "slice": linear elliptical slice sampling (Gessner, Kanjilal & Hennig 2020), each
    row the end of its own chain of 25 steps from an importance draw. Raises ValueError as `moments` does.
    """
    n, seed = _check.integer("n", n), _check.integer("seed", seed)
    rows, slack, given, limits = _whitened(H, h, gaussian)
    rng = np.random.default_rng(seed)
    # Rows that are all but certain are left out of the plan, but not where points are tested.
    kept, _ = reduction.uncertain(slack, log_ndtr(slack).sum(axis=1) + np.log(1e-14))
    p, real = plan(rows[:, kept[0]], slack[:, kept[0]]), np.isfinite(slack[0])
    make, method = _accepted, "exact"
    points, others, missing = [np.zeros((0, gaussian.dim))], [np.zeros((0, gaussian.dim))], n
    for _ in range(ROUNDS):
        z = make(p, rows[0, real], slack[0, real], missing, rng)
        if z is None:
            p, make, method = plan(rows[:, real], slack[:, real]), _chains, "slice"
            z = make(p, rows[0, real], slack[0, real], missing, rng)
        x = gaussian.mean + z @ gaussian.times_factor(np.eye(gaussian.dim)).T
        inside = (x @ given.T <= limits).all(axis=1)
        points.append(x[inside])
        others.append(x[~inside])
        missing -= int(inside.sum())
        if missing <= 0:
            break
    # Points that miss by rounding serve only where there are no others.
    return Sample(np.concatenate(points + others)[:n], method)


def _accepted(p, rows, slack, n, rng):
    """n exact draws of z (n, r) from the plan p of some rows, tested against all; None if too few are accepted."""
    simple, rank, proposal, psi = p, p.rank[0], plain(p), 0.0
    if rank > 1:
        # Without the rows that make the largest weight unknown.
        kept = _parallels(p)[-1]
        kept[np.flatnonzero(kept & (p.owner[0] == rank - 1))[1:]] = False
        own = dict(coef=p.coef[:, kept, :rank], h=p.h[:, kept], owner=p.owner[:, kept], cut=p.cut[:, kept])
        simple = replace(p, **own, axes=p.axes[:, :rank], mean=p.mean[:, :rank])
        proposal, psi = minimax(simple)
    if not np.isfinite(psi):
        return None
    sampler, found, tried = PolytopeSampler(simple, [proposal]), [np.zeros((0, rows.shape[1]))], 0
    while (kept := sum(map(len, found))) < n:
        if tried >= 20_000 and kept < tried / 500:
            return None
        size = int(np.clip(1.2 * (n - kept) * (tried + 1000) / (kept + 10), 1000, 50_000))
        y, log_w = sampler.points([0], rng.random((sampler.dim, size)))
        y = y[0, :rank].numpy().T
        if rank > 1:
            y = y[np.log(rng.random(size)) <= log_w[0, 0].numpy() - psi]
        z = _completed(y, p, rng)
        found.append(z[(z @ rows.T <= slack).all(axis=1)])
        tried += size
    return np.concatenate(found)[:n]


def _completed(y, p, rng):
    """Standard normal z (n, r) whose coordinates along the plan's axes are y (n, rank)."""
    axes = p.axes[0, : p.rank[0]]
    if len(axes) == axes.shape[1]:
        return y @ axes
    z = rng.standard_normal((len(y), axes.shape[1]))
    return z - (z @ axes.T) @ axes + y @ axes


def _chains(p, rows, slack, n, rng, steps=25):
    """n states z (n, r) of linear elliptical slice sampling, each `steps` after its own importance draw."""
    sampler, r = PolytopeSampler(p, lookahead(p)), p.rank[0]
    y, log_w = sampler.points([0], rng.random((sampler.dim, 2**15)))
    log_w, y = log_w[0, 0].numpy(), y[0, :r].numpy().T
    coef, h = p.coef[0, p.owner[0] >= 0, :r], p.h[0, p.owner[0] >= 0]
    h = h + 4 * np.finfo(float).eps * (1 + np.abs(h))
    inside = np.isfinite(log_w) & (y @ coef.T <= h).all(axis=1)
    if not inside.any():
        raise ValueError("H, h: expected a polytope of positive probability, found no point in it")
    state = rng.choice(y[inside], n, p=softmax(log_w[inside]))
    for _ in range(steps):
        moved = _slice_step(state, coef, h, rng)
        # A step lands outside only by rounding, in a polytope so thin that all arcs but a few units long are forbidden.
        state = np.where((moved @ coef.T <= h).all(axis=1)[:, None], moved, state)
    return _completed(state, p, rng)


def _slice_step(state, rows, h, rng):
    """One move of every state (n, r) along a random ellipse x cos t + v sin t, uniformly on the part inside."""
    other = rng.standard_normal(state.shape)
    a, b = state @ rows.T, other @ rows.T
    size, angle = np.hypot(a, b), np.arctan2(b, a)
    # a cos t + b sin t = size cos(t - angle) > h on an arc around `angle`.
    half = np.arccos(np.clip(h / size, -1.0, 1.0)) * (size > h)
    start, stop = np.mod(angle - half, 2 * np.pi), np.mod(angle - half, 2 * np.pi) + 2 * half
    order = np.argsort(start, axis=1)
    start, stop = np.take_along_axis(start, order, 1), np.take_along_axis(stop, order, 1)
    covered = np.maximum.accumulate(stop, axis=1)
    # t = 0 is inside, so no forbidden arc passes over 2 pi: the free pieces are the gaps between the arcs.
    begin = np.concatenate([np.zeros((len(state), 1)), covered], axis=1)
    end = np.concatenate([start, np.full((len(state), 1), 2 * np.pi)], axis=1)
    length = np.maximum(end - begin, 0.0)
    total = np.cumsum(length, axis=1)
    where = rng.random(len(state)) * total[:, -1]
    piece = (total < where[:, None]).sum(axis=1).clip(max=length.shape[1] - 1)
    pick = np.arange(len(state)), piece
    t = (begin[pick] + where - (total[pick] - length[pick]))[:, None]
    return state * np.cos(t) + other * np.sin(t)


def minimax(p: Plan, steps: int = 40) -> tuple[Conditionals, float]:
    """The tilted `Conditionals` of a `Plan` of one, and psi: the log of the largest weight, when each coordinate but
    the last is bounded by one row or two parallel ones and the last by one row.

    Newton's method on the gradient, a monotone operator: its direction reduces the norm, and the step is halved until
    it does. psi is infinite where that did not converge; any shift gives an unbiased estimate.
    """
    m, owner = p.mean.shape[1] - 1, p.owner[0]
    rows, bound, last, pivots, parallel = _parallels(p)
    own = (owner == np.arange(m)[:, None]) & parallel
    upper = np.where(own & (last > 0), bound, np.inf).min(axis=1)
    lower = np.where(own & (last < 0), bound, -np.inf).max(axis=1)
    C = np.where(own.any(axis=1)[:, None], rows[pivots[:m], :m], 0.0)
    others = (owner >= 0) & ~own.any(axis=0)
    sign = np.sign(last[others])
    saddle = _Saddle(C, lower, upper, rows[others, :m] * sign[:, None], bound[others] * sign)
    y, mu = p.mean[0, :m], np.zeros(m)
    merit, *state = saddle.slopes(y, mu)
    for _ in range(steps if m else 0):
        dy, dmu = saddle.newton_step(*state)
        for step in 0.5 ** np.arange(20):
            trial, *state = saddle.slopes(y + step * dy, mu + step * dmu)
            if trial < merit:
                break
        else:
            break
        y, mu, merit = y + step * dy, mu + step * dmu, trial
        if merit <= 1e-20:
            break
    return plain(p, np.append(mu, 0.0)), saddle.value(y, mu) if merit < 1e-10 else np.inf


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
        """Squared length of the gradient, its parts in y and mu, and the curvatures of the two kinds of rows."""
        shift = mu + self.C @ y
        mean, variance = truncated_normal(self.lower - shift, self.upper - shift)
        rate, left = truncated_above(self.b - self.S @ y)
        in_y, in_mu = -mu + mean @ self.C + rate @ self.S, mu - y + mean
        return in_y @ in_y + in_mu @ in_mu, in_y, in_mu, variance, 1 - left

    def newton_step(self, in_y, in_mu, variance, curve):
        """Newton's step (dy, dmu) for gradient = 0, mu eliminated."""
        C, S = self.C, self.S
        stiff, bend = np.maximum(variance, 1e-12), (1 - variance)[:, None]
        cross = -np.eye(len(C)) - bend * C
        curvature = C.T @ (bend * C) + S.T @ (curve[:, None] * S) + cross.T @ (cross / stiff[:, None])
        dy = np.linalg.solve(curvature, in_y - (in_mu / stiff) @ cross)
        return dy, -(in_mu + cross @ dy) / stiff


def _parallels(p):
    """Of a `Plan` of one: rows (n, c) before their last coefficient, and bounds (n,), both divided by it; last (n,);
    the row (c,) that bounds each coordinate most closely from above; and whether a row is parallel to that one, (n,).
    """
    owner, c = p.owner[0], p.mean.shape[1]
    last = np.where(owner >= 0, p.coef[0, np.arange(len(owner)), owner], 1.0)
    rows, bound = np.where(np.arange(c) < owner[:, None], p.coef[0], 0.0) / last[:, None], p.h[0] / last
    slack = np.where(last > 0, bound - rows @ p.mean[0], np.inf)
    pivots = np.where(owner == np.arange(c)[:, None], slack, np.inf).argmin(axis=1)
    return rows, bound, last, pivots, (owner >= 0) & (np.abs(rows - rows[pivots[owner]]).max(axis=1) < 1e-8)
