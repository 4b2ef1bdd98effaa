"""Which affine pieces of a network fail, and with what probability: all of them in the plane, the likeliest elsewhere.

On a region of the network the event "class c wins" is a polytope, whose probability needs no samples of the network.
Such events of different regions or classes are disjoint, so their probabilities add up without loss of digits, however
small they are. All regions of a plane give the failure probability itself; a selection gives a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp
from torch import nn

from rpa import _check
from rpa.inputs import RandomInput, components_of
from rpa.network import ReLUNetwork, as_network
from rpa.patterns.pieces import exact_pieces
from rpa.patterns.planar_law import EXACT
from rpa.patterns.regions import affine_pieces, halfspaces
from rpa.polytopes.polytope import probabilities
from rpa.reliability.design import find_design_points
from rpa.reliability.event import events
from rpa.reliability.tails import TailMixture

DRAWS = 20_000  # draws of the proposal that look for the likeliest failing patterns
POINTS = 2**14  # points for the probability of one piece


@dataclass(frozen=True, eq=False)
class FailingPatterns:
    """K disjoint parts of a failure event, by falling probability: in part i pattern i holds and rival i wins.

    patterns bool (K, N); rival (K,): the class that wins there (0 where the event is a threshold's); log_p, rel_error
    (K,): the part's probability; exact: whether these parts are all of the event.
    """

    patterns: np.ndarray
    rival: np.ndarray
    log_p: np.ndarray
    rel_error: np.ndarray
    exact: bool

    def __len__(self) -> int:
        return len(self.log_p)

    @property
    def log_total(self) -> float:
        """log of the parts' total probability; -inf when there are none."""
        return float(logsumexp(self.log_p)) if len(self) else -np.inf

    @property
    def total_error(self) -> float:
        """Relative error of the total: errors of the parts, which share their random points, add up linearly.

        A part as thin as rounding, whose own error is infinite, is wrong by its probability at most.
        """
        errors = np.where(np.isinf(self.rel_error), 1.0, self.rel_error)
        return float(np.exp(self.log_p - self.log_total) @ errors) if len(self) else 0.0


def failing_patterns(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    max_patterns: int = 100,
    rtol: float = 0.03,
    seed: int = 0,
    input_shape: tuple[int, ...] | None = None,
    **event: Any,
) -> FailingPatterns:
    """The affine pieces that carry P(argmax f(x) != label), or P(direction . f(x) >= threshold); see `FailingPatterns`.

    An input of rank at most two: all pieces, so the total is the failure probability, with relative error about 1e-13,
    except for what is 40 or more standard deviations away (p < 1e-349). Else: the `max_patterns` pieces with the
    greatest weights among draws of the proposal of `failure_probability`, each with P(H x <= h, rival wins) to relative
    error `rtol`; the total is a lower bound of the failure probability, whatever was drawn. event: label, direction and
    threshold, as in `failure_probability`. Raises ValueError for unfit arguments and for networks that are no chain of
    affine layers.

    >>> from rpa import Gaussian, ReLUNetwork
    >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])  # f(x) = |x|
    >>> pieces = failing_patterns(net, Gaussian([0.0], 1.0), direction=[1.0], threshold=12.0)
    >>> pieces.patterns.astype(int), pieces.log_p.round(6)  # log Phi(-12) each
    (array([[0, 1],
           [1, 0]]), array([-75.410673, -75.410673]))
    """
    net = as_network(net, input_shape)
    max_patterns = _check.integer("max_patterns", max_patterns, 1)
    rtol = _check.fraction("rtol", rtol)
    parts = events(net, inputs, seed=seed, **event)
    planar = [net.input_dim <= 2 or part.dim <= 2 for part in parts]
    components = [component for component, flat in zip(components_of(inputs), planar) if flat]
    pieces = [(np.zeros((0, net.n_hidden), dtype=bool), np.zeros(0, dtype=int), np.zeros(0), np.zeros(0))]
    for piece in exact_pieces(net, components):
        for rows, *maps in piece.blocks():
            for i in range(len(parts[0].criterion.rows)):
                pieces.append(_failing(parts[0], i, piece.weight, piece.patterns[rows], *maps, rtol=EXACT))
    drawn = [(part, *_drawn(part)) for part, flat in zip(parts, planar) if not flat]
    weights = np.sort(np.concatenate([np.zeros(0), *(log_weight for *_, log_weight in drawn)]))
    least = weights[-max_patterns] if len(weights) > max_patterns else -np.inf
    for part, patterns, which, log_weight in drawn:
        kept = log_weight >= least
        for i in np.unique(which[kept]):
            chosen = patterns[kept & (which == i)]
            G, g, *outputs = affine_pieces(as_network(part.chain), chosen)
            maps = *halfspaces(chosen, G, g), *outputs
            pieces.append(_failing(part, i, part.weight, chosen, *maps, rtol=rtol, seed=seed, budget=POINTS))
    patterns, rival, log_p, rel_error = map(np.concatenate, zip(*pieces))
    first, index = _distinct(patterns, rival)
    total, error = np.full(len(first), -np.inf), np.zeros(len(first))
    np.logaddexp.at(total, index, log_p)
    real = np.isfinite(log_p)
    np.add.at(error, index[real], np.exp(log_p[real] - total[index[real]]) * rel_error[real])
    order = [i for i in np.argsort(-total, kind="stable") if np.isfinite(total[i])]
    return FailingPatterns(patterns[first[order]], rival[first[order]], total[order], error[order], all(planar))


def _drawn(event):
    """Distinct (patterns, which rival, log weight) among failing draws of a proposal, with their total weights."""
    result = find_design_points(event, event.rng)
    proposal = result.proposal if result else TailMixture.prior(event.dim)
    z = proposal.draw(DRAWS, event.rng)
    z = z[event(z) >= 0]
    which = event.each(z).argmax(axis=1)
    first, index = _distinct(event.chain.patterns(z), which)
    total = np.full(len(first), -np.inf)
    np.logaddexp.at(total, index, proposal.log_weight(z) + np.log(event.weight))
    return event.chain.patterns(z[first]), which[first], total


def _distinct(patterns, which):
    """Index of the first of each distinct (pattern, rival), and for each row the position of its own."""
    rows = np.column_stack([which, np.packbits(patterns, axis=1)])
    _, first, index = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, index.ravel()


def _failing(event, i, weight, patterns, H, h, A, b, **accuracy):
    """Patterns, rival, log_p, rel_error of the parts of {H z <= h} where A z + b fails by rival i more than by others.

    Patterns of a component with this weight; accuracy: options of `probabilities`.
    """
    criterion = event.criterion
    others = np.delete(np.arange(len(criterion.rows)), i)
    rows = np.vstack([criterion.rows[others] - criterion.rows[i], -criterion.rows[[i]]])
    offsets = np.append(criterion.offsets[others] - criterion.offsets[i], -criterion.offsets[i])
    normals, limits = rows @ A, offsets - b @ rows.T
    lost = np.append(others < i, criterion.strict[i])  # where outputs are equal
    limits = np.where((normals == 0).all(axis=2) & (limits == 0) & lost, -1.0, limits)
    log_p, rel_error = probabilities(np.hstack([H, normals]), np.hstack([h, limits]), **accuracy)
    return patterns, np.full(len(patterns), criterion.rivals[i]), np.log(weight) + log_p, rel_error
