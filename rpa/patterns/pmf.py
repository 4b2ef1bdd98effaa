"""The probability mass function of activation patterns: P1's law of the random affine function.

`pattern_pmf` finds the patterns that carry the mass and gives each its probability with an error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp
from tqdm import tqdm

from rpa import _check
from rpa.inputs import RandomInput
from rpa.network import ReLUNetwork
from rpa.parallel import one_thread
from rpa.patterns import support
from rpa.patterns.estimate import Estimate
from rpa.patterns.output_law import CIRCLES, OutputMixture
from rpa.patterns.packing import among, checked
from rpa.patterns.pieces import Pieces, exact_pieces, region_probabilities
from rpa.patterns.regions import Region, enumerate_regions, label, region_of, singular_values
from rpa.polytopes import quadrature

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike
    from torch import nn


SEARCH_NAMES = ("auto", "exhaustive", "best_first", "entropy", "monte_carlo")
ENUMERABLE = 5  # rank up to which regions are enumerated: their vertices grow like 2^rank
ENOUGH = 0.98  # share of `max_patterns` that ends the search: of the candidates some are empty regions
WIDEST = 4  # candidates for each pattern asked for: in few dimensions some of them are empty
NUMBERED = 20  # hidden units up to which the decimal numbers of patterns can be distinguished on an axis
MINOR = 1e-9  # share of a pattern below which a component of the input is left out of the output law there


@dataclass(frozen=True, eq=False)
class PatternPMF:
    """K activation patterns of a network with random input, by falling probability.

    patterns bool (K, N); log_p (K,) natural logs of P(zeta = pattern); rel_error (K,): standard relative error of p.
    pieces: for each component of the input, the regions as polytopes in coordinates where that component is N(0, I).
    covered_error: standard error of `covered`. stopped: "complete" (these are all patterns), "mass" (the requested mass
    is reached within the error), "max_patterns", or "exhausted" (the search finds no more).
    """

    net: ReLUNetwork
    inputs: RandomInput
    patterns: np.ndarray
    log_p: np.ndarray
    rel_error: np.ndarray
    pieces: tuple
    covered_error: float
    stopped: str
    _laws: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patterns)

    @property
    def p(self) -> np.ndarray:
        """Probabilities (K,); 0 where they underflow, `log_p` does not."""
        return np.exp(self.log_p)

    @cached_property
    def labels(self) -> list[int]:
        """Decimal labels, a list of K Python integers (they outgrow 64 bits)."""
        return [label(pattern) for pattern in self.patterns]

    @property
    def covered(self) -> float:
        """Total probability of the patterns; above 1 by an error, where it is."""
        return float(np.exp(logsumexp(self.log_p))) if len(self) else 0.0

    @property
    def uncovered(self) -> float:
        """1 - covered: bounds the total-variation distance between this law and the true one, up to `covered_error`."""
        return max(0.0, 1.0 - self.covered)

    @property
    def complete(self) -> bool:
        """Whether these are all regions, up to 8.5 standard deviations at least."""
        return self.stopped == "complete"

    def __repr__(self) -> str:
        covered = f"covered {self.covered:.6g} ± {self.covered_error:.1g}"
        return f"PatternPMF: {len(self)} patterns of {self.net.n_hidden} units, {covered}, stopped: {self.stopped}"

    def _repr_html_(self) -> str:
        """The summary and the ten most probable patterns."""
        return f"<p>{self!r}</p>{self.to_frame().head(10).to_html(index=False)}"

    def region(self, i: int) -> Region:
        """The `Region` of the i-th most probable pattern, in input coordinates."""
        return region_of(self.net, self.patterns[_check.index("i", i, len(self))])

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame with columns label, p, log_p, rel_error, active (number of active units)."""
        import pandas

        columns = {"label": [str(name) for name in self.labels], "p": self.p, "log_p": self.log_p}
        return pandas.DataFrame(columns | {"rel_error": self.rel_error, "active": self.patterns.sum(axis=1)})

    def output(self, *, n: int = 400_000, seed: int = 0) -> OutputMixture:
        """The law of f(x): an `OutputMixture` of truncated Gaussians (P1's proposition on the output).

        n, seed: random inputs for the patterns that are missing here. Equal arguments return the same object.
        """
        n, seed = _check.integer("n", n, 1), _check.integer("seed", seed)
        if (n, seed) not in self._laws:
            self._laws[n, seed] = OutputMixture(self, n, seed)
        return self._laws[n, seed]

    def singular_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of the Jacobian of each pattern, (K, min(k, d)) falling, and the probabilities (K,)."""
        return singular_values(self.net, self.patterns), self.p

    def class_probabilities(self, *, n: int = 400_000, seed: int = 0) -> Estimate:
        """P(argmax f(x) = c) for each class c: see `OutputMixture.class_probabilities`.

        >>> from rpa import Gaussian, ReLUNetwork
        >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [-1.0]])  # f(x) = |x| - 1
        >>> pattern_pmf(net, Gaussian([0.0], 1.0)).class_probabilities().p.round(6)  # P(|x| <= 1), P(|x| > 1)
        array([0.682689, 0.317311])
        """
        return self.output(n=n, seed=seed).class_probabilities()

    def plot(self, ax: Axes | None = None, frequencies: ArrayLike | None = None, floor: float = 1e-3) -> Axes:
        """Draw the probabilities of at least `floor` as stems over the patterns' labels, on new axes if ax is None.

        frequencies (K,): sampled shares of the patterns, drawn as circles.
        """
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        shown, numbered = self.p >= floor, self.net.n_hidden <= NUMBERED
        places = np.array(self.labels, dtype=float)[shown] if numbered else 1.0 + np.flatnonzero(shown)
        ax.vlines(places, 0, self.p[shown], color="C0", linewidth=1.4)
        if frequencies is not None:
            ax.plot(places, np.asarray(frequencies)[shown], "o", **CIRCLES)
        reach = 2.0**self.net.n_hidden if numbered else shown.sum() + 1.0
        ax.set(xlim=(-0.03 * reach, 1.03 * reach), ylim=(0, None), ylabel="probability")
        ax.set_xlabel("pattern, as a decimal number" if numbered else "pattern, the most probable first")
        return ax


@one_thread()
def pattern_pmf(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    max_patterns: int = 2000,
    mass: float = 0.999,
    search: str = "auto",
    rtol: float = 0.03,
    seed: int = 0,
    progress: bool | None = None,
) -> PatternPMF:
    """Activation patterns of `net` under `inputs` and their probabilities, P(zeta) = P(H x <= h) (P1's PMF).

    search: "exhaustive" finds every pattern for inputs of rank at most five: exactly in the plane (`max_patterns`,
    `mass` and `rtol` then play no part), up to `max_patterns` of them above; "best_first", "entropy" (P1's) and
    "monte_carlo" (10^5 samples) look for patterns until those computed reach `mass` within their error, there are
    `max_patterns`, or no more are found (`PatternPMF.stopped`); "auto" is exhaustive where that is possible, else
    best-first. mass = 1 goes on to `max_patterns`.
    rtol: relative error of each probability; those below the average have its absolute error at most, and none has a
    larger absolute error than the mass that may be missing, 1 - mass.
    progress: True or False for a bar; None shows one on a terminal after two seconds.
    Returns a `PatternPMF`; raises ValueError for unfit arguments.

    >>> from rpa import Gaussian, ReLUNetwork
    >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])  # f(x) = |x|
    >>> pmf = pattern_pmf(net, Gaussian([1.0], 1.0))
    >>> pmf.patterns.astype(int), pmf.p.round(6)
    (array([[1, 0],
           [0, 1]]), array([0.841345, 0.158655]))
    >>> pmf.output().mean.p.round(6)  # E|x|
    array([1.166631])
    """
    net, components, max_patterns, mass = checked(net, inputs, max_patterns, mass)
    rtol, seed = _check.positive("rtol", rtol), _check.integer("seed", seed)
    if search not in SEARCH_NAMES:
        raise ValueError(f"search: expected one of {', '.join(SEARCH_NAMES)}, got {search!r}")
    parts = [(weight, net.whitened(part)) for weight, part in components]
    rank = max(small.input_dim for _, small in parts)
    if search == "exhaustive" and rank > ENUMERABLE:
        raise ValueError(f"search: 'exhaustive' needs W_1 cov W_1^T of rank at most {ENUMERABLE}, got {rank}")
    exhaustive = search in ("auto", "exhaustive") and rank <= ENUMERABLE
    if exhaustive and rank <= 2:
        return _assembled(net, inputs, exact_pieces(net, components), None, "complete")
    if progress is None:
        progress = sys.stderr.isatty()
    table = _Table(net, parts, mass, rtol, seed, progress)
    found: list[Any] = [enumerate_regions(small, max_patterns) for _, small in parts] if exhaustive else [None]
    every = None if any(each is None for each in found) else np.unique(np.concatenate(found), axis=0)
    if every is not None and len(every) <= max_patterns:
        table.add(every, 0.0)
        return table.finished(inputs, "complete", max_patterns)
    if search == "exhaustive":
        raise ValueError(f"max_patterns: expected at least the number of regions, which is above {max_patterns}")
    stopped = _search(table, inputs, search, max_patterns, mass, seed, progress)
    return table.finished(inputs, stopped, max_patterns)


def _search(table, inputs, search, max_patterns, mass, seed, progress):
    """Fill the table from ever wider searches; returns why it stopped."""
    asked, wanted = mass, max_patterns
    while wanted <= WIDEST * max_patterns:
        if search == "monte_carlo":
            supports = [support.monte_carlo(table.net, inputs, 100_000, seed, max_patterns=wanted)]
        elif search == "entropy":
            supports = [support.entropy_pruned(table.net, inputs, max_patterns=wanted, mass=asked)]
        else:
            every = support.ranked(table.net, inputs, wanted, asked, progress, seed)
            supports = [every.cut(asked), every]
        for candidates in supports:
            table.add(candidates.patterns, min(logsumexp(candidates.log_q), 0.0))
            if mass < 1 and table.terms.sum() >= mass - table.covered_error:
                return "mass"
            if np.isfinite(table.log_p).any(axis=0).sum() >= ENOUGH * max_patterns:
                return "max_patterns"
        full = len(candidates.patterns) == wanted  # fewer, where all were requested, are all that memory allows
        if candidates.exhausted or len(supports) == 1 or (asked == 1 and not full):
            break
        asked, wanted = 1.0, 2 * wanted if full else wanted
    return "exhausted"


class _Table:
    """Probabilities of patterns under each component, as far as they have been computed."""

    def __init__(self, net, parts, mass, rtol, seed, progress):
        self.net, self.parts, self.rtol, self.seed, self.progress = net, parts, rtol, seed, progress
        self.largest = (1 - mass) / rtol if mass < 1 else 1.0  # of greater ones the absolute error is at most 1 - mass
        self.patterns = np.zeros((0, net.n_hidden), dtype=bool)
        self.log_p, self.rel_error = np.zeros((2, len(parts), 0))
        self.deviation = np.zeros((len(parts), 0, quadrature.REPLICATES))

    def add(self, patterns, log_mass):
        """Compute the probabilities of those patterns that are new; exp(log_mass): what all hold, roughly."""
        new = patterns[~among(patterns, self.patterns)]
        log_floor, about = log_mass - np.log(len(patterns)), np.exp(log_mass)
        text, total = f"probabilities of {len(new):,} patterns, about {about:.2g} in all", len(new) * len(self.parts)
        columns = []
        with tqdm(desc=text, total=total, delay=2.0, leave=False, disable=not self.progress) as bar:
            for weight, small in self.parts:
                log_range = np.minimum([log_floor, np.inf], np.log(self.largest)) - np.log(weight)
                columns.append(region_probabilities(small, new, self.rtol, self.seed, log_range, bar.update))
        self.patterns = np.concatenate([self.patterns, new])
        for name, parts in zip(("log_p", "rel_error", "deviation"), zip(*columns)):
            setattr(self, name, np.concatenate([getattr(self, name), np.stack(parts)], axis=1))

    @property
    def terms(self):
        """The share (C, K) of each component in the probability of each pattern."""
        return np.array([[weight] for weight, _ in self.parts]) * np.exp(self.log_p)

    @property
    def covered_error(self):
        """Standard error of `covered`: the scatter of the replicates, and what each pattern's error has beyond it."""
        scatter = lambda deviation: quadrature.SAFETY * deviation.std(axis=-1, ddof=1) / np.sqrt(quadrature.REPLICATES)
        errors = self.terms * np.where(np.isfinite(self.rel_error), self.rel_error, 1.0)
        beyond = np.maximum(errors**2 - (self.terms * scatter(self.deviation)) ** 2, 0.0)
        return np.hypot(scatter(np.einsum("ck,ckr->r", self.terms, self.deviation)), np.sqrt(beyond.sum()))

    def finished(self, inputs, stopped, max_patterns):
        """The PMF of the `max_patterns` most probable patterns. All regions of a component have the probability one."""
        keep = np.argsort(-self.terms.sum(axis=0), kind="stable")[:max_patterns]
        self.patterns = self.patterns[keep]
        for name in ("log_p", "rel_error", "deviation"):
            setattr(self, name, getattr(self, name)[:, keep])
        error = self.covered_error
        if stopped == "complete":
            self.log_p -= np.log(np.exp(self.log_p).sum(axis=1, keepdims=True))
            # The error of p_k / sum_j p_j, where all p_j have independent errors.
            p, known = np.exp(self.log_p), np.minimum(self.rel_error, 1.0)
            square = known**2 * (1 - 2 * p) + ((p * known) ** 2).sum(axis=1, keepdims=True)
            self.rel_error = np.where(self.rel_error < 1, np.sqrt(np.maximum(square, 0.0)), self.rel_error)
            error = 4e-17 * max(small.input_dim for _, small in self.parts)
        else:  # a component that hardly ever shows a pattern needs no points of its own there
            self.log_p[self.terms < MINOR * self.terms.sum(axis=0)] = -np.inf
        pieces = []
        for (weight, small), log_p, rel_error in zip(self.parts, self.log_p, self.rel_error):
            some = np.isfinite(log_p)
            pieces.append(Pieces(weight, small, self.patterns[some], log_p[some], rel_error[some]))
        return _assembled(self.net, inputs, pieces, error, stopped)


def _assembled(net, inputs, pieces, covered_error, stopped):
    """The PMF of a mixture, whose patterns are those of all components; covered_error: None for that of polygons."""
    every = np.concatenate([part.patterns for part in pieces])
    _, first, index = np.unique(np.packbits(every, axis=1), axis=0, return_index=True, return_inverse=True)
    terms = np.concatenate([np.log(part.weight) + part.log_p for part in pieces])
    log_p = np.full(len(first), -np.inf)
    np.logaddexp.at(log_p, index.ravel(), terms)
    share = np.exp(terms - log_p[index.ravel()])
    errors = np.concatenate([part.rel_error for part in pieces])
    errors = np.multiply(share, errors, out=np.zeros_like(share), where=share > 0)
    order = np.argsort(-log_p, kind="stable")
    log_p, rel_error = log_p[order], np.bincount(index.ravel(), errors, len(first))[order]
    if covered_error is None:  # rounding alone, at worst all in one direction
        p = np.exp(log_p)
        covered_error = float((p * rel_error)[p > 0].sum())
    return PatternPMF(net, inputs, every[first[order]], log_p, rel_error, tuple(pieces), covered_error, stopped)
