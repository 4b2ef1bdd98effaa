import numpy as np
import pandas as pd
import pytest
from scipy.special import log_ndtr

from rpa.experiments import failures
from rpa.network import ReLUNetwork

NET = ReLUNetwork([[[1.0, 0.0], [-1.0, 0.0]]], [[0.0, 0.0]])  # class 0 wins where x_1 > 0
IMAGE = np.array([2.0, 5.0])


def test_levels_give_the_nearest_rival_its_probability():
    targets = [1e-30, 1e-6, 0.3]
    levels = failures.levels_for(NET, IMAGE, 0, targets)
    np.testing.assert_allclose(log_ndtr(-2.0 / levels), np.log(targets), rtol=1e-2)
    found = failures.curve(NET, IMAGE, 0, levels, rtol=0.05, seed=0)
    for (result, seconds), target in zip(found, targets):
        assert abs(result.log_p - np.log(target)) < 0.01 * abs(np.log(target)) + 4 * result.rel_error and seconds > 0


def test_plain_samples_are_counted_and_compared():
    n, p = 50_000, float(np.exp(log_ndtr(-2.0)))
    count = failures.sampled(NET, IMAGE, 0, 1.0, n, seed=3)
    assert count == failures.sampled(NET, IMAGE, 0, 1.0, n, seed=3)
    assert failures.sampled_gap(np.log10(p), 1e-9, count, n) < 6
    assert failures.sampled_gap(np.log10(2 * p), 1e-9, count, n) > 6


def test_costs_are_those_of_equal_error():
    ours = pd.DataFrame(
        {"network": ["a"], "image": [0], "sigma": [0.1], "log10_p": [-4.0], "rel_error": [0.1], "evaluations": [100]}
    )
    table = failures.costs(ours, ours.assign(rel_error=0.2), rtol=0.05)
    assert table.ours[0] == pytest.approx(400) and table.splitting[0] == pytest.approx(1600)
    assert table["plain sampling"][0] == pytest.approx((1e4 - 1) / 0.05**2)


def test_only_images_that_are_right_are_taken():
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0]])
    assert failures.right_images(NET, x, np.array([0, 0, 0]), 2) == [0, 2]
