"""What half and double of each tuned constant of polytopes and patterns cost, in error and in seconds.

Errors are geometric means over small problems and seeds; docs/tuning.md has these rows with what each constant trades.
"""

from functools import cache

import numpy as np
from helpers import random_network

from rpa.experiments import known
from rpa.experiments.coverage import processor_seconds
from rpa.experiments.montecarlo import Fresh
from rpa.inputs import Gaussian
from rpa.patterns import output_law, packing, pmf, points, search, support
from rpa.polytopes import lookahead, polytope, quadrature

FEW, MANY = ((5, 16, 16, 2), (8, 24, 16, 2)), ((20, 20, 16, 2), (30, 24, 12, 2))


@cache
def polytopes():
    """(H, h, log p) of tail orthants in 20 dimensions and of products of polygons."""
    orthants = [(known.equicorrelated(20, rho, m), m) for rho, m in ((0.2, 0.0), (0.5, -1.0), (0.9, 0.0))]
    orthants += [(known.autoregressive(20, 0.5, m), m) for m in (-1.0, -4.0)]
    rows = [(-np.linalg.cholesky(cov), np.full(20, m), log_p) for (cov, log_p), m in orthants]
    return rows + [known.rotated_blocks(b, 4, 0) for b in (3, 8)]


def estimates(seeds, **options):
    """(result, true log p) of each polytope and seed."""
    return [
        (polytope.probability(H, h, Gaussian(np.zeros(H.shape[1]), 1.0), seed=seed, **options), log_p)
        for H, h, log_p in polytopes()
        for seed in range(seeds)
    ]


@cache
def networks(shapes):
    """(network, input, fresh samples) of each shape."""
    made = []
    for sizes in shapes:
        net, inputs = random_network(sizes, 1), Gaussian(np.random.default_rng(1).standard_normal(sizes[0]), 0.3)
        made.append((net, inputs, Fresh(packing.draw_packed(net, inputs, 400_000, 9))))
    return made


@cache
def pmf_of_300():
    net, inputs, _ = networks(FEW)[0]
    return pmf.pattern_pmf(net, inputs, max_patterns=300)


def sampling():
    """Error of a probability from 8,192 points."""
    return [found.rel_error for found, _ in estimates(2, rtol=1e-9, budget=2**13)]


def misses():
    """Share of probabilities further than two stated errors from the truth."""
    far = [abs(np.expm1(found.log_p - log_p)) > 2 * found.rel_error for found, log_p in estimates(6, rtol=0.05)]
    return max(np.mean(far), 1 / len(far))


def uncovered(shapes=FEW):
    """Share of fresh samples outside the 400 patterns that the search finds."""
    found = [support.best_first(net, inputs, max_patterns=400, mass=1.0) for net, inputs, _ in networks(shapes)]
    return [1 - fresh.coverage(each.patterns) for each, (_, _, fresh) in zip(found, networks(shapes))]


def uncovered_of_many():
    """The same of networks of many inputs."""
    return uncovered(MANY)


def unfinished():
    """Share of the probability that a PMF of 300 patterns lacks."""
    options = dict(max_patterns=300, search="best_first", mass=1.0)
    return [max(pmf.pattern_pmf(net, inputs, **options).uncovered, 1e-9) for net, inputs, _ in networks(FEW)]


def enumerated():
    """Share of the probability that a PMF of 2,000 patterns of a 6-7-1 and of a 4-10-1 network lacks, plus 1e-9."""
    shapes = ((6, 7, 1), (4, 10, 1))
    made = [pmf.pattern_pmf(random_network(sizes, 2), Gaussian(np.zeros(sizes[0]), 1.0)) for sizes in shapes]
    return [each.uncovered + 1e-9 for each in made]


def output():
    """Errors of mean, distribution function and density of an output, together."""
    law, y = output_law.OutputMixture(pmf_of_300(), 100_000, 0), np.linspace(-2, 2, 9)
    return [found.error.mean() for found in (law.mean, law.cdf(y), law.pdf(y))]


CONSTANTS = (
    (sampling, lookahead, "SHARPNESS DAMPING"),
    (sampling, quadrature, "EXTRA"),
    (misses, quadrature, "SAFETY"),
    (uncovered_of_many, search, "CERTAIN WEAK_SITE BELIEVED"),
    (uncovered_of_many, support, "SPARE WIDENING FEW"),
    (uncovered, support, "SPARE_FEW WORK"),
    (unfinished, pmf, "ENOUGH WIDEST"),
    (enumerated, pmf, "ENUMERABLE"),
    (output, points, "TOTAL MOST DROPPED"),
    (output, output_law, "LINES UNSEEN"),
)


def tuning():
    for measure, module, names in CONSTANTS:
        error = lambda: np.exp(np.mean(np.log(measure())))
        error()  # makes problems and tables
        seconds, default = processor_seconds(error)
        for name in names.split():
            value, row = getattr(module, name), []
            for factor in (0.5, 2):
                setattr(module, name, max(int(value * factor), 1) if isinstance(value, int) else value * factor)
                spent, other = processor_seconds(error)
                row.append(f"{other / default:.2f}, {spent / seconds:.2f}")
            setattr(module, name, value)
            place = f"{module.__name__.split('.')[-1]}.{name}, {value:g}"
            print(f"{place}: half {row[0]}, double {row[1]} of {default:.3g}: {measure.__doc__}")
    return []
