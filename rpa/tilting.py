"""Probability of a polytope under N(0, I): sequential conditioning, minimax tilting, randomized quasi-Monte Carlo.

The rows of {z : H z <= h} are brought to lower-trapezoidal form by an orthogonal change of variables, the row least
probable to hold first, so that each coordinate has one interval given the earlier ones (Genz & Kwong 2000). Each
coordinate is drawn from a normal truncated to its interval, its mean shifted so that the likelihood ratio varies as
little as possible (Botev 2017). The points are Sobol points, the error comes from independent scramblings.

Everything is batched over K polytopes; `plan` orders the rows, `tilt` finds the shifts, `estimate` samples.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from scipy.special import log_ndtr
from scipy.stats import qmc

from rpa.normal import log_interval

__all__ = ["Plan", "estimate", "plan", "tilt", "uniforms", "weighted_points"]

REPLICATES = 16
FIRST = 32  # points per replicate to begin with
CHUNK = 2**15  # (polytope, point) pairs in flight
SAFETY = 1.3
DEEP = -37.0  # below, Phi underflows
DEPENDENT = 1e-10
LOG_SQRT_2PI = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True, eq=False)
class Plan:
    """K polytopes in trapezoidal form: in y = axes z row i reads sum_{k <= owner_i} coef_ik y_k <= h_i.

    coef (K, n, c), h (K, n); owner (K, n): last coordinate that the row touches, -1 where h is infinite (no row);
    axes (K, c, r): orthonormal; rank (K,) <= c; log_p (K,): a rough log-probability; mean (K, c): a rough mean of y.
    """

    coef: np.ndarray
    h: np.ndarray
    owner: np.ndarray
    axes: np.ndarray
    rank: np.ndarray
    log_p: np.ndarray
    mean: np.ndarray

    def take(self, index):
        """The plan of the polytopes `index`."""
        return Plan(*(getattr(self, f.name)[index] for f in fields(self)))


def plan(H, h):
    """Order rows and coordinates (Genz & Kwong 2000): next comes the direction of the row least probable to hold.

    H (K, n, r) with rows of norm 1, h (K, n), infinite for a row that is only padding. Earlier coordinates are held at
    the mean of their truncated law. A row with nothing left outside the chosen directions bounds the latest of them.
    """
    count, n, r = H.shape
    c = min(n, r)
    batch = np.arange(count)
    residual, slack, free = H.copy(), h.copy(), np.isfinite(h)
    coef, axes, mean = np.zeros((count, n, c)), np.zeros((count, c, r)), np.zeros((count, c))
    owner, rank, log_p = np.full((count, n), -1), np.zeros(count, dtype=int), np.zeros(count)
    norm = np.linalg.norm(residual, axis=2)
    for k in range(c):
        margin = np.where(free, slack / np.where(free, norm, 1.0), np.inf)
        pick, some = margin.argmin(axis=1), free.any(axis=1)
        rank += some
        log_p += log_ndtr(margin[batch, pick])
        axis = np.where(some[:, None], residual[batch, pick], 0.0)
        # What rounding left along the earlier axes would grow when a nearly dependent row is scaled up to norm 1.
        axis -= np.einsum("kc,kcr->kr", np.einsum("kcr,kr->kc", axes[:, :k], axis), axes[:, :k])
        axis /= np.where(some, np.linalg.norm(axis, axis=1), 1.0)[:, None]
        axes[:, k] = axis
        along = np.where(free, (residual @ axis[:, :, None])[:, :, 0], 0.0)
        residual -= along[:, :, None] * axis[:, None, :]
        norm = np.linalg.norm(residual, axis=2)
        done = free & ((norm <= DEPENDENT) | (k == c - 1))
        done[batch[some], pick[some]] = True
        coef[:, :, k] = along
        owner[done] = k
        free &= ~done
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = slack / along
        upper = np.where(done & (along > 0), bound, np.inf).min(axis=1)
        lower = np.where(done & (along < 0), bound, -np.inf).max(axis=1)
        mean[:, k] = -_interval_slopes(lower, upper)[0]
        slack = slack - along * mean[:, k, None]
    return Plan(coef, h, owner, axes, rank, log_p, mean)


def _interval_slopes(a, b):
    """g and kappa such that N(0, 1) truncated to [a, b] has mean -g and variance 1 - kappa; any values for an empty one."""
    # Neither an infinite end nor a far one has density, and 1e150 squared is still finite.
    a, b = np.clip(a, -1e150, 1e150), np.clip(b, -1e150, 1e150)
    log_z = np.maximum(log_interval(a, b), -1e300)
    with np.errstate(over="ignore"):
        at_a, at_b = np.exp(-a * a / 2 - LOG_SQRT_2PI - log_z), np.exp(-b * b / 2 - LOG_SQRT_2PI - log_z)
    # On a short interval the law is uniform to the last digit that matters for a proposal.
    wide = b - a > 1e-5
    at_a, at_b = np.where(wide, at_a, 0.0), np.where(wide, at_b, 0.0)
    g = np.where(wide, at_b - at_a, -(a + b) / 2)
    return g, np.where(wide, np.clip(b * at_b - a * at_a + g * g, 0.0, 1.0), 1.0)


@dataclass(frozen=True, eq=False)
class _Saddle:
    """The exponent of Botev (2017, eq. 11), extended to more rows than coordinates; y, mu (K, m) with m = c - 1:

    psi = sum_k [mu_k^2 / 2 - mu_k y_k + log P(lower_k < Z + mu_k + (C y)_k < upper_k)] + sum_j log Phi(b_j - (S y)_j)

    concave in y, convex in mu. C, lower, upper: one row per coordinate with its parallels; S, b: all other rows, each
    on its own and with the coordinate it bounds unshifted. It only chooses the shifts, so it need not be exact.
    """

    C: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    S: np.ndarray
    b: np.ndarray

    def slopes(self, y, mu, index):
        """Gradients in y and mu, and the curvatures of the two kinds of rows, for the polytopes `index`."""
        C, S = self.C[index], self.S[index]
        shift = mu + (C @ y[:, :, None])[:, :, 0]
        g, kappa = _interval_slopes(self.lower[index] - shift, self.upper[index] - shift)
        t = np.clip(self.b[index] - (S @ y[:, :, None])[:, :, 0], -1e150, 1e150)
        rate = np.exp(-t * t / 2 - LOG_SQRT_2PI - log_ndtr(t))
        curve = np.clip(rate * (rate + t), 0.0, 1.0)
        in_y = -mu - (g[:, None] @ C + rate[:, None] @ S)[:, 0]
        return in_y, mu - y - g, kappa, curve

    def newton_step(self, in_y, in_mu, kappa, curve, index):
        """Newton's step for gradient = 0, mu eliminated."""
        C, S = self.C[index], self.S[index]
        stiff = np.maximum(1.0 - kappa, 1e-12)
        cross = -np.eye(C.shape[1]) - kappa[:, :, None] * C
        minus_hessian = (
            C.mT @ (kappa[:, :, None] * C) + S.mT @ (curve[:, :, None] * S) + cross.mT @ (cross / stiff[:, :, None])
        )
        right = in_y - ((in_mu / stiff)[:, None] @ cross)[:, 0]
        dy = np.linalg.solve(minus_hessian, right[:, :, None])[:, :, 0]
        return dy, -(in_mu + (cross @ dy[:, :, None])[:, :, 0]) / stiff


def tilt(p, steps=40):
    """Shifts mu (K, c) at the saddle point of psi, the last of them 0: Newton's method on the gradient.

    The gradient of a convex-concave function is a monotone operator, so Newton's direction always reduces its norm and
    halving the step until it does converges from anywhere. Any shift gives an unbiased estimate.
    """
    saddle = _saddle(p)
    y, mu = p.mean[:, :-1].copy(), np.zeros_like(p.mean[:, :-1])
    index = np.arange(len(y))
    state = saddle.slopes(y, mu, index)
    merit = (state[0] ** 2).sum(axis=1) + (state[1] ** 2).sum(axis=1)
    for _ in range(steps if y.size else 0):
        dy, dmu = saddle.newton_step(*state, index)
        step = np.ones((len(index), 1))
        for _ in range(20):
            state = saddle.slopes(y[index] + step * dy, mu[index] + step * dmu, index)
            trial = (state[0] ** 2).sum(axis=1) + (state[1] ** 2).sum(axis=1)
            worse = ~(trial < merit)
            if not worse.any():
                break
            step[worse] /= 2
        step[worse] = 0.0
        y[index] += step * dy
        mu[index] += step * dmu
        going = (trial > 1e-10) & ~worse
        if not going.any():
            break
        index, merit, state = index[going], trial[going], tuple(part[going] for part in state)
    return np.concatenate([mu, np.zeros((len(mu), 1))], axis=1)


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


def weighted_points(p, mu, uniforms, device=None):
    """Draws y (K, c, M) from the tilted sequential law and the logs of their weights (K, M), as tensors.

    The mean weight is the probability; weights are 0 where an interval is empty. uniforms (>= c - 1, M), or
    (>= c, M) to draw the last coordinate too, which the weights do not need.
    """
    sides = [(_side(p, k, +1.0, device), _side(p, k, -1.0, device)) for k in range(p.coef.shape[2])]
    mu, u = torch.as_tensor(mu, device=device), torch.as_tensor(uniforms, device=device)
    count, c = mu.shape
    y = torch.zeros(count, min(c, len(u)), u.shape[1], dtype=torch.float64, device=device)
    log_w = torch.zeros(count, u.shape[1], dtype=torch.float64, device=device)
    for k, (above, below) in enumerate(sides):
        shift = mu[:, k, None]
        upper, lower = _bound(above, y, k, shift, torch.amin), _bound(below, y, k, shift, torch.amax)
        log_z, draw = _draw(lower, upper, u[k] if k < len(u) else None)
        log_w += log_z
        if draw is not None:
            y[:, k] = draw + shift
            log_w += shift * (shift / 2 - y[:, k])
    return y, log_w


def _side(p, k, sign, device):
    """Rows that bound coordinate k from above (sign +1) or below: coefficients (K, S, k) and bounds (K, S), or None."""
    last = p.coef[:, :, k]
    rows = (p.owner == k) & (last * sign > 0)
    width = rows.sum(axis=1).max(initial=0)
    if width == 0:
        return None
    order = np.argsort(~rows, axis=1, kind="stable")[:, :width]
    rows, last = np.take_along_axis(rows, order, axis=1), np.take_along_axis(last, order, axis=1)
    scale = np.where(rows, last, 1.0)
    coef = np.take_along_axis(p.coef[:, :, :k], order[:, :, None], axis=1) / scale[:, :, None]
    bound = np.where(rows, np.take_along_axis(p.h, order, axis=1) / scale, sign * np.inf)
    coef = np.where(rows[:, :, None], coef, 0.0)
    return torch.as_tensor(coef, device=device), torch.as_tensor(bound, device=device)


def _bound(side, y, k, shift, tightest):
    if side is None:
        return None
    coef, bound = side
    limits = torch.baddbmm(bound[:, :, None], coef, y[:, :k], alpha=-1)
    return (limits[:, 0] if limits.shape[1] == 1 else tightest(limits, dim=1)) - shift


def _draw(lower, upper, u):
    """log Z of N(0, 1) on [lower, upper] (None: unbounded), and the point with quantile u, or None without u."""
    if lower is None and upper is None:
        return 0.0, None if u is None else torch.special.ndtri(u)
    if upper is None or lower is None:
        sign = 1.0 if lower is None else -1.0
        log_z, x = _draw_below(upper if lower is None else -lower, u if lower is None or u is None else 1 - u)
        return log_z, None if x is None else sign * x
    flip = lower + upper > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    low, high = _ndtr(a), _ndtr(b)
    z = (high - low).clamp_min(0.0)
    log_z = z.log()
    q = None if u is None else torch.where(flip, 1 - u, u)
    x = None if u is None else torch.special.ndtri(low + q * z)
    deep = (b < DEEP) & (a < b)
    if deep.any():
        log_b = torch.special.log_ndtr(b[deep])
        share = -torch.expm1(torch.special.log_ndtr(a[deep]) - log_b)
        log_z[deep] = log_b + share.log()
        if u is not None:
            x[deep] = _log_ndtri(log_b + torch.log1p(-(1 - q.expand_as(b)[deep]) * share))
    if u is None:
        return log_z, None
    x = torch.minimum(torch.maximum(x, a), torch.maximum(a, b))
    return log_z, torch.where(flip, -x, x)


def _draw_below(upper, u):
    z = _ndtr(upper)
    log_z = z.log()
    x = None if u is None else torch.special.ndtri(u * z)
    deep = upper < DEEP
    if deep.any():
        log_z[deep] = torch.special.log_ndtr(upper[deep])
        if u is not None:
            x[deep] = _log_ndtri(log_z[deep] + u.expand_as(upper)[deep].log())
    return log_z, x


def _ndtr(x):
    return torch.special.erfc(x * -(0.5**0.5)) / 2


def _log_ndtri(log_q):
    """x with log Phi(x) = log_q, for log_q below -100: Newton's method on log Phi, nearly quadratic there."""
    x = -torch.sqrt(-2 * log_q)
    for _ in range(5):
        log_p = torch.special.log_ndtr(x)
        x = x - (log_p - log_q) * torch.exp(x * x / 2 + LOG_SQRT_2PI + log_p)
    return x


@lru_cache(maxsize=32)
def _sobol(dim, log2_n, seed):
    """2^log2_n Sobol points with a random linear scrambling, as integers (dim, n) below 2^30."""
    points = qmc.Sobol(dim, rng=np.random.default_rng(seed)).random_base2(log2_n)
    return torch.from_numpy(np.ascontiguousarray((points.T * 2**30).astype(np.int64)))


def uniforms(dim, start, stop, seed, device=None):
    """Points start..stop of REPLICATES randomly shifted Sobol sequences in (0, 1): (dim, REPLICATES * (stop - start)).

    stop is a power of two. The digital shifts are independent, so each replicate is an unbiased quadrature of its own.
    """
    shifts = np.random.default_rng([seed, 1]).integers(0, 2**30, (REPLICATES, dim)).T
    points = _sobol(dim, int(stop).bit_length() - 1, seed)[:, start:stop].to(device)
    scrambled = points[:, None, :] ^ torch.as_tensor(np.ascontiguousarray(shifts), device=device)[:, :, None]
    return ((scrambled.double() + 0.5) * 2.0**-30).reshape(dim, -1)


def estimate(p, rtol, seed, budget, device=None, shifted=True):
    """log P (K,) and its relative error (K,) by doubling the points until the error is below rtol or `budget` is spent.

    shifted: whether to tilt; without it this is the separation of variables of Genz (1992).
    """
    count, c = len(p.h), p.coef.shape[2]
    mu = tilt(p) if shifted else np.zeros((count, c))
    log_p, rel_error = np.full(count, -np.inf), np.full(count, np.inf)
    sums = np.full((count, REPLICATES), -np.inf)
    todo, start, stop = np.arange(count), 0, FIRST
    while len(todo) and stop * REPLICATES <= budget:
        u = uniforms(max(c - 1, 1), start, stop, seed, device)[: c - 1]
        chunk = max(1, CHUNK // u.shape[1])
        for first in range(0, len(todo), chunk):
            part = todo[first : first + chunk]
            log_w = weighted_points(p.take(part), mu[part], u, device)[1]
            fresh = torch.logsumexp(log_w.reshape(len(part), REPLICATES, -1), dim=2).numpy(force=True)
            sums[part] = np.logaddexp(sums[part], fresh)
        log_p[todo], rel_error[todo] = _summary(sums[todo], stop)
        todo = todo[rel_error[todo] > rtol]
        start, stop = stop, 2 * stop
    return log_p, rel_error


def moments(p, rtol, seed, budget):
    """log P (K,), mean (K, c) and covariance (K, c, c) of y given the polytope, the mean to rtol standard deviations."""
    count, c = len(p.h), p.coef.shape[2]
    mu = tilt(p) if c else np.zeros((count, 0))
    log_p, mean, cov = np.zeros(count), np.zeros((count, c)), np.zeros((count, c, c))
    for i in range(count if c else 0):
        one, total, stop = p.take([i]), None, FIRST
        while stop * REPLICATES <= budget:
            y, log_w = weighted_points(one, mu[[i]], uniforms(c, 0, stop, seed))
            y, log_w = y[0].reshape(c, REPLICATES, -1), log_w[0].reshape(REPLICATES, -1)
            w = torch.exp(log_w - log_w.max().clamp_min(-1e300))
            w = w / w.sum().clamp_min(1e-300)
            mean[i] = (w * y).sum(dim=(1, 2)).numpy()
            centred = y - torch.from_numpy(mean[i])[:, None, None]
            cov[i] = ((w * centred).flatten(1) @ centred.flatten(1).T).numpy()
            error = (w * centred).sum(dim=2).std(dim=1).numpy() * REPLICATES**0.5
            log_p[i] = float(torch.logsumexp(log_w.flatten(), dim=0) - np.log(log_w.numel()))
            if total is not None and (SAFETY * error <= rtol * np.sqrt(np.diag(cov[i]))).all():
                break
            total, stop = log_p[i], 2 * stop
    return log_p, mean, cov


def _summary(sums, n):
    """Mean over replicates of sums of n weights (logs, (K, R)) and the relative error of that mean."""
    top = sums.max(axis=1, keepdims=True)
    means = np.exp(sums - np.where(np.isfinite(top), top, 0.0))
    mean = means.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rel_error = SAFETY * means.std(axis=1, ddof=1) / np.sqrt(means.shape[1]) / mean
        return np.log(mean) + np.where(np.isfinite(top), top, 0.0)[:, 0] - np.log(n), np.where(mean > 0, rel_error, np.inf)
