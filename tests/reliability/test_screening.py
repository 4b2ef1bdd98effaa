import numpy as np
import pytest
from helpers import random_network
from scipy.special import log_ndtr
from scipy.stats import spearmanr

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.reliability.failure import failure_probability
from rpa.reliability.screening import first_order
from rpa.subjects import datasets, train


def test_an_affine_network_against_the_distance_to_its_hyperplanes():
    rng = np.random.default_rng(0)
    net = ReLUNetwork([rng.standard_normal((3, 5))], [rng.standard_normal(3)])
    factor = rng.standard_normal((5, 5))
    x = rng.standard_normal((40, 5))
    labels = net(x).argmax(1)
    found = first_order(net, x, factor @ factor.T, labels)
    for i, label in enumerate(labels):
        rows, gaps = net.weights[0][label] - net.weights[0], net(x[[i]])[0, label] - net(x[[i]])[0]
        others = np.delete(np.arange(3), label)
        expected = gaps[others] / np.linalg.norm(rows[others] @ factor, axis=1)
        np.testing.assert_allclose(found.distance[i, others], expected, rtol=1e-3)
        assert found.distance[i, label] == np.inf
    np.testing.assert_allclose(found.log_p, np.log(np.exp(log_ndtr(-found.distance)).sum(1)), rtol=1e-12)


def test_distances_in_the_plane_against_a_search_over_all_directions():
    """No failing point is nearer than the least over a fine polar grid; the one found is rarely a farther one."""
    net, x = random_network((2, 12, 8, 3), 1), np.random.default_rng(0).uniform(-1, 1, (30, 2))
    labels = net(x).argmax(1)
    found = first_order(net, x, 0.01, labels).distance.min(1)
    angle, radius = np.linspace(0, 2 * np.pi, 361), np.linspace(0.02, 12, 600)
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    least = []
    for point, label in zip(x, labels):
        fails = net((point + 0.1 * radius[:, None, None] * ray).reshape(-1, 2)).argmax(1).reshape(600, -1) != label
        least.append(radius[fails.any(1)][0] if fails.any() else np.inf)
    seen = np.isfinite(least)
    assert (found[seen] > np.array(least)[seen] - 0.05).all() and np.median(found[seen] - np.array(least)[seen]) < 0.05


def test_it_ranks_as_the_failure_probability_does():
    """On a trained network; on random ones, whose failure sets are ragged, nearer points are missed more often."""
    net, x = train.load_network("mnist_784-32-32-10"), np.float64(datasets.mnist("test").rows[:12])
    labels = net(x).argmax(1)
    rough = first_order(net, x, 0.02, labels).log_p
    fine = [failure_probability(net, Gaussian(row, 0.02), label=int(c), rtol=0.1).log_p for row, c in zip(x, labels)]
    assert spearmanr(rough, fine).statistic > 0.9


def test_a_wrong_label_fails_already_and_a_rival_out_of_reach_never():
    net = ReLUNetwork([[[1.0]], [[1.0], [0.0]]], [[0.0], [0.0, -1.0]])  # relu(x) against -1
    found = first_order(net, [[2.0], [2.0]], 1.0, [1, 0])
    assert found.distance[0, 0] == 0 and found.log_p[0] == pytest.approx(np.log(0.5))
    assert np.isinf(found.distance[1]).all() and found.log_p[1] == -np.inf
