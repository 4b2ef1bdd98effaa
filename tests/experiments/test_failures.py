import numpy as np
import pandas as pd
import pytest
from helpers import random_network
from scipy.special import log_ndtr

from rpa.experiments import failures
from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.subjects import datasets, train

NET = ReLUNetwork([[[1.0, 0.0], [-1.0, 0.0]]], [[0.0, 0.0]])  # class 0 wins where x_1 > 0
IMAGE = np.array([2.0, 5.0])


def test_a_curve_has_the_probabilities_that_its_levels_were_chosen_for():
    targets = [1e-30, 1e-6, 0.3]
    levels = failures.levels_for(NET, IMAGE, 0, targets)
    np.testing.assert_allclose(log_ndtr(-2.0 / levels), np.log(targets), rtol=1e-2)
    rows, results = failures.curve(NET, IMAGE, 0, levels, 50_000, rtol=0.05, seed=0, names={"image": 7})
    for row, result, sigma, target in zip(rows, results, levels, targets):
        assert abs(result.log_p - np.log(target)) < 0.01 * abs(np.log(target)) + 4 * result.rel_error
        assert row["image"] == 7 and row["beta"] == pytest.approx(2 / sigma, rel=1e-2)
    table = pd.DataFrame(rows)
    assert table.n_sampled.tolist() == [0, 0, 50_000] and table["count"][2] > 0
    seen = table.query("n_sampled > 0")
    assert abs(failures.z_scores(seen)[0]) < 6
    assert abs(failures.z_scores(seen.assign(log10_p=seen.log10_p + np.log10(1.2)))[0]) > 6


def test_distances_in_the_plane_against_a_search_over_all_directions():
    net, points = random_network((2, 12, 8, 3), 1), np.random.default_rng(0).uniform(-1, 1, (12, 2))
    angle, radius = np.linspace(0, 2 * np.pi, 361), np.linspace(0.02, 12, 600)
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for point in points:
        label = int(net(point[None]).argmax())
        fails = net((point + 0.1 * radius[:, None, None] * ray).reshape(-1, 2)).argmax(1).reshape(600, -1) != label
        least = radius[fails.any(1)][0] if fails.any() else np.inf
        assert least - 0.05 < failures.distance(net, point, label, 0.1) < 1.04 * least + 0.05


def test_an_exact_case_is_what_samples_say_and_z_scores_compare_logarithms():
    points = datasets.moons(40, noise=0.1, seed=0)[0][[3, 8]]
    case = failures.exact_case(train.load_network("moons_2-8-8-1"), points, 0.05, seed=1)
    assert case["net"].input_dim == 4 and case["net"](case["image"][None]).argmax() == 0
    n, p = 200_000, np.exp(case["log_p"])
    count = failures.sampled(case["net"], Gaussian(case["image"], case["sigma"] ** 2), 0, n, seed=2)
    assert abs(count - n * p) < 6 * np.sqrt(n * p * (1 - p))
    table = pd.DataFrame({"log10_p": [-30.0], "rel_error": [0.03]})
    table = table.assign(reference_log10_p=-30 + np.log10(1.1), reference_error=0.04)
    assert failures.z_scores(table)[0] == pytest.approx(-np.log(1.1) / 0.05)


def test_costs_are_what_ours_spent_and_what_splitting_needs_for_that_error():
    found = {"network": "a", "image": 0, "sigma": 0.1, "log10_p": -4.0, "rel_error": 0.01, "evaluations": 100}
    ours = pd.DataFrame([found])
    table = failures.costs(ours, ours.assign(rel_error=0.2), rtol=0.05)
    assert table.ours[0] == 100 and table.splitting[0] == pytest.approx(1600)
    assert table["plain sampling"][0] == pytest.approx((1e4 - 1) / 0.05**2)
