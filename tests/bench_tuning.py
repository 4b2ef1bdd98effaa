"""What half and double of each tuned constant of polytopes and patterns cost, in error and in seconds.

Errors are geometric means over small problems and seeds; docs/tuning.md has these rows with what each constant trades.
"""

from functools import lru_cache

import numpy as np
from bench import interleaved
from helpers import random_network

from rpa.experiments import known
from rpa.experiments.montecarlo import Fresh
from rpa.inputs import Gaussian
from rpa.patterns import output_law, packing, pieces, pmf, search, support
from rpa.polytopes import lookahead, polytope, quadrature


@lru_cache
def polytopes():
    """(H, h) of tail orthants in 20 dimensions and products of polygons, with their log probabilities."""
    orthants = [known.equicorrelated(20, rho, m) + (m,) for rho, m in ((0.2, 0.0), (0.5, -1.0), (0.9, 0.0))]
    orthants += [known.autoregressive(20, 0.5, m) + (m,) for m in (-1.0, -4.0)]
    rows = [(-np.linalg.cholesky(cov), np.full(20, m), log_p) for cov, log_p, m in orthants]
    return rows + [known.rotated_blocks(b, 4, 0) for b in (3, 8)]


def sampling(seeds=2):
    """Error of a probability from 8,192 points."""
    found = [
        polytope.probability(H, h, Gaussian(np.zeros(H.shape[1]), 1.0), rtol=1e-9, budget=2**13, seed=seed).rel_error
        for H, h, _ in polytopes()
        for seed in range(seeds)
    ]
    return np.exp(np.mean(np.log(found)))


def misses(seeds=6):
    """Share of probabilities further than two stated errors from the truth."""
    gaps = []
    for H, h, log_p in polytopes():
        for seed in range(seeds):
            found = polytope.probability(H, h, Gaussian(np.zeros(H.shape[1]), 1.0), rtol=0.05, seed=seed)
            gaps.append(abs(np.expm1(found.log_p - log_p)) / found.rel_error)
    return max(np.mean(np.array(gaps) > 2), 1 / len(gaps))


@lru_cache
def networks(kind):
    """(network, input, fresh samples) of few or of many inputs."""
    made = []
    for sizes in {"few": [(5, 16, 16, 2), (8, 24, 16, 2)], "many": [(20, 20, 16, 2), (30, 24, 12, 2)]}[kind]:
        net, inputs = random_network(sizes, 1), Gaussian(np.random.default_rng(1).standard_normal(sizes[0]), 0.3)
        made.append((net, inputs, Fresh(packing.draw_packed(net, inputs, 400_000, 9))))
    return made


def uncovered(kind, patterns=400):
    """Share of fresh samples outside the patterns that the search finds."""
    found = [support.best_first(net, inputs, max_patterns=patterns, mass=1.0) for net, inputs, _ in networks(kind)]
    missed = [1 - fresh.coverage(each.patterns) for each, (_, _, fresh) in zip(found, networks(kind))]
    return np.exp(np.mean(np.log(missed)))


def unfinished():
    """Share of the probability that a PMF of 300 patterns lacks."""
    options = dict(max_patterns=300, search="best_first", mass=1.0)
    made = [pmf.pattern_pmf(net, inputs, **options) for net, inputs, _ in networks("few")]
    return np.exp(np.mean(np.log([max(each.uncovered, 1e-9) for each in made])))


def enumerated():
    """Share of the probability that a PMF of 2,000 patterns of a 6-7-1 and of a 4-10-1 network lacks, plus 1e-9."""
    shapes = ((6, 7, 1), (4, 10, 1))
    made = [pmf.pattern_pmf(random_network(sizes, 2), Gaussian(np.zeros(sizes[0]), 1.0)) for sizes in shapes]
    return np.exp(np.mean(np.log([each.uncovered + 1e-9 for each in made])))


@lru_cache
def found():
    net, inputs, _ = networks("few")[0]
    return pmf.pattern_pmf(net, inputs, max_patterns=300)


def law_of_output():
    """Errors of mean, distribution function and density of an output, together."""
    law, y = output_law.OutputMixture(found(), 100_000, 0), np.linspace(-2, 2, 9)
    return np.exp(np.mean(np.log([law.mean.error.mean(), law.cdf(y).error.mean(), law.pdf(y).error.mean()])))


few, many = (lambda: uncovered("few")), (lambda: uncovered("many"))
CONSTANTS = [
    *((lookahead, name, sampling) for name in ("SHARPNESS", "DAMPING")),
    *((quadrature, name, sampling) for name in ("EXTRA",)),
    (quadrature, "SAFETY", misses),
    *((search, name, many) for name in ("CERTAIN", "WEAK_SITE", "BELIEVED")),
    *((support, name, many) for name in ("SPARE", "WIDENING", "FEW")),
    *((support, name, few) for name in ("SPARE_FEW", "WORK")),
    *((pmf, name, unfinished) for name in ("ENOUGH", "WIDEST")),
    (pmf, "ENUMERABLE", enumerated),
    *((pieces, name, law_of_output) for name in ("TOTAL", "MOST", "DROPPED")),
    *((output_law, name, law_of_output) for name in ("LINES", "UNSEEN")),
]


def main():
    for measure in {each: None for _, _, each in CONSTANTS}:
        measure()  # the first call makes problems and tables
    defaults: dict = {}
    for module, name, measure in CONSTANTS:
        value, row = getattr(module, name), []
        seconds, error = defaults.setdefault(measure, interleaved(measure, repeat=1)[0])
        for factor in (0.5, 2):
            setattr(module, name, type(value)(max(value * factor, 1) if isinstance(value, int) else value * factor))
            ((spent, other),) = interleaved(measure, repeat=1)
            row += [f"{other / error:.2f}, {spent / seconds:.2f}"]
        setattr(module, name, value)
        what = (measure.__doc__ or "Share of fresh samples outside the patterns found.").split("\n")[0]
        print(
            f"{module.__name__.split('.')[-1]}.{name}, {value:g}: half {row[0]}, double {row[1]} of {error:.3g}: {what}"
        )
    return []
