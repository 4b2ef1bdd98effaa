"""Regions of patterns; all regions in few dimensions: counted by formula, met by samples, each with an interior."""

from math import comb

import numpy as np
import pytest
from helpers import (
    all_patterns,
    given,
    problem,
    random_network,
    refusals,
    standard,
    units,
)
from scipy.optimize import linprog

from rpa.inputs import Gaussian
from rpa.patterns.packing import among
from rpa.patterns.regions import (
    affine_pieces,
    enumerate_regions,
    halfspaces,
    jacobians,
    planar_regions,
    region_at,
    region_of,
    singular_values,
)


@pytest.mark.parametrize("slope", [0.0, 0.3])
@pytest.mark.parametrize("sizes", [(3, 2), (2, 4, 1), (3, 5, 4, 2), (4, 3, 3, 3, 2)])
def test_the_lemma(sizes, slope):
    """Pattern and polytope say the same, and the map on it is the network (P1, lemma)."""
    net = random_network(sizes, 1, slope)
    x = np.random.default_rng(0).standard_normal((300, sizes[0]))
    patterns = net.patterns(x)
    for point, pattern in zip(x[:20], patterns):
        region = region_at(net, point)
        np.testing.assert_array_equal(region.pattern, pattern)
        np.testing.assert_array_equal(region.contains(x), (patterns == pattern).all(axis=1))
        inside = x[region.contains(x)]
        np.testing.assert_allclose(inside @ region.A.T + region.b, net(inside), rtol=1e-11, atol=1e-13)
        np.testing.assert_array_equal(region_of(net, region.label).pattern, pattern)


def test_label_reads_the_first_unit_as_the_most_significant_bit():
    net = random_network((2, 4, 1), 0)
    assert region_of(net, [True, False, True, True]).label == 11
    wide = random_network((2, 80, 1), 0)
    assert region_of(wide, np.ones(80, dtype=bool)).label == 2**80 - 1


@pytest.mark.parametrize("sizes", [[9, 4, 3, 6], [3, 8, 5, 2], [40, 7, 5, 4], [5, 3]])
def test_singular_values_are_those_of_the_whole_jacobian(sizes):
    net = random_network(sizes, 3, slope=0.1)
    patterns = np.random.default_rng(0).random((5000, net.n_hidden)) < 0.5
    expected = np.linalg.svd(jacobians(net, patterns), compute_uv=False)
    np.testing.assert_allclose(singular_values(net, patterns), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sizes", [(2, 3, 1), (2, 3, 3, 2), (1, 4, 3, 1)])
def test_planar_regions_are_all_feasible_patterns(sizes):
    """Against a linear program for every one of the 2^N patterns: inside 28 standard deviations all are there."""
    net, gaussian = random_network(sizes, 5), standard(sizes[0])
    found = {bytes(pattern) for pattern in planar_regions(net, gaussian).patterns}
    for bits in all_patterns(net.n_hidden):
        region = region_of(net, bits)
        near = linprog(np.zeros(sizes[0]), region.H, region.h - 1e-6, bounds=(-28, 28)).status == 0
        anywhere = linprog(np.zeros(sizes[0]), region.H, region.h + 1e-6, bounds=(-41, 41)).status == 0
        assert near <= (bytes(bits) in found) <= anywhere


def test_vertices_are_corners_of_the_region():
    net, gaussian = problem((2, 6, 5, 1), 3)
    regions = planar_regions(net, gaussian)
    for i in range(0, len(regions.patterns), 5):
        centre = regions.vertices(i).mean(axis=0)
        np.testing.assert_array_equal(net.patterns(centre[None])[0], regions.patterns[i])


def test_dead_units_and_exact_zeros_follow_the_convention():
    """A pre-activation of exactly zero is inactive, as in `patterns`."""
    net = units([[0, 0], [0, 0], [1, 0]], [0.0, 1e-15, 0.0])
    regions = planar_regions(net, standard(2))
    assert sorted(map(tuple, regions.patterns)) == [(False, True, False), (False, True, True)]
    np.testing.assert_allclose(np.exp(regions.log_p), 0.5, rtol=1e-14)
    assert not region_of(net, [1, 1, 0]).contains([[-1.0, 0.0]]) and region_of(net, [0, 1, 0]).contains([[0.0, 0.0]])


NET, LINE, SPACE = random_network((2, 4, 1), 0), Gaussian([0.0], 1.0), standard(3)
test_bad_values_are_refused_by_name = refusals(
    {
        given(region_of, net=NET): {"pattern": [[True], [0.5, 1, 1, 0], 16]},
        given(region_at, net=NET): {"x": [[1.0]]},
        planar_regions(NET, standard(2)).vertices: {"i": [99]},
        given(affine_pieces, net=NET): {"patterns": [[True] * 4]},
        given(planar_regions, net=NET): {"inputs": ["x", LINE, {"net": random_network((3, 4, 1), 0), "inputs": SPACE}]},
    }
)


def planes(r, m, scale):
    """m random planes in r dimensions; each r of them meet within the box if the offsets are small beside it."""
    rng = np.random.default_rng(r)
    return rng.standard_normal((m, r)), scale * rng.standard_normal(m)


FORMULAS = [  # of the number of regions
    *((*planes(r, m, 0.01), sum(comb(m, i) for i in range(r + 1))) for r, m in [(2, 7), (3, 6), (4, 7), (5, 6)]),
    # Without biases all planes meet in one point, a vertex on every plane: the regions are cones.
    *((*planes(r, 6, 0.0), 2 * sum(comb(5, i) for i in range(r))) for r in (3, 4)),
    # x_i = -1, 0, 0, 1 in three dimensions: boxes; the repeated plane adds none.
    (np.repeat(np.eye(3), 4, axis=0), np.tile([1.0, 0.0, 0.0, -1.0], 3), 4**3),
]


@pytest.mark.parametrize("rows, offsets, number", FORMULAS)
def test_planes_cut_space_into_as_many_regions_as_formulas_say(rows, offsets, number):
    patterns = enumerate_regions(units(rows, offsets), 10_000)
    assert len(patterns) == number == len(np.unique(patterns, axis=0))


@pytest.mark.parametrize("sizes, slope", [((3, 6, 5, 2), 0.0), ((4, 5, 5, 1), 0.1), ((5, 4, 4, 4, 1), 0.0)])
def test_regions_have_an_interior_and_hold_every_sample(sizes, slope):
    net, inputs = problem(sizes, 1, slope)
    net = net.whitened(inputs)
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
    assert enumerate_regions(random_network((4, 12, 12, 1), 0), 50) is None
    rows, offsets = np.ones((12, 3)) + 1e-9 * np.eye(12, 3), 0.1 * np.arange(12)  # all but parallel
    layers = units(rows, offsets)
    assert enumerate_regions(layers, 149) is None and len(enumerate_regions(layers, 150)) == 13  # 1 + 12 + 66 + 220
