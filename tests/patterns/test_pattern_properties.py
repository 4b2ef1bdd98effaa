"""Laws of the pattern PMF that hold for every network: what changes no activation changes no probability."""

import numpy as np
from helpers import random_gaussian, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

import rpa

few = settings(derandomize=True, deadline=None, max_examples=4, database=None)
dims = st.sampled_from([2, 3])  # exact and estimated
seeds = st.integers(0, 10**6)


def _table(pmf, columns=slice(None)):
    """{pattern: (p, error)} with the hidden units in these columns."""
    return {tuple(row[columns]): (p, p * e) for row, p, e in zip(pmf.patterns, pmf.p, pmf.rel_error)}


def _agree(first, second):
    for pattern in first.keys() | second.keys():
        (p, error), (q, other) = (table.get(pattern, (0.0, 1e-4)) for table in (first, second))
        assert abs(p - q) <= 4 * np.hypot(error, other) + 1e-9 * (p + q)


@few
@given(dims, seeds, st.permutations(range(3)), st.permutations(range(2)))
def test_the_order_of_units_is_only_a_name(dim, seed, first, second):
    net, inputs = random_network([dim, 3, 2, 1], seed), random_gaussian(dim, seed)
    (a, b, c), (f, g, h) = net.weights, net.biases
    moved = rpa.ReLUNetwork([a[first], b[second][:, first], c[:, second]], [f[first], g[second], h])
    columns = [*first, *(3 + i for i in second)]
    _agree(_table(rpa.pattern_pmf(net, inputs), columns), _table(rpa.pattern_pmf(moved, inputs)))


@few
@given(dims, seeds)
def test_positive_factors_of_units_change_nothing(dim, seed):
    net, inputs = random_network([dim, 4, 3, 1], seed), random_gaussian(dim, seed)
    scale = 10 ** np.random.default_rng(seed).uniform(-8, 8, 4)
    (a, b, c), (f, g, h) = net.weights, net.biases
    scaled = rpa.ReLUNetwork([a * scale[:, None], b / scale, c], [f * scale, g, h])
    _agree(_table(rpa.pattern_pmf(net, inputs)), _table(rpa.pattern_pmf(scaled, inputs)))


@few
@given(dims, seeds)
def test_dead_units_are_off_and_change_nothing(dim, seed):
    net, inputs = random_network([dim, 3, 2, 1], seed), random_gaussian(dim, seed)
    (a, b, c), (f, g, h) = net.weights, net.biases
    more = np.random.default_rng(seed).standard_normal((2, 1))
    dead = rpa.ReLUNetwork([np.vstack([a, np.zeros(dim)]), np.hstack([b, more]), c], [np.append(f, -1.0), g, h])
    pmf = rpa.pattern_pmf(dead, inputs)
    assert not pmf.patterns[:, 3].any()
    _agree(_table(rpa.pattern_pmf(net, inputs)), _table(pmf, [0, 1, 2, 4, 5]))


@settings(few, max_examples=20)
@given(dims, seeds)
def test_units_of_the_inputs_change_nothing(dim, seed):
    """Metres, pascals and counts beside the standardized network."""
    net, inputs = random_network([dim, 3, 2, 1], seed), random_gaussian(dim, seed)
    scale = 10 ** np.random.default_rng(seed).uniform(-8, 8, dim)
    raw = rpa.ReLUNetwork([net.weights[0] / scale, *net.weights[1:]], net.biases)
    measured = rpa.Gaussian(inputs.mean * scale, inputs.cov * np.outer(scale, scale))
    _agree(_table(rpa.pattern_pmf(net, inputs)), _table(rpa.pattern_pmf(raw, measured)))


@few
@given(seeds, st.floats(0.05, 0.95))
def test_the_law_is_linear_in_the_mixture(seed, weight):
    net, parts = random_network([2, 3, 2, 1], seed), [random_gaussian(2, seed), random_gaussian(2, seed + 1)]
    first, second = (_table(rpa.pattern_pmf(net, part)) for part in parts)
    zero = np.zeros(2)
    expected = {
        pattern: weight * (zero + first.get(pattern, zero)) + (1 - weight) * (zero + second.get(pattern, zero))
        for pattern in first.keys() | second.keys()
    }
    _agree(expected, _table(rpa.pattern_pmf(net, rpa.GaussianMixture([weight, 1 - weight], parts))))
