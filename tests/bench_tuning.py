"""What half and double of each tuned constant of polytopes and patterns cost, in error and in seconds.

Errors are geometric means over small problems and seeds; docs/tuning.md has these rows with what each constant trades.
"""

import numpy as np
from helpers import random_network

from rpa.experiments import known
from rpa.experiments.coverage import processor_seconds
from rpa.experiments.montecarlo import Fresh
from rpa.inputs import Gaussian
from rpa.patterns import output_law, packing, pieces, pmf, search, support
from rpa.polytopes import lookahead, polytope, quadrature


def of_polytopes():
    """Tail orthants in 20 dimensions and products of polygons: (what is measured, its errors, {module: constants})."""
    cases = [(known.equicorrelated(20, rho, m), m) for rho, m in ((0.2, 0.0), (0.5, -1.0), (0.9, 0.0))]
    cases += [(known.autoregressive(20, 0.5, m), m) for m in (-1.0, -4.0)]
    problems = [(-np.linalg.cholesky(cov), np.full(20, m), log_p) for (cov, log_p), m in cases]
    problems += [known.rotated_blocks(b, 4, 0) for b in (3, 8)]

    def answers(seeds, **options):
        for H, h, log_p in problems:
            for seed in range(seeds):
                found = polytope.probability(H, h, Gaussian(np.zeros(H.shape[1]), 1.0), seed=seed, **options)
                yield found.rel_error, abs(np.expm1(found.log_p - log_p))

    def misses():
        far = [gap / error > 2 for error, gap in answers(6, rtol=0.05)]
        return max(np.mean(far), 1 / len(far))

    sampling = lambda: [error for error, _ in answers(2, rtol=1e-9, budget=2**13)]
    constants = {lookahead: "SHARPNESS DAMPING", quadrature: "EXTRA"}
    yield "error of a probability from 8,192 points", sampling, constants
    yield "share of probabilities further than two stated errors from the truth", misses, {quadrature: "SAFETY"}


def of_networks():
    """The same of random networks and their laws."""

    def problem(*sizes):
        net, inputs = random_network(sizes, 1), Gaussian(np.random.default_rng(1).standard_normal(sizes[0]), 0.3)
        return net, inputs, Fresh(packing.draw_packed(net, inputs, 400_000, 9))

    def uncovered(problems):
        found = [support.best_first(net, inputs, max_patterns=400, mass=1.0) for net, inputs, _ in problems]
        return [1 - fresh.coverage(each.patterns) for each, (_, _, fresh) in zip(found, problems)]

    def lacking(problems, **options):
        return [pmf.pattern_pmf(net, inputs, **options).uncovered + 1e-9 for net, inputs in problems]

    def law():
        found, y = output_law.OutputMixture(partial, 100_000, 0), np.linspace(-2, 2, 9)
        return [each.error.mean() for each in (found.mean, found.cdf(y), found.pdf(y))]

    many, few = [problem(20, 20, 16, 2), problem(30, 24, 12, 2)], [problem(5, 16, 16, 2), problem(8, 24, 16, 2)]
    what = "share of fresh samples outside 400 patterns found, of"
    constants = {search: "CERTAIN WEAK_SITE BELIEVED", support: "SPARE WIDENING FEW_INPUTS"}
    yield f"{what} many inputs", lambda: uncovered(many), constants
    yield f"{what} few inputs", lambda: uncovered(few), {support: "SPARE_FEW WORK"}
    some, options = [each[:2] for each in few], dict(max_patterns=300, search="best_first", mass=1.0)
    yield "share that a PMF of 300 patterns lacks", lambda: lacking(some, **options), {pmf: "ENOUGH WIDEST"}
    low = [(random_network(sizes, 2), Gaussian(np.zeros(sizes[0]), 1.0)) for sizes in ((6, 7, 1), (4, 10, 1))]
    yield "share, plus 1e-9, that PMFs of 6-7-1 and 4-10-1 lack", lambda: lacking(low), {pmf: "ENUMERABLE"}
    partial = pmf.pattern_pmf(*some[0], max_patterns=300)
    constants = {pieces: "TOTAL MOST_EACH DROPPED", output_law: "LINES UNSEEN"}
    yield "mean, distribution function and density of an output", law, constants


def tuning():
    for what, errors, constants in (*of_polytopes(), *of_networks()):
        mean = lambda: np.exp(np.mean(np.log(errors())))
        mean()  # the first call makes tables
        seconds, error = processor_seconds(mean)
        for module, name in ((module, name) for module, names in constants.items() for name in names.split()):
            value, row = getattr(module, name), []
            for factor in (0.5, 2):
                setattr(module, name, max(int(value * factor), 1) if isinstance(value, int) else value * factor)
                spent, other = processor_seconds(mean)
                row.append(f"{other / error:.2f}, {spent / seconds:.2f}")
            setattr(module, name, value)
            place = f"{module.__name__.split('.')[-1]}.{name}, {value:g}"
            print(f"{place}: half {row[0]}, double {row[1]} of {error:.3g}: {what}")
    return []
