"""The formulas of others in tests/bench_moments.py, where they coincide with ours."""

import numpy as np
import pytest
import torch
from bench_moments import authors_moments, cumulants
from helpers import random_network
from torch import nn

from rpa.moments.layerwise import layerwise
from rpa.moments.two_stage import two_stage

NOISE = 0.7


@pytest.fixture
def layers():
    net = random_network((5, 8, 7, 4), 0)
    made = [nn.Linear(*W.T.shape).double().requires_grad_(False) for W in net.weights]
    for layer, W, b in zip(made, net.weights, net.biases):
        layer.weight[:], layer.bias[:] = torch.tensor(W), torch.tensor(b)
    return made


def chained(layers):
    return nn.Sequential(*[each for layer in layers for each in (layer, nn.ReLU())][:-1])


def test_cumulant_propagation_of_order_two_is_the_linear_rule(layers):
    x = torch.as_tensor(np.random.default_rng(1).standard_normal((3, 5)))
    for ours, theirs in zip(layerwise(chained(layers), x, NOISE**2, "linear"), cumulants(layers, x, NOISE)):
        torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-14)


def test_formulas_of_the_authors_are_exact_for_units_of_mean_zero(layers):
    x = torch.as_tensor(np.random.default_rng(1).standard_normal((3, 5)))
    for cut in (0, 1):
        mean, _ = authors_moments(layers, cut, x, NOISE)
        torch.testing.assert_close(mean, two_stage(chained(layers), x, NOISE**2, relu=cut).mean, rtol=1e-12, atol=1e-14)
    layers[0].bias[:] = -layers[0].weight @ x[0]
    ours = two_stage(chained(layers), x[:1], NOISE**2, relu=0, rule="exact")
    for mine, theirs in zip(ours, authors_moments(layers, 0, x[:1], NOISE)):
        torch.testing.assert_close(theirs, mine, rtol=1e-12, atol=1e-14)
