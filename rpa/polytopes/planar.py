"""Convex polygons under the standard normal law of the plane: cutting and exact integration, in batches.

The probability of a polygon is a sum of integrals of phi(x) [Phi(upper(x)) - Phi(lower(x))] over strips between
neighbouring vertices, by Gauss-Legendre quadrature in logs. Each polygon is first turned so that its point nearest to
the origin lies on the y axis, and trimmed to where the density is above e^-45 of its maximum. The integrand then varies
slowly, and a fixed rule gives 14 digits at any distance from the origin.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from rpa.polytopes import slices
from rpa.polytopes.normal import LOG_2PI, log_interval
from rpa.polytopes.reduction import inscribed_ball, is_empty
from rpa.polytopes.slices import NODES, REACH, WEIGHTS

EPS, TINY = np.finfo(float).eps, np.finfo(float).tiny
SIDE = 60.0  # half the side of the square that polygons are cut out of
SURE = 1e-6  # relative error up to which a mass found from vertices is kept
TOLERANCE = 1e-13  # a vertex this close to a line, relative to the polygon's size, lies on it


@dataclass(frozen=True, eq=False)
class Polygons:
    """P convex polygons, counter-clockwise.

    vertices (P, n, 2); lines (P, n, 3): unit normal a and offset c of edge i (from vertex i to i + 1), a z <= c inside;
    counts (P,): how many of the n entries are used, 0 for the empty polygon.
    """

    vertices: np.ndarray
    lines: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index):
        return Polygons(self.vertices[index], self.lines[index], self.counts[index])

    @property
    def used(self) -> np.ndarray:
        """Mask (P, n) of the entries in use."""
        return np.arange(self.vertices.shape[1]) < self.counts[:, None]

    def following(self, values: np.ndarray) -> np.ndarray:
        """The value (P, n, ...) of the vertex after each: of vertices, the far ends of the edges."""
        after = np.roll(values, -1, axis=1)
        rows = np.flatnonzero(self.counts)
        after[rows, self.counts[rows] - 1] = values[rows, 0]
        return after


def square(count: int) -> Polygons:
    """`count` copies of the square [-SIDE, SIDE]^2."""
    corner = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * SIDE
    side = np.array([[0.0, -1.0, SIDE], [1.0, 0.0, SIDE], [0.0, 1.0, SIDE], [-1.0, 0.0, SIDE]])
    return Polygons(np.tile(corner, (count, 1, 1)), np.tile(side, (count, 1, 1)), np.full(count, 4))


def signed_distances(polygons: Polygons, lines: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Distance (P, n) of each vertex to its polygon's line (P, 3), positive outside, exactly 0 where it touches."""
    vertices = polygons.vertices
    distance = vertices[..., 0] * lines[:, None, 0] + vertices[..., 1] * lines[:, None, 1] - lines[:, None, 2]
    size = np.abs(vertices).max(axis=(1, 2), initial=1.0)
    distance[np.abs(distance) <= tolerance * (size + np.abs(lines[:, 2]))[:, None]] = 0.0
    return distance


def clip(polygons: Polygons, lines: np.ndarray, distances: np.ndarray | None = None) -> Polygons:
    """The part of each polygon with a z <= c, for lines (P, 3) = (a, c) of unit normal (Sutherland-Hodgman).

    A polygon that only touches the half-plane becomes empty.
    """
    d = signed_distances(polygons, lines) if distances is None else distances
    used = polygons.used
    if not (used & (d >= 0)).any():
        return polygons
    start, following = polygons.vertices, polygons.following(d)
    cross = used & (d * following < 0)
    share = np.divide(d, d - following, out=np.zeros_like(d), where=cross)
    crossing = start + share[..., None] * (polygons.following(start) - start)
    # Each edge gives its start, if inside, and its crossing; where it leaves the half-plane the new line follows.
    emitted = np.stack([used & (d <= 0), cross], axis=2).reshape(len(d), -1)
    vertices = np.stack([start, crossing], axis=2).reshape(*emitted.shape, 2)
    left = np.stack([(d == 0) & (following > 0), following > 0], axis=2)[..., None]
    edges = np.where(left, lines[:, None, None], polygons.lines[:, :, None]).reshape(*emitted.shape, 3)
    emitted[~(used & (d < 0)).any(axis=1)] = False
    counts = emitted.sum(axis=1)
    order = np.argsort(~emitted, axis=1, kind="stable")[:, : max(counts.max(initial=0), 1)]
    rows = np.arange(len(polygons))[:, None]
    return Polygons(vertices[rows, order], edges[rows, order], counts)


def split(polygons: Polygons, a: np.ndarray, b: np.ndarray) -> Any:
    """Cut each polygon by the line a z + b = 0, a (P, 2), b (P,).

    Returns (polygons, parent, active): the parts, the index of the polygon each comes from, and whether a z + b > 0 on
    it. A polygon that its line misses or only touches is kept whole.
    """
    norm = np.linalg.norm(a, axis=1)
    lines = np.column_stack([a, -b]) / (norm + (norm == 0))[:, None]
    d = np.where(norm[:, None] > 0, signed_distances(polygons, lines), b[:, None])
    used = polygons.used
    active: np.ndarray = np.any(used & (d > 0), axis=1)
    crossed = active & (used & (d < 0)).any(axis=1)
    whole, both = np.flatnonzero(~crossed), np.flatnonzero(crossed)
    # Both sides of the crossed ones in one batch: the time goes into the number of calls, not into the arrays.
    twice, side = np.concatenate([both, both]), np.repeat([1.0, -1.0], len(both))[:, None]
    kept, cut = polygons[whole], clip(polygons[twice], side * lines[twice], side * d[twice])
    width = max(kept.vertices.shape[1], cut.vertices.shape[1])
    wide = lambda part: np.pad(part, [(0, 0), (0, width - part.shape[1]), (0, 0)])
    vertices = np.concatenate([wide(kept.vertices), wide(cut.vertices)])
    edges = np.concatenate([wide(kept.lines), wide(cut.lines)])
    parts = Polygons(vertices, edges, np.concatenate([kept.counts, cut.counts]))
    return parts, np.concatenate([whole, twice]), np.concatenate([active[whole], side[:, 0] < 0])


def _turn_and_trim(polygons):
    """The polygons with their nearest points on the positive y axis, trimmed; the distances of these points (P,)."""
    start, used = polygons.vertices, polygons.used
    step = polygons.following(start) - start
    share = (-(start * step).sum(axis=2) / np.maximum((step**2).sum(axis=2), TINY)).clip(0.0, 1.0)
    foot = start + share[..., None] * step
    closest = np.where(used, np.linalg.norm(foot, axis=2), np.inf).argmin(axis=1)
    holds_origin = (np.where(used, polygons.lines[..., 2], np.inf) >= 0).all(axis=1)
    nearest = np.where(holds_origin[:, None], 0.0, foot[np.arange(len(foot)), closest])
    rho = np.hypot(nearest[:, 0], nearest[:, 1])
    up = np.where(rho[:, None] > 0, nearest / np.maximum(rho, TINY)[:, None], np.array([0.0, 1.0]))
    turn = np.stack([np.stack([up[:, 1], -up[:, 0]], axis=1), up], axis=2)
    lines = np.concatenate([polygons.lines[..., :2] @ turn, polygons.lines[..., 2:]], axis=2)
    turned = Polygons(start @ turn, lines, polygons.counts)
    cuts = np.tile([[1.0, 0.0, REACH], [-1.0, 0.0, REACH], [0.0, 1.0, 0.0], [0.0, -1.0, REACH]], (len(rho), 1, 1))
    cuts[:, 2, 2] = rho + REACH**2 / np.maximum(2 * rho, REACH)
    for i in range(4):
        turned = clip(turned, cuts[:, i])
    return turned, rho


def _height(line, x):
    return (line[..., 2] - line[..., 0] * x) / line[..., 1]


def _edges(polygons, log_p):
    """Of each edge (P, n): ends t0, t1 along it (P, n), log density at its foot point by P, mass of phi on it by P."""
    normal, offset = polygons.lines[..., :2], polygons.lines[..., 2]
    along = np.stack([-normal[..., 1], normal[..., 0]], axis=2)
    t0, t1 = ((v * along).sum(axis=2) for v in (polygons.vertices, polygons.following(polygons.vertices)))
    log_height = np.where(polygons.used, -(offset**2 + LOG_2PI) / 2 - log_p[:, None], -np.inf)
    return along, t0, t1, log_height, np.exp(np.minimum(log_height + log_interval(t0, t1), 700.0))


def polygon_log_mass(polygons: Polygons) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log P(z in polygon), relative error, distance from the origin), each (P,), for z ~ N(0, I_2).

    -inf for an empty polygon. The error is that of one unit of rounding in each line; the quadrature is good to 1e-14.
    """
    turned, rho = _turn_and_trim(polygons)
    # Vertical strips between neighbouring vertices, each below one line and above another.
    xs = np.sort(np.where(turned.used, turned.vertices[..., 0], -np.inf), axis=1)
    owner, column = np.nonzero((xs[:, :-1] > -np.inf) & (xs[:, 1:] > xs[:, :-1]))
    start, stop, row = xs[owner, column], xs[owner, column + 1], np.arange(len(owner))
    lines, used = turned.lines[owner], turned.used[owner]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        height = _height(lines, ((start + stop) / 2)[:, None])
    upper = lines[row, np.where(used & (lines[..., 1] > 1e-14), height, np.inf).argmin(axis=1)]
    lower = lines[row, np.where(used & (lines[..., 1] < -1e-14), height, -np.inf).argmax(axis=1)]
    climb = [np.abs(_height(line, stop) - _height(line, start)) for line in (lower, upper)]
    pieces = np.ceil(np.maximum(np.maximum(*climb) * np.maximum(rho[owner], 1.0), stop - start) / 2.5)
    pieces = pieces.clip(1, 200).astype(int)
    strip, first = np.repeat(row, pieces), np.cumsum(pieces) - pieces
    width = ((stop - start) / pieces)[strip, None]
    x = start[strip, None] + width * ((np.arange(len(strip)) - first[strip])[:, None] + NODES)
    inner = log_interval(_height(lower[strip, None], x), _height(upper[strip, None], x))
    terms = inner - (x**2 + LOG_2PI) / 2 + np.log(width * WEIGHTS)
    log_p = np.full(len(polygons), -np.inf)
    np.logaddexp.at(log_p, owner[strip], logsumexp(terms, axis=1))
    # Moving an edge by d changes the mass by d times the density along it. Running sums: unlike `sum`, they do not
    # depend on how many unused entries follow.
    density = _edges(turned, np.where(np.isfinite(log_p), log_p, 0.0))[-1].cumsum(axis=1)[:, -1]
    return log_p, 10 * EPS * (10 + rho) * (1 + density), rho


def polygon_moments(polygons: Polygons, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean (P, 2), second (P, 2, 2)): E z and E z z^T given that z ~ N(0, I_2) lies in each polygon of log mass log_p.

    By the divergence theorem p mean = -sum n I and p second = p I_2 - sum n J^T over the edges, with n the normal and
    I, J the integrals of phi and z phi along the edge. All terms are divided by p in logs.
    """
    along, t0, t1, log_height, mass = _edges(polygons, log_p)
    normal, offset = polygons.lines[..., :2], polygons.lines[..., 2]
    bump = np.exp(log_height - (t0**2 + LOG_2PI) / 2) - np.exp(log_height - (t1**2 + LOG_2PI) / 2)
    mean = -(normal * mass[..., None]).sum(axis=1)
    edge = normal * (offset * mass)[..., None] + along * bump[..., None]
    second = np.eye(2) - normal.transpose(0, 2, 1) @ edge
    return mean, (second + second.transpose(0, 2, 1)) / 2


def log_probability(H: np.ndarray, h: np.ndarray, shift: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """log P(H z <= h) for z ~ N(0, I_2), a batch of K polygons given by n half-planes each.

    H (K, n, 2): rows of norm one, or zero for padding; h, shift (K, n): bounds, their errors -> log_p, rel_error (K,).
    Polygons are cut out of a square of 60 standard deviations. Those outside, and those with an error above SURE, are
    integrated by `slices`. -inf has error 0 where the polygon is proved empty, infinity where no point was found.
    """
    dead: np.ndarray = (H == 0).all(axis=2)
    lines = np.concatenate([H, h[..., None]], axis=2)
    shift = np.zeros_like(h) if shift is None else shift
    polygons = square(len(H))
    for i in range(H.shape[1]):
        cut = np.where(dead[:, i, None], [0.0, 1.0, 2 * SIDE], lines[:, i])
        polygons = clip(polygons, cut, signed_distances(polygons, cut, 2 * EPS))
    log_p, rel_error, rho = polygon_log_mass(polygons)
    rel_error *= 1 + shift.max(axis=1, initial=0.0) / (10 * EPS * (10 + rho))
    lost = ~np.isfinite(log_p) | (rho >= SIDE * 2 / 3)
    log_p[lost], rel_error[lost] = -np.inf, np.inf
    nothing = np.flatnonzero(lost)
    wide = np.where(dead, np.inf, h + shift + 8 * EPS * (1 + np.abs(h)))[nothing]
    rel_error[nothing[is_empty(H[nothing], wide, inscribed_ball(H[nothing], wide))]] = 0.0
    for k in np.flatnonzero(~(rel_error < SURE)):
        value, error_of_value = slices.log_probability(lines[k, ~dead[k]], shift[k, ~dead[k]])
        if error_of_value <= rel_error[k]:
            log_p[k], rel_error[k] = value, error_of_value
    return log_p, rel_error
