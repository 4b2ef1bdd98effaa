import numpy as np
import pytest
from helpers import random_gaussian, random_network
from scipy.stats import norm

from rpa.experiments.montecarlo import Fresh, binomial_sigmas, law_gap, pattern_counts
from rpa.patterns.support import best_first, draw_packed


def test_sigmas_of_large_counts_are_the_normal_ones():
    n, p = 10**8, 0.3
    z = np.array([-5.0, -2.0, 2.0, 5.0])
    counts = np.round(n * p + z * np.sqrt(n * p * (1 - p)))
    np.testing.assert_allclose(binomial_sigmas(counts, n, p), np.abs(z), atol=2e-3)


def test_sigmas_of_rare_events_are_exact():
    """One success of probability 1e-12 in ten trials: tail 1e-11; none at all is no surprise."""
    np.testing.assert_allclose(binomial_sigmas([1, 0], 10, 1e-12), [norm.isf(1e-11), 0.0], rtol=1e-6)
    assert binomial_sigmas(10, 10, 1e-100) == 37 and binomial_sigmas(10, 10, 1 + 1e-15) == 0
    assert np.isnan(binomial_sigmas([0, 10], 10, [-0.1, 1.1])).all()


def test_counts_do_not_depend_on_how_patterns_are_listed():
    net, inputs = random_network((2, 5, 1), 0), random_gaussian(2, 0)
    patterns = np.unique(net.patterns(inputs.sample(1000, 1)), axis=0)
    counts, other = pattern_counts(net, inputs, patterns, 30_000, 2, chunk=10_000)
    again, rest = pattern_counts(net, inputs, patterns[:-1][::-1], 30_000, 2, chunk=10_000)
    np.testing.assert_array_equal(again, counts[:-1][::-1])
    assert counts.sum() + other == 30_000 and rest == other + counts[-1]


def test_fresh_samples_are_counted_one_by_one_and_cover_a_pattern_once():
    net, inputs = random_network([6, 8, 5, 3], 1), random_gaussian(6, 1)
    patterns = best_first(net, inputs, max_patterns=40, mass=1.0).patterns
    packed = draw_packed(net, inputs, 5000, 3)
    drawn, fresh = np.unpackbits(packed, axis=1, count=13).astype(bool), Fresh(packed)
    expected = [(drawn == pattern).all(axis=1).sum() for pattern in patterns]
    np.testing.assert_array_equal(fresh.counts(patterns), expected)
    assert fresh.coverage(patterns.repeat(2, axis=0)) == sum(expected) / 5000 and fresh.coverage(patterns[:0]) == 0
    with pytest.raises(ValueError, match="packed: expected at least one sample"):
        Fresh(packed[:0])


def test_the_gap_of_two_laws_is_that_of_their_distribution_functions():
    rng, n = np.random.default_rng(0), 5000
    values, p = rng.random((40, 2)), rng.dirichlet(np.ones(40))
    errors, counts = 0.02 * p, rng.multinomial(n, np.roll(p, 1))
    worst = 0.0
    for column in values.T:
        for t in column:
            below = column <= t
            computed, seen = p[below].sum(), counts[below].sum() / n
            moved = np.where(below, 1 - computed, -computed) * errors  # of F = sum below / sum, to first order
            variance = max(computed * (1 - computed), 1 / n) / n + (moved**2).sum()
            worst = max(worst, abs(computed - seen) / np.sqrt(variance))
    assert law_gap(values, p, errors, counts) == pytest.approx(worst, rel=1e-9) and worst > 6
    assert law_gap(values, 0.3 * p, 0.3 * errors, counts) == pytest.approx(worst, rel=1e-9)
    assert law_gap(values, p, 0 * p, rng.multinomial(n, p)) < 6
    with pytest.raises(ValueError, match="counts, p: expected samples and probability"):
        law_gap(values, p, errors, 0 * counts)


def test_atoms_with_equal_values_count_as_one():
    values, counts = np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([0, 30, 50, 20])
    assert law_gap(values, np.array([0.5, 0.2, 0.0, 0.3]), np.zeros(4), counts) == 0.0
