"""P1's figures of a law: the pattern PMF as stems over labels, a distribution function with its band.

Analytic results have the first colour of the style, Monte Carlo circles the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

NUMBERED = 20  # hidden units up to which the decimal numbers of patterns can be distinguished on an axis
CIRCLES: dict[str, Any] = dict(color="C1", markersize=3.6, fillstyle="none", markeredgewidth=0.9)


def stems(pmf: Any, ax: Axes | None, frequencies: ArrayLike | None, floor: float) -> Axes:
    """See `PatternPMF.plot`."""
    ax = _axes(ax)
    shown, n = pmf.p >= floor, pmf.net.n_hidden
    numbered = n <= NUMBERED
    places = np.array([float(name) for name in pmf.labels])[shown] if numbered else 1.0 + np.flatnonzero(shown)
    ax.vlines(places, 0, pmf.p[shown], color="C0", linewidth=1.4)
    if frequencies is not None:
        ax.plot(places, np.asarray(frequencies)[shown], "o", **CIRCLES)
    reach = 2.0**n if numbered else shown.sum() + 1.0
    ax.set(xlim=(-0.03 * reach, 1.03 * reach), ylim=(0, None), ylabel="probability")
    ax.set_xlabel("pattern, as a decimal number" if numbered else "pattern, the most probable first")
    return ax


def distribution(law: Any, ax: Axes | None, output: int, samples: ArrayLike | None, shown: int = 25) -> Axes:
    """See `OutputMixture.plot`."""
    ax = _axes(ax)
    middle, deviation = float(law.mean[output]), float(np.sqrt(law.cov[output, output]))
    y = middle + deviation * np.linspace(-4, 4, 200)
    cdf = law.cdf(y, output)
    ax.plot(y, np.asarray(cdf), color="C0")
    ax.fill_between(y, cdf - 3 * cdf.error, cdf + 3 * cdf.error, color="C0", alpha=0.25, linewidth=0)
    if samples is not None:
        values = np.asarray(samples, dtype=float)
        columns = values.reshape(len(values), -1)
        share = (np.arange(shown) + 0.5) / shown
        ax.plot(np.quantile(columns[:, output], share), share, "o", **CIRCLES)
    ax.set_ylim(-0.02, 1.02)
    ax.set(xlabel="output", ylabel="P(output ≤ y)")
    return ax


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]
