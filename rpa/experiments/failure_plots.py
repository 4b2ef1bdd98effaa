"""The panels of notebook 13: probability against noise, most likely failures, and fragile images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rpa.reliability.result import FailureProbability


__all__ = ["curve_panel", "failure_row", "picture", "ranking_panel"]

STYLES = ("-", "--", ":")
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
NARROW = 4.0  # below this ratio of its ends an axis has a tick at every tenth instead
SIGHT = -6  # log10 p at which a million samples see one failure


def curve_panel(ax: Axes, table: pd.DataFrame, title: str) -> None:
    """p against sigma, a line per network and image with error bars, and red circles where sampling saw failures.

    table: columns network, image, sigma, log10_p, rel_error, converged, count, n_sampled. A mark is hollow where the
    result has not converged, and a triangle where it is no more than an upper bound.
    """
    bound = ~np.isfinite(table.rel_error)
    for style, (name, of_network) in zip(STYLES, table[~bound].groupby("network", sort=False)):
        for k, (_, part) in enumerate(of_network.groupby("image", sort=False)):
            p = 10.0**part.log10_p
            ax.plot(part.sigma, p, style, color=ANALYTIC, linewidth=1.0, label=name if k == 0 else None)
            ax.errorbar(part.sigma, p, p * part.rel_error, fmt="none", ecolor=ANALYTIC, elinewidth=1.0)
    kinds = {"o": (table.converged, ANALYTIC), "o ": (~table.converged & ~bound, "w"), "v": (bound, "w")}
    for marker, (kept, fill) in kinds.items():
        x, p = table.sigma[kept], 10.0 ** table.log10_p[kept]
        ax.plot(x, p, marker.strip(), color=ANALYTIC, markerfacecolor=fill, markersize=3)
    seen = table[table["count"] > 0]
    share = seen["count"] / seen.n_sampled
    ax.plot(seen.sigma, share, "o", color=MONTE_CARLO, fillstyle="none", markersize=6, markeredgewidth=0.9)
    ax.set(xscale="log", yscale="log", title=title, xlabel=r"noise $\sigma$")
    low, high = table.sigma.min(), table.sigma.max()
    ax.set_xlim(low / 1.15, high * 1.15)
    candidates = TICKS if high > NARROW * low else np.arange(1, 10) / 10
    ticks = [tick for tick in candidates if low / 1.15 <= tick <= high * 1.15]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)


def picture(ax: Axes, image: np.ndarray, title: str, colour: str = "black") -> None:
    """A grey image on the scale 0..1 with a word above it."""
    ax.imshow(image.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=7, color=colour, pad=2)


def failure_row(
    axes: Sequence[Axes], network: str, image: np.ndarray, result: FailureProbability, names: Sequence[str]
) -> None:
    """The image that a network sees, and its most likely failing image for each rival class, with its distance."""
    picture(axes[0], image, network.replace("_", "\n").replace("784-", "784-\n"))
    for ax in axes[1:]:
        ax.set_axis_off()
    for ax, point in zip(axes[1:], result.design_points):
        ax.set_axis_on()
        picture(ax, np.array(point.x), f"{names[point.rival]}\n{point.distance:.1f}$\\sigma$", MONTE_CARLO)


def ranking_panel(ax: Axes, log10_p: np.ndarray, measured: pd.DataFrame) -> None:
    """First-order log10 p of all images, the most fragile first, and points where the accurate value is known.

    measured: columns rank, log10_p. Below the dotted line a million samples see less than one failure.
    """
    ax.plot(np.arange(1, len(log10_p) + 1), log10_p, color=NEUTRAL, linewidth=1.0)
    ax.plot(measured["rank"], measured.log10_p, "o", color=ANALYTIC, markersize=3)
    ax.axhline(SIGHT, color=MONTE_CARLO, linewidth=0.8, linestyle=":")
    ax.annotate(
        "one in a million", (1, SIGHT), (2, -2), textcoords="offset points", va="top", color=MONTE_CARLO, fontsize=8
    )
    ax.set(xlabel="images, the most fragile first", ylabel=r"$\log_{10} p$")
