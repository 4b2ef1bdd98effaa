"""The regions of a network as polytopes under a standard normal law, one set per component of the input.

`PatternPMF` holds these, and `OutputMixture` asks them questions: the probability of a region with a few more
half-spaces, or the mean of the Gaussian truncated to it. In the plane a region is kept as a polygon, whose few edges
stand for all rows. In higher dimensions the rows are computed again when they are needed, block by block, so that
thousands of wide regions fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rpa.inputs import Gaussian
from rpa.patterns.regions import affine_pieces, halfspaces, planar_regions
from rpa.polytopes import planar
from rpa.polytopes.polytope import moments, probabilities

if TYPE_CHECKING:
    from rpa.network import ReLUNetwork


__all__ = ["Pieces", "exact_pieces", "searched_pieces"]

BLOCK_BYTES = 2e8
EXACT = 1e-13  # asked where every probability is exact anyway: then no row is left out as nearly certain


@dataclass(frozen=True, eq=False)
class Pieces:
    """Regions of a network seen by one input component.

    weight: of the component; net: the network as a function of z ~ N(0, I_r); patterns bool (K, N);
    index (K,): position of each pattern in the PMF; log_p, rel_error (K,): P(region) under the component;
    polygons: the regions when r = 2, else None; rtol, seed: for further probabilities.
    """

    weight: float
    net: ReLUNetwork
    patterns: np.ndarray
    index: np.ndarray
    log_p: np.ndarray
    rel_error: np.ndarray
    polygons: planar.Polygons | None = None
    rtol: float = 1e-2
    seed: int = 0

    def __len__(self) -> int:
        return len(self.patterns)

    def reindexed(self, rank: np.ndarray) -> Pieces:
        """The same with index i replaced by rank[i]; those of negative rank are dropped."""
        keep = rank[self.index] >= 0
        return replace(
            self,
            patterns=self.patterns[keep],
            index=rank[self.index][keep],
            log_p=self.log_p[keep],
            rel_error=self.rel_error[keep],
            polygons=None if self.polygons is None else self.polygons[keep],
        )

    def blocks(self) -> Iterator:
        """Yields (rows, H, h, A, b): slices of the pieces with {H z <= h} and output A z + b on it."""
        per_piece = 8 * 3 * max(self.net.n_hidden, 1) * max(self.net.input_dim, 1)
        step = int(np.clip(BLOCK_BYTES / per_piece, 1, max(len(self), 1)))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            G, g, A, b = affine_pieces(self.net, self.patterns[rows])
            H, h = halfspaces(self.patterns[rows], G, g) if self.polygons is None else self._edges(rows)
            yield rows, H, h, A, b

    def _edges(self, rows):
        used = self.polygons.used[rows]
        H = np.where(used[..., None], self.polygons.lines[rows, :, :2], 0.0)
        return H, np.where(used, self.polygons.lines[rows, :, 2], 1.0)

    def output_range(self, rows: np.ndarray, A: np.ndarray, b: np.ndarray, output: int) -> Any:
        """Bounds (low, high) of output `output` on each region; infinite where only the polygon would tell."""
        if self.polygons is None:
            return np.full(len(b), -np.inf), np.full(len(b), np.inf)
        values = (self.polygons.vertices[rows] @ A[:, output, :, None])[..., 0] + b[:, output, None]
        used = self.polygons.used[rows]
        return np.where(used, values, np.inf).min(axis=1), np.where(used, values, -np.inf).max(axis=1)

    def probabilities(self, H: np.ndarray, h: np.ndarray, **budget: Any) -> tuple[np.ndarray, np.ndarray]:
        """(log_p, rel_error) of polytopes {H z <= h}, at this set's rtol and seed; budget: points, if fewer than
        usual.
        """
        return probabilities(H, h, rtol=self.rtol, seed=self.seed, **budget)

    def z_moments(self) -> Any:
        """(mean (K, r), second (K, r, r)): E z and E z z^T given each region."""
        if self.polygons is not None:
            return planar.polygon_moments(self.polygons, self.log_p)
        standard = Gaussian(np.zeros(self.net.input_dim), 1.0)
        found = [moments(H, h, standard) for _, Hs, hs, _, _ in self.blocks() for H, h in zip(Hs, hs)]
        mean = np.array([mean for _, mean, _ in found])
        return mean, np.array([cov for _, _, cov in found]) + mean[:, :, None] * mean[:, None, :]


def exact_pieces(net: ReLUNetwork, components: list) -> Any:
    """(patterns (K, N), [Pieces]) of all regions, for input components of rank at most two."""
    found = [planar_regions(net, part) for _, part in components]
    keys = np.concatenate([np.packbits(each.patterns, axis=1) for each in found])
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    patterns = np.concatenate([each.patterns for each in found])[first]
    ends = np.cumsum([len(each.patterns) for each in found])
    pieces = [
        Pieces(weight, each.net, each.patterns, index, each.log_p, each.rel_error, each.polygons, EXACT)
        for (weight, _), each, index in zip(components, found, np.split(inverse.ravel(), ends[:-1]))
    ]
    return patterns, pieces


def searched_pieces(net: ReLUNetwork, components: list, patterns: np.ndarray, rtol: float, seed: int) -> Any:
    """[Pieces] of given patterns (K, N), each component's probabilities computed at relative error rtol."""
    pieces = []
    for weight, part in components:
        whitened = net.whitened(part)
        empty = np.zeros(len(patterns))
        draft = Pieces(weight, whitened, patterns, np.arange(len(patterns)), empty, empty, None, rtol, seed)
        answers = [draft.probabilities(H, h) for _, H, h, _, _ in draft.blocks()]
        log_p, rel_error = (np.concatenate(column) for column in zip(*answers))
        pieces.append(replace(draft, log_p=log_p, rel_error=rel_error))
    return pieces
