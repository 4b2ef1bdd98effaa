"""The regions of a network as polytopes under a standard normal law, one set per component of the input.

In the plane a region is kept as a polygon. In higher dimensions its rows are computed again when needed, block by
block, so that thousands of wide regions fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from rpa.network import ReLUNetwork
from rpa.parallel import one_thread
from rpa.patterns.packing import shifts
from rpa.patterns.regions import affine_pieces, halfspaces, planar_regions
from rpa.polytopes import planar
from rpa.polytopes.polytope import replicates

BLOCK_BYTES = 2e8
FLAT = 1e-14  # slopes of an output below this, relative to the terms of which they are sums, are rounding
REGIONS_AT_ONCE = 512  # regions at once: enough for array operations, few enough for a progress bar to move


@dataclass(frozen=True, eq=False)
class Pieces:
    """Regions of a network seen by one input component.

    weight: of the component; net: the network as a function of z ~ N(0, I_r); patterns bool (K, N);
    index (K,): position of each pattern in the PMF; log_p, rel_error (K,): P(region) under the component;
    polygons: the regions when r = 2, else None.
    """

    weight: float
    net: ReLUNetwork
    patterns: np.ndarray
    index: np.ndarray
    log_p: np.ndarray
    rel_error: np.ndarray
    polygons: planar.Polygons | None = None

    def __len__(self) -> int:
        return len(self.patterns)

    def reindexed(self, rank: np.ndarray) -> Pieces:
        """The same with index i replaced by rank[i]; those of negative rank are dropped."""
        keep = rank[self.index] >= 0
        arrays = {name: getattr(self, name)[keep] for name in ("patterns", "log_p", "rel_error")}
        polygons = None if self.polygons is None else self.polygons[keep]
        return replace(self, index=rank[self.index][keep], polygons=polygons, **arrays)

    def blocks(self) -> Iterator:
        """Yields (rows, H, h, A, b): slices of the pieces with {H z <= h} and output A z + b on it."""
        for rows in _slices(self.net, len(self)):
            G, g, A, b = exact_constants(self.net, self.patterns[rows])
            H, h = halfspaces(self.patterns[rows], G, g) if self.polygons is None else self._edges(rows)
            yield rows, H, h, A, b

    def _edges(self, rows):
        used = self.polygons.used[rows]
        H = np.where(used[..., None], self.polygons.lines[rows, :, :2], 0.0)
        return H, np.where(used, self.polygons.lines[rows, :, 2], 1.0)


def _slices(net, count):
    step = int(np.clip(BLOCK_BYTES / (24 * net.n_hidden * net.input_dim + 1), 1, REGIONS_AT_ONCE))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def exact_constants(net: ReLUNetwork, patterns: np.ndarray) -> Any:
    """`affine_pieces` in which rows of A that are nothing but rounding are 0: there an output is constant, an atom."""
    G, g, A, b = affine_pieces(net, patterns)
    terms = reduce(np.matmul, map(np.abs, reversed(net.weights))).max(axis=1, initial=0.0)
    return G, g, np.where((np.abs(A).max(axis=2, initial=0.0) <= FLAT * terms)[..., None], 0.0, A), b


def exact_pieces(net: ReLUNetwork, components: list) -> Any:
    """(patterns (K, N), [Pieces]) of all regions, for input components of rank at most two."""
    planes = [planar_regions(net, part) for _, part in components]
    keys = np.concatenate([np.packbits(each.patterns, axis=1) for each in planes])
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    patterns = np.concatenate([each.patterns for each in planes])[first]
    ends = np.cumsum([len(each.patterns) for each in planes])
    pieces = [
        Pieces(weight, each.net, each.patterns, index, each.log_p, each.rel_error, each.polygons)
        for (weight, _), each, index in zip(components, planes, np.split(inverse.ravel(), ends[:-1]))
    ]
    return patterns, pieces


@one_thread()
def region_probabilities(
    net: ReLUNetwork, patterns: np.ndarray, rtol: float, seed: int, log_range: Any, tick: Callable[[int], Any]
) -> Any:
    """log_p (K,), rel_error (K,) and deviations (K, R) of patterns of a whitened net: see `polytope.replicates`."""
    answers = []
    for rows in _slices(net, len(patterns)):
        H, h = halfspaces(patterns[rows], *affine_pieces(net, patterns[rows])[:2])
        move = shifts(patterns[rows], net.input_dim, seed)
        answers.append(replicates(H, h, rtol=rtol, seed=seed, log_range=log_range, shifts=move))
        tick(rows.stop - rows.start)
    return tuple(np.concatenate(column) for column in zip(*answers))
