"""The panels of the support figures: coverage against patterns and against seconds, and what one unit's flip does.

The search is blue, counting samples red, P1's pruning grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullFormatter

from rpa import _check
from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL
from rpa.patterns.regions import region_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

    from rpa.network import ReLUNetwork


__all__ = ["curve_panel", "effort_panel", "flip", "image_panel", "name_methods"]


def curve_panel(ax: Axes, results: dict, network: str, max_patterns: int) -> None:
    """Mean coverage of the first k patterns: the search (lines), the last counted method (circles), pruning (grey).

    results: of `rpa.experiments.coverage.experiment`; one set of curves per noise level, named at its right end.
    """
    k = np.unique(np.geomspace(1, max_patterns, 60).astype(int))
    circle: dict[str, Any] = dict(markersize=3, fillstyle="none", markeredgewidth=0.8)
    ends = {}
    for sigma, contests in ((sigma, contests) for (name, sigma), contests in results.items() if name == network):
        ours, pruned, counted = (_mean(contests, method, k) for method in ("search", "pruned", list(contests[0])[-1]))
        ax.plot(k, pruned, color=NEUTRAL, linewidth=0.8)
        ax.plot(k, ours, color=ANALYTIC, linewidth=1.2)
        ax.plot(k[::3], counted[::3], "o", color=MONTE_CARLO, **circle)
        ends[sigma] = ours[-1]
    for sigma, height in _apart(ends, 0.065).items():
        ax.text(max_patterns * 1.15, height, f"{sigma:g}", color=ANALYTIC, va="center", fontsize=7)
    ax.set(xscale="log", xlim=(1, max_patterns), ylim=(-0.02, 1.04), xlabel="patterns $k$", title=network)


def _mean(contests, method, k):
    """Mean over images of the coverage of the first k patterns, flat beyond the last one found."""
    return np.mean([c[method].curve[np.minimum(k, len(c[method].curve)) - 1] for c in contests], axis=0)


def _apart(ends, least):
    """Heights of labels, those of larger noise below, moved until neighbours are `least` apart."""
    floor, heights = -np.inf, {}
    for sigma in sorted(ends, reverse=True):
        floor = heights[sigma] = max(ends[sigma], floor + least)
    ceiling = 1.04 + least
    for sigma in sorted(ends):
        ceiling = heights[sigma] = min(heights[sigma], ceiling - least)
    return heights


def name_methods(fig: FigureBase) -> None:
    """Say which colour is which, in one line across a (sub)figure."""
    names = (("moment-matching search", ANALYTIC), ("commonest of the samples", MONTE_CARLO), ("P1's pruning", NEUTRAL))
    for x, (name, colour) in zip((0.07, 0.36, 0.66), names):
        fig.text(x, 0.5, name, color=colour, va="center")


def effort_panel(ax: Axes, points: dict[str, np.ndarray], sizes: Sequence[int], draws: Sequence[int]) -> None:
    """Coverage against seconds of `rpa.experiments.coverage.efforts`: the search by patterns asked, counting by samples
    drawn.
    """
    kinds = ("search", ANALYTIC, sizes, "patterns"), ("counted", MONTE_CARLO, draws, "samples")
    for name, colour, labels, what in kinds:
        seconds, covered = points[name].T
        ax.plot(seconds, covered, "o-", color=colour, markersize=3)
        for end in (0, -1):
            place: dict[str, Any] = dict(ha="left", va="top") if name == "counted" else dict(ha="right", va="bottom")
            shift = (4, -2) if name == "counted" else (-4, 2)
            ax.annotate(f"{labels[end]:,}", (seconds[end], covered[end]), shift, textcoords="offset points",
                        color=colour, fontsize=7, **place)  # fmt: skip
        ax.text(0.03, 0.93 - 0.085 * (name == "counted"), what, color=colour, fontsize=7, transform=ax.transAxes)
    ax.set(xscale="log", xlabel="seconds", ylim=(0, None))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.25)


def flip(net: ReLUNetwork, patterns: np.ndarray, i: int, j: int, unit: int) -> tuple[dict[str, np.ndarray], int]:
    """What separates two neighbouring patterns, as rows in pixel space: dict of (d,) arrays, and the class concerned.

    "facet": unit normal of the facet between the regions, pointing to where the unit is on; "before", "after": gradient
    of one logit, that of the class it changes most, in region i and in region j; "change": their difference.
    """
    i, j = _check.index("i", i, len(patterns)), _check.index("j", j, len(patterns))
    unit = _check.index("unit", unit, net.n_hidden)
    first, second = region_of(net, patterns[i]), region_of(net, patterns[j])
    label = int(np.linalg.norm(second.A - first.A, axis=1).argmax())
    normal = -first.H[unit] if first.pattern[unit] else first.H[unit]
    before, after = first.A[label], second.A[label]
    return {"facet": normal / np.linalg.norm(normal), "before": before, "after": after, "change": after - before}, label


def image_panel(ax: Axes, row: np.ndarray, title: str, signed: bool = True) -> None:
    """A row of 784 numbers as an image: grey, or diverging about zero with the largest magnitude at full colour."""
    limit = np.abs(row).max()
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if signed else {"cmap": "Greys", "vmin": 0, "vmax": 1}
    ax.imshow(row.reshape(28, 28), **style)
    ax.set_title(title, fontsize=8)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
