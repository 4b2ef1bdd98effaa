"""Polytopes in lower-trapezoidal form, and points drawn coordinate by coordinate inside them.

An orthogonal change of variables makes the rows end at different coordinates, so that each coordinate has one interval
given the earlier ones (Genz & Kwong 2000; with as many rows as coordinates, Genz 1992). `plan` makes the form, a
`Conditionals` is the normal law of each coordinate, a `PolytopeSampler` draws. Everything is batched over K polytopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import erfcx

from rpa.polytopes.bivariate import ndtr
from rpa.polytopes.normal import LOG_2PI, log_interval
from rpa.polytopes.reduction import matching

DEPENDENT = 1e-13  # a row of norm 1 whose part outside the chosen directions is shorter is linearly dependent
CANCELLED = 1e-2  # length of a rest below which it is computed from the row itself
SHORT = 1e-6  # width of an interval below which its density is constant
THIN = 1e-3  # width of a slab, in standard deviations, below which its direction is chosen first
INFINITE_END = 1e7  # end of an infinite interval, whose square keeps its digits in a variance
TILE = 4  # a matrix product's last bits depend on the number of rows, unless that is a multiple of this
DEEP = -37.0  # Phi underflows below


def take(record: Any, index: np.ndarray) -> Any:
    """A dataclass of arrays (K, ...), restricted to `index`."""
    return type(record)(*(getattr(record, f.name)[index] for f in fields(record)))


@dataclass(frozen=True, eq=False)
class Plan:
    """K polytopes in trapezoidal form: in y = axes z row i reads sum_{k <= owner_i} coef_ik y_k <= h_i.

    coef (K, n, c), h (K, n); owner (K, n): last coordinate that the row touches, -1 where h is infinite (no row);
    axes (K, c, r): orthonormal, zero beyond the rank (K,) <= c of the rows; mean (K, c): a rough mean of y; cut (K, n):
    size of what was deleted as rounding from each row, beyond what rows parallel to it lost.
    """

    coef: np.ndarray
    h: np.ndarray
    owner: np.ndarray
    axes: np.ndarray
    rank: np.ndarray
    mean: np.ndarray
    cut: np.ndarray

    def owned(self, k: int, sign: int = 0) -> Any:
        """Rows that end at coordinate k: coefficients (K, S, k + 1) and bounds (K, S), padded by zeros and infinity.

        sign +1 or -1: only those that bound it from above or below. Also their places in the plan, (K, S).
        """
        rows = (self.owner == k) & (self.coef[:, :, k] * sign >= 0)
        order = np.argsort(~rows, axis=1, kind="stable")[:, : max(rows.sum(axis=1).max(initial=0), sign)]
        real = np.take_along_axis(rows, order, axis=1)
        coef = np.take_along_axis(self.coef[:, :, : k + 1], order[:, :, None], axis=1)
        bound = np.where(real, np.take_along_axis(self.h, order, axis=1), np.inf)
        return np.where(real[:, :, None], coef, 0.0), bound, order


def plan(H: np.ndarray, h: np.ndarray) -> Plan:
    """The `Plan` of {H z <= h}: the next coordinate is the direction of the row least probable to hold.

    H (K, n, r) with rows of norm 1, h (K, n), infinite for padding. Earlier coordinates are fixed at the mean of their
    truncated law. A row in the span of the chosen directions bounds the latest of them. Thin slabs come first: later,
    rounding in the earlier coordinates would be large against their width.
    """
    count, n, r = H.shape
    c, batch = min(n, r), np.arange(count)
    slack, free, norm = h.copy(), np.isfinite(h), np.linalg.norm(H, axis=2)
    coef, axes, mean = np.zeros((count, n, c)), np.zeros((count, c, r)), np.zeros((count, c))
    owner, rank, cut = np.full((count, n), -1), np.zeros(count, dtype=int), np.zeros((count, n))
    # Distance between each row and the nearest that is its exact opposite.
    thin, (which, first, second) = np.full(h.shape, np.inf), matching(H, h, -1)
    thin[which, first] = thin[which, second] = np.maximum(h[which, first] + h[which, second], 0.0)
    for k in range(c):
        urgency = np.where(thin < THIN, 1e300 * (thin - 1), slack / np.where(free, norm, 1.0))
        pick = np.where(free, urgency, np.inf).argmin(axis=1)
        some = free.any(axis=1)
        rank += some
        axis = np.where(some[:, None], _rest(H[batch, pick], coef[batch, pick, :k], axes[:, :k]), 0.0)
        # What rounding left along the earlier axes would grow when a nearly dependent row is scaled up to norm 1.
        axis = _rest(axis, (axes[:, :k] @ axis[:, :, None])[:, :, 0], axes[:, :k])
        axis /= np.where(some, np.linalg.norm(axis, axis=1), 1.0)[:, None]
        along = np.where(free, (H @ axis[:, :, None])[:, :, 0], 0.0)
        axes[:, k], coef[:, :, k] = axis, along
        norm = np.sqrt(np.maximum(norm**2 - along**2, 0.0))
        # Differences of squares have lost the digits of a short rest.
        short = free & (norm < CANCELLED)
        short[batch, pick] &= short.sum(axis=1) > 1
        which, row = np.nonzero(short)
        rest = _rest(H[which, row], coef[which, row, : k + 1], axes[which, : k + 1])
        norm[short] = np.linalg.norm(rest, axis=1)
        done = free & ((norm <= DEPENDENT) | (k == c - 1))
        done[batch[some], pick[some]] = True
        cut[done] = np.abs(norm - norm[batch, pick, None])[done]
        owner[done] = k
        free &= ~done
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = slack / along
        upper = np.where(done & (along > 0), bound, np.inf).min(axis=1)
        lower = np.where(done & (along < 0), bound, -np.inf).max(axis=1)
        mean[:, k] = truncated_normal(lower, upper)[0]
        slack = slack - along * mean[:, k, None]
    return Plan(coef, h, owner, axes, rank, mean, cut)


def _rest(rows, coef, axes):
    """Rows (m, r) less their parts coef (m, k) along axes (m, k, r)."""
    return rows - (coef[:, None] @ axes)[:, 0]


def truncated_normal(lower: np.ndarray | float, upper: np.ndarray | float) -> tuple:
    """Mean and variance of N(0, 1) on [lower, upper], to 1e-9; the middle and 0 for an empty interval."""
    a, b = np.clip([lower, upper], -INFINITE_END, INFINITE_END)
    wide = b - a > 1e-5
    log_z = np.where(wide, log_interval(a, b), 0.0)
    at_a, at_b = np.exp(-(a * a + LOG_2PI) / 2 - log_z), np.exp(-(b * b + LOG_2PI) / 2 - log_z)
    mean = np.where(wide, at_a - at_b, (a + b) / 2)
    variance = 1.0 + a * at_a - b * at_b - mean * mean
    return mean, np.where(wide, np.clip(variance, 0.0, 1.0), np.maximum(b - a, 0.0) ** 2 / 12)


def truncated_above(upper: np.ndarray) -> tuple:
    """Mean -r and variance 1 - r (r + upper), r = phi(upper) / Phi(upper), of N(0, 1) below `upper`, to 1e-9."""
    b = np.clip(upper, -INFINITE_END, INFINITE_END)
    ratio = (2 / np.pi) ** 0.5 / erfcx(-b * 0.5**0.5)
    return -ratio, np.clip(1.0 - ratio * (ratio + b), 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Conditionals:
    """Coordinate k is drawn from N(shift_k + sum_{j < k} slope_kj y_j, spread_k^2) truncated to its interval.

    shift (K, c), slope (K, c, c), spread (K, c). The last coordinate has 0, 0, 1.
    """

    shift: np.ndarray
    slope: np.ndarray
    spread: np.ndarray


def plain(p: Plan, shift: np.ndarray | float = 0.0) -> Conditionals:
    """Each coordinate from N(shift, 1); without a shift the proposal of Genz (1992)."""
    return Conditionals(p.mean * 0.0 + shift, np.zeros((*p.mean.shape, p.mean.shape[1])), np.ones_like(p.mean))


class PolytopeSampler:
    """Draws from `Conditionals` inside the polytopes of a `Plan`, on one device."""

    def __init__(self, p: Plan, proposals: Sequence[Conditionals], device: str | None = None) -> None:
        self.dim, self.sources, self.device = p.mean.shape[1], len(proposals), device
        self._spread = torch.as_tensor(np.stack([q.spread for q in proposals], axis=1), device=device)
        self._coordinates = []
        for k in range(self.dim):
            matrices, offsets = [q.slope[:, k, None, :k] for q in proposals], [q.shift[:, k, None] for q in proposals]
            sizes = [self.sources]
            for sign in (+1, -1):  # rows that bound y_k from above and below, as offset + matrix y_<k
                coef, bound, _ = p.owned(k, sign)
                scale = np.where(coef[:, :, k] == 0, float(sign), coef[:, :, k])
                matrices.append(-(coef[:, :, :k] / scale[:, :, None]))
                offsets.append(bound / scale)
                sizes.append(bound.shape[1])
            sizes.append(-sum(sizes) % TILE if k > 1 else 0)
            both = np.concatenate(offsets, axis=1)[:, :, None], np.concatenate(matrices, axis=1)
            padded = [np.pad(array, [(0, 0), (0, sizes[-1]), (0, 0)]) for array in both]
            self._coordinates.append(([torch.as_tensor(array, device=device) for array in padded], sizes))

    def points(self, index: np.ndarray, uniforms: torch.Tensor, counts: Sequence[int] = ()) -> Any:
        """Draws y (K, <= c, M) and the logs of their weights under each proposal, (K, J, M).

        The weight 1[inside] phi / q_j of draws from q_j has the probability of the polytope as its mean. index: of the
        polytopes. uniforms (c - 1, M), or (c - 1, K, M) if each polytope has its own; with c rows the last coordinate
        is drawn. counts: how many of the M points each proposal draws, in order; all are the first's by default.
        """
        u = torch.as_tensor(uniforms, device=self.device)
        index = torch.as_tensor(index, device=self.device)
        drawn, spreads = min(self.dim, len(u)), self._spread[index]
        ends = np.cumsum(counts or [u.shape[-1]])
        spans = [slice(end - count, end) for count, end in zip(counts or ends, ends)]
        y = torch.zeros(len(index), drawn, u.shape[-1], dtype=torch.float64, device=self.device)
        log_w = spreads[:, :, :drawn].log().sum(dim=2, keepdim=True).expand(-1, -1, u.shape[-1]).contiguous()
        for k, (arrays, sizes) in enumerate(self._coordinates):
            offset, matrix = (array.index_select(0, index) for array in arrays)
            # The first coordinate has one interval for all points of a polytope.
            earlier = y[:, :k] if k else y[:, :0, :1]
            # Of a column times a row, a matrix product's last bits depend on the number of polytopes.
            product = torch.addcmul if k == 1 else torch.baddbmm
            centre, above, below, _ = product(offset, matrix, earlier).split(sizes, dim=1)
            upper = above.amin(dim=1, keepdim=True) if sizes[1] > 1 else above
            lower = below.amax(dim=1, keepdim=True) if sizes[2] else None
            spread = spreads[:, :, k, None]
            interval = _Interval(lower, upper, centre, spread)
            log_w += interval.log_mass()
            if k < drawn:
                for source, span in enumerate(spans):
                    y[:, k, span] = interval.draw(u[k][..., span], source, span, y.shape[2])
                x = (y[:, k, None] - centre).div_(spread)
                log_w.addcmul_(x, x, value=0.5)
        return y, log_w - (y * y).sum(dim=1, keepdim=True) / 2


class _Interval:
    """N(centre, spread^2) truncated to [lower, upper]; [a, b] in standard deviations, mirrored where mostly above 0."""

    def __init__(self, lower, upper, centre, spread):
        self.lower, self.upper, self.centre, self.spread = lower, upper, centre, spread
        self.b = (upper - centre).div_(spread)
        self.a = self.short = None
        if lower is not None:
            high, low = self.b, (centre - lower).div_(spread)  # distances of the ends from the centre
            self.flip = high > low
            self.a, self.b = torch.maximum(high, low).neg_(), torch.minimum(high, low)
            self.at_a = ndtr(self.a)
            if (self.b - self.a).abs_().amin() < 2 * SHORT:
                self.short = (self.width < SHORT) & (self.width > 0) & (self.b >= DEEP)
        self.at_b = ndtr(self.b)
        self.mass = self.at_b if self.a is None else (self.at_b - self.at_a).clamp_min_(0.0)
        self.deep = self.b < DEEP if self.b.amin() < DEEP else None

    @cached_property
    def width(self):
        """Length in standard deviations: b - a has lost the digits of a short interval far from the centre."""
        return (self.upper - self.lower) / self.spread

    def log_mass(self):
        """log of the interval's probability, -inf for an empty one."""
        log_p = self.mass.log()
        if self.deep is not None and self.a is None:
            log_p[self.deep] = torch.special.log_ndtr(self.b[self.deep])
        elif self.deep is not None:
            deep = self.deep & (self.a < self.b)
            ratio = _log_ratio(self.a[deep], self.b[deep], self.width[deep])
            log_p[deep] = torch.special.log_ndtr(self.b[deep]) + torch.log(-torch.expm1(ratio))
        if self.short is not None:
            width, middle = self.width[self.short], (self.a[self.short] + self.b[self.short]) / 2
            log_p[self.short] = width.log() - (middle * middle + LOG_2PI) / 2
        return log_p

    def draw(self, u, source, span, size):
        """The points of `span`, of `size` in all, below which lies the fraction u of the law truncated from one source;
        in the interval or at an end, even if it is empty.
        """

        def part(t):
            return None if t is None else t.expand(-1, -1, size)[:, source, span]

        b, mass, centre, spread, deep = map(part, (self.b, self.mass, self.centre, self.spread, self.deep))
        if self.a is None:
            x = torch.special.ndtri(u * mass)
            if deep is not None:
                x[deep] = _log_ndtri(torch.special.log_ndtr(b[deep]) + u.expand_as(b)[deep].log())
            return torch.addcmul(centre, torch.minimum(x, b), spread)
        a, at_a, flip = map(part, (self.a, self.at_a, self.flip))
        share = torch.where(flip, 1 - u, u)
        x = torch.special.ndtri(torch.addcmul(at_a, share, mass))
        if deep is not None:
            held = -torch.expm1(_log_ratio(a[deep], b[deep], part(self.width)[deep].clamp_min(0.0)))
            x[deep] = _log_ndtri(torch.special.log_ndtr(b[deep]) + torch.log1p((share[deep] - 1) * held))
        x = torch.clamp(x, a, torch.maximum(a, b))
        y = torch.addcmul(centre, torch.where(flip, -x, x), spread)
        if (short := part(self.short)) is not None:
            low, width = part(self.lower.expand_as(self.b))[short], part(self.width)[short]
            y[short] = low + spread.expand_as(b)[short] * width * u.expand_as(b)[short]
        return y


def _log_ratio(a, b, width):
    """log of Phi(a) / Phi(b), b = a + width, far in the lower tail, where the two logs would cancel; a may be -inf."""
    mills = torch.special.erfcx(-a * 0.5**0.5) / torch.special.erfcx(-b * 0.5**0.5)
    return (width * (a + b) / 2 + mills.log()).clamp_max(0.0)


def _log_ndtri(log_q):
    """x with log Phi(x) = log_q, for log_q below -100: Newton's method on log Phi, which is nearly quadratic there."""
    x = -torch.sqrt(-2 * log_q)
    for _ in range(5):
        mills = (np.pi / 2) ** 0.5 * torch.special.erfcx(-x * 0.5**0.5)
        x = x - (torch.special.log_ndtr(x) - log_q) * mills
    return x
