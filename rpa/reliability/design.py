"""Design points: the most likely failing input of each rival class, and the directions that failures lie in.

In whitened coordinates the most likely failing point is the one nearest to the origin. `nearest` finds it for each
rival from several starts, by the step z -> (g' . z - g(z)) g' / |g'|^2 of Hasofer, Lind, Rackwitz and Fiessler, which
is exact where g is affine. In many dimensions typical failures are far from it: N(0, I) across the direction moves a
point by sqrt(r). `typical` therefore looks for the direction and distance at which the margin is zero on average over
such moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from rpa.reliability.margin import Margin
from rpa.reliability.proposal import Proposal

__all__ = [
    "DesignPoint",
    "Directions",
    "aim",
    "distinct",
    "entered",
    "ladder_proposal",
    "nearest",
    "nearest_of_each",
    "typical",
]

STEPS = (1.0,) * 6 + (0.5,) * 6 + (0.25,) * 4
POLISHES, SHORTER = 6, (1.0, 0.5, 0.2, 0.05)
BISECTIONS = 12
NOISES, ROUNDS = 24, 8
FARTHEST = 1e3  # standard deviations; a rival further away counts as never taking over
ALIKE = 0.98  # cosine above which two directions count as one
APART = 0.2  # difference of distance below which they do
NEGLIGIBLE = 12.0  # natural log units below the nearest point at which another is left out
MOST = 12  # design points with a direction of their own
LADDER = np.arange(-5.0, 2.0)  # starts about the typical distance, in units of the failure set's depth


@dataclass(frozen=True, eq=False)
class DesignPoint:
    """The nearest failing input found for one rival: x (d,), at `distance` standard deviations.

    rival: the class that takes over; 0 where failure is a threshold's.
    """

    x: np.ndarray
    distance: float
    rival: int


class Directions(NamedTuple):
    """J directions of failure (J, r) of norm 1, the distance at which it sets in, and how much that varies, (J,)."""

    a: np.ndarray
    distance: np.ndarray
    spread: np.ndarray


def nearest(margin: Margin, starts: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points (m, r) on the failure set's boundary, which (m,)) from starts (m, r), those that reached it only.

    Steps from each start lead to the boundary; from there, and from starts that fail already, shorter failing points
    are accepted alone, since steps may circle where pieces meet.
    """
    z = starts
    for size in STEPS:
        z = z + size * (aim(*margin.gradient(z, which), z) - z)
    z, which = _on_boundary(margin, np.concatenate([z, starts]), np.append(which, which))
    for _ in range(POLISHES if len(z) else 0):
        towards = aim(*margin.gradient(z, which), z)
        for size in SHORTER:
            closer = 1.01 * (z + size * (towards - z))
            accepted = np.linalg.norm(closer, axis=1) < np.linalg.norm(z, axis=1)
            accepted[accepted] = margin(closer[accepted]) >= 0
            z = np.where(accepted[:, None], closer, z)
    return _on_boundary(margin, z, which)


def aim(g: np.ndarray, slope: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Where the affine pieces at points z (m, r) have margin 0 nearest to the origin; z itself where they are flat.

    g (m,), slope (m, r): margin and gradient there. The step of Hasofer & Lind (1974) and Rackwitz & Fiessler (1978).
    """
    square = (slope**2).sum(axis=1, keepdims=True)
    flat = square == 0
    scale = ((slope * z).sum(axis=1) - g)[:, None] / np.where(flat, 1.0, square)
    farthest = FARTHEST / np.sqrt(np.where(flat, 1.0, square))
    return np.where(flat, z, np.clip(scale, -farthest, farthest) * slope)


def _on_boundary(margin, z, which):
    """Points moved along their rays to where failure sets in; those left out on whose rays it was not met."""
    length = np.linalg.norm(z, axis=1)
    kept = (length > 0) & (length < FARTHEST)
    here, beyond = np.zeros(len(z), dtype=bool), np.zeros(len(z), dtype=bool)
    here[kept], beyond[kept] = margin(z[kept]) >= 0, margin(1.3 * z[kept]) >= 0
    kept = here | beyond
    direction, which = z[kept] / length[kept, None], which[kept]
    far = entered(lambda points: margin(points) >= 0, direction, np.where(here, 1.0, 1.3)[kept] * length[kept])
    return direction * far[:, None], which


def entered(fails: Callable[[np.ndarray], np.ndarray], direction: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Distances (m,) at which failure sets in along rays `direction` (m, r), by bisection from the failing ones `far`.

    fails: for points (m, r), one on each ray, whether they fail (m,).
    """
    near = np.zeros(len(far))
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        failing = fails(direction * middle[:, None])
        near, far = np.where(failing, near, middle), np.where(failing, middle, far)
    return far


def nearest_of_each(points: Iterable[DesignPoint]) -> tuple[DesignPoint, ...]:
    """The nearest point of each rival, nearest first."""
    found: dict[int, DesignPoint] = {}
    for point in sorted(points, key=lambda point: point.distance):
        found.setdefault(point.rival, point)
    return tuple(found.values())


def typical(margin: Margin, points: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> Directions:
    """From points (m, r) of given rivals, the directions a in which E g(s a + noise across a) = 0, and the s.

    Each round moves s by Newton's step on the mean margin, and a towards the mean gradient.
    """
    distance = np.linalg.norm(points, axis=1)
    a = points / distance[:, None]
    noise = rng.standard_normal((NOISES, points.shape[1]))
    flat = np.repeat(which, NOISES)
    for last in [False] * ROUNDS + [True]:
        moved = noise - (noise @ a.T).T[:, :, None] * a[:, None, :] + (distance[:, None] * a)[:, None, :]
        g, slope = margin.gradient(moved.reshape(-1, moved.shape[2]), flat)
        g, slope = g.reshape(moved.shape[:2]), slope.reshape(moved.shape)
        mean = slope.mean(axis=1)
        rise = np.einsum("ij,ij->i", mean, a)
        if last:
            return Directions(a, distance, g.std(axis=1) / np.where(rise > 0, rise, np.inf))
        step = np.where(rise > 0, g.mean(axis=1) / np.where(rise > 0, rise, 1.0), 0.0)
        distance = np.maximum(distance - np.clip(step, -2.0, 2.0), 0.1)
        norm = np.linalg.norm(mean, axis=1, keepdims=True)
        a = 0.3 * a + 0.7 * np.divide(mean, norm, out=a.copy(), where=norm > 0)
        a /= np.linalg.norm(a, axis=1, keepdims=True)
    raise AssertionError("the last round returns")


def ladder_proposal(found: Directions) -> Proposal:
    """A `Proposal` with a ladder of starts about the distance of each direction, and the whole space beside them.

    The depth of the failure set along a direction is the greater of 1 / distance, the depth of a Gaussian tail, and of
    the spread of the distance. Directions that are alike, at distances that are, count once.
    """
    kept: list[int] = []
    for i in range(len(found.a)):
        near = [j for j in kept if abs(found.distance[i] - found.distance[j]) < APART]
        if all(found.a[i] @ found.a[j] < ALIKE for j in near):
            kept.append(i)
    ladders = []
    for i in kept:
        depth = max(1 / max(found.distance[i], 1.0), found.spread[i] / 1.5)
        ladders.append(np.append(found.distance[i] + depth * LADDER, -np.inf))
    return Proposal.ladders(found.a[kept], ladders)


def distinct(points: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Indices of the points worth a direction of their own: not far behind the nearest, nor like a nearer one."""
    kept: list[int] = []
    length = np.linalg.norm(points, axis=1)
    order = np.argsort(length)
    close = log_ndtr(-length) > log_ndtr(-length[order[0]]) - NEGLIGIBLE
    for i in order:
        cosines = [points[i] @ points[j] / (length[i] * length[j]) for j in kept if which[j] == which[i]]
        if close[i] and len(kept) < MOST and max(cosines, default=0.0) < ALIKE:
            kept.append(int(i))
    return np.array(kept)
