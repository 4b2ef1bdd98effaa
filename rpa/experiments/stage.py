"""Moving artists over a kept picture of the others: what makes a figure fast enough to be dragged with the mouse.

Frames, ticks and labels take most of the time of a picture and seldom change. `Stage` keeps their pixels and draws the
moving artists over a copy of them. The page is sent one finished picture at a time, so that nothing flickers.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Stage", "sticky_limits"]

Limits = tuple[float, float]
WIDER = 1.8  # limits so many times as wide as what they show are replaced


class Stage:
    """A figure on an Agg canvas and its moving artists, drawn in the order given; saved figures hold all of them."""

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.figure, self.moving, self.kept = figure, list(moving), None
        for artist in self.moving:
            artist.set_animated(True)
        figure.canvas.mpl_connect("draw_event", self._keep)

    def limits(self, axes: Axes, **limits: tuple[float, float]) -> None:
        """Set xlim or ylim of axes; where that changes them, the next picture is drawn from scratch."""
        for name, wanted in limits.items():
            if getattr(axes, f"get_{name}")() != wanted:
                axes.set(**{name: wanted})
                self.kept = None

    def draw(self) -> None:
        """Show the moving artists as they are now."""
        canvas = self.figure.canvas
        if self.kept is None:
            canvas.draw()
            return
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


def sticky_limits(present: Limits, low: float, high: float, below: float, above: float) -> Limits:
    """The present limits while they contain [low, high] and are at most 1.8 times as wide; else new ones.

    New ones leave room of `below` and `above`, in units of high - low. So axes stand still while their content moves.

    >>> sticky_limits((0.0, 1.0), 0.1, 0.9, 0.2, 0.2)
    (0.0, 1.0)
    >>> sticky_limits((0.0, 1.0), 0.0, 2.0, 0.0, 0.25)
    (0.0, 2.5)
    """
    size = high - low
    if present[0] <= low and high <= present[1] and present[1] - present[0] <= WIDER * size:
        return present
    return low - below * size, high + above * size
