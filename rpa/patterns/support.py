"""The support of the pattern distribution: the few activation patterns with most of the probability.

Three ways to find it: `best_first` (ours, see `search`), `entropy_pruned` (P1's, see `pruning`) and the baseline
`monte_carlo`. Each returns a `Support`: candidates with approximate masses, for which `pattern_pmf` computes accurate
probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from rpa import _check
from rpa.inputs import Gaussian, RandomInput
from rpa.network import ReLUNetwork, as_network
from rpa.patterns import pruning, search
from rpa.patterns.packing import checked, draw_packed, pattern_keys

MEMORY = 2 * 2**30  # bytes that a search may use
SPARE = 1.25  # beam width in patterns asked for: the last ranking is finer than the one that prunes
FEW_INPUTS = 16  # inputs up to which candidates are ranked by random inputs: moments rank many regions badly
SPARE_FEW = 2.5  # SPARE in few dimensions
RANKING = (2**16, 2**20)  # least and most random inputs that rank candidates
WORK = 4e9  # multiplications that the random inputs may cost
SPREAD = 0.01  # where a pass finds less mass than this, patterns beyond those asked for are not worth their time
WIDENING = 16  # each pass of the search is so many times wider than the one before


@dataclass(frozen=True, eq=False)
class Support:
    """K activation patterns, bool (K, N), with approximate natural-log masses log_q (K,), falling.

    samples: random inputs that the search used, 0 if it was sample-free. exhausted: the search can find no more.
    """

    patterns: np.ndarray
    log_q: np.ndarray
    samples: int = 0
    exhausted: bool = False

    def __len__(self) -> int:
        return len(self.patterns)

    def cut(self, mass: float) -> Support:
        """The first patterns, as many as it takes until their approximate masses add up to `mass`; all if it is 1."""
        enough = 1 + np.searchsorted(np.cumsum(np.exp(self.log_q)), mass) if mass < 1 else len(self)
        if enough >= len(self):
            return self
        return replace(self, patterns=self.patterns[:enough], log_q=self.log_q[:enough], exhausted=False)


def best_first(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    max_patterns: int = 2000,
    mass: float = 0.999,
    memory: int = MEMORY,
    progress: bool | None = None,
    seed: int = 0,
) -> Support:
    """The most probable patterns of `net`, by a moment-matching search (`rpa.patterns.search.beam`).

    The search is sample-free for inputs of rank above 16. Below, where more candidates than `max_patterns` compete,
    they are ranked by their mass and their frequency among up to 2^20 random inputs together (`seed`); patterns that
    only the random inputs show compete too. `Support.samples` says how many were drawn.

    inputs: Gaussian or GaussianMixture (searched by component, then merged). Returns a `Support` that ends at
    `max_patterns` or as soon as the approximate masses add up to `mass`; mass = 1 asks for all `max_patterns`. The
    search runs in passes of growing width: Ctrl-C returns what the last finished one found. memory: bytes the search
    may use; it bounds the width. progress: True or False for a progress bar; None shows one on a terminal after 2 s.
    Raises ValueError for unfit arguments.
    """
    return ranked(net, inputs, max_patterns, mass, progress, seed, memory).cut(mass)


def ranked(
    net: Any, inputs: RandomInput, limit: int, mass: float, progress: bool | None, seed: int, memory: int = MEMORY
) -> Support:
    """What `best_first` would return, and the candidates beyond `mass`, up to `limit`."""
    net, components, limit, mass = checked(net, inputs, limit, mass)
    available = _check.positive("memory", memory)
    seed, samples, exhausted = _check.integer("seed", seed), 0, True
    found = {}
    with tqdm(unit=" units", delay=2.0, leave=False, disable=None if progress is None else not progress) as bar:
        try:
            for c, (weight, component) in enumerate(components):
                small = net.whitened(component)
                for patterns, log_q, complete in _passes(small, limit, mass, available, bar.update):
                    found[c] = patterns, np.log(weight) + log_q
                exhausted &= complete
                if len(log_q) > limit and small.input_dim <= FEW_INPUTS:
                    samples += (n := _ranking_inputs(small))
                    patterns, log_q = _ranked(small, patterns, log_q, n, limit, seed)
                    found[c] = patterns, np.log(weight) + log_q
        except KeyboardInterrupt:
            if not found:
                raise
            exhausted = False
    return _merged(found.values(), limit, samples, exhausted)


def entropy_pruned(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    max_patterns: int = 2000,
    mass: float = 0.999,
    threshold: float = 0.05,
) -> Support:
    """P1's support approximation (`pruning.enumerate_layers`): near-certain units are fixed, the others enumerated.

    threshold: a unit whose activation has less entropy than this, in bits, is fixed. Other arguments, the result and
    the errors raised are those of `best_first`.
    """
    net, components, max_patterns, mass = checked(net, inputs, max_patterns, mass)
    threshold = _check.positive("threshold", threshold)
    found = []
    for weight, component in components:
        patterns, log_q = pruning.enumerate_layers(net.whitened(component), threshold, max_patterns)
        found.append((patterns, np.log(weight) + log_q))
    return _merged(found, max_patterns).cut(mass)


def monte_carlo(
    net: ReLUNetwork | nn.Module, inputs: RandomInput, n: int, seed: int, max_patterns: int | None = None
) -> Support:
    """The patterns met by n samples, the commonest first; log_q is the log of their share. At most `max_patterns`.

    A share p has the standard error sqrt(p (1 - p) / n); patterns chosen because they were common look too common.
    """
    net = as_network(net)
    return commonest(draw_packed(net, inputs, n, seed), net.n_hidden, max_patterns)


def commonest(packed: np.ndarray, n_hidden: int, max_patterns: int | None = None) -> Support:
    """The commonest `max_patterns` of the packed patterns (n, bytes), as `monte_carlo` gives them."""
    if max_patterns is not None:
        max_patterns = _check.integer("max_patterns", max_patterns, 1)
    keys = pattern_keys(packed)
    # The index takes the place of the key's last bits: sorting numbers is ten times faster than sorting indices.
    low = np.uint64((1 << len(keys).bit_length()) - 1)
    order = (np.sort(keys & ~low | np.arange(len(keys), dtype=np.uint64)) & low).astype(np.intp)
    ordered = keys[order]
    start = np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]) != 0)
    if len(start) > 1 and (ordered[start][1:] & ~low == ordered[start][:-1] & ~low).any():  # two keys that differ there
        order = np.argsort(keys, kind="stable")
        start = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]) != 0)
    first, counts = order[start], np.diff(start, append=len(keys))
    best = np.lexsort((first, -counts))[:max_patterns]
    patterns = np.unpackbits(packed[first[best]], axis=1, count=n_hidden).astype(bool)
    return Support(patterns, np.log(counts[best] / len(keys)))


def _passes(small, max_patterns, mass, memory, tick):
    """(patterns, log q, whether that is all) of ever wider beams, until `mass` or `max_patterns` is reached."""
    if small.n_hidden == 0:
        yield np.zeros((1, 0), dtype=bool), np.zeros(1), True
        return
    spare = SPARE_FEW if small.input_dim <= FEW_INPUTS else SPARE
    limit = max(1, min(int(spare * max_patterns) + 1, int(memory / search.node_bytes(small))))
    widths = [limit]
    while widths[0] > WIDENING:
        widths.insert(0, widths[0] // WIDENING)
    gap, found = search.WIDEST_GAP, 1.0
    for width in widths:
        # Where all patterns found will be asked for, nothing is gained by ranking them better.
        spread = found < SPREAD and small.input_dim > FEW_INPUTS
        width = min(width, max_patterns) if spread else width
        patterns, log_q = search.beam(small, width, gap, tick, not spread)
        while len(log_q) < min(width, max_patterns) and gap < search.WIDEST_GAP:
            gap = min(3 * gap, search.WIDEST_GAP)
            patterns, log_q = search.beam(small, width, gap, tick, not spread)
        yield patterns, log_q, len(log_q) < width and gap == search.WIDEST_GAP
        found = np.exp(log_q).sum()
        if len(log_q) < width or (mass < 1 and found >= mass):
            return
        gap = min(2.0 + 2.5 * (log_q[0] - log_q[-1]), search.WIDEST_GAP)


def _ranking_inputs(small):
    """Random inputs that rank the candidates of a whitened network, a power of two: about a second of work."""
    work = sum(weight.size for weight in small.weights[:-1])
    return int(2 ** np.floor(np.log2(np.clip(WORK / work, *RANKING))))


def _ranked(small, patterns, log_q, n, max_patterns, seed):
    """The `max_patterns` best (patterns, log q) of candidates and of what n random inputs of N(0, I) show."""
    # A pattern of approximate mass q that c inputs show has the posterior mean (c + shape) / (n + shape / q): its mass
    # has a gamma law of this shape and of mean q, the count is Poisson. Patterns that only the inputs show are many of
    # many: Good and Turing's (c + 1) N_(c + 1) / N_c, where N_c patterns were seen c times.
    drawn = commonest(draw_packed(small, Gaussian(np.zeros(small.input_dim), 1.0), n, seed), small.n_hidden)
    keys, sought = (pattern_keys(np.packbits(part, axis=1)) for part in (drawn.patterns, patterns))
    counts = np.rint(n * np.exp(drawn.log_q))
    _, at, place = np.intersect1d(keys, sought, assume_unique=True, return_indices=True)
    known, shown = np.isin(keys, sought), np.zeros(len(sought))
    shown[place] = counts[at]
    q = np.maximum(np.exp(log_q), 1e-300)
    near = np.argsort(-q)[max_patterns // 2 : 2 * max_patterns]
    shape = _gamma_shape(shown[near], n * q[near])
    mean = (shown + shape) / (n + shape / q)
    patterns = np.concatenate([patterns, drawn.patterns[~known]])
    mean = np.concatenate([mean, _good_turing(counts.astype(int))[~known] / n])
    best = np.argsort(-mean, kind="stable")[:max_patterns]
    return patterns[best], np.log(mean[best])


def _gamma_shape(counts, expected):
    """The shape of the masses' gamma law, by moments: Var(count) = expected + expected^2 / shape."""
    excess = ((counts - expected) ** 2 - expected).sum() / np.maximum((expected**2).sum(), 1e-300)
    return 1 / np.clip(excess, 0.01, 100.0)


def _good_turing(counts):
    """Expected counts in another sample of the same size, of patterns seen as often as `counts`; the count if rare."""
    often = np.bincount(counts, minlength=counts.max(initial=0) + 2)
    smoothed = np.arange(1, len(often)) * often[1:] / np.maximum(often[:-1], 1)
    return np.where(often[counts] >= 100, smoothed[counts], counts)


def _merged(found, max_patterns, samples=0, exhausted=False):
    """One `Support` of (patterns, log mass) lists: equal patterns add up; at most `max_patterns`."""
    patterns, log_q = map(np.concatenate, zip(*found))
    if len(found) > 1:
        patterns, index = np.unique(patterns, axis=0, return_inverse=True)
        total = np.full(len(patterns), -np.inf)
        np.logaddexp.at(total, index.ravel(), log_q)
        log_q = total
    order = np.argsort(-log_q, kind="stable")[:max_patterns]
    return Support(patterns[order], log_q[order], samples, exhausted and len(order) == len(log_q))
