"""Polytopes in lower-trapezoidal form, and points drawn coordinate by coordinate inside them.

An orthogonal change of variables turns the rows of {z : H z <= h} into rows that end at different coordinates, so that
each coordinate has one interval given the earlier ones (Genz & Kwong 2000, for singular covariances; with as many rows
as coordinates it is the separation of variables of Genz 1992). `plan` makes the form, a `Proposal` says from which
normal law each coordinate is drawn, a `Sampler` draws. Everything is batched over K polytopes.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.special import log_ndtr

from rpa.normal import LOG_2PI, log_interval

__all__ = ["Plan", "Proposal", "Sampler", "plain", "plan", "truncated_normal"]

DEPENDENT = 1e-10  # what is left of a row of norm 1 outside the chosen directions counts as rounding below this
DEEP = -37.0  # Phi underflows below


@dataclass(frozen=True, eq=False)
class Plan:
    """K polytopes in trapezoidal form: in y = axes z row i reads sum_{k <= owner_i} coef_ik y_k <= h_i.

    coef (K, n, c), h (K, n); owner (K, n): last coordinate that the row touches, -1 where h is infinite (no row);
    axes (K, c, r): orthonormal, zero beyond the rank (K,) <= c of the rows; mean (K, c): a rough mean of y.
    """

    coef: np.ndarray
    h: np.ndarray
    owner: np.ndarray
    axes: np.ndarray
    rank: np.ndarray
    mean: np.ndarray

    def take(self, index):
        """The plan of the polytopes `index`."""
        return Plan(*(getattr(self, f.name)[index] for f in fields(self)))

    def owned(self, k, sign=0):
        """Rows that end at coordinate k: coefficients (K, S, k + 1) and bounds (K, S), padded by zeros and infinity.

        sign +1 or -1: only those that bound it from above or below. Also their places in the plan, (K, S).
        """
        rows = (self.owner == k) & (self.coef[:, :, k] * sign >= 0)
        order = np.argsort(~rows, axis=1, kind="stable")[:, : rows.sum(axis=1).max(initial=0)]
        real = np.take_along_axis(rows, order, axis=1)
        coef = np.take_along_axis(self.coef[:, :, : k + 1], order[:, :, None], axis=1)
        bound = np.where(real, np.take_along_axis(self.h, order, axis=1), np.inf)
        return np.where(real[:, :, None], coef, 0.0), bound, order


def plan(H, h):
    """The `Plan` of {H z <= h}: the next coordinate is the direction of the row least probable to hold.

    H (K, n, r) with rows of norm 1, h (K, n), infinite for a row that is only padding. Earlier coordinates are held at
    the mean of their truncated law. A row with nothing left outside the chosen directions bounds the latest of them.
    """
    count, n, r = H.shape
    c, batch = min(n, r), np.arange(count)
    residual, slack, free = H.copy(), h.copy(), np.isfinite(h)
    coef, axes, mean = np.zeros((count, n, c)), np.zeros((count, c, r)), np.zeros((count, c))
    owner, rank = np.full((count, n), -1), np.zeros(count, dtype=int)
    norm = np.linalg.norm(residual, axis=2)
    for k in range(c):
        pick = np.where(free, slack / np.where(free, norm, 1.0), np.inf).argmin(axis=1)
        some = free.any(axis=1)
        rank += some
        axis = np.where(some[:, None], residual[batch, pick], 0.0)
        # What rounding left along the earlier axes would grow when a nearly dependent row is scaled up to norm 1.
        axis -= ((axes[:, :k] @ axis[:, :, None]).mT @ axes[:, :k])[:, 0]
        axis /= np.where(some, np.linalg.norm(axis, axis=1), 1.0)[:, None]
        along = np.where(free, (residual @ axis[:, :, None])[:, :, 0], 0.0)
        residual -= along[:, :, None] * axis[:, None, :]
        norm = np.linalg.norm(residual, axis=2)
        done = free & ((norm <= DEPENDENT) | (k == c - 1))
        done[batch[some], pick[some]] = True
        axes[:, k], coef[:, :, k], owner[done] = axis, along, k
        free &= ~done
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = slack / along
        upper = np.where(done & (along > 0), bound, np.inf).min(axis=1)
        lower = np.where(done & (along < 0), bound, -np.inf).max(axis=1)
        mean[:, k] = truncated_normal(lower, upper)[0]
        slack = slack - along * mean[:, k, None]
    return Plan(coef, h, owner, axes, rank, mean)


def truncated_normal(lower, upper):
    """Mean and variance of N(0, 1) on [lower, upper], elementwise; the middle and 0 for an interval that is empty.

    Good to 1e-9 relative, which is ample for choosing a proposal.
    """
    a, b = np.clip(lower, -1e7, 1e7), np.clip(upper, -1e7, 1e7)
    wide = b - a > 1e-5
    log_z = np.where(wide, log_interval(a, b), 0.0)
    at_a, at_b = np.exp(-(a * a + LOG_2PI) / 2 - log_z), np.exp(-(b * b + LOG_2PI) / 2 - log_z)
    mean = np.where(wide, at_a - at_b, (a + b) / 2)
    variance = 1.0 + a * at_a - b * at_b - mean * mean
    return mean, np.where(wide, np.clip(variance, 0.0, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class Proposal:
    """Coordinate k is drawn from N(shift_k + sum_{j < k} slope_kj y_j, spread_k^2) truncated to its interval.

    shift (K, c), slope (K, c, c) or None for zero, spread (K, c). The last coordinate has 0, 0, 1.
    """

    shift: np.ndarray
    slope: np.ndarray | None
    spread: np.ndarray


def plain(p):
    """The proposal of Genz (1992): each coordinate from N(0, 1)."""
    return Proposal(np.zeros_like(p.mean), None, np.ones_like(p.mean))


class Sampler:
    """Draws from `Proposal`s inside the polytopes of a `Plan`, with all that every batch of points needs on one device."""

    def __init__(self, p, proposals, device=None):
        self.dim, self.sources, self.device = p.mean.shape[1], len(proposals), device
        self._spread = [torch.as_tensor(q.spread, device=device) for q in proposals]
        self._coordinates = []
        for k in range(self.dim):
            slopes = [np.zeros_like(p.coef[:, 0, :k]) if q.slope is None else q.slope[:, k, :k] for q in proposals]
            (above, upper), (below, lower) = _limits(p, k, +1), _limits(p, k, -1)
            matrix = np.concatenate([np.stack(slopes, axis=1), -above, -below], axis=1)
            shifts = np.stack([q.shift[:, k] for q in proposals], axis=1)
            offset = np.concatenate([shifts, upper, lower], axis=1)[:, :, None]
            tensors = (torch.as_tensor(part, device=device) for part in (matrix, offset))
            self._coordinates.append((*tensors, [len(proposals), upper.shape[1], lower.shape[1]]))

    def points(self, index, uniforms, source=0):
        """Draws y (K, <= c, M) from proposal `source`, and the logs of their weights under each proposal, (K, M) each.

        Drawn from q_j the weight 1[inside] phi / q_j has the probability of the polytope as its mean; it is 0 where an
        interval is empty. index: which polytopes. uniforms (c - 1, M); with (c, M) the last coordinate is drawn too.
        """
        u = torch.as_tensor(uniforms, device=self.device)
        index = torch.as_tensor(index, device=self.device)
        y = torch.zeros(len(index), min(self.dim, len(u)), u.shape[1], dtype=torch.float64, device=self.device)
        log_w = [torch.zeros(len(index), u.shape[1], dtype=torch.float64, device=self.device) for _ in self._spread]
        for k, (matrix, offset, sizes) in enumerate(self._coordinates):
            centres, upper, lower = torch.baddbmm(offset[index], matrix[index], y[:, :k]).split(sizes, dim=1)
            upper = upper.amin(dim=1) if sizes[1] else None
            lower = lower.amax(dim=1) if sizes[2] else None
            order = [source] + [j for j in range(len(log_w)) if j != source]
            for j in order:
                centre, spread = centres[:, j], self._spread[j][index, k, None]
                ends = (None if end is None else (end - centre) / spread for end in (lower, upper))
                log_z, x = _draw(*ends, u[k].expand_as(centre) if k < len(u) and j == source else None)
                log_w[j] += log_z
                if k < len(u):
                    if j == source:
                        y[:, k] = centre + spread * x
                    else:
                        x = (y[:, k] - centre) / spread
                    log_w[j] += spread.log() + (x - y[:, k]) * (x + y[:, k]) / 2
        return y, log_w


def _limits(p, k, sign):
    """Rows bounding y_k from above (sign +1) or below as y_k <= or >= bound - slope . y_<k: slope (K, S, k), bound."""
    coef, bound, _ = p.owned(k, sign)
    scale = np.where(coef[:, :, k] == 0, float(sign), coef[:, :, k])
    return coef[:, :, :k] / scale[:, :, None], bound / scale


def _draw(lower, upper, u):
    """log Z of N(0, 1) on [lower, upper] (None: no bound), and the point of quantile u, or None without u."""
    if upper is None:
        log_z, x = _draw_below(-lower, None if u is None else 1 - u) if lower is not None else _draw_free(u)
        return log_z, None if x is None else x if lower is None else -x
    if lower is None:
        return _draw_below(upper, u)
    # Reflected so that both ends are not far above 0, where Phi has no digits left.
    flip = lower + upper > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    low, high = _ndtr(a), _ndtr(b)
    z = (high - low).clamp_min(0.0)
    log_z, x, quantile = z.log(), None, None
    if u is not None:
        quantile = torch.where(flip, 1 - u, u)
        x = torch.special.ndtri(low + quantile * z)
    deep = (b < DEEP) & (a < b)
    if deep.any():
        log_b = torch.special.log_ndtr(b[deep])
        share = -torch.expm1(torch.special.log_ndtr(a[deep]) - log_b)
        log_z[deep] = log_b + share.log()
        if u is not None:
            x[deep] = _log_ndtri(log_b + torch.log1p((quantile[deep] - 1) * share))
    if u is None:
        return log_z, None
    x = torch.minimum(torch.maximum(x, a), torch.maximum(a, b))
    return log_z, torch.where(flip, -x, x)


def _draw_free(u):
    return 0.0, None if u is None else torch.special.ndtri(u)


def _draw_below(upper, u):
    z = _ndtr(upper)
    log_z, x = z.log(), None if u is None else torch.special.ndtri(u * z)
    deep = upper < DEEP
    if deep.any():
        log_z[deep] = torch.special.log_ndtr(upper[deep])
        if u is not None:
            x[deep] = _log_ndtri(log_z[deep] + u[deep].log())
    return log_z, x


def _ndtr(x):
    return torch.special.erfc(x * -(0.5**0.5)) / 2


def _log_ndtri(log_q):
    """x with log Phi(x) = log_q, for log_q below -100: Newton's method on log Phi, which is nearly quadratic there."""
    x = -torch.sqrt(-2 * log_q)
    for _ in range(5):
        mills = (np.pi / 2) ** 0.5 * torch.special.erfcx(-x * 0.5**0.5)
        x = x - (torch.special.log_ndtr(x) - log_q) * mills
    return x
