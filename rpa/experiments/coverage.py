"""How much of the probability a set of patterns holds: the experiment behind P1's support tables.

Every method proposes up to K patterns. Fresh samples, which no method has seen, say how much mass these patterns cover.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rpa import _check
from rpa.experiments.fresh import Fresh, checked_rows
from rpa.inputs import Gaussian
from rpa.parallel import pmap
from rpa.patterns.support import (
    Support,
    best_first,
    commonest,
    draw_around,
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
    "by_class",
    "cell_table",
    "compare",
    "efforts",
    "experiment",
    "neighbours",
    "time_table",
]

BLOCK = 5  # images around which the same samples are counted: what their patterns take in memory


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
    rows: np.ndarray,
    levels: Sequence[float],
    max_patterns: int,
    n_fresh: int,
    n_counted: Sequence[int],
    seed: Sequence[int],
    n_timed: int = 0,
) -> list[dict[float, dict[str, Entry]]]:
    """{sigma: {method: Entry}} for each image of `rows` (k, d): "search", "pruned" (P1), and "counted_<n>" for each n
    of `n_counted`, which keeps the `max_patterns` commonest patterns of n samples.

    Counted samples are one draw of the noise for all images and noise levels; a smaller count takes the first samples
    of the larger one. Fresh samples have a draw of their own for each image, which serves all noise levels. n_timed: of
    how many images the counted methods are timed, by drawing for each level and count alone, as a user would; for the
    others their seconds are NaN.
    """
    levels = [_check.positive("levels", sigma) for sigma in _listed("levels", levels)]
    n_counted = [_check.integer("n_counted", n, 1) for n in _listed("n_counted", n_counted)]
    seed = [_check.integer("seed", part) for part in _listed("seed", seed)]
    count_seed, *seeds = (int(s) for s in np.random.SeedSequence(seed).generate_state(1 + len(rows)))
    noise, scales = [Gaussian(row, min(levels) ** 2) for row in rows], [sigma / min(levels) for sigma in levels]
    counted = draw_around(net, noise[0], rows, scales, max(n_counted), count_seed)
    contests: list[dict[float, dict[str, Entry]]] = [{} for _ in rows]
    for k, own_seed in enumerate(seeds):
        timing_seed = count_seed if k < n_timed else None
        fresh = draw_scaled(net, noise[k], scales, n_fresh, own_seed)
        for sigma, unseen, packed in zip(levels, fresh, counted[k]):
            inputs, judge = Gaussian(rows[k], sigma**2), Fresh(unseen)
            contests[k][sigma] = _contest(net, inputs, max_patterns, judge, packed, n_counted, timing_seed)
        counted[k] = []
    return contests


def _contest(net, inputs, max_patterns, judge, packed, n_counted, timing_seed):
    """{method: Entry} of one image and noise level; packed: the samples that the counted methods may see."""
    contest = {
        "search": _timed(lambda: best_first(net, inputs, max_patterns=max_patterns, mass=1.0), judge),
        "pruned": _timed(lambda: entropy_pruned(net, inputs, max_patterns=max_patterns, mass=1.0), judge),
    }
    for n in n_counted:
        entry, seconds = _timed(lambda: commonest(packed[:n], net.n_hidden, max_patterns), judge), np.nan
        if timing_seed is not None:
            seconds = _seconds(lambda: monte_carlo(net, inputs, n, timing_seed, max_patterns))[0]
        contest[f"counted_{n}"] = replace(entry, seconds=seconds)
    last = contest[list(contest)[-1]].support.patterns
    return {name: replace(entry, apart=_apart(judge, entry.support.patterns, last)) for name, entry in contest.items()}


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
    """Seconds of processor time, which other processes disturb little, and the result."""
    start = time.process_time()
    result = method()
    return time.process_time() - start, result


def _timed(method, fresh):
    seconds, support = _seconds(method)
    return Entry(support, np.cumsum(fresh.counts(support.patterns)) / fresh.n, seconds)


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
    n_timed: of how many images the counted methods are timed. Images are taken `BLOCK` at a time.
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
    blocks = [indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK)]
    tasks = [(name, number, block) for name in nets for number, block in enumerate(blocks)]

    def contests(task):
        name, number, block = task
        timed = max(0, n_timed - BLOCK * number)
        return compare(nets[name], rows[block], levels, max_patterns, n_fresh, n_counted, [seed, number], timed)

    for (name, *_), found in zip(tasks, pmap(contests, tasks)):
        for each in found:
            for sigma, contest in each.items():
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
    search = [_timed(lambda: best_first(net, inputs, max_patterns=k, mass=1.0), fresh) for k in sizes]
    counted = [_timed(lambda: monte_carlo(net, inputs, n, seed + 1, max_patterns), fresh) for n in counts]
    points = {"search": search, "counted": counted}
    return {name: np.array([(entry.seconds, entry.coverage) for entry in each]) for name, each in points.items()}


def cell_table(results: dict, n_fresh: int) -> pd.DataFrame:
    """A DataFrame with a row per (network, sigma) of `experiment`: patterns found, and coverages averaged over images.

    ratio: mean coverage of the search over that of the last counted method; ratio_error: its standard error, from the
    samples that only one of them covers; worst_image: the smallest ratio of one image, with its worst_error. A method
    that covers no sample at all counts as covering one.
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
        apart = np.array([c["search"].apart for c in contests])
        cell["ratio"] = ours.mean() / rival.mean()
        cell["ratio_error"] = np.sqrt(apart.sum() / n_fresh) / rival.sum()
        worst = (ours / rival).argmin()
        cell["worst_image"] = ours[worst] / rival[worst]
        cell["worst_error"] = np.sqrt(max(apart[worst], 1 / n_fresh) / n_fresh) / rival[worst]
        rows.append(cell)
    return pd.DataFrame(rows)


def time_table(results: dict) -> pd.DataFrame:
    """A DataFrame with a row per (network, sigma) of `experiment`: median seconds of each method."""
    import pandas as pd

    def median(contests):
        return {name: float(np.nanmedian([c[name].seconds for c in contests])) for name in contests[0]}

    return pd.DataFrame([{"network": n, "sigma": s} | median(contests) for (n, s), contests in results.items()])


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
