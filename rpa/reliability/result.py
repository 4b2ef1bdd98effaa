"""What a failure probability comes with: its error, its bounds, and whether to trust them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from rpa.reliability.design import DesignPoint, nearest_of_each
from rpa.reliability.margin import Margin, impossible

__all__ = ["USUAL", "FailureProbability", "complemented", "estimated", "mixed", "over_components", "unseen"]

USUAL = 0.9  # failure probability above which that of the complement is estimated instead


@dataclass(frozen=True, eq=False)
class FailureProbability:
    """P(failure), in natural logs, since it may be far below 1e-300.

    log_p: its logarithm; rel_error: standard error of p relative to p; lower, upper: logarithms of an interval that
    holds p in 99 of 100 cases, from p / (1 + rel_error)^3 to p (1 + rel_error)^3. design_points: the nearest failing
    input of each rival that was found, nearest first. n: evaluations of the network. method: "exact", "sampling",
    "importance sampling", "splitting" or "bridge" (splitting that starts from the proposal), "complement of" these
    where failure is nearly certain, joined by " + " for a mixture.

    converged: whether rel_error is at most the rtol asked for and its own diagnostics support it. Where no failure was
    found and none is excluded, log_p is that of the highest level reached, a guess of which no digit is known;
    rel_error is infinite, lower -inf, converged False, and upper is what plain draws without a failure allow. log_p is
    -inf only where failure is impossible, or where a certified upper bound is all there is.
    """

    log_p: float
    rel_error: float
    lower: float
    upper: float
    design_points: tuple[DesignPoint, ...]
    n: int
    converged: bool
    method: str

    @property
    def p(self) -> float:
        """The probability itself; 0 where it underflows, `log_p` does not."""
        return float(np.exp(self.log_p))

    def __repr__(self) -> str:
        digits = f"{np.exp(self.log_p):.4g}" if self.log_p > -690 else f"10^{self.log_p / np.log(10):.2f}"
        trust = "converged" if self.converged else "not converged"
        effort = f"{self.method}, {self.n:,} evaluations"
        return f"FailureProbability: {digits} ± {100 * self.rel_error:.2g} %, {effort}, {trust}"


def estimated(log_p: float, rel_error: float, converged: bool, method: str) -> FailureProbability:
    """A result with the interval that its error gives; without points and evaluations."""
    reach = 3 * float(np.log1p(rel_error))
    return FailureProbability(log_p, rel_error, log_p - reach, min(log_p + reach, 0.0), (), 0, converged, method)


def unseen(log_p: float, log_upper: float, method: str) -> FailureProbability:
    """No failure was found: log_p is a guess, and all that is known is a bound from above."""
    return FailureProbability(min(log_p, log_upper), np.inf, -np.inf, log_upper, (), 0, False, method)


def complemented(other: FailureProbability, rtol: float, spent: int) -> FailureProbability:
    """1 - q of a result for the complement, with the error q rel_error(q) / p; `spent`: evaluations before it.

    Where q is not believed, convergence is judged by its upper bound; where no success was met, that is the error too.
    """
    log_p, lower, upper = (float(_log_one_less(bound)) for bound in (other.log_p, other.upper, other.lower))
    most = float(np.exp(other.upper - log_p))
    error = float(np.exp(other.log_p - log_p)) * other.rel_error if np.isfinite(other.rel_error) else most
    converged = bool((error if other.converged else most) <= rtol)
    method = f"complement of {other.method}"
    return FailureProbability(log_p, error, lower, upper, (), spent + other.n, converged, method)


def mixed(weights: Sequence[float], parts: Sequence[FailureProbability], rtol: float) -> FailureProbability:
    """The result for a mixture of inputs with these weights; errors are those of independent parts.

    Its interval is the sum of the parts' intervals, so that it holds what a part in which no failure was met allows.
    """
    if len(parts) == 1:
        return parts[0]
    log_terms = np.log(weights) + [part.log_p for part in parts]
    log_p = float(logsumexp(log_terms))
    if log_p == -np.inf:
        return parts[0]
    share, uppers = np.exp(log_terms - log_p), np.log(weights) + [part.upper for part in parts]
    # Where a part's failures were not met, its upper bound is its error.
    errors = [
        s * p.rel_error if np.isfinite(p.rel_error) else np.exp(u - log_p) for s, p, u in zip(share, parts, uppers)
    ]
    error, doubt = float(np.linalg.norm(errors)), sum(s for s, part in zip(share, parts) if not part.converged)
    method, upper = " + ".join(dict.fromkeys(part.method for part in parts)), min(float(logsumexp(uppers)), 0.0)
    if not any(np.isfinite(part.rel_error) for part in parts):
        result = unseen(log_p, upper, method)
    else:
        lower = float(logsumexp(np.log(weights) + [part.lower for part in parts]))
        found = estimated(log_p, error, bool(error <= rtol and doubt <= rtol), method)
        result = replace(found, lower=lower, upper=upper)
    points = nearest_of_each(point for part in parts for point in part.design_points)
    return replace(result, design_points=points, n=sum(part.n for part in parts))


def over_components(
    parts: Sequence[tuple[float, Margin]],
    estimate: Callable[[Margin, float, int, np.random.Generator], FailureProbability],
    rtol: float,
    budget: int,
    seed: int,
) -> FailureProbability:
    """`mixed` of estimate(margin, rtol, budget, rng) for each (weight, margin): equal budgets, streams of their own.

    Where nothing is random, or where bounds decide, the answer is exact.
    """
    rngs = np.random.default_rng(seed).spawn(len(parts))
    found = [
        _exact(margin) or estimate(margin, rtol, budget // len(parts), rng) for (_, margin), rng in zip(parts, rngs)
    ]
    return mixed([weight for weight, _ in parts], found, rtol)


def _exact(margin):
    """The answer for an input that does not vary, an impossible failure and a certain one; None for others."""
    if margin.dim == 0:
        certain = margin(np.zeros((1, 0)))[0] >= 0
    elif not (certain := impossible(margin.complement())) and not impossible(margin):
        return None
    return replace(estimated(0.0 if certain else -np.inf, 0.0, True, "exact"), n=margin.evaluations)


def _log_one_less(log_q):
    """log(1 - q) from log q <= 0, to full accuracy."""
    return np.log1p(-np.exp(log_q)) if log_q < -0.69 else np.log(-np.expm1(log_q)) if log_q < 0 else -np.inf
