"""P1's support approximation, piece by piece, against samples: masses, activation probabilities, thresholds, existence.

`rpa.experiments.coverage` compares whole methods; here each of P1's algorithms is checked by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linprog

from rpa.experiments.fresh import Fresh
from rpa.experiments.montecarlo import binomial_sigmas
from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.parallel import pmap
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.pruning import activation_probabilities
from rpa.patterns.regions import affine_pieces, halfspaces
from rpa.patterns.support import draw_packed, draw_scaled, entropy_pruned

if TYPE_CHECKING:
    import pandas as pd

    from rpa.patterns.support import Support


__all__ = ["activation_gap", "mass_gap", "mass_table", "pruning_sweep", "realizable"]


def mass_gap(
    net: ReLUNetwork,
    inputs: Gaussian,
    max_patterns: int,
    n_fresh: int,
    rtol: float,
    seed: int,
    scales: Sequence[float] = (1.0,),
) -> list[dict[str, float]]:
    """Computed against sampled mass of the same patterns: dict(patterns, mass, error, coverage, gap) for each scale.

    The noise of `inputs` is multiplied by the scale; all scales share n_fresh samples. gap: |mass - coverage| in
    standard errors of both, that of a share with one success and one failure added, so that it is never 0.
    """
    found = []
    for scale, packed in zip(scales, draw_scaled(net, inputs, scales, n_fresh, seed + 1)):
        pmf = pattern_pmf(net, _scaled(inputs, scale), max_patterns=max_patterns, mass=1.0, rtol=rtol, seed=seed)
        coverage = Fresh(packed).coverage(pmf.patterns)
        share = (coverage * n_fresh + 1) / (n_fresh + 2)
        error = np.hypot(pmf.covered_error, np.sqrt(share * (1 - share) / n_fresh))
        gap = float(abs(coverage - pmf.covered) / error)
        row = {"patterns": len(pmf), "mass": pmf.covered, "error": pmf.covered_error, "coverage": coverage, "gap": gap}
        found.append(row)
    return found


def mass_table(
    nets: dict[str, ReLUNetwork],
    rows: np.ndarray,
    indices: Sequence[int],
    levels: Sequence[float],
    *,
    max_patterns: int,
    n_fresh: int,
    rtol: float,
    seed: int,
) -> pd.DataFrame:
    """`mass_gap` over images: a row for each network and noise level, the means over the images and the largest gap.

    nets: {name: ReLUNetwork}; rows (n, d): images; indices: which of them; levels: sigma of independent pixel noise.
    """
    import pandas as pd

    lowest = min(levels)
    scales = [sigma / lowest for sigma in levels]

    def cells(task):
        name, index = task
        inputs = Gaussian(rows[index], lowest**2)
        found = mass_gap(nets[name], inputs, max_patterns, n_fresh, rtol, seed + int(index), scales)
        return [{"network": name, "sigma": sigma} | row for sigma, row in zip(levels, found)]

    found = [cell for each in pmap(cells, product(nets, indices)) for cell in each]
    over_images = dict.fromkeys(("patterns", "mass", "error", "coverage"), "mean") | {"gap": "max"}
    return pd.DataFrame(found).groupby(["network", "sigma"]).agg(over_images).reset_index()


def _scaled(inputs, scale):
    return Gaussian(inputs.mean, scale**2 * inputs.cov_given)


def activation_gap(net: ReLUNetwork, inputs: Gaussian, n: int, seed: int, scales: Sequence[float] = (1.0,)) -> float:
    """First-layer activation probabilities (P1's first algorithm) against n samples: largest gap in standard errors.

    The noise of `inputs` is multiplied by each of the scales; all share the n samples, of which only the first layer is
    computed.
    """
    if not isinstance(inputs, Gaussian):
        raise ValueError(f"inputs: expected Gaussian, got {type(inputs).__name__}")
    weight, bias = net.weights[0], net.biases[0]
    first = ReLUNetwork((weight, np.ones((1, len(weight)))), (bias, np.zeros(1)))
    worst = 0.0
    for scale, packed in zip(scales, draw_scaled(first, inputs, scales, n, seed)):
        small = first.whitened(_scaled(inputs, scale))
        log_on, _ = activation_probabilities(small.weights[0][None], small.biases[0][None])
        counts = np.unpackbits(packed, axis=1, count=len(weight)).sum(axis=0, dtype=int)
        worst = max(worst, float(binomial_sigmas(counts, n, np.exp(log_on[0])).max()))
    return worst


def pruning_sweep(
    net: ReLUNetwork,
    rows: np.ndarray,
    sigma: float,
    thresholds: Sequence[float],
    max_patterns: int,
    many: int,
    n_many: int,
    n_fresh: int,
    seed: int,
    searched: Sequence[Support],
) -> pd.DataFrame:
    """P1's pruning over its entropy threshold (bits): a row per threshold with the mean coverage over images rows (n,
    d).

    pruned: of `max_patterns` patterns; search: of those `searched`, a `Support` for each image. For the first n_many
    images also many: of `many` patterns; and best: of the `max_patterns` of these that a draw of n_fresh other samples
    shows most often. The last one ranks patterns with all correlations of the units, so that what is still missing was
    lost by fixing units.
    """
    import pandas as pd

    def cells(task):
        k, row = task
        inputs, found = Gaussian(row, sigma**2), []
        fresh = Fresh(draw_packed(net, inputs, n_fresh, seed + 2 * k))
        other = Fresh(draw_packed(net, inputs, n_fresh, seed + 2 * k + 1)) if k < n_many else None
        search = fresh.coverage(searched[k].patterns)
        for threshold in thresholds:
            pruned = entropy_pruned(net, inputs, max_patterns=max_patterns, mass=1.0, threshold=threshold)
            cell = {"threshold": threshold, "pruned": fresh.coverage(pruned.patterns), "search": search}
            if other is not None:
                patterns = entropy_pruned(net, inputs, max_patterns=many, mass=1.0, threshold=threshold).patterns
                best = np.argsort(-other.counts(patterns), kind="stable")[:max_patterns]
                cell |= {"many": fresh.coverage(patterns), "best": fresh.coverage(patterns[best])}
            found.append(cell)
        return found

    found = [cell for each in pmap(cells, enumerate(rows)) for cell in each]
    return pd.DataFrame(found).groupby("threshold").mean().reset_index()


def realizable(net: ReLUNetwork, inputs: Gaussian, patterns: np.ndarray) -> np.ndarray:
    """Which of the patterns (K, N) hold on a region with an interior: bool (K,), one linear program each.

    The largest ball that fits {z : H z <= h}, in units of the input's standard deviation, must have positive radius.
    """
    G, g, _, _ = affine_pieces(net.whitened(inputs), patterns)
    H, h = halfspaces(patterns, G, g)
    return np.array([_radius(rows, bound) > 1e-9 for rows, bound in zip(H, h)], dtype=bool)


def _radius(H, h):
    cost = np.append(np.zeros(H.shape[1]), -1.0)
    limits = [(None, None)] * H.shape[1] + [(0, 1)]
    solution = linprog(cost, A_ub=np.column_stack([H, np.linalg.norm(H, axis=1)]), b_ub=h, bounds=limits)
    return solution.x[-1] if solution.status == 0 else 0.0
