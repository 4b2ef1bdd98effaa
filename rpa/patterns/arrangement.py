"""All regions of a network in few dimensions, by cutting a box by one hidden unit after the other.

A region is kept as its vertices and the facets that meet in each. New vertices lie on edges that a unit's zero plane
crosses; an edge is a pair of vertices whose common facets meet in no third vertex (double description method, Fukuda &
Prodon 1996). No general position is needed: planes of networks without biases all meet in one point.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, product
from math import comb

import numpy as np

from rpa.network import ReLUNetwork
from rpa.patterns.regions import subdivided

RADIUS = 8.5  # half the side of the box in standard deviations; P(outside) is below 2e-17 for each coordinate
TOUCHING = 1e-12  # a pre-activation this small, relative to its range in the box, is 0 at a vertex


@dataclass(frozen=True, eq=False)
class _Cell:
    """A polytope: vertices (n, r), and which of the F facets meet in each of them, bool (n, F)."""

    vertices: np.ndarray
    facets: np.ndarray


def enumerate_regions(net: ReLUNetwork, limit: int) -> np.ndarray | None:
    """Patterns, bool (K, N), of all regions that meet the box; None for more than `limit`, or twice as many if the
    first layer's planes were in general position.

    net: whitened, its input N(0, I_r). P(z outside the box) <= 4e-17 r.
    """
    r = net.input_dim
    # Planes in general position cut space into so many regions; most of the box's meet fewer planes only by symmetry.
    if net.n_hidden and sum(comb(net.hidden_sizes[0], i) for i in range(r + 1)) > 2 * limit:
        return None
    corners = np.array(list(product([-RADIUS, RADIUS], repeat=r)))
    sides = np.concatenate([corners < 0, corners > 0], axis=1)
    cells = [_Cell(corners, np.pad(sides, ((0, 0), (0, net.n_hidden))))]
    facet = count(2 * r)
    found = subdivided(net, cells, lambda cells, a, b: _cut(cells, a, b, next(facet)), limit)
    return None if found is None else found[1]


def _cut(cells, a, b, facet):
    """(cells, parent, active) after each cell is cut by its plane a z + b = 0, a (K, r), b (K,); facet: its number."""
    sizes = [len(cell.vertices) for cell in cells]
    starts, owner = np.cumsum([0, *sizes[:-1]]), np.repeat(np.arange(len(cells)), sizes)
    value = (np.concatenate([cell.vertices for cell in cells]) * a[owner]).sum(axis=1) + b[owner]
    value[np.abs(value) <= TOUCHING * RADIUS * np.abs(a).sum(axis=1)[owner]] = 0.0
    active = np.maximum.reduceat(value, starts) > 0
    crossed = np.flatnonzero(active & (np.minimum.reduceat(value, starts) < 0))
    below = []
    cells = list(cells)
    for i in crossed:
        cells[i], other = _halves(cells[i], value[starts[i] : starts[i] + sizes[i]], facet)
        below.append(other)
    parent = np.concatenate([np.arange(len(cells)), crossed])
    return cells + below, parent, np.concatenate([active, np.zeros(len(below), dtype=bool)])


def _halves(cell, value, facet):
    """The parts of a cell where the value at its vertices (n,) is positive and negative."""
    above, under = np.flatnonzero(value > 0), np.flatnonzero(value < 0)
    shared = cell.facets[above].astype(np.float32) @ cell.facets[under].T
    i, j = np.nonzero(shared >= cell.vertices.shape[1] - 1)
    i, j = above[i], under[j]
    common = cell.facets[i] & cell.facets[j]
    edges = (common.astype(np.float32) @ ~cell.facets.T == 0).sum(axis=1) == 2
    i, j, common = i[edges], j[edges], common[edges]
    share = (value[i] / (value[i] - value[j]))[:, None]
    points = cell.vertices[i] + share * (cell.vertices[j] - cell.vertices[i])
    halves = []
    for side in (value >= 0, value <= 0):
        facets = np.concatenate([cell.facets[side], common])
        facets[:, facet] = np.concatenate([value[side] == 0, np.ones(len(points), dtype=bool)])
        halves.append(_Cell(np.concatenate([cell.vertices[side], points]), facets))
    return halves
