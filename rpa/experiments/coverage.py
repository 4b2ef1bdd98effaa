"""How much of the probability a set of patterns holds: the experiment behind P1's support tables.

Every method proposes up to K patterns. Fresh samples, which no method has seen, say how much mass these patterns cover.
In figures the search is blue, counting samples red, P1's pruning grey.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL
from rpa.experiments.montecarlo import Fresh
from rpa.inputs import Gaussian, RandomInput
from rpa.network import ReLUNetwork
from rpa.parallel import pmap
from rpa.patterns.packing import draw_around, draw_packed, draw_scaled
from rpa.patterns.support import Support, best_first, commonest, entropy_pruned, monte_carlo

IMAGES_AT_ONCE = 5  # images around which the same samples are counted: what their patterns take in memory


@dataclass(frozen=True, eq=False)
class Entry:
    """The patterns of one method: `support`, K of them; curve (K,): coverage of its first k by fresh samples.

    seconds: of processor time, of a counted method without that of drawing; disagreement: share of fresh samples
    covered by exactly one of this method and the last one of the comparison.
    """

    support: Support
    curve: np.ndarray
    seconds: float
    disagreement: float = 0.0

    @property
    def coverage(self) -> float:
        """Share of the fresh samples covered by all K patterns."""
        return float(self.curve[-1])


def by_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the first `per_class` images of each class, class by class."""
    return np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in np.unique(labels)])


def experiment(
    nets: dict[str, ReLUNetwork],
    rows: np.ndarray,
    indices: Sequence[int],
    levels: Sequence[float],
    *,
    max_patterns: int,
    n_fresh: int,
    n_counted: Sequence[int],
    seed: int,
) -> dict[tuple[str, float], list[dict[str, Entry]]]:
    """{(network, sigma): [{method: Entry} of each image]}; all methods propose `max_patterns` patterns.

    Methods: "search" (ours), "pruned" (P1's) and "counted_<n>" for each n of `n_counted`, the commonest patterns of n
    samples. nets: {name: ReLUNetwork}; rows (n, d): images; indices: which of them; levels: sigma of independent pixel
    noise. Counted samples are one draw of the noise for several images and all levels; a smaller count takes the first
    samples of the larger one. Fresh samples are drawn for each image and serve all levels.
    """
    best_first(next(iter(nets.values())), Gaussian(rows[0], levels[0] ** 2))  # the first call also loads libraries
    blocks = [indices[start : start + IMAGES_AT_ONCE] for start in range(0, len(indices), IMAGES_AT_ONCE)]
    tasks = [(name, number) for name in nets for number in range(len(blocks))]

    def measured(task):
        name, number = task
        return _block(nets[name], rows[blocks[number]], levels, max_patterns, n_fresh, n_counted, [seed, number])

    results: dict[tuple[str, float], list[dict[str, Entry]]] = {(name, sigma): [] for name in nets for sigma in levels}
    for (name, _), block in zip(tasks, pmap(measured, tasks)):
        for sigma, entries in block:
            results[name, sigma].append(entries)
    return results


def _block(net, rows, levels, max_patterns, n_fresh, n_counted, seed):
    """(sigma, {method: Entry}) of each of the images rows (k, d), which share their counted samples, and each level."""
    count_seed, *seeds = (int(s) for s in np.random.SeedSequence(seed).generate_state(1 + len(rows)))
    noise, scales = [Gaussian(row, min(levels) ** 2) for row in rows], [sigma / min(levels) for sigma in levels]
    counted = draw_around(net, noise[0], rows, scales, max(n_counted), count_seed)
    results = []
    for k, image_seed in enumerate(seeds):
        for sigma, unseen, packed in zip(levels, draw_scaled(net, noise[k], scales, n_fresh, image_seed), counted[k]):
            options = dict(net=net, inputs=Gaussian(rows[k], sigma**2), max_patterns=max_patterns, mass=1.0)
            methods = {"search": partial(best_first, **options), "pruned": partial(entropy_pruned, **options)}
            methods |= {f"counted_{n}": partial(commonest, packed[:n], net.n_hidden, max_patterns) for n in n_counted}
            fresh = Fresh(unseen)
            entries = {name: _timed(method, fresh) for name, method in methods.items()}
            last = entries[f"counted_{n_counted[-1]}"]
            for name, entry in entries.items():
                either = fresh.coverage(np.concatenate([entry.support.patterns, last.support.patterns]))
                entries[name] = replace(entry, disagreement=2 * either - entry.coverage - last.coverage)
            results.append((sigma, entries))
        counted[k] = []
    return results


def processor_seconds(method: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time, which other processes disturb little, and the result."""
    start = time.process_time()
    result = method()
    return time.process_time() - start, result


def _timed(method, fresh):
    seconds, support = processor_seconds(method)
    return Entry(support, np.cumsum(fresh.counts(support.patterns)) / fresh.n, seconds)


def efforts(
    net: ReLUNetwork,
    inputs: RandomInput,
    n_fresh: int,
    max_patterns: int,
    sizes: Sequence[int],
    counts: Sequence[int],
    seed: int,
) -> dict[str, np.ndarray]:
    """Coverage against seconds, arrays of (seconds, coverage) rows named "search", "pruned" and "counted".

    sizes: patterns that our search and P1's pruning may propose; counts: samples drawn, whose `max_patterns` commonest
    patterns count.
    """
    fresh = Fresh(draw_packed(net, inputs, n_fresh, seed))
    options: dict[str, Any] = dict(net=net, inputs=inputs, mass=1.0)
    search = [_timed(lambda: best_first(max_patterns=k, **options), fresh) for k in sizes]
    pruned = [_timed(lambda: entropy_pruned(max_patterns=k, **options), fresh) for k in sizes]
    counted = [_timed(lambda: monte_carlo(net, inputs, n, seed + 1, max_patterns), fresh) for n in counts]
    points = {"search": search, "pruned": pruned, "counted": counted}
    return {name: np.array([(entry.seconds, entry.coverage) for entry in each]) for name, each in points.items()}


def cell_table(results: dict, n_fresh: int) -> pd.DataFrame:
    """A row per (network, sigma) of `experiment`: the coverage of each method, mean over the images.

    pruned_ratio, search_ratio: mean coverage of P1's pruning and of our search over that of the last counted method;
    pruned_error, search_error: their standard errors, from the samples that only one of the two covers. worst_image:
    the smallest search_ratio of one image, among those of which the counted method covers a sample; its worst_error.
    Raises ValueError for a cell of which the counted method covers no sample.
    """
    rows = []
    for (network, sigma), images in results.items():
        covered = {name: np.array([entries[name].coverage for entries in images]) for name in images[0]}
        rival = covered[list(images[0])[-1]]
        cell = {"network": network, "sigma": sigma, "images": len(images)}
        cell |= {name: float(each.mean()) for name, each in covered.items()}
        seen = np.flatnonzero(rival)
        if len(seen) == 0:
            raise ValueError(f"results: counting covers no fresh sample of {network} at sigma {sigma:g}, so no ratio")
        for name in ("pruned", "search"):
            differ = np.array([entries[name].disagreement for entries in images])
            cell[f"{name}_ratio"], cell[f"{name}_error"] = _ratio(covered[name], rival, differ, n_fresh)
        worst, ours = seen[[(covered["search"][seen] / rival[seen]).argmin()]], covered["search"]
        cell["worst_image"], cell["worst_error"] = _ratio(ours[worst], rival[worst], differ[worst], n_fresh)
        rows.append(cell)
    return pd.DataFrame(rows)


def _ratio(covered, rival, differ, n):
    """(ratio r of two coverages over images, its standard error); differ: shares of n samples that only one covers.

    With r the ratio of the means, 1_covered - r 1_rival has the variance r P(only one covers). At least one sample
    counts as different.
    """
    ratio = covered.sum() / rival.sum()
    return ratio, np.sqrt(max(ratio * differ.sum(), 1 / n) / n) / rival.sum()


def curve_panel(ax: Axes, results: dict, network: str, max_patterns: int) -> None:
    """Mean coverage of the first k patterns: the search (lines), the last counted method (circles), pruning (grey).

    results: of `experiment`; one set of curves per noise level, named at its right end.
    """
    k = np.unique(np.geomspace(1, max_patterns, 60).astype(int))
    circle: dict[str, Any] = dict(markersize=3, fillstyle="none", markeredgewidth=0.8)
    ends = {}
    for sigma, images in ((sigma, images) for (name, sigma), images in results.items() if name == network):
        search, pruned, counted = (  # flat beyond the last pattern
            np.mean([e[method].curve[np.minimum(k, len(e[method].curve)) - 1] for e in images], axis=0)
            for method in ("search", "pruned", list(images[0])[-1])
        )
        ax.plot(k, pruned, color=NEUTRAL, linewidth=1.2)
        ax.plot(k, search, color=ANALYTIC, linewidth=1.2)
        ax.plot(k[::3], counted[::3], "o", color=MONTE_CARLO, **circle)
        ends[sigma] = search[-1]
    floor, ceiling, gap = -np.inf, 1.04 + 0.075, 0.075  # labels, those of larger noise below, are moved apart
    for sigma in sorted(ends, reverse=True):
        floor = ends[sigma] = max(ends[sigma], floor + gap)
    for sigma in sorted(ends):
        ceiling = min(ends[sigma], ceiling - gap)
        ax.text(max_patterns * 1.15, ceiling, f"{sigma:g}", color=ANALYTIC, va="center", fontsize=7)
    ax.set(xscale="log", xlim=(1, max_patterns), ylim=(-0.02, 1.04), xlabel="patterns $k$", title=network)


def effort_panel(ax: Axes, points: dict[str, np.ndarray], sizes: Sequence[int], draws: Sequence[int]) -> None:
    """Coverage against seconds of `efforts`, with the effort of the first and last point (not for pruning, in grey)."""
    ax.plot(*points["pruned"].T, "o-", color=NEUTRAL, markersize=3)
    # The search starts below the counts and ends to their left: its labels are below, theirs beside and above.
    below: Any = dict(xytext=(4, -3), va="top"), dict(xytext=(6, -12), va="top")
    above: Any = dict(xytext=(-5, 0), va="center", ha="right"), dict(xytext=(0, 4))
    kinds = ("search", ANALYTIC, sizes, " patterns", below), ("counted", MONTE_CARLO, draws, "\nsamples", above)
    for name, colour, labels, unit, places in kinds:
        seconds, covered = points[name].T
        ax.plot(seconds, covered, "o-", color=colour, markersize=3)
        style: dict[str, Any] = dict(textcoords="offset points", color=colour, fontsize=7)
        for i, text, place in zip((0, -1), (f"{labels[0]:,}{unit}", f"{labels[-1]:,}"), places):
            ax.annotate(text, (seconds[i], covered[i]), **place, **style)
    ax.set(xscale="log", xlabel="processor seconds")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.2)
    ax.set_xlim(left=ax.get_xlim()[0] / 6)  # room for the label on the left
    ax.set_ylim(0, 1.12 * ax.dataLim.y1)
