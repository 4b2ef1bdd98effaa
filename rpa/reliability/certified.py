"""Which affine pieces of a network fail, and with what probability: all of them in the plane, the likeliest elsewhere.

On a region of the network the event "class c wins" is a polytope, so that its probability needs no samples of the
network. Such events of different regions or classes are disjoint: their probabilities add up, however small they are,
and no digit is lost in a difference from one. All regions of a plane give the failure probability itself; a choice of
regions gives a lower bound, and says which pieces carry the failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from rpa import _check
from rpa.inputs import components_of
from rpa.network import as_network
from rpa.patterns.pieces import exact_pieces
from rpa.patterns.planar_law import EXACT
from rpa.patterns.regions import affine_pieces, halfspaces
from rpa.patterns.regions import label as decimal
from rpa.polytopes.polytope import probabilities
from rpa.reliability.importance import search
from rpa.reliability.margin import margins

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork


__all__ = ["FailingPatterns", "failing_patterns"]

DRAWS = 20_000  # of the proposal, in which the likeliest failing patterns are counted
BUDGET = 2**14  # points for the probability of one piece


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
        """Relative error of the total: errors of the parts, which share their random points, add up linearly."""
        return float(np.exp(self.log_p - self.log_total) @ self.rel_error) if len(self) else 0.0

    @property
    def log_lower(self) -> float:
        """log of a lower bound of the failure probability: the total less three times its numerical error."""
        left = 1 - 3 * self.total_error
        return self.log_total + float(np.log(left)) if left > 0 else -np.inf

    def to_frame(self, log_p: float | None = None) -> pd.DataFrame:
        """A pandas DataFrame with columns label (decimal), rival, log_p, rel_error, share.

        share: of the parts' total, or of the failure probability exp(log_p) where that is known from elsewhere.
        """
        import pandas

        whole = self.log_total if log_p is None else float(_check.array("log_p", log_p, ()))
        columns = {"label": [str(decimal(pattern)) for pattern in self.patterns], "rival": self.rival}
        columns |= {"log_p": self.log_p, "rel_error": self.rel_error, "share": np.exp(self.log_p - whole)}
        return pandas.DataFrame(columns)


def failing_patterns(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    label: int | None = None,
    direction: ArrayLike | None = None,
    threshold: float | None = None,
    max_patterns: int = 100,
    rtol: float = 0.03,
    seed: int = 0,
) -> FailingPatterns:
    """The affine pieces that carry P(argmax f(x) != label), or P(direction . f(x) >= threshold); see `FailingPatterns`.

    An input of rank at most two: all pieces, so the total is the failure probability, with relative error about 1e-13;
    what lies 40 or more standard deviations out (p < 1e-349) is left out. Else: the `max_patterns` pieces that weigh
    most among draws of the proposal of `failure_probability`, each with P(H x <= h, rival wins) to relative error
    `rtol`; the total bounds the failure probability from below, whatever was drawn. Other arguments are those of
    `failure_probability`. Raises ValueError for unfit arguments and for networks that are no chain of affine layers.

    >>> from rpa import Gaussian, ReLUNetwork
    >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])  # f(x) = |x|
    >>> found = failing_patterns(net, Gaussian([0.0], 1.0), direction=[1.0], threshold=12.0)
    >>> found.patterns.astype(int), found.log_p.round(6)  # log Phi(-12) each
    (array([[0, 1],
           [1, 0]]), array([-75.410673, -75.410673]))
    """
    net = as_network(net)
    max_patterns = _check.integer("max_patterns", max_patterns, 1)
    rtol, seed = _check.fraction("rtol", rtol), _check.integer("seed", seed)
    components = margins(net, inputs, label=label, direction=direction, threshold=threshold)
    if net.input_dim <= 2 or max(margin.dim for _, margin in components) <= 2:
        return _merged(_all_parts(net, inputs, components[0][1].event), exact=True)
    rngs = np.random.default_rng(seed).spawn(len(components))
    drawn = [_drawn(margin, np.log(weight), rng) for (weight, margin), rng in zip(components, rngs)]
    weights = np.sort(np.concatenate([log_weight for _, _, log_weight in drawn]))
    least = weights[-max_patterns] if len(weights) > max_patterns else -np.inf
    parts = [(np.zeros((0, net.n_hidden), dtype=bool), 0, np.zeros(0), np.zeros(0))]
    for (weight, margin), (patterns, which, log_weight) in zip(components, drawn):
        kept = log_weight >= least
        for i in np.unique(which[kept]):
            chosen = patterns[kept & (which == i)]
            G, g, A, b = affine_pieces(as_network(margin.chain), chosen)
            cut = _cut(*halfspaces(chosen, G, g), *_half_spaces(margin.event, A, b, i))
            log_p, rel_error = probabilities(*cut, rtol=rtol, seed=seed, budget=BUDGET)
            parts.append((chosen, margin.event.rivals[i], np.log(weight) + log_p, rel_error))
    return _merged(parts, exact=False)


def _all_parts(net, inputs, event):
    """(patterns, rival, log p, relative error) of every region and rival of an input of rank at most two."""
    parts = []
    for piece in exact_pieces(net, components_of(inputs))[1]:
        for rows, H, h, A, b in piece.blocks():
            for i, rival in enumerate(event.rivals):
                log_p, rel_error = probabilities(*_cut(H, h, *_half_spaces(event, A, b, i)), rtol=EXACT)
                parts.append((piece.patterns[rows], rival, np.log(piece.weight) + log_p, rel_error))
    return parts


def _drawn(margin, log_share, rng):
    """Distinct (patterns, which rival, log weight) among failing draws of a proposal; the weights are their masses."""
    found = search(margin, rng)
    if found is None:
        return np.zeros((0, margin.chain.n_hidden), dtype=bool), np.zeros(0, dtype=int), np.zeros(0)
    z = found.proposal.place(*found.proposal.draw(DRAWS, rng))
    z = z[margin(z) >= 0]
    which = margin.each(z).argmax(axis=1)
    first, index = _distinct(margin.chain.patterns(z), which)
    total = np.full(len(first), -np.inf)
    np.logaddexp.at(total, index, found.proposal.log_weight(z) + log_share)
    return margin.chain.patterns(z[first]), which[first], total


def _distinct(patterns, which):
    """Index of the first of each distinct (pattern, rival), and for each row which of these it is."""
    rows = np.column_stack([which, np.packbits(patterns, axis=1)])
    _, first, index = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, index.ravel()


def _half_spaces(event, A, b, i):
    """Half-spaces (rows (K, q, r), limits (K, q)) where A z + b fails, and by rival i more than by the others."""
    others = np.delete(np.arange(len(event.rows)), i)
    rows = np.vstack([event.rows[others] - event.rows[i], -event.rows[[i]]])
    offsets = np.append(event.offsets[others] - event.offsets[i], -event.offsets[i])
    H, h = rows @ A, offsets - b @ rows.T
    lost = np.append(others < i, event.strict[i])  # where outputs are equal
    return H, np.where((H == 0).all(axis=2) & (h == 0) & lost, -1.0, h)


def _cut(H, h, rows, limits):
    return np.concatenate([H, rows], axis=1), np.concatenate([h, limits], axis=1)


def _merged(parts, exact):
    """`FailingPatterns` of all parts, those of several components of the input added up, without the empty ones."""
    patterns, log_p, rel_error = (np.concatenate([part[k] for part in parts]) for k in (0, 2, 3))
    rival = np.concatenate([np.full(len(part[2]), part[1]) for part in parts])
    first, index = _distinct(patterns, rival)
    total, error = np.full(len(first), -np.inf), np.zeros(len(first))
    np.logaddexp.at(total, index, log_p)
    found = np.isfinite(log_p)
    np.add.at(error, index[found], np.exp(log_p[found] - total[index[found]]) * rel_error[found])
    order = [i for i in np.argsort(-total, kind="stable") if np.isfinite(total[i])]
    return FailingPatterns(patterns[first[order]], rival[first[order]], total[order], error[order], exact)
