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
DEEP = 50.0  # slices whose density is below e^-50 of the largest are left out
FALL = 2.5  # fall of the log integrand per piece of the quadrature
PROBES = np.array([0.02, 0.25, 0.5, 0.75, 0.98])
NODES, WEIGHTS = (part.numpy() for part in rule(16))


def log_probability(lines: np.ndarray, shift: np.ndarray) -> tuple[float, float]:
    """(log P, relative error) of z ~ N(0, I_2) in {a z <= c} for lines (n, 3) = (a, c) of unit normal a.

    shift (n,): error of c. Where the polygon may be empty the error is infinite and log P that of the polygon with its
    lines moved outward by their errors; -inf if no point was found even there.
    """
    wide = lines + np.array([0.0, 0.0, 1.0]) * (shift + 8 * EPS * (1 + np.abs(lines[:, 2])))[:, None]
    for candidates, certain in ((lines, True), (wide, False)):
        nearest = _nearest(candidates)
        if nearest is None:
            continue
        answers = [_in_frame(_turned(candidates, i), _place(line, nearest), shift) for i, line in enumerate(candidates)]
        log_p, error = min(answers, key=lambda answer: (answer[1], -answer[0]))
        if np.isfinite(log_p):
            return log_p, error if certain else np.inf
    return -np.inf, np.inf


def composite(start: np.ndarray, stop: np.ndarray, pieces: np.ndarray) -> tuple:
    """Gauss-Legendre rules on `pieces` equal parts of each [start, stop]: place in `start`, nodes, log weights."""
    place = np.repeat(np.arange(len(start)), pieces)
    index = np.arange(len(place)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    width = ((stop - start) / pieces)[place, None]
    return place, start[place, None] + width * (index[:, None] + NODES), np.log(width * WEIGHTS)


def _nearest(lines):
    """The point of the polygon nearest to the origin, up to rounding; None if none of the candidates is inside."""
    a, c = lines[:, :2], lines[:, 2]
    i, j = np.triu_indices(len(lines), 1)
    det = a[i, 0] * a[j, 1] - a[i, 1] * a[j, 0]
    i, j, det = i[det != 0], j[det != 0], det[det != 0]
    with np.errstate(over="ignore", invalid="ignore"):
        x, y = (c[i] * a[j, 1] - c[j] * a[i, 1]) / det, (a[i, 0] * c[j] - a[j, 0] * c[i]) / det
        points = np.concatenate([np.zeros((1, 2)), a * c[:, None], np.column_stack([x, y])])
        points = points[np.isfinite(points).all(axis=1)]
        size = np.abs(points).sum(axis=1)[:, None]
        inside = (points @ a.T - c <= 8 * EPS * (size + np.abs(c))).all(axis=1)
    if not inside.any():
        return None
    points = points[inside]
    return points[np.hypot(points[:, 0], points[:, 1]).argmin()]


def _turned(lines, i):
    """The lines in coordinates whose x axis is the normal of line i; opposite lines stay exactly so."""
    (u, v), a = lines[i, :2], lines[:, :2]
    along, across = a[:, 0] * u + a[:, 1] * v, a[:, 1] * u - a[:, 0] * v
    along[across == 0] = np.sign(along[across == 0])
    return np.column_stack([along, across, lines[:, 2]])


def _place(line, point):
    """A point's coordinates where the x axis is the line's normal."""
    return line[:2] @ point, line[0] * point[1] - line[1] * point[0]


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

    def breaks(self, y0, low, high):
        """Where two lines meet, or one enters or leaves the part of the plane that matters."""
        i, j = np.triu_indices(len(self.slope), 1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            meet = (self.height[j] - self.height[i]) / (self.slope[i] - self.slope[j])
            levels = [y0 - REACH, y0, y0 + REACH, -REACH, 0.0, REACH]
            cross = [(level - self.height) / self.slope for level in levels]
        t = np.concatenate([meet, *cross, [0.0]])
        return np.unique(np.concatenate([[low, high], t[(t > low) & (t < high)]]))


def _window(frame, breaks):
    """The part of the slices whose log density is within DEEP of the largest; None if all slices are empty."""
    t = np.unique(np.concatenate([breaks, (breaks[:-1, None] + np.diff(breaks)[:, None] * PROBES).ravel()]))
    value = frame.log_density(t)
    for _ in range(4):
        top = int(value.argmax())
        if not np.isfinite(value[top]):
            return None
        fresh = np.linspace(t[max(top - 1, 0)], t[min(top + 1, len(t) - 1)], 12)
        t, order = np.unique(np.append(t, fresh), return_index=True)
        value = np.append(value, frame.log_density(fresh))[order]
    top = int(value.argmax())
    level = value[top] - DEEP
    ends = []
    for step in (-1, 1):
        side, above = t[top::step], value[top::step] >= level
        last = int(np.flatnonzero(above)[-1])
        inside, outside = side[last], side[min(last + 1, len(side) - 1)]
        for _ in range(4):
            grid = np.linspace(inside, outside, 12)
            k = int(np.flatnonzero(frame.log_density(grid) >= level)[-1:].sum())
            inside, outside = grid[k], grid[min(k + 1, 11)]
        ends.append(outside)
    return ends


def _in_frame(lines, nearest, shift):
    """(log P, relative error) by slices at x; nearest: the point of the polygon nearest to the origin."""
    x0, y0 = nearest
    a_x, a_y, c = lines.T
    if abs(x0 - c[np.abs(a_x).argmax()]) <= 1e-9 * abs(x0):
        x0 = c[np.abs(a_x).argmax()]
    level, local = a_y != 0, c - a_x * x0
    ends, left = local[~level] / a_x[~level], a_x[~level] < 0
    low, high = max([-REACH, *ends[left]]), min([REACH, *ends[~left]])
    if x0:
        # nearest (z - nearest) is not negative on the polygon, and up to 45 where the density matters.
        tilt = REACH * abs(y0 / x0)
        low, high = max(low, -tilt - DEEP / abs(x0) * (x0 < 0)), min(high, tilt + DEEP / abs(x0) * (x0 > 0))
    if not low < high:
        return -np.inf, np.inf
    frame = _Frame(local[level] / a_y[level], -a_x[level] / a_y[level], a_y[level] > 0, x0)
    breaks = frame.breaks(y0, low, high)
    window = _window(frame, breaks)
    if window is None or not window[0] < window[1]:
        return -np.inf, np.inf
    breaks = np.concatenate([window[:1], breaks[(breaks > window[0]) & (breaks < window[1])], window[1:]])
    start, stop = breaks[:-1], breaks[1:]
    probe = frame.log_density(start[:, None] + (stop - start)[:, None] * PROBES)
    with np.errstate(invalid="ignore"):
        fall = np.nan_to_num(np.abs(np.diff(probe, axis=1)), nan=0.0, posinf=DEEP).sum(axis=1)
    pieces = np.ceil(np.maximum(fall, stop - start) / FALL).clip(1, 100).astype(int)
    _, t, log_weight = composite(start, stop, pieces)
    log_p = float(logsumexp((frame.log_density(t) + log_weight).ravel()))
    error = _flux(frame, t, log_weight - log_p, np.abs(a_y[level]), shift[level], np.abs(c[level]))
    for edge, outward in ((low, -1.0), (high, 1.0)):
        at = (ends == edge) & (np.sign(a_x[~level]) == outward)
        if at.any():
            moved = shift[~level][at].max() + 2 * EPS * abs(c[~level][at][0])
            error += np.exp(min(float(frame.log_density(np.array(edge))) - log_p, 700.0)) * moved
    log_p -= x0 * x0 / 2
    return log_p, float(EPS * (20 - log_p) + (error / (1 - error) if error < 1 else np.inf))


def _flux(frame, t, log_weight, a_y, shift, size):
    """Sum over the lines of (density along the line, by P) x (how far rounding may have moved it)."""
    lower, upper, y = frame.limits(t)
    edge = ((y == upper[..., None]) & frame.up) | ((y == lower[..., None]) & ~frame.up)
    t = t[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        density = np.exp(np.minimum(log_weight[..., None] - frame.x0 * t - (t**2 + y**2) / 2 - LOG_2PI, 700.0))
        moved = shift + 2 * EPS * (size + np.abs(frame.x0 + t) + np.abs(y))
        return float(np.where(edge, density / a_y * moved, 0.0).sum())
