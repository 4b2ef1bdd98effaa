"""Laws of the failure probability that hold for every network and input."""

import numpy as np
from helpers import random_gaussian, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

import rpa

few = settings(derandomize=True, deadline=None, max_examples=6, database=None)
dims, seeds = st.sampled_from([2, 4]), st.integers(0, 10**6)  # exact and estimated


def _failure(net, inputs, sign, threshold, seed):
    options = {"rtol": 0.05, "budget": 100_000, "seed": seed}
    return rpa.failure_probability(net, inputs, direction=[sign], threshold=sign * threshold, **options)


@few
@given(dims, seeds, st.floats(-3, 3))
def test_an_event_and_its_complement_add_up_to_one(dim, seed, quantile):
    net, inputs = random_network([dim, 5, 4, 1], seed), random_gaussian(dim, seed)
    f = net(inputs.sample(400, 0))[:, 0]
    found = [_failure(net, inputs, sign, f.mean() + quantile * f.std(), seed) for sign in (1.0, -1.0)]
    errors = [result.p * result.rel_error for result in found]
    assert abs(sum(result.p for result in found) - 1) <= 4 * np.hypot(*errors) + 1e-9
    assert all(result.lower <= result.log_p <= result.upper <= 0 for result in found)


@few
@given(dims, seeds)
def test_units_of_the_inputs_change_no_failure_probability(dim, seed):
    """Metres, pascals and counts beside the standardized network."""
    net, inputs = random_network([dim, 5, 4, 1], seed), random_gaussian(dim, seed)
    scale = 10 ** np.random.default_rng(seed).uniform(-8, 8, dim)
    raw = rpa.ReLUNetwork([net.weights[0] / scale, *net.weights[1:]], net.biases)
    measured = rpa.Gaussian(inputs.mean * scale, inputs.cov * np.outer(scale, scale))
    f = net(inputs.sample(400, 0))[:, 0]
    first, second = (_failure(*pair, 1.0, f.mean() + 2.5 * f.std(), seed) for pair in ((net, inputs), (raw, measured)))
    assert first.converged == second.converged
    assert abs(first.log_p - second.log_p) <= 4 * np.hypot(first.rel_error, second.rel_error) + 1e-9 or not first.p
