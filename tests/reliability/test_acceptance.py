"""Full size: stated errors against exact planar laws, plain samples, splitting and longer runs. Marked slow."""

import numpy as np
import pytest
from helpers import random_network

from rpa.inputs import Gaussian
from rpa.reliability import failure
from rpa.reliability.certified import failing_patterns
from rpa.reliability.failure import failure_probability
from rpa.reliability.margin import margins
from rpa.reliability.splitting import splitting
from rpa.subjects import datasets, train

pytestmark = pytest.mark.slow
TARGETS = np.log([1e-2, 1e-5, 1e-10, 1e-20, 1e-40])
NETWORKS = ("784-32-32-10", "784-128-64-10")


def _threshold(net, inputs, log_p):
    """A threshold that f exceeds with about this probability, by bisection on the exact law."""
    low = float(net(np.zeros((1, 2)))[0, 0])
    high = low + 200.0
    for _ in range(12):
        middle = (low + high) / 2
        rarer = failing_patterns(net, inputs, direction=[1.0], threshold=middle).log_total < log_p
        low, high = (low, middle) if rarer else (middle, high)
    return low


def test_planar_laws_from_1e_2_to_1e_40(monkeypatch):
    inputs, off = Gaussian(np.zeros(2), 1.0), []
    for seed in range(20):
        net = random_network([2, 12, 12, 1], seed)
        for target in TARGETS:
            event = {"direction": [1.0], "threshold": _threshold(net, inputs, target)}
            exact = failing_patterns(net, inputs, **event).log_total
            monkeypatch.setattr(failure, "PLANAR", 0)
            found = failure_probability(net, inputs, **event, rtol=0.03, seed=seed)
            off.append(abs(np.expm1(found.log_p - exact)) / found.rel_error)
    assert np.mean(np.array(off) <= 3) >= 0.99


def _mnist_case(layers, image, sigma):
    x = np.float64(datasets.mnist("test").rows[image])
    return train.load_network(f"mnist_{layers}"), Gaussian(x, sigma**2)


@pytest.mark.parametrize("layers", NETWORKS)
def test_fully_connected_networks_against_samples_and_splitting(layers):
    for image in range(40):
        for sigma in (0.08, 0.12, 0.2, 0.3):
            net, inputs = _mnist_case(layers, image, sigma)
            found = failure_probability(net, inputs, seed=image)
            assert found.converged and found.rel_error <= 0.05
            if found.log_p > np.log(1e-5):
                ((_, margin),) = margins(net, inputs)
                rng, n = np.random.default_rng(image), 10**7
                count = sum((margin(rng.standard_normal((10**5, margin.dim))) >= 0).sum() for _ in range(n // 10**5))
                error = np.sqrt(found.p * (1 - found.p) / n)
                assert abs(count / n - found.p) < 4 * np.hypot(error, found.p * found.rel_error)
            else:
                referee = splitting(net, inputs, seed=image)
                gap = abs(np.expm1(found.log_p - referee.log_p))
                assert gap < 4 * np.hypot(referee.rel_error, found.rel_error)


def test_lenet_with_relus():
    net, images = train.load_module("lenet_relu_mnist"), datasets.mnist("test").rows
    reached = 0
    for image in range(5):
        inputs = Gaussian(np.float64(images[image]), 0.3**2)
        runs = [failure_probability(net, inputs, rtol=0.15, seed=s, input_shape=(1, 28, 28)) for s in range(2)]
        assert all(run.rel_error <= 0.15 for run in runs if run.converged)
        if all(run.converged for run in runs):
            reached += 1
            gap = runs[0].log_p - runs[1].log_p
            assert abs(gap) < 3 * np.hypot(*(np.log1p(run.rel_error) for run in runs))
    assert reached >= 3


def test_stated_errors_hold_against_ten_times_longer_runs():
    off = []
    for case in range(200):
        layers, image = NETWORKS[case % 2], case // 8
        net, inputs = _mnist_case(layers, image, (0.08, 0.12, 0.2, 0.3)[case // 2 % 4])
        short = failure_probability(net, inputs, rtol=0.1, seed=case)
        long = failure_probability(net, inputs, rtol=0.1 / np.sqrt(10), seed=10_000 + case, budget=10_000_000)
        gap = abs(np.expm1(short.log_p - long.log_p))
        off.append(gap / np.hypot(short.rel_error, long.rel_error))
    assert np.mean(np.array(off) <= 3) >= 0.98
