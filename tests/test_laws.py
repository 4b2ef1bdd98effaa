"""Laws that hold for every network: what changes no activation changes no pattern or failure probability."""

import numpy as np
import pytest
from helpers import problem, random_gaussian, random_network
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rpa

few = settings(derandomize=True, deadline=None, max_examples=6, database=None)
dims, seeds = st.sampled_from([2, 3, 4]), st.integers(0, 10**6)  # exact and estimated


def _table(pmf, columns=slice(None)):
    """{pattern: (p, error)} with the hidden units in these columns."""
    return {tuple(row[columns]): np.array([p, p * e]) for row, p, e in zip(pmf.patterns, pmf.p, pmf.rel_error)}


def _agree(first, second):
    for pattern in first.keys() | second.keys():
        (p, error), (q, other) = (table.get(pattern, (0.0, 1e-4)) for table in (first, second))
        assert abs(p - q) <= 4 * np.hypot(error, other) + 1e-9 * (p + q)


def _reordered(net, inputs, rng):
    (a, b, c), (f, g, h) = net.weights, net.biases
    first, second = rng.permutation(3), rng.permutation(2)
    moved = rpa.ReLUNetwork([a[first], b[second][:, first], c[:, second]], [f[first], g[second], h])
    return moved, inputs, np.argsort([*first, *(3 + second)])


def _rescaled(net, inputs, rng):
    (a, b, c), (f, g, h) = net.weights, net.biases
    scale = 10 ** rng.uniform(-8, 8, 3)
    return rpa.ReLUNetwork([a * scale[:, None], b / scale, c], [f * scale, g, h]), inputs, slice(None)


def _with_a_dead_unit(net, inputs, rng):
    (a, b, c), (f, g, h) = net.weights, net.biases
    a, b = np.vstack([a, np.zeros(inputs.dim)]), np.hstack([b, rng.standard_normal((2, 1))])
    return rpa.ReLUNetwork([a, b, c], [np.append(f, -1.0), g, h]), inputs, [0, 1, 2, 4, 5]


def _in_other_units(net, inputs, rng):
    """Metres, pascals and counts beside the standardized network."""
    scale = 10 ** rng.uniform(-8, 8, inputs.dim)
    raw = rpa.ReLUNetwork([net.weights[0] / scale, *net.weights[1:]], net.biases)
    return raw, rpa.Gaussian(inputs.mean * scale, inputs.cov * np.outer(scale, scale)), slice(None)


@pytest.mark.parametrize("change", [_reordered, _rescaled, _with_a_dead_unit, _in_other_units])
@few
@example(4, 50_000)  # one region is exact, and the sum over all of them is not
@given(dims, seeds)
def test_what_changes_no_activation_changes_no_probability(change, dim, seed):
    net, inputs = problem([dim, 3, 2, 1], seed)
    moved, same, columns = change(net, inputs, np.random.default_rng(seed))
    pmf = rpa.pattern_pmf(moved, same)
    assert change is not _with_a_dead_unit or not pmf.patterns[:, 3].any()
    _agree(_table(rpa.pattern_pmf(net, inputs)), _table(pmf, columns))


@few
@given(seeds, st.floats(0.05, 0.95))
def test_the_law_is_linear_in_the_mixture(seed, weight):
    net, parts = random_network([2, 3, 2, 1], seed), [random_gaussian(2, seed), random_gaussian(2, seed + 1)]
    first, second = (_table(rpa.pattern_pmf(net, part)) for part in parts)
    every = first.keys() | second.keys()
    expected = {key: weight * first.get(key, np.zeros(2)) + (1 - weight) * second.get(key, 0.0) for key in every}
    _agree(expected, _table(rpa.pattern_pmf(net, rpa.GaussianMixture([weight, 1 - weight], parts))))


def _failure(net, inputs, sign, threshold, seed):
    options = {"rtol": 0.05, "budget": 100_000, "seed": seed}
    return rpa.failure_probability(net, inputs, direction=[sign], threshold=sign * threshold, **options)


@few
@given(dims, seeds, st.floats(-3, 3))
def test_an_event_and_its_complement_add_up_to_one_in_any_units(dim, seed, quantile):
    net, inputs = problem([dim, 5, 4, 1], seed)
    f = net(inputs.sample(400, 0))[:, 0]
    threshold = f.mean() + quantile * f.std()
    found = [_failure(net, inputs, sign, threshold, seed) for sign in (1.0, -1.0)]
    errors = [result.p * result.rel_error for result in found]
    assert abs(sum(result.p for result in found) - 1) <= 4 * np.hypot(*errors) + 1e-9
    assert all(result.lower <= result.log_p <= result.upper <= 0 for result in found)
    raw, measured, _ = _in_other_units(net, inputs, np.random.default_rng(seed))
    other, same = found[0], _failure(raw, measured, 1.0, threshold, seed)
    assert other.converged == same.converged
    assert abs(other.log_p - same.log_p) <= 4 * np.hypot(other.rel_error, same.rel_error) + 1e-9 or not other.p
