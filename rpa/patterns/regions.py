"""Affine regions: from an activation pattern to a polytope and the affine map on it.

P1's lemma: the inputs with one activation pattern form a convex polytope {x : H x <= h}, on which f(x) = A x + b.
`affine_pieces` does the algebra for a batch of patterns; `Region` is one of them. All regions are found by cutting a
part of the input space by one hidden unit after the other: `planar_regions` for inputs of rank at most two,
`enumerate_regions` in some more dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, product
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rpa import _check
from rpa.inputs import Gaussian, RandomInput
from rpa.network import ReLUNetwork, as_network
from rpa.parallel import one_thread
from rpa.polytopes import planar

if TYPE_CHECKING:
    from torch import nn

RADIUS = 8.5  # half the side of the box in standard deviations; P(outside) is below 2e-17 for each coordinate
TOUCHING = 1e-12  # a pre-activation this small, relative to its range in the box, is 0 at a vertex
JACOBIANS_AT_ONCE = 4096  # Jacobians worked on at once: few megabytes


@dataclass(frozen=True, eq=False)
class Region:
    """{x : H x <= h}, on which f(x) = A x + b.

    pattern (N,) bool; H (N, d), h (N,): one row per hidden unit, in the order of the layers; A (k, d), b (k,).
    """

    pattern: np.ndarray
    H: np.ndarray
    h: np.ndarray
    A: np.ndarray
    b: np.ndarray

    @property
    def label(self) -> int:
        """The pattern read as a binary number, first unit first (most significant)."""
        return label(self.pattern)

    def contains(self, x: ArrayLike) -> np.ndarray:
        """Which rows of x (n, d) satisfy H x <= h: bool (n,)."""
        x = _check.array("x", x, (None, self.H.shape[1]))
        return (x @ self.H.T <= self.h).all(axis=1)


def affine_pieces(net: ReLUNetwork, patterns: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pre-activations and output as affine functions of the input, for each of K patterns.

    patterns bool (K, N) -> G (K, N, d), g (K, N), A (K, k, d), b (K, k): on the region of pattern K_i the hidden
    pre-activations are G[i] x + g[i] and the output is A[i] x + b[i] (P1, section on the lemma).
    """
    patterns = _check.pattern_array("patterns", patterns, net.n_hidden)
    if patterns.ndim != 2:
        raise ValueError(f"patterns: expected shape (any, {net.n_hidden}), got {patterns.shape}")
    count = len(patterns)
    A, b = net.weights[0][None], net.biases[0][None]
    every = lambda part: part if len(part) == count else np.broadcast_to(part, (count, *part.shape[1:]))
    rows, offsets, start = [np.zeros((count, 0, net.input_dim))], [np.zeros((count, 0))], 0
    for weight, bias in zip(net.weights[1:], net.biases[1:]):
        stop = start + A.shape[1]
        rows.append(every(A))
        offsets.append(every(b))
        A, b = following(weight, bias, np.where(patterns[:, start:stop], 1.0, net.slope), A, b)
        start = stop
    return np.concatenate(rows, axis=1), np.concatenate(offsets, axis=1), every(A), every(b)


def following(weight: np.ndarray, bias: np.ndarray, gate: np.ndarray, A: np.ndarray, b: np.ndarray) -> Any:
    """The next layer, weight diag(gate_k) (A_k z + b_k) + bias, as (A (K, m, r), b (K, m)).

    gate (K, n): derivatives of the activations; A (K, n, r), b (K, n), or one for all K.
    """
    after = (gate * b) @ weight.T + bias
    if len(A) != 1:
        return weight @ (gate[:, :, None] * A), after
    # What all have in common is multiplied once.
    common = gate.min(axis=0, initial=1.0)
    varies = (gate > common).any(axis=0)
    rest = weight[:, varies] * (gate - common)[:, None, varies]
    return rest @ A[0, varies] + weight @ (common[:, None] * A[0]), after


def subdivided(net: ReLUNetwork, cells: Any, cut: Callable, limit: float = np.inf) -> Any:
    """(cells, patterns bool (K, N)) of one cell cut by one hidden unit after the other; None for more than `limit`.

    cut(cells, a (K, r), b (K,)) -> (cells, parent, whether a z + b > 0): each cell cut by its own plane a z + b = 0.
    """
    patterns = np.zeros((1, 0), dtype=bool)
    A, b = net.weights[0][None], net.biases[0][None]
    for weight, bias in zip(net.weights[1:], net.biases[1:]):
        start = patterns.shape[1]
        for unit in range(A.shape[1]):
            cells, parent, active = cut(cells, A[:, unit], b[:, unit])
            if len(cells) > limit:
                return None
            patterns, A, b = np.column_stack([patterns[parent], active]), A[parent], b[parent]
        A, b = following(weight, bias, np.where(patterns[:, start:], 1.0, net.slope), A, b)
    return cells, patterns


def jacobians(net: ReLUNetwork, patterns: ArrayLike) -> np.ndarray:
    """The Jacobian A (K, k, d) of the network on the region of each pattern (K, N), without the pre-activations."""
    patterns = _check.pattern_array("patterns", patterns, net.n_hidden)
    product = np.broadcast_to(net.weights[-1], (len(patterns), *net.weights[-1].shape))
    stop = net.n_hidden
    for weight in reversed(net.weights[:-1]):
        start = stop - len(weight)
        product = (product * np.where(patterns[:, None, start:stop], 1.0, net.slope)) @ weight
        stop = start
    return product


@one_thread()
def singular_values(net: ReLUNetwork, patterns: ArrayLike) -> np.ndarray:
    """Singular values of the Jacobian A of each pattern (K, N), falling: (K, min(k, d)).

    With a QR decomposition W_1^T = Q R they are those of the Jacobian with R^T in place of W_1, which has at most as
    many columns as W_1 has rows.
    """
    patterns = _check.pattern_array("patterns", patterns, net.n_hidden)
    first = np.asarray(np.linalg.qr(net.weights[0].T, mode="r")).T
    small = type(net)((first, *net.weights[1:]), net.biases, net.slope)
    values = np.zeros((len(patterns), min(net.output_dim, net.input_dim)))
    for start in range(0, len(patterns), JACOBIANS_AT_ONCE):
        found = np.linalg.svd(jacobians(small, patterns[start : start + JACOBIANS_AT_ONCE]), compute_uv=False)
        values[start : start + JACOBIANS_AT_ONCE, : found.shape[1]] = found
    return values


def halfspaces(patterns: np.ndarray, G: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, h) with {H x <= h} = {x : G x + g has the signs of the pattern}; shapes of G (..., N, d) and g (..., N).

    A unit that is always 0 is never on: h is -1 there.
    """
    sign = np.where(patterns, -1.0, 1.0)
    h, zero = -sign * g, patterns & (g == 0)
    h[zero] = -1.0 * ~G[zero].any(axis=-1)
    return sign[..., None] * G, h


def label(pattern: ArrayLike) -> int:
    """A pattern (N,) as the decimal of P1's figures: the integer whose binary digits are the bits, first unit first."""
    return int("0" + "".join("1" if bit else "0" for bit in np.asarray(pattern)), 2)


def region_of(net: ReLUNetwork | nn.Module, pattern: ArrayLike) -> Region:
    """The `Region` of an activation pattern (N,), or of its decimal label. It may be empty.

    >>> from rpa import ReLUNetwork
    >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])  # f(x) = |x|
    >>> region_of(net, [0, 1]).A
    array([[-1.]])
    """
    net = as_network(net)
    if isinstance(pattern, (int, np.integer)) and not isinstance(pattern, bool):
        if not 0 <= pattern < 2**net.n_hidden:
            raise ValueError(f"pattern: expected a label in [0, 2^{net.n_hidden}), got {pattern}")
        pattern = [digit == "1" for digit in format(pattern, f"0{net.n_hidden}b")][: net.n_hidden]
    pattern = _check.pattern_array("pattern", pattern, net.n_hidden)
    if pattern.ndim != 1:
        raise ValueError(f"pattern: expected shape ({net.n_hidden},), got {pattern.shape}")
    G, g, A, b = (part[0] for part in affine_pieces(net, pattern[None]))
    H, h = halfspaces(pattern, G, g)
    return Region(pattern, H, h, A, b)


def region_at(net: ReLUNetwork | nn.Module, x: ArrayLike) -> Region:
    """The `Region` that holds the point x (d,)."""
    net = as_network(net)
    x = _check.array("x", x, (net.input_dim,))
    return region_of(net, net.patterns(x[None])[0])


@dataclass(frozen=True, eq=False)
class PlanarRegions:
    """Every region of a network within 40 standard deviations of a Gaussian input of rank at most two.

    patterns bool (K, N); log_p, rel_error (K,): probability of each region; polygons: the regions in coordinates z in
    which the input is N(0, I_2); net: the network as a function of z. For an input with d <= 2, x = mean + factor z.
    """

    patterns: np.ndarray
    log_p: np.ndarray
    rel_error: np.ndarray
    polygons: planar.Polygons
    net: ReLUNetwork
    mean: np.ndarray
    factor: np.ndarray

    def vertices(self, i: int) -> np.ndarray:
        """Corners (n, d) of region i in input coordinates (d <= 2), in order around it."""
        i = _check.index("i", i, len(self.patterns))
        return self.mean + self.polygons.vertices[i, : self.polygons.counts[i]] @ self.factor.T


def planar_regions(net: ReLUNetwork | nn.Module, inputs: RandomInput) -> PlanarRegions:
    """All regions of positive probability of a network whose Gaussian input has rank at most two, exactly.

    A square of 60 standard deviations is cut by one hidden unit after the other; every polygon that a unit's zero line
    crosses becomes two. Regions 40 or more standard deviations out (p < 1e-349) are left out. P1's proposition on the
    PMF. Raises ValueError for mixtures (take one component at a time) and for a rank above two.

    >>> from rpa import Gaussian, ReLUNetwork
    >>> net = ReLUNetwork([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])
    >>> np.exp(planar_regions(net, Gaussian([0.0, 0.0], 1.0)).log_p).round(6)  # the four quadrants
    array([0.25, 0.25, 0.25, 0.25])
    """
    net = as_network(net)
    if not isinstance(inputs, Gaussian):
        raise ValueError(f"inputs: expected Gaussian, got {type(inputs).__name__}")
    if inputs.dim != net.input_dim:
        raise ValueError(f"inputs: expected dimension {net.input_dim} of the network's input, got {inputs.dim}")
    if net.input_dim <= 2:
        factor = inputs.times_factor(np.eye(net.input_dim))
        factor = np.pad(factor, ((0, 0), (0, 2 - factor.shape[1])))
        first, bias = net.weights[0] @ factor, net.weights[0] @ inputs.mean + net.biases[0]
    else:
        flat, factor = net.whitened(inputs), np.zeros((net.input_dim, 2))
        if flat.input_dim > 2:
            raise ValueError(f"inputs: expected W_1 cov W_1^T of rank at most 2, got rank {flat.input_dim}")
        first, bias = np.pad(flat.weights[0], ((0, 0), (0, 2 - flat.input_dim))), flat.biases[0]
    flat = type(net)((first, *net.weights[1:]), (bias, *net.biases[1:]), net.slope)
    polygons, patterns = subdivided(flat, planar.square(1), planar.split)
    log_p, rel_error, distance = planar.polygon_log_mass(polygons)
    near = (distance < 40) & np.isfinite(log_p)
    return PlanarRegions(patterns[near], log_p[near], rel_error[near], polygons[near], flat, inputs.mean, factor)


def enumerate_regions(net: ReLUNetwork, limit: int) -> np.ndarray | None:
    """Patterns, bool (K, N), of all regions that meet the box; None for more than `limit`, or twice as many if the
    first layer's planes were in general position.

    net: whitened, its input N(0, I_r). A region is kept as its vertices (n, r) and which of the F facets meet in each,
    bool (n, F). New vertices lie on edges that a unit's zero plane crosses; an edge is a pair of vertices whose common
    facets meet in no third vertex (double description method, Fukuda & Prodon 1996). No general position is needed:
    planes of networks without biases all meet in one point. P(z outside the box) <= 4e-17 r.
    """
    r = net.input_dim
    # Planes in general position cut space into so many regions; most of the box's meet fewer planes only by symmetry.
    if net.n_hidden and sum(comb(net.hidden_sizes[0], i) for i in range(r + 1)) > 2 * limit:
        return None
    corners = np.array(list(product([-RADIUS, RADIUS], repeat=r)))
    sides = np.concatenate([corners < 0, corners > 0], axis=1)
    cells = [(corners, np.pad(sides, ((0, 0), (0, net.n_hidden))))]
    facet = count(2 * r)
    found = subdivided(net, cells, lambda cells, a, b: _cut(cells, a, b, next(facet)), limit)
    return None if found is None else found[1]


def _cut(cells, a, b, facet):
    """(cells, parent, active) after each cell is cut by its plane a z + b = 0, a (K, r), b (K,); facet: its number."""
    sizes = [len(vertices) for vertices, _ in cells]
    starts, owner = np.cumsum([0, *sizes[:-1]]), np.repeat(np.arange(len(cells)), sizes)
    value = (np.concatenate([vertices for vertices, _ in cells]) * a[owner]).sum(axis=1) + b[owner]
    value[np.abs(value) <= TOUCHING * RADIUS * np.abs(a).sum(axis=1)[owner]] = 0.0
    active = np.maximum.reduceat(value, starts) > 0
    crossed = np.flatnonzero(active & (np.minimum.reduceat(value, starts) < 0))
    below = []
    cells = list(cells)
    for i in crossed:
        (vertices, facets), height = cells[i], value[starts[i] : starts[i] + sizes[i]]
        above, under = np.flatnonzero(height > 0), np.flatnonzero(height < 0)
        j, k = np.nonzero(facets[above].astype(np.float32) @ facets[under].T >= vertices.shape[1] - 1)
        j, k = above[j], under[k]
        common = facets[j] & facets[k]
        edges = (common.astype(np.float32) @ ~facets.T == 0).sum(axis=1) == 2
        j, k, common = j[edges], k[edges], common[edges]
        share = (height[j] / (height[j] - height[k]))[:, None]
        points = vertices[j] + share * (vertices[k] - vertices[j])
        halves = []
        for side in (height >= 0, height <= 0):
            meeting = np.concatenate([facets[side], common])
            meeting[:, facet] = np.concatenate([height[side] == 0, np.ones(len(points), dtype=bool)])
            halves.append((np.concatenate([vertices[side], points]), meeting))
        cells[i] = halves[0]
        below.append(halves[1])
    parent = np.concatenate([np.arange(len(cells)), crossed])
    return cells + below, parent, np.concatenate([active, np.zeros(len(below), dtype=bool)])
