import numpy as np
import pytest
import torch
from helpers import given, random_gaussian, random_network, refusals, units

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork


def plain_forward(net, x):
    """One sample, one unit at a time."""
    bits = []
    for weight, bias in zip(net.weights[:-1], net.biases[:-1]):
        z = [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(weight, bias)]
        bits += [v > 0 for v in z]
        x = [v if v > 0 else net.slope * v for v in z]
    return net.weights[-1] @ np.array(x) + net.biases[-1], bits


@pytest.mark.parametrize("sizes", [(3, 2), (2, 5, 1), (4, 6, 5, 3)])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_forward_and_patterns(sizes, slope):
    net = random_network(sizes, 0, slope)
    x = np.random.default_rng(1).standard_normal((20, sizes[0]))
    expected = [plain_forward(net, row) for row in x]
    np.testing.assert_allclose(net(x), [y for y, _ in expected], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(net.patterns(x), np.array([bits for _, bits in expected], dtype=bool).reshape(20, -1))
    assert net.hidden_sizes == sizes[1:-1] and net.n_hidden == sum(sizes[1:-1])


def test_a_network_does_not_change():
    weight = np.ones((2, 2))
    net = ReLUNetwork([weight, weight], [np.zeros(2), np.zeros(2)])
    weight[:] = 7
    assert (net.weights[0] == 1).all()
    for part in (*net.weights, *net.biases):
        with pytest.raises(ValueError, match="read-only"):
            part += 1


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_torch_round_trip(slope):
    net = random_network((4, 6, 5, 3), 2, slope)
    x = np.random.default_rng(1).standard_normal((20, 4))
    state = torch.get_rng_state()
    module = net.to_torch()
    assert torch.equal(state, torch.get_rng_state())  # no draws of torch's own generator
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(force=True), net(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ReLUNetwork.from_torch(module)(x), net(x), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "gaussian, rank",
    [
        (random_gaussian(6, 0), 3),
        (Gaussian(np.ones(6), np.ones((6, 6))), 1),
        (Gaussian(np.ones(6), np.arange(6.0)), 3),
        (Gaussian(np.ones(6), 0.3), 3),
        (Gaussian(np.ones(6), 0.0), 0),
    ],
)
def test_whitened_network_has_the_same_law(gaussian, rank):
    net = random_network((6, 3, 4, 2), 3)
    net.whitened(Gaussian(np.zeros(6), 2.0))  # white noise shares what depends on the weights alone
    flat = net.whitened(gaussian)
    assert flat.input_dim == rank
    first, size = net.weights[0], {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(flat.biases[0], first @ gaussian.mean + net.biases[0], rtol=1e-13)
    np.testing.assert_allclose(flat.weights[0] @ flat.weights[0].T, first @ gaussian.cov @ first.T, **size)


def test_dead_and_equal_units_stay_so():
    """Weights of zero do not become rounding errors, of a random sign; equal weights stay equal."""
    rows = np.random.default_rng(0).standard_normal((7, 12))
    rows[2], rows[5] = 0.0, rows[1]
    for cov in (1.0, random_gaussian(12, 0).cov):
        first = units(rows).whitened(Gaussian(np.ones(12), cov)).weights[0]
        assert not first[2].any() and (first[5] == first[1]).all()


NET = random_network((2, 3, 1), 0)
test_bad_values_are_refused_by_name = refusals(
    {
        given(ReLUNetwork, weights=[[[1.0]]], biases=[[0.0]]): {
            "weights": [1, {"weights": [np.zeros((0, 2))], "biases": [[]]}],
            "biases": [None],
            "weights, biases": [{"weights": [], "biases": []}],
            r"weights\[1\]": [{"weights": [np.ones((2, 3)), np.ones((1, 3))], "biases": [np.ones(2), np.ones(1)]}],
            r"weights\[0\]": [{"weights": [[[np.nan]]]}],
            r"biases\[0\]": [{"weights": [np.ones((2, 3))], "biases": [np.ones(3)]}],
            "slope": [1.5],
        },
        NET: {"x": [np.ones((4, 3))]},
        NET.whitened: {"gaussian": [Gaussian([0.0], 1.0), 0.1]},
    }
)
