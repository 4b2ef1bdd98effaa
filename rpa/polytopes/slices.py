"""One polygon of the plane by integrating over its slices: thin ones and far ones, which `planar` loses to rounding.

The x axis is the normal of one of the polygon's lines; a slice at x runs from the largest of the lower lines to the
smallest of the upper ones. Two opposite lines keep all digits of their distance.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from rpa.polytopes.bivariate import rule
from rpa.polytopes.normal import LOG_2PI, log_interval

EPS = np.finfo(float).eps
REACH = 9.5  # phi(REACH) / phi(0) = e^-45
LOG_DEPTH = 50.0  # slices whose density is below e^-50 of the largest are left out
FALL = 2.5  # largest fall of the log integrand in a piece of the quadrature
FRAMES = 12  # lines, those closest to the polygon's nearest point to the origin, whose normals are tried for slicing
NEAR = 8  # lines in the order of their angles meet in a vertex only if they are at most so many places from each other
MOST_PIECES = 1000  # pieces after which slices are as thin as rounding: a concave integrand needs some 100
PROBED = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
NODES, WEIGHTS = (part.numpy() for part in rule(16))


def log_probability(lines: np.ndarray, shift: np.ndarray) -> tuple[float, float]:
    """(log P, relative error) of z ~ N(0, I_2) in {a z <= c} for lines (n, 3) = (a, c) of unit normal a.

    shift (n,): error of c. Where the polygon may be empty the error is infinite and log P that of the polygon with its
    lines moved outward by their errors; -inf if no point was found even there.
    """
    lines, shift = _facets(lines, shift)
    wide = lines + np.array([0.0, 0.0, 1.0]) * (shift + 8 * EPS * (1 + np.abs(lines[:, 2])))[:, None]
    for candidates, certain in ((lines, True), (wide, False)):
        nearest = _nearest(candidates)
        if nearest is None:
            continue
        close = np.argsort(candidates[:, 2] - candidates[:, :2] @ nearest, kind="stable")[:FRAMES]
        answers = [_in_frame(candidates, i, nearest, shift) for i in close]
        log_p, error = min(answers, key=lambda answer: (answer[1], -answer[0]))
        if np.isfinite(log_p):
            return log_p, error if certain else np.inf
    return -np.inf, np.inf


def _facets(lines, shift):
    """Lines in the order of their angles, and their errors, without those outside the corner of their neighbours."""
    order = np.argsort(np.arctan2(lines[:, 1], lines[:, 0]), kind="stable")
    while True:
        lines, shift = lines[order], shift[order]
        (a, b, before), (u, v, own), (x, y, after) = around = [np.roll(lines, i, axis=0).T for i in (1, 0, -1)]
        # whole (u, v) = left (a, b) + right (x, y)
        left, right, whole = u * y - v * x, a * v - b * u, a * y - b * x
        margin = sum(np.roll(shift, i) for i in (1, 0, -1)) + 16 * EPS * (1 + sum(abs(part[2]) for part in around))
        outside = (left >= 0) & (right >= 0) & (whole > 8 * EPS)
        outside &= left * before + right * after + margin < whole * own
        outside &= ~np.roll(outside, 1)  # while its neighbours stay
        if not outside.any():
            return lines, shift
        order = np.flatnonzero(~outside)


def _pairs(count):
    i, j = np.triu_indices(count, 1)
    near = np.minimum(j - i, count - j + i) <= NEAR
    return i[near], j[near]


def _nearest(lines):
    """The point of the polygon nearest to the origin, up to rounding; None if none of the candidates is inside."""
    a, c = lines[:, :2], lines[:, 2]
    i, j = _pairs(len(lines))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        det = a[i, 0] * a[j, 1] - a[i, 1] * a[j, 0]
        x, y = (c[i] * a[j, 1] - c[j] * a[i, 1]) / det, (a[i, 0] * c[j] - a[j, 0] * c[i]) / det
        points = np.concatenate([np.zeros((1, 2)), a * c[:, None], np.column_stack([x, y])])
        points = points[np.isfinite(points).all(axis=1)]
        size = np.abs(points).sum(axis=1)[:, None]
        points = points[(points @ a.T - c <= 8 * EPS * (size + np.abs(c))).all(axis=1)]
    return points[np.hypot(*points.T).argmin()] if len(points) else None


@dataclass(frozen=True)
class _Frame:
    """Lines y = height + slope t that bound y from above (up) or below, t = x - x0."""

    height: np.ndarray
    slope: np.ndarray
    up: np.ndarray
    x0: float

    def limits(self, t):
        """(lower, upper) (...,) of the slice at t and the lines' y (..., n) there."""
        with np.errstate(invalid="ignore", over="ignore"):
            y = self.height + self.slope * t[..., None]
        lower = np.where(self.up, -np.inf, y).max(axis=-1, initial=-np.inf)
        return lower, np.where(self.up, y, np.inf).min(axis=-1, initial=np.inf), y

    def log_density(self, t):
        """log of the integral of the density over the slice at t, times exp(x0^2 / 2); concave in t."""
        lower, upper, _ = self.limits(t)
        return log_interval(lower, upper) - self.x0 * t - (t**2 + LOG_2PI) / 2

    def pieces(self, y0, low, high):
        """Starts and widths of the parts of [low, high] that matter, in each of which the integrand is smooth."""
        i, j = _pairs(len(self.slope))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            meet = (self.height[j] - self.height[i]) / (self.slope[i] - self.slope[j])
            levels = [y0 - REACH, y0, y0 + REACH, *np.linspace(-REACH, REACH, 5)]
            cross = [(level - self.height) / self.slope for level in levels]
        # Only places on the boundary are corners of the integrand: of two lines that meet the one with less rounding.
        t = np.concatenate([meet, meet, *cross])
        line = np.concatenate([i, j, np.tile(np.arange(len(self.slope)), len(levels))])
        t, line = t[(t > low) & (t < high)], line[(t > low) & (t < high)]
        lower, upper, y = self.limits(t)
        y, size = y[np.arange(len(t)), line], np.abs(self.height[line]) + np.abs(self.slope[line] * t)
        t = t[np.minimum(np.abs(y - lower), np.abs(y - upper)) <= 64 * EPS * size]
        edges = np.unique(np.concatenate([[low, high], t, [np.clip(0.0, low, high)]]))[None]
        found, most = np.zeros((4, 0)), edges.size + MOST_PIECES
        for _ in range(40):
            start, stop = (part[edges[:, 1:] > edges[:, :-1]] for part in (edges[:, :-1], edges[:, 1:]))
            width = stop - start
            value = self.log_density(start[:, None] + width[:, None] * PROBED)
            with np.errstate(invalid="ignore"):
                fall = np.nan_to_num(np.abs(np.diff(value[:, 1:-1])), nan=0.0, posinf=LOG_DEPTH).sum(axis=1)
            fresh = start, stop, value.max(axis=1) + np.log(width), np.maximum(fall, width)
            start, stop, weight, fall = found = np.hstack([found, fresh])
            matter = np.isfinite(weight) & (weight > weight.max() - LOG_DEPTH)
            coarse = matter & (fall > FALL)
            if not coarse.any() or len(start) > most:
                break
            inner = start[coarse, None] + (stop - start)[coarse, None] * np.array([0.25, 0.5, 0.75])
            edges = np.column_stack([start[coarse], inner, stop[coarse]])
            found = found[:, ~coarse]
        return start[matter, None], (stop - start)[matter, None]


def _in_frame(lines, i, nearest, shift):
    """(log P, relative error) by slices along the normal of line i; nearest: the point nearest to the origin."""
    (u, v), c = lines[i, :2], lines[:, 2]
    x, y = np.vstack([lines[:, :2], nearest]).T
    along, across = x * u + y * v, y * u - x * v
    a_x, a_y, x0, y0 = along[:-1], across[:-1], along[-1], across[-1]
    level = a_y != 0
    a_x[~level] = np.sign(a_x[~level])
    x0 = c[i] if abs(x0 - c[i]) <= 1e-9 * abs(x0) else x0
    local = c - a_x * x0
    ends, left = local[~level] / a_x[~level], a_x[~level] < 0
    first, last = ends[left].max(initial=-REACH), ends[~left].min(initial=REACH)
    low, high = first, last
    if x0:
        # nearest (z - nearest) is not negative on the polygon, and up to 45 where the density matters.
        tilt = REACH * abs(y0 / x0)
        low, high = max(low, -tilt - LOG_DEPTH / abs(x0) * (x0 < 0)), min(high, tilt + LOG_DEPTH / abs(x0) * (x0 > 0))
    if not low < high:
        return -np.inf, np.inf
    height, slope = local[level] / a_y[level], -a_x[level] / a_y[level]
    frame = _Frame(height, slope, a_y[level] > 0, x0)
    start, width = frame.pieces(y0, low, high)
    if not len(start):
        return -np.inf, np.inf
    t, log_weight = start + width * NODES, np.log(width * WEIGHTS)
    log_p = float(logsumexp(frame.log_density(t) + log_weight))
    # Sum over the lines of (density along the line, by P) x (how far rounding may have moved it).
    moved = shift + 2 * EPS * np.abs(c)
    error = 0.0
    for end, side in ((first, left), (last, ~left)):
        height = np.exp(min(float(frame.log_density(np.clip(end, low, high))) - log_p, 700.0))
        error += height * moved[~level][side & (ends == end)].max(initial=0.0)
    lower, upper, y = frame.limits(t)
    t, at = t[..., None], y == np.where(frame.up, upper[..., None], lower[..., None])
    with np.errstate(over="ignore", invalid="ignore"):
        log_height = log_weight[..., None] - log_p - x0 * t - (t**2 + y**2) / 2 - LOG_2PI
        by = moved[level] + 2 * EPS * (np.abs(x0 + t) + np.abs(y))
        error += np.where(at, np.exp(np.minimum(log_height, 700.0)) / np.abs(a_y[level]) * by, 0.0).sum()
    log_p -= x0 * x0 / 2
    return log_p, float(EPS * (20 - log_p) + (error / (1 - error) if error < 1 else np.inf))
