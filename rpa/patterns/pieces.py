"""The regions of a network as polytopes under a standard normal law, one set per component of the input.

In the plane a region is kept as a polygon. In higher dimensions its rows are computed again when needed, block by
block, so that thousands of wide regions fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from rpa.network import ReLUNetwork
from rpa.parallel import one_thread
from rpa.patterns.packing import shifts
from rpa.patterns.regions import affine_pieces, halfspaces, planar_regions
from rpa.polytopes.polytope import replicates

BLOCK_BYTES = 2e8
FLAT = 1e-14  # slopes of an output below this, relative to the terms of which they are sums, are rounding
REGIONS_AT_ONCE = 512  # regions at once: enough for array operations, few enough for a progress bar to move


@dataclass(frozen=True, eq=False)
class Pieces:
    """Regions of a network seen by one input component.

    weight: of the component; net: the network as a function of z ~ N(0, I_r); patterns bool (K, N); log_p, rel_error
    (K,): P(region) under the component, not 0; polygons: the regions as `planar.Polygons` when
    r = 2, else None.
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
        rounding = FLAT * reduce(np.matmul, map(np.abs, reversed(self.net.weights))).max(axis=1, initial=0.0)
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
    """log_p (K,), rel_error (K,) and deviations (K, R) of patterns of a whitened net: see `polytope.replicates`."""
    answers = []
    for rows in _slices(net, len(patterns)):
        H, h = halfspaces(patterns[rows], *affine_pieces(net, patterns[rows])[:2])
        move = shifts(patterns[rows], net.input_dim, seed)
        answers.append(replicates(H, h, rtol=rtol, seed=seed, log_range=log_range, shifts=move))
        tick(rows.stop - rows.start)
    return tuple(np.concatenate(column) for column in zip(*answers))
