"""A failure probability with its error, its bounds, and whether to trust them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import logsumexp

from rpa.reliability.event import Event, impossible

NEARLY_CERTAIN = 0.9  # failure probability above which that of the complement is estimated instead


@dataclass(frozen=True)
class DesignPoint:
    """The nearest failing input found for one rival: x, d numbers, at `distance` standard deviations.

    rival: the class that takes over; 0 where failure is a threshold's.
    """

    x: tuple[float, ...] = field(repr=False)
    distance: float
    rival: int


@dataclass(frozen=True)
class FailureProbability:
    """P(failure), in natural logs, since it may be far below 1e-300. All fields are plain values.

    log_p: its logarithm; rel_error: standard error of p relative to p; lower, upper: logarithms of an interval that
    contains p in 99 of 100 cases, from p / (1 + rel_error)^3 to p (1 + rel_error)^3; without convergence and with
    rel_error >= 1, from 0 to what plain draws allow. design_points: the nearest failing
    input of each rival that was found, nearest first. n: evaluations of the network. method: "exact", "sampling",
    "importance sampling", "splitting" or "bridge" (splitting that starts from the proposal), "complement of" these
    where failure is nearly certain, joined by " + " for a mixture.

    converged: whether rel_error is at most the rtol requested and the diagnostics support it. If no failure was found
    and none is excluded, log_p is that of the highest level reached, a guess without a correct digit; then rel_error is
    infinite, lower -inf, converged False, and upper is the bound from plain draws without a failure. log_p is -inf only
    where failure is impossible, or where a certified upper bound is all that is known.
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
        """The probability itself; 0 where it underflows and `log_p` does not."""
        return float(np.exp(self.log_p))

    def __repr__(self) -> str:
        beyond = -np.inf < self.log_p <= -690
        digits = f"10^{self.log_p / np.log(10):.2f}" if beyond else f"{np.exp(self.log_p):.4g}"
        trust = "converged" if self.converged else "not converged"
        effort = f"{self.method}, {self.n:,} evaluations"
        return f"FailureProbability: {digits} ± {100 * self.rel_error:.2g} %, {effort}, {trust}"


def nearest_of_each(points: Iterable[DesignPoint]) -> tuple[DesignPoint, ...]:
    """The nearest point of each rival, nearest first."""
    best: dict[int, DesignPoint] = {}
    for point in sorted(points, key=lambda point: point.distance):
        best.setdefault(point.rival, point)
    return tuple(best.values())


def estimated(log_p: float, rel_error: float, converged: bool, method: str) -> FailureProbability:
    """A result with the interval that its error gives; without points and evaluations."""
    log_p, reach = float(log_p), 3 * float(np.log1p(rel_error))
    bounds = log_p - reach, min(log_p + reach, 0.0)
    return FailureProbability(log_p, float(rel_error), *bounds, (), 0, bool(converged), method)


def unseen(log_p: float, log_upper: float, method: str) -> FailureProbability:
    """The result where no failure was found: a guess log_p, and an upper bound."""
    return FailureProbability(min(log_p, log_upper), np.inf, -np.inf, log_upper, (), 0, False, method)


def exact(event: Event) -> FailureProbability | None:
    """The result for an input that does not vary, an impossible failure or a certain one; None for others."""
    if event.dim == 0:
        certain = event(np.zeros((1, 0)))[0] >= 0
    elif not (certain := impossible(event.complement())) and not impossible(event):
        return None
    return replace(estimated(0.0 if certain else -np.inf, 0.0, True, "exact"), n=event.evaluations)


def complemented(other: FailureProbability, event: Event) -> FailureProbability:
    """The result 1 - q for an event from the result q of its complement, with the error q rel_error(q) / p.

    Where q has not converged, the upper bound of q decides whether p has; without a success it is the error too.
    """
    q = np.array([other.log_p, other.upper, other.lower])
    with np.errstate(divide="ignore"):  # log(1 - q), to full accuracy
        log_p, lower, upper = np.where(q < -0.69, np.log1p(-np.exp(q)), np.log(-np.expm1(q))).tolist()
    most = float(np.exp(other.upper - log_p))
    error = float(np.exp(other.log_p - log_p)) * other.rel_error if np.isfinite(other.rel_error) else most
    converged = (error if other.converged else most) <= event.rtol
    method = f"complement of {other.method}"
    return FailureProbability(log_p, error, lower, upper, (), event.evaluations + other.n, converged, method)


def mixed(weights: Sequence[float], results: Sequence[FailureProbability], rtol: float) -> FailureProbability:
    """The result for a mixture of inputs with these weights; the components' errors are independent.

    Its interval is the sum of the components' intervals, which includes components without a failure.
    """
    log_ps, lowers, uppers = (
        np.log(weights) + [getattr(result, name) for result in results] for name in ("log_p", "lower", "upper")
    )
    log_p, upper = float(logsumexp(log_ps)), min(float(logsumexp(uppers)), 0.0)
    if len(results) == 1 or log_p == -np.inf:
        return results[0]
    whole = unseen(log_p, upper, " + ".join(dict.fromkeys(result.method for result in results)))
    if np.isfinite([result.rel_error for result in results]).any():
        with np.errstate(over="ignore"):
            share, most = np.exp(log_ps - log_p), np.exp(uppers - log_p)
        # The error of a component of which no digit is known is its upper bound.
        errors = [s * r.rel_error if np.isfinite(r.lower) else bound for s, bound, r in zip(share, most, results)]
        doubt = most[[not result.converged for result in results]].sum()
        error = float(np.linalg.norm(errors))
        whole = estimated(log_p, error, error <= rtol and doubt <= rtol, whole.method)
        whole = replace(whole, lower=float(logsumexp(lowers)), upper=upper)
    points = nearest_of_each(point for result in results for point in result.design_points)
    return replace(whole, design_points=points, n=sum(result.n for result in results))
