"""Multilevel splitting: a rare event as a chain of events that are not rare.

Particles start from a `Proposal`. Levels rise until a fair share of them fails; each level keeps those above it, draws
them again with replacement, and moves them by preconditioned Crank-Nicolson steps v -> sqrt(1 - delta^2) v + delta N(0,
I), which leave the proposal as it is. Then the weights N(0, I) / proposal are taken in by powers rising to 1. From
N(0, I) itself there is nothing to take in, and this is the splitting of Au & Beck (2001) with the moves of Webb et al.
(2019); from a proposal that knows the failure set it is a short bridge of a few stages. One run's probability is
unbiased up to its adaptive choices, whatever its moves; its error is that between independent runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import logsumexp

from rpa import _check
from rpa.reliability.margin import Margin, margins
from rpa.reliability.proposal import Proposal
from rpa.reliability.result import USUAL, FailureProbability, complemented, estimated, over_components, unseen

if TYPE_CHECKING:
    from torch import nn

    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork


__all__ = ["Run", "bridge", "repeated", "splitting"]

DRAWN = 4  # draws for each particle of a proposal with several components
KEPT = 0.25  # share of the particles above the next level
REACHED = 0.2  # share of failing particles at which the levels end
EVENNESS = 0.6  # effective share of the particles after a power of the weights
ACCEPTED = 0.3  # moves accepted, at which delta is held
RUNS, FIRST, MOVES = 8, 250, 6  # independent runs in each round, particles of each in the first one, steps a stage
ROOM = 1.5  # evaluations set aside for a round, relative to those of the last: more particles may need more stages
LOOSE = 0.7  # relative deviation of single runs beyond which their mean is not believed


@dataclass(eq=False)
class Run:
    """One run: log of the failure probability; the final particles z (n, r) with their margins (n,).

    reached: whether they fail. If not, log_p is that of the highest level reached.
    """

    log_p: float
    reached: bool
    z: np.ndarray
    margins: np.ndarray


class _Particles:
    """n particles of a proposal, with their margins and log weights."""

    def __init__(self, margin: Margin, proposal: Proposal, n: int, rng: np.random.Generator):
        self.margin, self.proposal, self.rng, self.delta = margin, proposal, rng, 0.5
        self.component, self.v = proposal.draw(n, rng)
        self.z = proposal.place(self.component, self.v)
        self.g, self.log_w = margin(self.z), proposal.log_weight(self.z)

    def redraw(self, log_w, n):
        """Systematic resampling of n in proportion to exp(log_w)."""
        share = np.cumsum(np.exp(log_w - logsumexp(log_w)))
        at = (self.rng.random() + np.arange(n)) / n * share[-1]
        index = np.searchsorted(share, at)
        self.component, self.v, self.z = self.component[index], self.v[index], self.z[index]
        self.g, self.log_w = self.g[index], self.log_w[index]

    def move(self, level, power):
        """One step that leaves proposal x weight^power, restricted to g >= level, as it is."""
        if len(self.proposal.starts) > 1:
            self.component, self.v = self.proposal.placed(self.z, self.rng)
        v = np.sqrt(1 - self.delta**2) * self.v + self.delta * self.rng.standard_normal(self.v.shape)
        z = self.proposal.place(self.component, v)
        log_w, g = self.proposal.log_weight(z), np.full(len(v), -np.inf)
        accepted = np.log(self.rng.random(len(v))) < power * (log_w - self.log_w)
        g[accepted] = self.margin(z[accepted])  # the network last: where the weight refuses, it is not asked
        accepted &= g >= level
        for old, new in ((self.v, v), (self.z, z), (self.g, g), (self.log_w, log_w)):
            old[accepted] = new[accepted]
        self.delta = float(np.clip(self.delta * np.exp(accepted.mean() - ACCEPTED), 0.01, 0.95))


def bridge(
    margin: Margin, proposal: Proposal, n: int, moves: int, rng: np.random.Generator, budget: float = np.inf
) -> Run:
    """One run of n particles, with `moves` steps a stage; it ends early after `budget` evaluations of the margin.

    From a proposal with weights they are chosen among DRAWN n draws: those cost less than moves, and meet what is rare.
    """
    drawn = DRAWN * n if len(proposal.starts) > 1 else n
    particles = _Particles(margin, proposal, drawn, rng)
    log_p, spent = 0.0, drawn
    for level, power, log_w in _stages(particles):
        log_p += float(logsumexp(log_w) - np.log(len(log_w)))
        particles.redraw(log_w, n)
        if power == 1.0:
            return Run(log_p, True, particles.z, particles.g)
        if spent + n * moves > budget:
            break
        for _ in range(moves):
            particles.move(level, power)
        spent += n * moves
    return Run(log_p, False, particles.z, particles.g)


def _stages(particles: _Particles) -> Iterator[tuple[float, float, np.ndarray]]:
    """(level, power, log weights of the particles as they are) of each stage; ends after power 1, or when stuck."""
    level, power = -np.inf, 0.0
    while level < 0:
        level = _next_level(particles.g, level)
        if level is None:
            return
        even = level >= 0 and not particles.log_w.any()
        yield level, 1.0 if even else 0.0, np.where(particles.g >= level, 0.0, -np.inf)
    while power < 1:
        step = _power_step(particles.log_w, 1 - power)
        power = min(1.0, power + step)
        yield level, power, step * particles.log_w


def _next_level(g, level):
    """The next level, 0 at most; None where no particle is above the last one."""
    if (g >= 0).mean() >= REACHED:
        return 0.0
    above = g[g > level]
    if len(above) == 0:
        return None
    return min(max(np.quantile(g, 1 - KEPT, method="higher"), above.min()), 0.0)


def _power_step(log_w, most):
    """The largest power of the weights, at most `most`, that leaves an effective share of EVENNESS."""
    low, high = 0.0, most
    if _evenness(most * log_w) >= EVENNESS:
        return most
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _evenness(middle * log_w) > EVENNESS else (low, middle)
    return max(low, 1e-3 * most)


def _evenness(log_w):
    return float(np.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w)) / len(log_w))


def repeated(
    margin: Margin, proposal: Proposal, rtol: float, budget: int, rng: np.random.Generator, method: str
) -> tuple[FailureProbability, np.ndarray]:
    """Rounds of independent runs, each of more particles, until their mean is known to rtol or the budget is spent.

    Returns the result and the last particles z (n, r) of the runs of the last round.

    Runs count in proportion to their particles n_r: p = sum n_r p_r / sum n_r, with the variance
    sum n_r (p_r - p)^2 / ((R - 1) sum n_r), times Student's factor.
    """
    runs: list[Run] = []
    sizes: list[int] = []
    start, plain = margin.evaluations, bool(np.isinf(proposal.starts).all())
    n = FIRST if plain else 2 * FIRST  # a bridge is needed where weights are uneven: few particles miss rare ones
    while True:
        before = margin.evaluations
        for each in rng.spawn(RUNS):
            # Up to twice its equal share of what is left: a run that is cut short counts as none that fails.
            left = 2 * (start + budget - margin.evaluations) / (RUNS - len(runs) % RUNS + 1)
            runs.append(bridge(margin, proposal, n, MOVES, each, left))
            sizes.append(n)
        result = _mean(runs, np.array(sizes), n, rtol, method, plain)
        per_particle = (margin.evaluations - before) / (RUNS * n)
        left = start + budget - margin.evaluations
        wanted = sum(sizes) * ((result.rel_error / rtol) ** 2 * 1.1 - 1) / RUNS
        n = int(np.clip(wanted, n, left / (ROOM * RUNS * per_particle)) if np.isfinite(wanted) else 2 * n)
        if result.converged or n < FIRST or ROOM * RUNS * n * per_particle > left:
            return result, np.concatenate([run.z for run in runs[-RUNS:]])


def _mean(runs, sizes, n, rtol, method, plain):
    reached = np.array([run.reached for run in runs])
    if not reached.any():
        # No failure among m draws of the input: in 99 of 100 cases p is below -log(0.01) / m.
        log_upper = float(np.log(-np.log(0.01) / sizes.sum())) if plain else 0.0
        return unseen(float(logsumexp([run.log_p for run in runs]) - np.log(len(runs))), log_upper, method)
    log_p = np.where(reached, [run.log_p for run in runs], -np.inf)
    mean = float(logsumexp(log_p, b=sizes) - np.log(sizes.sum()))
    deviation = np.exp(log_p - mean) - 1
    square = (sizes * deviation**2).sum() / (len(runs) - 1)
    error = student(len(runs) - 1) * float(np.sqrt(square / sizes.sum()))
    return estimated(mean, error, bool(reached.all() and error <= rtol and np.sqrt(square / n) <= LOOSE), method)


def student(degrees: int) -> float:
    """Factor of a standard error with few degrees of freedom, so that three of it hold in 99 of 100 cases."""
    return max(1.0, float(stats.t.ppf(0.995, degrees)) / 3)


def splitting(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    label: int | None = None,
    direction: ArrayLike | None = None,
    threshold: float | None = None,
    rtol: float = 0.2,
    seed: int = 0,
    budget: int = 1_000_000,
    input_shape: tuple[int, ...] | None = None,
    device: str | None = None,
) -> FailureProbability:
    """`rpa.reliability.failure.failure_probability` by plain multilevel splitting: its referee, which knows no design
    points.

    Arguments as there. Every run starts from the input's own distribution; no design points are returned.
    """
    rtol, budget = _check.positive("rtol", rtol), _check.integer("budget", budget, RUNS * FIRST)
    seed = _check.integer("seed", seed)
    parts = margins(
        net,
        inputs,
        label=label,
        direction=direction,
        threshold=threshold,
        input_shape=input_shape,
        device=device,
    )
    return over_components(parts, _from_the_prior, rtol, budget, seed)


def _from_the_prior(margin, rtol, budget, rng):
    result, _ = repeated(margin, Proposal.prior(margin.dim), rtol, budget, rng, "splitting")
    if result.log_p > np.log(USUAL) and not margin.flipped:
        inner = _from_the_prior(margin.complement(), rtol, budget - margin.evaluations, rng)
        return complemented(inner, rtol, margin.evaluations)
    return replace(result, n=margin.evaluations)
