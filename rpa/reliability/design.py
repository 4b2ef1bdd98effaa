"""Searches for failures: the most likely failing inputs, and Gaussian tails laid over the failures about them.

In whitened coordinates the most likely failing point is the one nearest to the origin. `nearest` finds it for each
rival from several starts, by the step z -> (g' . z - g(z)) g' / |g'|^2 of Hasofer, Lind, Rackwitz and Fiessler, which
is exact where g is affine. In many dimensions typical failures are far from it: N(0, I) across the direction moves a
point by sqrt(r). `typical` therefore finds the direction and distance at which the mean margin over such moves is zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from rpa.reliability.event import Event
from rpa.reliability.result import DesignPoint, nearest_of_each
from rpa.reliability.splitting import bridge
from rpa.reliability.tails import TailMixture

SEARCHES = 4  # independent searches in a round
SCOUTS = 100  # particles of the coarse splitting
SCOUT_MOVES = 3
SCOUT_BUDGET = 20_000
START_WIDTHS = (0.1, 1.0, 8.0)  # standard deviations of starts about the origin; a fourth width is that of the scouts
STARTS = 27  # number of these starts, rounded up to as many of each width for each rival
SCOUTS_USED = 6  # scouts that are starts, for each leading rival
SHELL = 500  # draws beyond the nearest failure, where there are at most SHELL_RANK dimensions
SHELL_RANK = 4
SHELL_STARTS = 12  # failing ones among them that are starts
STEPS = (1.0,) * 6 + (0.5,) * 6 + (0.25,) * 4  # sizes of the steps from each start
ARRIVED = 1e-9  # length of a step after which a start rests
POLISHES = 6  # steps that must keep the point failing, after the others
POLISH_STEPS = (1.0, 0.5, 0.2, 0.05)
BISECTIONS = 12
NOISES = 24  # draws across a direction for its mean margin
TYPICAL_ROUNDS = 8
FARTHEST = 1e3  # standard deviations; ignore design points farther than this
SAME_COSINE = 0.98  # directions of a greater cosine and distances within SAME_DISTANCE are the same
SAME_DISTANCE = 0.2
LOG_CUTOFF = 12.0  # ignore points whose log Phi(-distance) is lower than that of the nearest by more than this
MOST_DIRECTIONS = 12  # of one search; more where more rivals are near, if the budget allows
BUDGET_EACH = 20_000  # budget for each direction beyond these
START_OFFSETS = np.arange(-5.0, 2.0)  # starts of half-spaces about a distance, in depths of the failure set
FIT_ROUNDS = 2  # rounds of fitting the shares
FIT_DRAWS = 400  # draws in each of them


class SearchResult(NamedTuple):
    """A proposal, and the nearest failing input of each rival that was found, nearest first."""

    proposal: TailMixture
    points: tuple[DesignPoint, ...]


def find_design_points(event: Event, rng: np.random.Generator) -> SearchResult | None:
    """One search for failures; None where no failing point was found.

    Starts are points about the origin and particles of a coarse splitting; in few dimensions also failing draws beyond
    the nearest point. The proposal has the nearest points and the typical directions, with shares fitted to its draws.
    """
    limit = min(SCOUT_BUDGET, event.budget // (8 * SEARCHES))
    scouts = bridge(event, TailMixture.prior(event.dim), SCOUTS, SCOUT_MOVES, rng, limit)
    leading = _leading(event, scouts.z)
    chosen: list[int] = []
    for rival in np.unique(leading):  # at equal spacing, since neighbours descend from the same particle
        mine = np.flatnonzero(leading == rival)
        chosen.extend(mine[np.linspace(0, len(mine) - 1, min(SCOUTS_USED, len(mine))).astype(int)])
    widths = np.append(START_WIDTHS, np.sqrt((scouts.z**2).mean()))
    copies = -(-STARTS // (len(widths) * len(event.rivals)))
    about = rng.standard_normal((len(widths), copies * len(event.rivals), event.dim)) * widths[:, None, None]
    which = np.append(np.tile(event.rivals, copies * len(widths)), leading[chosen])
    points, which = nearest(event, np.concatenate([about.reshape(-1, event.dim), scouts.z[chosen]]), which)
    if len(points) == 0:
        return None
    if event.dim <= SHELL_RANK:
        # Steps of `nearest` pass over thin failure sets. The radius has the tail of two dimensions.
        beyond = rng.standard_normal((SHELL, event.dim))
        length = np.linalg.norm(beyond, axis=1, keepdims=True)
        beyond *= np.sqrt(np.linalg.norm(points, axis=1).min() ** 2 + 2 * rng.exponential(size=(SHELL, 1))) / length
        beyond = beyond[event(beyond) >= 0][:SHELL_STARTS]
        more = nearest(event, beyond, _leading(event, beyond))
        points, which = np.concatenate([points, more[0]]), np.append(which, more[1])
    rivals = np.zeros(len(points)) if event.flipped else event.criterion.rivals[which]
    found = [
        DesignPoint(tuple(event.to_input(z[None])[0].tolist()), float(np.linalg.norm(z)), int(rival))
        for z, rival in zip(points, rivals)
    ]
    sharp = distinct(points, which, event.budget, rng)
    points, which = points[sharp], which[sharp]
    distance = np.linalg.norm(points, axis=1)
    at_points = points / distance[:, None], distance, np.zeros(len(points))
    proposal = tails(*map(np.concatenate, zip(at_points, typical(event, points, which, rng))))
    for _ in range(FIT_ROUNDS):  # to failing draws of its own
        z = proposal.draw(FIT_DRAWS, rng)
        fails = event(z) >= 0
        if fails.any():
            proposal = proposal.fitted(z[fails], proposal.log_weight(z[fails]))
    return SearchResult(proposal, nearest_of_each(found))


def _leading(event, z):
    """The rival that comes nearest to failure at each point."""
    return event.each(z).argmax(axis=1) * (not event.flipped)


def nearest(event: Event, starts: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points (m, r) on the boundary of failure, their rivals (m,)), from those starts (n, r) that reach it.

    Steps from each start lead to the boundary. From there, and from starts that fail, only shorter failing points are
    accepted, since steps may circle where affine pieces meet. Starts that meet at one point are one afterwards.
    """
    z, moving = starts.copy(), np.arange(len(starts))
    for size in STEPS:
        step = size * (aim(z[moving], *event.gradient(z[moving], which[moving])) - z[moving])
        z[moving] += step
        moving = moving[np.linalg.norm(step, axis=1) > ARRIVED]
    z, which = _on_boundary(event, np.concatenate([z, starts]), np.append(which, which))
    first = np.sort(np.unique(np.column_stack([which, z.round(8)]), axis=0, return_index=True)[1])
    z, which, moving = z[first], which[first], np.arange(len(first))
    for _ in range(POLISHES):
        before = z[moving]
        towards = aim(before, *event.gradient(before, which[moving]))
        for size in POLISH_STEPS:
            closer = 1.01 * (z[moving] + size * (towards - z[moving]))
            length = np.linalg.norm(closer, axis=1)
            accepted = (length > 0) & (length < np.linalg.norm(z[moving], axis=1))  # the origin itself has no direction
            accepted[accepted] = event(closer[accepted]) >= 0
            z[moving[accepted]] = closer[accepted]
        moving = moving[(z[moving] != before).any(axis=1)]
    return _on_boundary(event, z, which)


def aim(z: np.ndarray, g: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Where the affine pieces at points z (m, r) have margin 0 nearest to the origin; z itself where they are flat.

    g (m,), slope (m, r): margin and gradient there. The step of Hasofer & Lind (1974) and Rackwitz & Fiessler (1978).
    """
    square = (slope**2).sum(axis=1, keepdims=True)
    square, flat = np.where(square > 0, square, 1.0), square == 0
    scale = ((slope * z).sum(axis=1) - g)[:, None] / square
    farthest = FARTHEST / np.sqrt(square)
    return np.where(flat, z, np.clip(scale, -farthest, farthest) * slope)


def _on_boundary(event, z, which):
    """Points moved along their rays, by bisection, to where failure begins, without those that meet no failure."""
    length = np.linalg.norm(z, axis=1)
    kept = (length > 0) & (length < FARTHEST)
    here, beyond = np.zeros(len(z), dtype=bool), np.zeros(len(z), dtype=bool)
    here[kept], beyond[kept] = event(z[kept]) >= 0, event(1.3 * z[kept]) >= 0
    kept = here | beyond
    direction, which = z[kept] / length[kept, None], which[kept]
    near, far = np.zeros(len(which)), np.where(here, 1.0, 1.3)[kept] * length[kept]
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        failing = event(direction * middle[:, None]) >= 0
        near, far = np.where(failing, near, middle), np.where(failing, middle, far)
    return direction * far[:, None], which


def typical(event: Event, points: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """From points (m, r) of given rivals: (a (m, r) of norm 1, s (m,), spread (m,)), E g(s a + noise across a) = 0.

    Each round moves s by Newton's step on the mean margin, and a towards the mean gradient. The spread is the standard
    deviation of the distance at which failure begins, to first order.
    """
    distance = np.linalg.norm(points, axis=1)
    a = points / distance[:, None]
    noise = rng.standard_normal((NOISES, points.shape[1]))
    flat = np.repeat(which, NOISES)
    for step in range(TYPICAL_ROUNDS + 1):
        moved = noise - (noise @ a.T).T[:, :, None] * a[:, None, :] + (distance[:, None] * a)[:, None, :]
        g, slope = event.gradient(moved.reshape(-1, moved.shape[2]), flat)
        g, slope = g.reshape(moved.shape[:2]), slope.reshape(moved.shape)
        mean = slope.mean(axis=1)
        rise = np.einsum("ij,ij->i", mean, a)
        rise = np.where(rise > 0, rise, np.inf)
        if step == TYPICAL_ROUNDS:
            break
        distance = np.maximum(distance - np.clip(g.mean(axis=1) / rise, -2.0, 2.0), 0.1)
        norm = np.linalg.norm(mean, axis=1, keepdims=True)
        a = 0.3 * a + 0.7 * np.divide(mean, norm, out=a.copy(), where=norm > 0)
        a /= np.linalg.norm(a, axis=1, keepdims=True)
    return a, distance, g.std(axis=1) / rise


def tails(a: np.ndarray, distance: np.ndarray, spread: np.ndarray) -> TailMixture:
    """A `TailMixture` with several starts about the distance of each direction a (m, r), and the whole space.

    The depth of the failure set along a direction is 1 / distance, the depth of a Gaussian tail, or the spread of the
    distance if that is greater. Directions that are the same count once.
    """
    kept = _unlike(a, np.abs(distance - distance[:, None]) < SAME_DISTANCE)
    depth = np.maximum(1 / np.maximum(distance, 1.0), spread / 1.5)
    ladders = [np.append(distance[i] + depth[i] * START_OFFSETS, -np.inf) for i in kept]
    return TailMixture.ladders(a[kept], ladders)


def distinct(points: np.ndarray, which: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of the points that get a direction each: not much less likely than the nearest, and not alike.

    Where the budget allows fewer, points are drawn with probabilities in proportion to Phi(-distance). Searches then
    leave out different points, which `failure.WeightedDraws.covered_once` shows.
    """
    length = np.linalg.norm(points, axis=1)
    order = np.argsort(length)
    order = order[log_ndtr(-length[order]) > log_ndtr(-length[order[0]]) - LOG_CUTOFF]
    same = which[order] == which[order, None]
    kept = order[_unlike(points[order] / length[order, None], same)]
    most = max(MOST_DIRECTIONS, min(len(np.unique(which[kept])), budget // BUDGET_EACH))
    if len(kept) > most:  # Gumbel's trick
        keys = log_ndtr(-length[kept]) + rng.gumbel(size=len(kept))
        kept = kept[np.sort(np.argsort(-keys)[:most])]
    return kept


def _unlike(a, same):
    """Indices of directions a (m, r), without those that are like an earlier one where same (m, m) is true."""
    like, kept = same & (a @ a.T >= SAME_COSINE), []
    for i in range(len(a)):
        if not like[i, kept].any():
            kept.append(i)
    return kept
