"""P1's support approximation, piece by piece, against samples: masses, activation probabilities, thresholds, existence.

`rpa.experiments.coverage` compares whole methods; here each of P1's algorithms is checked by itself. A table has a row
for each network, noise level and image: nets {name: ReLUNetwork}; rows (n, d): images; indices: which of them; levels:
sigma of independent pixel noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from rpa.experiments.montecarlo import Fresh, binomial_sigmas
from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.parallel import pmap
from rpa.patterns.packing import pattern_keys
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.pruning import activation_probabilities
from rpa.patterns.regions import affine_pieces, halfspaces
from rpa.patterns.support import draw_packed, entropy_pruned
from rpa.polytopes.reduction import inscribed_ball, is_empty, unit_rows


def over_cells(
    work: Callable[..., dict],
    nets: dict[str, ReLUNetwork],
    rows: np.ndarray,
    indices: Sequence[int],
    levels: Sequence[float],
    *,
    seed: int,
    **options: float,
) -> pd.DataFrame:
    """A DataFrame of work(net, inputs, seed=seed + index, **options) for each network, noise level and image."""

    def cell(task):
        name, sigma, index = task
        row = work(nets[name], Gaussian(rows[index], sigma**2), seed=seed + int(index), **options)
        return {"network": name, "sigma": sigma, "image": int(index)} | row

    return pd.DataFrame(pmap(cell, list(product(nets, levels, indices))))


def mass(
    net: ReLUNetwork, inputs: Gaussian, *, max_patterns: int, n_fresh: int, rtol: float, seed: int
) -> dict[str, float]:
    """Computed against sampled mass of the patterns that P1's pruning finds: patterns, mass, error, coverage, gap.

    gap: |mass - coverage| in standard errors of both; that of the sampled share counts one success and one failure
    more, so that it is never 0.
    """
    pmf = pattern_pmf(net, inputs, search="entropy", max_patterns=max_patterns, mass=1.0, rtol=rtol, seed=seed)
    coverage = Fresh(draw_packed(net, inputs, n_fresh, seed + 1)).coverage(pmf.patterns)
    share = (coverage * n_fresh + 1) / (n_fresh + 2)
    error = np.hypot(pmf.covered_error, np.sqrt(share * (1 - share) / n_fresh))
    gap = abs(coverage - pmf.covered) / error
    row = {"patterns": len(pmf), "mass": pmf.covered, "error": pmf.covered_error, "coverage": coverage, "gap": gap}
    return {key: float(value) for key, value in row.items()}


def activation(net: ReLUNetwork, inputs: Gaussian, *, n: int, seed: int) -> dict[str, float]:
    """P1's activation probabilities (`rpa.patterns.pruning.activation_probabilities`) against n samples.

    first_gap: largest gap in the first layer, in standard errors. deep_error: largest difference in the last hidden
    layer, inside the region of the earlier layers that samples meet most often, `hits` times; deep_stderr: its
    standard error; plain_error: the same difference when units count as certain, as at the mean of the input.
    """
    bits = np.unpackbits(draw_packed(net, inputs, n, seed), axis=1, count=net.n_hidden)
    width, earlier = net.hidden_sizes[0], net.n_hidden - net.hidden_sizes[-1]
    keys = pattern_keys(np.packbits(bits[:, :earlier], axis=1))
    _, first, region, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    commonest = counts.argmax()
    G, g, _, _ = affine_pieces(net.whitened(inputs), bits[[first[commonest]]].astype(bool))
    p = np.exp(activation_probabilities(G, g)[0][0])
    share = bits[region == commonest, earlier:].mean(axis=0)
    difference = np.abs(p[earlier:] - share)
    worst = difference.argmax()
    hits = int(counts[commonest])
    return {
        "first_gap": float(binomial_sigmas(bits[:, :width].sum(axis=0, dtype=int), n, p[:width]).max()),
        "hits": hits,
        "deep_error": float(difference[worst]),
        "deep_stderr": float(np.sqrt(max(share[worst] * (1 - share[worst]), 1 / hits) / hits)),
        "plain_error": float(np.abs((g[0, earlier:] > 0) - share).max()),
    }


def pruning_sweep(
    net: ReLUNetwork,
    rows: np.ndarray,
    sigma: float,
    thresholds: Sequence[float],
    *,
    max_patterns: int,
    many: int,
    n_fresh: int,
    seed: int,
) -> pd.DataFrame:
    """P1's pruning over its entropy threshold (bits): a row per threshold, mean coverage over images rows (n, d).

    pruned: of `max_patterns` patterns; many: of `many` patterns; best: of the `max_patterns` of these many that n_fresh
    other samples show most often. The last one ranks patterns with all correlations of the units, so that what it
    misses was lost by fixing units.
    """

    def cells(task):
        k, row = task
        inputs = Gaussian(row, sigma**2)
        fresh, other = (Fresh(draw_packed(net, inputs, n_fresh, seed + 2 * k + i)) for i in (0, 1))
        table = []
        for threshold in thresholds:
            search = partial(entropy_pruned, net, inputs, mass=1.0, threshold=threshold)
            few, all_ = (search(max_patterns=size).patterns for size in (max_patterns, many))
            best = all_[np.argsort(-other.counts(all_), kind="stable")[:max_patterns]]
            table.append([threshold, *map(fresh.coverage, (few, all_, best))])
        return table

    cells_of_rows = np.concatenate(pmap(cells, list(enumerate(rows))))
    frame = pd.DataFrame(cells_of_rows, columns=["threshold", "pruned", "many", "best"])
    return frame.groupby("threshold").mean().reset_index()


def realizable_share(
    net: ReLUNetwork, inputs: Gaussian, *, max_patterns: int, tested: int, seed: int
) -> dict[str, float]:
    """Share of P1's patterns that exist, among `tested` drawn from all that pruning proposes."""
    patterns = entropy_pruned(net, inputs, max_patterns=max_patterns, mass=1.0).patterns
    picks = np.random.default_rng(seed).choice(len(patterns), min(tested, len(patterns)), replace=False)
    return {"tested": len(picks), "exist": float(realizable(net, inputs, patterns[picks]).mean())}


def realizable(net: ReLUNetwork, inputs: Gaussian, patterns: np.ndarray) -> np.ndarray:
    """Which of the patterns (K, N) hold somewhere: bool (K,), by a linear program that proves where none does."""
    G, g, _, _ = affine_pieces(net.whitened(inputs), patterns)
    H, h = halfspaces(patterns, G, g)
    H, h, impossible = unit_rows(H, h)
    return ~(impossible | is_empty(H, h, inscribed_ball(H, h)))
