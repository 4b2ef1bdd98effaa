"""A trained network on the two moons to play with: notebook 99, in JupyterLab or as a page (`make app`).

`Explorer` keeps one figure and changes its artists, so that nothing flickers. The mouse drags three handles: the centre
moves the mean, the ends of the axes pull the covariance ellipse. Blue is computed without samples, red circles are
samples.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from scipy.integrate import cumulative_trapezoid

from rpa.companion.report import ANALYTIC, MONTE_CARLO
from rpa.experiments.montecarlo import Fresh
from rpa.experiments.plots import Window
from rpa.inputs import Gaussian, GaussianMixture, RandomInput, components_of, fit_mixture
from rpa.network import ReLUNetwork
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.regions import label, planar_regions, region_at
from rpa.subjects import datasets, train

STEMS, PLACES, QUANTILES = 40, 120, 30  # drawn: patterns, places of the output law, quantiles of the samples
WIDE = 3.5  # standard deviations of the output to either side that are always in view
LEFT_TAIL = 5.0  # standard deviations to the left of the view where the density is integrated from
HANDLES = 2.0  # standard deviations from the centre to the handles
VISIBLE_ERROR = 0.02  # smaller errors of a drawn distribution function are not seen
WAITS = 0.01  # seconds in which further movements of the mouse join one picture
WIDER = 1.8  # limits so many times as wide as what they show are replaced


class Explorer:
    """The figure and its controls: `Explorer(...).show()`.

    networks: names of data/weights; mean (2,) and noise: of the Gaussian input at the start; n: samples; window:
    (left, right, bottom, top) of the plane.
    """

    def __init__(
        self, networks: Sequence[str], mean: Sequence[float], noise: float, n: int, seed: int, window: Window
    ) -> None:
        self.n, self.seed, self.window = n, seed, tuple(window)
        self.mean, self.spread, self.angle = np.array(mean, dtype=float), np.ones(2), 0.0
        self.dragged: int | None = None
        self.pending: asyncio.TimerHandle | None = None
        x, y = datasets.moons(1000, seed=seed)
        self.moons = {
            f"mixture of the {name} moon": fit_mixture(x[y == moon], 2, seed)
            for moon, name in enumerate(("blue", "orange"))
        }
        self._make_controls(list(networks), noise)
        self._make_figure(x, y)
        self._new_network()

    def show(self) -> None:
        """Display controls, figure and what the mouse is over; without widgets, the figure as it is now."""
        display(self.controls, self.figure.canvas, self.info)

    def _make_controls(self, networks, noise):
        slider = dict(continuous_update=False)
        self.law = w.Dropdown(options=["one Gaussian", *self.moons], description="input")
        self.noise = w.FloatLogSlider(noise, min=-2, max=0, step=0.02, description="noise")
        self.network = w.Dropdown(options=[*networks, "fresh", "trained now"], description="network")
        self.depth = w.IntSlider(2, 1, 4, description="layers", **slider)
        self.width = w.IntSlider(12, 2, 24, description="width", **slider)
        self.number = w.IntSlider(0, 0, 20, description="seed", **slider)
        self.shown = w.ToggleButtons(options=["distribution", "density"], description="output")
        self.sampled = w.Checkbox(True, description="Monte Carlo")
        self.info = w.HTML("Hover over a region.")
        self.time = w.HTML()
        for control in (self.network, self.depth, self.width, self.number):
            control.observe(lambda change: self._new_network(), "value")
        for control in (self.law, self.noise, self.shown, self.sampled):
            control.observe(lambda change: self._soon(), "value")
        columns = [[self.law, self.noise], [self.network, self.depth], [self.width, self.number]]
        columns += [[self.shown, w.HBox([self.sampled, self.time])]]
        self.controls = w.HBox([w.VBox(column) for column in columns], layout=w.Layout(flex_flow="row wrap"))

    def _make_figure(self, x, y):
        with plt.ioff():
            room = dict(left=0.045, right=0.985, bottom=0.16, top=0.9, wspace=0.22)
            self.figure, self.axes = plt.subplots(1, 3, figsize=(9.6, 3.2), width_ratios=[1.25, 1, 1], gridspec_kw=room)
        self.figure.set_layout_engine("none")
        canvas = self.figure.canvas
        canvas.syncing_data_url = False  # a picture made before the page is there would reach it as a broken one
        for name in ("header_visible", "footer_visible", "toolbar_visible", "resizable"):
            setattr(canvas, name, False)
        plane, pmf, output = self.axes
        self.regions = plane.add_collection(PolyCollection([], edgecolors="white", linewidths=0.5))
        moons = [(x[y == moon][::4].T, colour) for moon, colour in enumerate(("#3f78b5", "#c9722b"))]
        dots = [plane.plot(*points, ".", color=colour, markersize=1.5)[0] for points, colour in moons]
        self.ellipses = plane.plot([], [], color="#222222", linewidth=0.9)[0]
        self.handles = plane.plot([], [], "o", color="white", markeredgecolor="black", markersize=7)[0]
        plane.set(xlim=self.window[:2], ylim=self.window[2:], aspect="equal", title="drag the circles")
        self.stems = pmf.add_collection(LineCollection([], color=ANALYTIC, linewidth=1.6))
        circle = dict(color=MONTE_CARLO, markersize=3.6, fillstyle="none", markeredgewidth=0.9)
        self.counts = pmf.plot([], [], "o", **circle)[0]
        pmf.set(xlim=(-1, STEMS), xlabel="pattern, the likeliest first")
        self.curve = output.plot([], [], color=ANALYTIC)[0]
        self.quantiles = output.plot([], [], "o", **circle)[0]
        moving = [self.regions, *dots, self.ellipses, self.handles, *plane.spines.values()]
        moving += [self.stems, self.counts, pmf.title, self.curve, self.quantiles, output.title]
        self.stage = Stage(self.figure, moving)
        actions = {"button_press": self._press, "motion_notify": self._move, "button_release": self._drop}
        for event, action in actions.items():
            canvas.mpl_connect(f"{event}_event", action)

    def _new_network(self):
        maker = {"fresh": _fresh, "trained now": train.moons_network}.get(self.network.value)
        sizes = [self.width.value] * self.depth.value
        for control in (self.depth, self.width, self.number):
            control.disabled = maker is None
        self.net = maker(sizes, self.number.value) if maker else train.load_network(self.network.value)
        left, right, low, high = self.window
        wide = Gaussian([(left + right) / 2, (low + high) / 2], [(right - left) ** 2, (high - low) ** 2])
        plane = planar_regions(self.net, wide)
        self.regions.set_verts([plane.vertices(i) for i in range(len(plane.patterns))])
        self.labels = [label(pattern) for pattern in plane.patterns]
        self.redraw()

    def redraw(self) -> None:
        """Compute everything again and change what is drawn."""
        start, self.pending = time.perf_counter(), None
        c, s = np.cos(self.angle), np.sin(self.angle)
        factor = np.array([[c, -s], [s, c]]) * (self.noise.value * self.spread)
        self.places = np.array([self.mean, *(self.mean + HANDLES * factor.T)])
        inputs: RandomInput = Gaussian(self.mean, factor @ factor.T)
        if moon := self.moons.get(self.law.value):  # moved to the mean, with noise of this shape added
            parts = [Gaussian(part.mean - moon.mean + self.mean, part.cov + inputs.cov) for part in moon.components]
            inputs = GaussianMixture(moon.weights, parts)
        self.pmf = pattern_pmf(self.net, inputs)
        for circles in (self.counts, self.quantiles):
            circles.set_visible(self.sampled.value)
        x = inputs.sample(self.n, self.seed)
        self._draw_plane(inputs)
        p, ax = self.pmf.p[:STEMS], self.axes[1]
        self.stems.set_segments([[(i, 0), (i, height)] for i, height in enumerate(p)])
        fresh = Fresh(np.packbits(self.net.patterns(x), axis=1))
        self.counts.set_data(np.arange(len(p)), fresh.counts(self.pmf.patterns[:STEMS]) / fresh.n)
        ax.set_title(f"{len(self.pmf)} patterns")
        self.stage.view(ax, "ylim", 0.0, 1.05 * p.max(), above=0.3)
        self._draw_output(x)
        self.stage.draw()
        milliseconds = 1000 * (time.perf_counter() - start)
        self.time.value = f"mean ({self.mean[0]:.2f}, {self.mean[1]:.2f}); {milliseconds:.0f} ms"

    def _draw_plane(self, inputs):
        self.known = dict(zip(self.pmf.labels, self.pmf.p))
        p = np.array([self.known.get(name, 0.0) for name in self.labels])
        shade = np.sqrt(p / p.max()) if p.max() else p
        self.regions.set_facecolors(1 - 0.55 * (1 - plt.get_cmap("Blues")(shade)))
        around = np.append(np.linspace(0, 2 * np.pi, 80), np.nan)  # the line ends before the next ellipse
        circle = HANDLES * np.stack([np.cos(around), np.sin(around)])
        ellipses = [part.mean[:, None] + np.linalg.cholesky(part.cov) @ circle for _, part in components_of(inputs)]
        self.ellipses.set_data(*np.hstack(ellipses))
        self.handles.set_data(*self.places.T)

    def _draw_output(self, x):
        law, ax, y = self.pmf.output(), self.axes[2], self.net(x)[:, 0]
        middle, sd = law.mean[0], np.sqrt(law.cov[0, 0]) + 1e-9
        view = self.stage.view(ax, "xlim", middle - WIDE * sd, middle + WIDE * sd, 0.15, 0.15)
        # Left of the view the density is integrated with wider steps.
        grid = np.concatenate([view[0] - sd * np.linspace(LEFT_TAIL, 0, PLACES // 5)[:-1], np.linspace(*view, PLACES)])
        density = law.pdf(grid)
        if self.shown.value == "distribution":
            share = (np.arange(QUANTILES) + 0.5) / QUANTILES
            self.curve.set_data(grid, _cumulated(law, grid, density))
            self.quantiles.set_data(np.quantile(y, share), share)
            self.stage.view(ax, "ylim", 0.0, 1.03, wider=1.0)
        else:
            heights, edges = np.histogram(y, np.linspace(*view, QUANTILES + 1))
            self.curve.set_data(grid, density)
            self.quantiles.set_data((edges[1:] + edges[:-1]) / 2, heights / len(y) / np.diff(edges))
            self.stage.view(ax, "ylim", 0.0, 1.05 * density.max() + 1e-9, above=0.3)
        ax.set_title(f"output: mean {middle:.3f}, sd {sd:.3f}")

    def _press(self, event):
        if event.inaxes is self.axes[0]:
            places = self.axes[0].transData.transform(self.places)
            distance = np.hypot(*(places - [event.x, event.y]).T)
            self.dragged = int(distance.argmin()) if distance.min() < 12 else None

    def _move(self, event):
        if event.inaxes is not self.axes[0]:
            return
        place = np.array([event.xdata, event.ydata])
        if self.dragged is None:
            region = region_at(self.net, place)
            layers = np.split(region.pattern.astype(int), np.cumsum(self.net.hidden_sizes)[:-1])
            bits = " ".join("".join(map(str, layer)) for layer in layers)
            affine = f"f(x) = {region.A[0, 0]:+.3f} x₁ {region.A[0, 1]:+.3f} x₂ {region.b[0]:+.3f}"
            p = self.known.get(region.label, 0.0)
            self.info.value = f"pattern <code>{bits}</code>, probability {p:.3g}, {affine}"
            return
        if self.dragged == 0:
            self.mean = place
        else:
            pulled = place - self.mean
            turned = np.arctan2(pulled[1], pulled[0]) - (np.pi / 2 if self.dragged == 2 else 0)
            length = max(np.hypot(*pulled) / (HANDLES * self.noise.value), 0.05)
            self.angle, self.spread[self.dragged - 1] = turned, length
        self._soon()

    def _drop(self, event):
        if self.dragged is not None:
            self._move(event)  # the last movements may not have been sent
        self.dragged = None

    def _soon(self):
        """Draw after the movements that have already arrived; at once where no event loop runs."""
        if self.pending is not None:
            return
        try:
            self.pending = asyncio.get_running_loop().call_later(WAITS, self.redraw)
        except RuntimeError:
            self.redraw()


def _fresh(hidden, seed):
    """A network 2-hidden-1 as it is before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReLUNetwork.from_torch(train.architecture("-".join(map(str, [2, *hidden, 1]))))


def _cumulated(law, grid, density):
    """P(f(x) <= y) on the grid: the density by the trapezoidal rule, and the atoms; or the slower exact sum."""
    places, masses = map(np.asarray, law.atoms())
    curve = cumulative_trapezoid(density, grid, initial=0) + (places <= grid[:, None]) @ masses
    # Peaks narrower than a step are missed, or counted several times.
    return curve if abs(curve[-1] - law.cdf(grid[-1:])[0]) < VISIBLE_ERROR else np.asarray(law.cdf(grid))


class Stage:
    """A figure on an Agg canvas and its moving artists, drawn in the order given; saved figures hold all of them.

    Frames, ticks and labels take most of the time of a picture and seldom change: the moving artists are drawn over a
    copy of their pixels.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.figure, self.moving, self.kept = figure, list(moving), None
        for artist in self.moving:
            artist.set_animated(True)
        figure.canvas.mpl_connect("draw_event", self._keep)

    def view(
        self, axes: Axes, name: str, low: float, high: float, below: float = 0, above: float = 0, wider: float = WIDER
    ) -> tuple[float, float]:
        """The present xlim or ylim of axes while it contains [low, high] and is at most `wider` times as wide.

        Else new limits, which leave room of `below` and `above`, in units of high - low; then the next picture is drawn
        from scratch. So axes stand still while their content moves.
        """
        size, (first, last) = high - low, getattr(axes, f"get_{name}")()
        if first <= low and high <= last and last - first <= wider * size:
            return first, last
        self.kept = None
        axes.set(**{name: (low - below * size, high + above * size)})
        return low - below * size, high + above * size

    def draw(self) -> None:
        """Show the moving artists as they are now."""
        canvas = self.figure.canvas
        if self.kept is None:
            canvas.draw()
        else:
            canvas.restore_region(self.kept)
            self._draw_moving()
            canvas.blit(self.figure.bbox)

    def _keep(self, event):
        """After a picture from scratch, which leaves the moving artists out."""
        if not self.figure.canvas.is_saving():
            self.kept = self.figure.canvas.copy_from_bbox(self.figure.bbox)
            self._draw_moving()

    def _draw_moving(self):
        for artist in self.moving:
            artist.axes.draw_artist(artist)
