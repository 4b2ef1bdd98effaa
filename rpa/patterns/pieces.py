"""The regions of a network as polytopes under a standard normal law, one set per component of the input.

In the plane a region is kept as a polygon. In higher dimensions its rows are computed again when needed, block by
block, so that thousands of wide regions fit in memory, and weighted points stand for it: every functional of the output
law is a weighted sum over them. A region's points come from the proposals of its probability, so that one far in the
tail has as many as it needs. One replicate has points of all regions; the scatter of a functional over the independent
replicates is its error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr

from rpa.network import ReLUNetwork
from rpa.parallel import one_thread
from rpa.patterns.packing import shifts
from rpa.patterns.regions import affine_pieces, halfspaces, planar_regions
from rpa.polytopes import quadrature, reduction
from rpa.polytopes.lookahead import lookahead
from rpa.polytopes.polytope import BUDGET, solve
from rpa.polytopes.trapezoid import plan

BLOCK_BYTES = 2e8
FLAT_SLOPE = 1e-14  # slopes of an output below this, relative to the terms of which they are sums, are rounding
REGIONS_AT_ONCE = 512  # regions at once: enough for array operations, few enough for a progress bar to move
TOTAL = 2**18  # points shared out among the regions by their probability
FEWEST, MOST_EACH = (
    8,
    2**12,
)  # points per replicate in one region, of its probability (to begin with) and of the output law
DROPPED = 1e-6  # union bound of the rows left out of a region, relative to its probability


@dataclass(frozen=True, eq=False)
class Pieces:
    """Regions of a network seen by one input component.

    weight: of the component; net: the network as a function of z ~ N(0, I_r); patterns bool (K, N); log_p, rel_error
    (K,): P(region) under the component, not 0; polygons: the regions as `planar.Polygons` if r = 2, else None.
    """

    weight: float
    net: ReLUNetwork
    patterns: np.ndarray
    log_p: np.ndarray
    rel_error: np.ndarray
    polygons: Any = None

    def blocks(self) -> Iterator:
        """Yields (rows, H, h, A, b): slices of the pieces with {H z <= h} and output A z + b on it."""
        # Rows of A that are nothing but rounding are 0: there an output is constant, an atom.
        rounding = FLAT_SLOPE * reduce(np.matmul, map(np.abs, reversed(self.net.weights))).max(axis=1, initial=0.0)
        for rows in _slices(self.net, len(self.patterns)):
            G, g, A, b = affine_pieces(self.net, self.patterns[rows])
            A = np.where((np.abs(A).max(axis=2, initial=0.0) <= rounding)[..., None], 0.0, A)
            if self.polygons is None:
                H, h = halfspaces(self.patterns[rows], G, g)
            else:
                used, lines = self.polygons.used[rows], self.polygons.lines[rows]
                H, h = np.where(used[..., None], lines[..., :2], 0.0), np.where(used, lines[..., 2], 1.0)
            yield rows, H, h, A, b


def _slices(net, count):
    step = int(np.clip(BLOCK_BYTES / (24 * net.n_hidden * net.input_dim + 1), 1, REGIONS_AT_ONCE))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def exact_pieces(net: ReLUNetwork, components: list) -> list[Pieces]:
    """All regions of each component (weight, Gaussian) of an input, of rank at most two."""
    planes = [planar_regions(net, part) for _, part in components]
    return [
        Pieces(weight, each.net, each.patterns, each.log_p, each.rel_error, each.polygons)
        for (weight, _), each in zip(components, planes)
    ]


@one_thread()
def region_probabilities(
    net: ReLUNetwork, patterns: np.ndarray, rtol: float, seed: int, log_range: Any, tick: Callable[[int], Any]
) -> Any:
    """log_p (K,), rel_error (K,) and deviations (K, R) of patterns of a whitened net: see `polytope.solve`."""
    effort, answers = quadrature.Effort(rtol, seed, BUDGET, first=FEWEST, log_range=log_range), []
    for rows in _slices(net, len(patterns)):
        H, h = halfspaces(patterns[rows], *affine_pieces(net, patterns[rows])[:2])
        move = shifts(patterns[rows], net.input_dim, seed)
        answers.append(solve(H, h, effort, shifts=move)[:3])
        tick(rows.stop - rows.start)
    return tuple(np.concatenate(column) for column in zip(*answers))


@dataclass(frozen=True, eq=False)
class Draws:
    """Points of K regions: z (K, r, R, M) and weights (K, R, M); the weights of a replicate sum to the probability.

    H, h, A, b: half-spaces and affine maps of the regions, as `Pieces.blocks` gives them.
    """

    z: np.ndarray
    weights: np.ndarray
    H: np.ndarray
    h: np.ndarray
    A: np.ndarray
    b: np.ndarray


def draw(part: Pieces, seed: int) -> Iterator[Draws]:
    """Yields `Draws` of all regions of one component, the same for the same seed."""
    share = np.exp(part.log_p - np.logaddexp.reduce(part.log_p))
    stop = 2 ** np.rint(np.log2(np.clip(TOTAL * share / quadrature.REPLICATES, FEWEST, MOST_EACH))).astype(int)
    for rows, *maps in part.blocks():
        unit, slack, _ = reduction.unit_rows(*maps[:2])
        kept, _ = reduction.uncertain(slack, part.log_p[rows] + np.log(DROPPED))
        rng, move = np.random.default_rng([seed, 2]), shifts(part.patterns[rows], unit.shape[2], seed + 1)
        for group, size in reduction.groups(kept, unit.shape[2]):
            p, points = plan(*reduction.gather(unit[group], slack[group], kept[group], size)), stop[rows][group]
            sampler = quadrature.PolytopeSampler(p, lookahead(p))
            for number in np.unique(points):
                index = np.flatnonzero(points == number)
                for some, y, log_w in quadrature.draws(sampler, index, 0, number, seed, True, move[group]):
                    z = _in_all_directions(y, torch.from_numpy(p.axes[some]), p.rank[some], rng)
                    weights = part.weight * (log_w.exp().numpy() / log_w.shape[2])
                    yield Draws(z, weights, *(array[group[some]] for array in maps))


def _in_all_directions(y, axes, rank, rng):
    """z (k, r, R, M) of points y (k, c, R, M) along axes (k, c, r), standard normal in other directions."""
    z = torch.einsum("kcrm,kcd->kdrm", y, axes)
    if (rank < z.shape[1]).any():
        noise = torch.from_numpy(rng.standard_normal(z.shape[1:]))
        along = torch.einsum("kcd,drm->kcrm", axes, noise)
        z += noise - torch.einsum("kcrm,kcd->kdrm", along, axes)
    return z.numpy()


def densities(draws: Draws, output: int, y: np.ndarray) -> np.ndarray:
    """Densities (K, R, m) of an output at rising y (m,): sums over each replicate's points, 0 where it is constant.

    Given the other coordinates, s = a z / |a| is standard normal on an interval; replacing the point by this law keeps
    every expectation and gives a density without a bandwidth: where y is between the ends of the interval, the weight
    times phi((y - b) / |a|) / |a|, divided by the probability that a standard normal is between them.
    """
    moving = np.flatnonzero(draws.A[:, output].any(axis=1))
    a, b, H, weights = draws.A[moving, output], draws.b[moving, output, None], draws.H[moving], draws.weights[moving]
    scale = np.hypot.reduce(a, axis=1)[:, None]
    count, replicates, size = weights.shape
    weights = weights.reshape(count, replicates * size)
    z = draws.z[moving].reshape(count, H.shape[2], replicates * size)
    s = ((a / scale)[:, None] @ z)[:, 0]
    slack = draws.h[moving, :, None] - H @ z
    along = H @ (a / scale)[:, :, None]
    flat = np.abs(along) <= 1e-13 * np.linalg.norm(H, axis=2, keepdims=True)
    reach = np.divide(slack, along, out=np.zeros_like(slack), where=~flat)
    high = s + np.where(~flat & (along > 0), reach, np.inf).min(axis=1, initial=np.inf)
    low = s + np.where(~flat & (along < 0), reach, -np.inf).max(axis=1, initial=-np.inf)
    inside = np.where(low > -high, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    density = np.divide(weights, inside, out=np.zeros_like(weights), where=inside > 0)
    # Each point's density is a step up at one end of its interval and a step down at the other.
    owner = (np.arange(count)[:, None] * replicates + np.repeat(np.arange(replicates), size)) * (len(y) + 1)
    steps = np.zeros(count * replicates * (len(y) + 1))
    for end, sign in ((low, 1.0), (high, -1.0)):
        place = owner + np.searchsorted(y, b + scale * end, side="left")
        steps += np.bincount(place.ravel(), (sign * density).ravel(), len(steps))
    steps = steps.reshape(count, replicates, len(y) + 1)[:, :, :-1].cumsum(axis=2)
    bell = np.exp(-(((y - b) / scale) ** 2) / 2) / (np.sqrt(2 * np.pi) * scale)
    result = np.zeros((len(draws.A), replicates, len(y)))
    result[moving] = steps * bell[:, None]
    return result
