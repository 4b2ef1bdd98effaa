"""How much of the probability a set of patterns holds: the experiment behind P1's support tables.

Every method proposes up to K patterns. Fresh samples, which no method has seen, say how much mass these patterns cover.
The mass that `rpa.patterns.pmf` computes for them without samples must agree with that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linprog

from rpa import _check
from rpa.companion.fresh import Fresh, checked_rows
from rpa.companion.montecarlo import binomial_sigmas
from rpa.inputs import Gaussian
from rpa.parallel import pmap
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.pruning import activation_probabilities
from rpa.patterns.regions import affine_pieces, halfspaces
from rpa.patterns.support import (
    Support,
    best_first,
    commonest,
    draw_packed,
    draw_scaled,
    entropy_pruned,
    monte_carlo,
    pattern_keys,
)

if TYPE_CHECKING:
    import pandas as pd

    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork


__all__ = [
    "Entry",
    "activation_gap",
    "by_class",
    "cell_table",
    "compare",
    "efforts",
    "experiment",
    "mass_gap",
    "neighbours",
    "pruning_sweep",
    "realizable",
    "time_table",
]


@dataclass(frozen=True, eq=False)
class Entry:
    """What one method found.

    support: its `Support` of K patterns; curve (K,): coverage of its first k patterns by fresh samples; seconds taken;
    apart: share of the samples that either this or the last method of the contest covers, but not both.
    """

    support: Support
    curve: np.ndarray
    seconds: float
    apart: float = 0.0

    @property
    def coverage(self) -> float:
        """Share of the fresh samples covered by all K patterns."""
        return float(self.curve[-1])


def by_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the first `per_class` images of each class, class by class."""
    labels, per_class = np.asarray(labels), _check.integer("per_class", per_class, 1)
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels: expected shape (n,) with n >= 1, got {labels.shape}")
    return np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in np.unique(labels)])


def compare(
    net: ReLUNetwork,
    row: np.ndarray,
    levels: Sequence[float],
    max_patterns: int,
    n_fresh: int,
    n_counted: Sequence[int],
    seed: Sequence[int],
    timed: bool = True,
) -> dict[float, dict[str, Entry]]:
    """{sigma: {method: Entry}} for one image `row` (d,): "search", "pruned" (P1), and "counted_<n>" for each n of
    `n_counted`, which keeps the `max_patterns` commonest patterns of n samples.

    One draw of fresh samples and one of counted samples, each with its own seed, serve all noise levels; a smaller
    count takes the first samples of the larger one. timed: take the seconds of the counted methods too, by drawing for
    each level and count alone, as a user would; otherwise they are NaN.
    """
    levels = [_check.positive("levels", sigma) for sigma in _listed("levels", levels)]
    n_counted = [_check.integer("n_counted", n, 1) for n in _listed("n_counted", n_counted)]
    seed = [_check.integer("seed", part) for part in _listed("seed", seed)]
    first, second = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    least = min(levels)
    inputs = {sigma: Gaussian(row, sigma**2) for sigma in levels}
    scales = [sigma / least for sigma in levels]
    fresh = draw_scaled(net, inputs[least], scales, n_fresh, first)
    drawn = draw_scaled(net, inputs[least], scales, max(n_counted), second)
    contests = {}
    for sigma, unseen, packed in zip(levels, fresh, drawn):
        judge, x = Fresh(unseen), inputs[sigma]
        contest = {
            "search": _timed(lambda: best_first(net, x, max_patterns=max_patterns, mass=1.0), judge),
            "pruned": _timed(lambda: entropy_pruned(net, x, max_patterns=max_patterns, mass=1.0), judge),
        }
        for n in n_counted:
            entry = _timed(lambda: commonest(packed[:n], net.n_hidden, max_patterns), judge)
            seconds = _seconds(lambda: monte_carlo(net, x, n, second, max_patterns))[0] if timed else np.nan
            contest[f"counted_{n}"] = replace(entry, seconds=seconds)
        last = contest[list(contest)[-1]].support.patterns
        contests[sigma] = {k: replace(e, apart=_apart(judge, e.support.patterns, last)) for k, e in contest.items()}
    return contests


def _listed(name, values):
    if not np.iterable(values) or len(list(values)) == 0:
        raise ValueError(f"{name}: expected a list with at least one entry, got {values!r}")
    return list(values)


def _apart(fresh, first, second):
    """Coverage of the patterns that only one of two sets of distinct patterns (K, N) has."""
    both = np.concatenate([first, second])
    keys = pattern_keys(np.packbits(both, axis=1))
    _, place, counts = np.unique(keys, return_index=True, return_counts=True)
    return fresh.coverage(both[place[counts == 1]])


def _seconds(method):
    start = time.perf_counter()
    result = method()
    return time.perf_counter() - start, result


def _timed(method, fresh):
    seconds, support = _seconds(method)
    return Entry(support, np.cumsum(fresh.counts(support.patterns)) / fresh.n, seconds)


def _quickest(method, fresh, repeat=3):
    """The entry with the shortest of a few times: what the work costs when nothing disturbs it."""
    return min((_timed(method, fresh) for _ in range(repeat)), key=lambda entry: entry.seconds)


def experiment(
    nets: dict[str, ReLUNetwork],
    rows: np.ndarray,
    indices: Sequence[int],
    levels: Sequence[float],
    *,
    max_patterns: int,
    n_fresh: int,
    n_counted: Sequence[int],
    n_timed: int,
    seed: int,
) -> dict[tuple[str, float], list[dict[str, Entry]]]:
    """{(network, sigma): [contest of each image]}: `compare` for all networks, noise levels and images.

    nets: {name: ReLUNetwork}; rows (n, d): images; indices: which of them; levels: sigma of independent pixel noise;
    n_timed: of how many images the counted methods are timed.
    """
    if np.ndim(rows) != 2:
        raise ValueError(f"rows: expected shape (n, d), got {np.shape(rows)}")
    levels = _listed("levels", levels)
    indices = [_check.index("indices", index, len(rows)) for index in _listed("indices", indices)]
    if not nets:
        raise ValueError("nets: expected a dict of at least one network, got none")
    cells = [(name, sigma) for name in nets for sigma in levels]
    results: dict[tuple[str, float], list[dict[str, Entry]]] = {cell: [] for cell in cells}
    best_first(nets[cells[0][0]], Gaussian(rows[0], levels[0] ** 2))  # the first call also loads libraries
    tasks = [(name, rows[index], [seed, int(index)], k < n_timed) for name in nets for k, index in enumerate(indices)]

    def contests(task):
        name, row, own, timed = task
        return compare(nets[name], row, levels, max_patterns, n_fresh, n_counted, own, timed)

    for (name, *_), found in zip(tasks, pmap(contests, tasks)):
        for sigma, contest in found.items():
            results[name, sigma].append(contest)
    return results


def efforts(
    net: ReLUNetwork,
    inputs: RandomInput,
    n_fresh: int,
    max_patterns: int,
    sizes: Sequence[int],
    counts: Sequence[int],
    seed: int,
) -> dict[str, np.ndarray]:
    """Coverage against seconds, arrays of (seconds, coverage) rows: "search" for `sizes`, "counted" for `counts`.

    sizes: patterns asked of the search; counts: samples drawn, of which the `max_patterns` commonest patterns count.
    """
    fresh = Fresh(draw_packed(net, inputs, n_fresh, seed))
    search = [_quickest(lambda: best_first(net, inputs, max_patterns=k, mass=1.0), fresh) for k in sizes]
    counted = [_quickest(lambda: monte_carlo(net, inputs, n, seed + 1, max_patterns), fresh) for n in counts]
    points = {"search": search, "counted": counted}
    return {name: np.array([(entry.seconds, entry.coverage) for entry in each]) for name, each in points.items()}


def cell_table(results: dict, n_fresh: int) -> pd.DataFrame:
    """A DataFrame with a row per (network, sigma) of `experiment`: patterns found, and coverages averaged over images.

    ratio: mean coverage of the search over that of the last counted method; ratio_error: its standard error, from the
    samples that only one of them covers; worst_image: the smallest ratio of one image. A method that covers no
    sample at all counts as covering one.
    """
    import pandas as pd

    rows = []
    for (network, sigma), contests in results.items():
        ours, last = contests[0]["search"], list(contests[0])[-1]
        cell = {"network": network, "sigma": sigma, "images": len(contests)}
        cell["patterns"] = float(np.mean([len(c["search"].support) for c in contests]))
        cell |= {name: float(np.mean([c[name].coverage for c in contests])) for name in contests[0]}
        rival = np.maximum([c[last].coverage for c in contests], 1 / n_fresh)
        ours = np.array([c["search"].coverage for c in contests])
        apart = sum(c["search"].apart for c in contests)
        cell["ratio"] = ours.mean() / rival.mean()
        cell["ratio_error"] = np.sqrt(apart / n_fresh) / rival.sum()
        cell["worst_image"] = (ours / rival).min()
        rows.append(cell)
    return pd.DataFrame(rows)


def time_table(results: dict) -> pd.DataFrame:
    """A DataFrame with a row per (network, sigma) of `experiment`: median seconds of each method."""
    import pandas as pd

    def median(contests):
        return {name: float(np.nanmedian([c[name].seconds for c in contests])) for name in contests[0]}

    return pd.DataFrame([{"network": n, "sigma": s} | median(contests) for (n, s), contests in results.items()])


def mass_gap(
    net: ReLUNetwork, inputs: RandomInput, max_patterns: int, n_fresh: int, rtol: float, seed: int
) -> dict[str, float]:
    """Computed against sampled mass of the same patterns: dict(patterns, mass, error, coverage, gap).

    gap: how far the coverage lies outside mass +- error, in standard errors of n_fresh samples (exact binomial tails).
    """
    pmf = pattern_pmf(net, inputs, max_patterns=max_patterns, mass=1.0, rtol=rtol, seed=seed)
    coverage = Fresh(draw_packed(net, inputs, n_fresh, seed + 1)).coverage(pmf.patterns)
    allowed = np.clip(coverage, pmf.covered - pmf.covered_error, pmf.covered + pmf.covered_error)
    gap = float(binomial_sigmas(round(coverage * n_fresh), n_fresh, allowed))
    return {"patterns": len(pmf), "mass": pmf.covered, "error": pmf.covered_error, "coverage": coverage, "gap": gap}


def activation_gap(net: ReLUNetwork, inputs: Gaussian, n: int, seed: int) -> float:
    """First-layer activation probabilities (P1's first algorithm) against n samples: largest gap in standard errors."""
    if not isinstance(inputs, Gaussian):
        raise ValueError(f"inputs: expected Gaussian, got {type(inputs).__name__}")
    small = net.whitened(inputs)
    log_on, _ = activation_probabilities(small.weights[0][None], small.biases[0][None])
    bits = np.unpackbits(draw_packed(net, inputs, n, seed), axis=1, count=net.hidden_sizes[0])
    return float(binomial_sigmas(bits.sum(axis=0, dtype=int), n, np.exp(log_on[0])).max())


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
) -> pd.DataFrame:
    """P1's pruning over its entropy threshold (bits): a row per threshold with the mean coverage over images rows (n,
    d).

    pruned: of `max_patterns` patterns; search: of as many of ours. For the first n_many images also many: of `many`
    patterns; and best: of the `max_patterns` of these that a draw of n_fresh other samples shows most often. The last
    one ranks patterns with all correlations of the units, so that what is still missing was lost by fixing units.
    """
    import pandas as pd

    def cells(task):
        k, row = task
        inputs, found = Gaussian(row, sigma**2), []
        fresh, other = (Fresh(draw_packed(net, inputs, n_fresh, seed + 2 * k + i)) for i in (0, 1))
        search = fresh.coverage(best_first(net, inputs, max_patterns=max_patterns, mass=1.0).patterns)
        for threshold in thresholds:
            pruned = entropy_pruned(net, inputs, max_patterns=max_patterns, mass=1.0, threshold=threshold)
            cell = {"threshold": threshold, "pruned": fresh.coverage(pruned.patterns), "search": search}
            if k < n_many:
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


def neighbours(patterns: np.ndarray, among: int = 200) -> tuple[int, int, int] | None:
    """(i, j, unit): the likeliest pair of patterns (K, N), i < j, that differ in one unit only; None if there is none.

    The first `among` patterns, the most probable first, are compared; pairs are ranked by i + j.
    """
    patterns = checked_rows("patterns", patterns)
    top = patterns[: _check.integer("among", among, 1)].astype(int)
    differ = top @ (1 - top.T) + (1 - top) @ top.T
    pairs = np.argwhere(np.triu(differ == 1))
    if len(pairs) == 0:
        return None
    i, j = pairs[pairs.sum(axis=1).argmin()]
    return int(i), int(j), int(np.flatnonzero(patterns[i] != patterns[j])[0])
