"""All regions of a network in few dimensions: counted by formula, met by samples, each with an interior."""

from math import comb

import numpy as np
import pytest
from helpers import random_gaussian, random_mixture, random_network
from scipy.optimize import linprog

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.patterns.packing import among
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.regions import affine_pieces, enumerate_regions, halfspaces


@pytest.mark.parametrize("r, m", [(2, 7), (3, 6), (4, 7), (5, 6)])
def test_planes_near_the_origin_cut_space_into_as_many_regions_as_in_general_position(r, m):
    rng = np.random.default_rng(r)
    rows = rng.standard_normal((m, r))
    # Each r of the planes meet within the box: offsets are small beside it.
    net = ReLUNetwork([rows, np.ones((1, m))], [0.01 * rng.standard_normal(m), [0.0]])
    patterns = enumerate_regions(net, 10_000)
    assert len(patterns) == sum(comb(m, i) for i in range(r + 1)) == len(np.unique(patterns, axis=0))


@pytest.mark.parametrize("r, m", [(3, 6), (4, 6)])
def test_planes_through_the_origin_are_all_degenerate(r, m):
    """Without biases all planes meet in one point: 2 sum_{i < r} C(m - 1, i) cones, a vertex on every plane."""
    net = ReLUNetwork([np.random.default_rng(r).standard_normal((m, r)), np.ones((1, m))], [np.zeros(m), [0.0]])
    assert len(enumerate_regions(net, 10_000)) == 2 * sum(comb(m - 1, i) for i in range(r))


def test_a_cube_of_parallel_and_repeated_planes():
    """x_i = -1, 0, 0, 1 in three dimensions: 4^3 boxes; the repeated plane adds none."""
    rows = np.repeat(np.eye(3), 4, axis=0)
    net = ReLUNetwork([rows, np.ones((1, 12))], [np.tile([1.0, 0.0, 0.0, -1.0], 3), [0.0]])
    assert len(enumerate_regions(net, 1000)) == 64


@pytest.mark.parametrize("sizes, slope", [((3, 6, 5, 2), 0.0), ((4, 5, 5, 1), 0.1), ((5, 4, 4, 4, 1), 0.0)])
def test_regions_have_an_interior_and_hold_every_sample(sizes, slope):
    net = random_network(sizes, 1, slope).whitened(random_gaussian(sizes[0], 1))
    patterns = enumerate_regions(net, 10_000)
    z = np.random.default_rng(0).standard_normal((200_000, net.input_dim))
    assert among(net.patterns(z), patterns).all()
    H, h = halfspaces(patterns, *affine_pieces(net, patterns)[:2])
    for rows, limits in list(zip(H, h))[:: max(1, len(H) // 60)]:
        norm = np.linalg.norm(rows, axis=1)
        ball = np.column_stack([rows, norm])
        bounds = [(-9, 9)] * net.input_dim + [(0, None)]
        solution = linprog(np.append(np.zeros(net.input_dim), -1.0), ball, limits, bounds=bounds)
        assert solution.status == 0 and solution.x[-1] > 1e-9


def test_more_regions_than_the_limit_are_none():
    net = random_network((4, 12, 12, 1), 0)
    assert enumerate_regions(net, 50) is None
    rows, offsets = np.ones((12, 3)) + 1e-9 * np.eye(12, 3), 0.1 * np.arange(12)  # all but parallel
    layers = ReLUNetwork([rows, np.ones((1, 12))], [offsets, [0.0]])
    assert enumerate_regions(layers, 149) is None and len(enumerate_regions(layers, 150)) == 13  # 1 + 12 + 66 + 220
    with pytest.raises(ValueError, match="max_patterns: expected at least the number of regions, which is above 50"):
        pattern_pmf(net, random_gaussian(4, 0), search="exhaustive", max_patterns=50)


@pytest.mark.parametrize("inputs", [Gaussian([0.3, -0.2, 0.5], 0.5), random_mixture(3, 2)])
def test_a_network_without_biases_is_complete(inputs):
    """Cones that meet in the apex: nothing is left, every probability agrees with counting."""
    rng = np.random.default_rng(4)
    weights = [rng.standard_normal(shape) for shape in ((5, 3), (4, 5), (2, 4))]
    net = ReLUNetwork(weights, [np.zeros(5), np.zeros(4), np.zeros(2)])
    pmf = pattern_pmf(net, inputs)
    assert pmf.stopped == "complete" and pmf.complete and abs(pmf.covered - 1) < 1e-14 and pmf.uncovered < 1e-14
    n = 400_000
    drawn, counts = np.unique(net.patterns(inputs.sample(n, 1)), axis=0, return_counts=True)
    assert among(drawn, pmf.patterns).all()
    sampled = dict(zip(map(bytes, drawn), counts / n))
    share = np.array([sampled.get(bytes(pattern), 0.0) for pattern in pmf.patterns])
    assert (np.abs(share - pmf.p) < 6 * np.sqrt((pmf.p + 1 / n) / n) + 4 * pmf.rel_error * pmf.p).all()
