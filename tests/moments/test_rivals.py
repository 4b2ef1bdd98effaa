"""The formulas of others in tests/bench_moments.py, where they coincide with ours."""

import numpy as np
import pytest
import torch
from bench_moments import authors_moments, cumulants
from helpers import random_network

from rpa.moments.layerwise import layerwise
from rpa.moments.two_stage import two_stage

NOISE = 0.7


@pytest.fixture
def net():
    return random_network((5, 8, 7, 4), 0).to_torch().requires_grad_(False)


X = torch.as_tensor(np.random.default_rng(1).standard_normal((3, 5)))


def test_cumulant_propagation_of_order_two_is_the_linear_rule(net):
    for ours, theirs in zip(layerwise(net, X, NOISE**2, "linear"), cumulants(net[::2], X, NOISE)):
        torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-14)


def test_formulas_of_the_authors_are_exact_for_units_of_mean_zero(net):
    for cut in (0, 1):
        mean, _ = authors_moments(net[::2], cut, X, NOISE)
        torch.testing.assert_close(mean, two_stage(net, X, NOISE**2, relu=cut).mean, rtol=1e-12, atol=1e-14)
    net[0].bias[:] = -net[0].weight @ X[0]
    ours = two_stage(net, X[:1], NOISE**2, relu=0, rule="exact")
    for mine, theirs in zip(ours, authors_moments(net[::2], 0, X[:1], NOISE)):
        torch.testing.assert_close(theirs, mine, rtol=1e-12, atol=1e-14)
