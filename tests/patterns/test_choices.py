"""What the PMF and the search decide by themselves, and what the figures show."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import random_gaussian, random_mixture, random_network

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.patterns import search, support
from rpa.patterns.packing import shifts
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.regions import planar_regions

SEARCHES = {"best_first": "best_first", "entropy": "entropy_pruned", "monte_carlo": "monte_carlo"}


@pytest.mark.parametrize("name, method", SEARCHES.items())
def test_each_search_is_the_one_named(monkeypatch, name, method):
    used = []
    for each in ("best_first", "entropy_pruned", "monte_carlo"):
        found = getattr(support, each)
        monkeypatch.setattr(support, each, lambda *a, f=found, e=each, **k: (used.append(e), f(*a, **k))[1])
    pattern_pmf(random_network((4, 6, 5, 2), 0), random_gaussian(4, 0), search=name, max_patterns=20)
    assert set(used) == {method}


def test_reasons_to_stop():
    net, inputs = random_network((6, 10, 8, 2), 5), random_gaussian(6, 3)
    half = pattern_pmf(net, inputs, search="best_first", mass=0.4)
    assert half.stopped == "mass" and half.covered + half.covered_error >= 0.4 and len(half) < 200
    few = pattern_pmf(net, inputs, search="best_first", mass=1.0, max_patterns=10)
    assert few.stopped == "max_patterns" and len(few) == 10
    small = random_network((3, 4, 2), 0)
    assert pattern_pmf(small, random_gaussian(3, 0), search="best_first", mass=1.0).stopped == "exhausted"


def test_a_search_that_memory_limits_ends(monkeypatch):
    monkeypatch.setattr(search, "node_bytes", lambda net: 2**31 // 40)  # as in a network of 1,600 units a layer
    pmf = pattern_pmf(random_network((20, 16, 16, 2), 0), Gaussian(np.zeros(20), 1.0))
    assert pmf.stopped == "exhausted" and 0 < len(pmf) <= 40


def test_limits_of_enumeration():
    """Rank five is enumerated; the regions of all components together count."""
    assert pattern_pmf(random_network((5, 5, 1), 0), random_gaussian(5, 0), search="exhaustive").complete
    net, mixture = random_network((3, 5, 4, 1), 1), random_mixture(3, 1)
    every = len(pattern_pmf(net, mixture, search="exhaustive"))
    with pytest.raises(ValueError, match="max_patterns: expected at least the number of regions"):
        pattern_pmf(net, mixture, search="exhaustive", max_patterns=every - 1)


def test_errors_in_the_plane_are_rounding_and_far_regions_are_left_out():
    pmf = pattern_pmf(random_network((2, 8, 8, 1), 0), random_gaussian(2, 0))
    assert 0 < pmf.covered_error < 1e-11
    np.testing.assert_array_equal(pmf.to_frame().active, pmf.patterns.sum(axis=1))
    far = ReLUNetwork([[[1.0]], [[1.0]]], [[-45.0], [0.0]])
    assert len(planar_regions(far, Gaussian([0.0], 1.0)).patterns) == 1


def test_a_threshold_at_the_largest_output_counts_each_region_once():
    net = ReLUNetwork([[[1.0], [-1.0]], [[-1.0, -1.0]]], [[0.0, 0.0], [0.0]])  # f(x) = -|x|
    np.testing.assert_allclose(pattern_pmf(net, Gaussian([0.0], 1.0)).output().cdf([0.0, 1.0]), 1.0, atol=1e-14)


def test_ranking_by_masses_and_counts():
    """Candidates with the right masses keep them up to the noise of few inputs; the others come from the inputs."""
    net = random_network((3, 7, 6, 1), 1)
    exact = pattern_pmf(net, Gaussian(np.zeros(3), 1.0))
    kept = np.arange(0, len(exact), 2)
    patterns, log_q = support._ranked(net, exact.patterns[kept], exact.log_p[kept], 2**14, len(exact), 0)
    truth = {row.tobytes(): p for row, p in zip(exact.patterns, exact.p)}
    p, q = np.array([truth[row.tobytes()] for row in patterns]), np.exp(log_q)
    assert (np.abs(q - p) < 6 * np.sqrt(p / 2**14) + 1e-4)[p > 1e-3].all()
    assert {row.tobytes() for row in exact.patterns[exact.p > 2e-3]} <= {row.tobytes() for row in patterns}
    assert (np.diff(log_q) <= 0).all() and len(np.unique(patterns, axis=0)) == len(patterns)
    one = support._ranked(net, exact.patterns[:1], exact.log_p[:1], 2, 1, 0)[1]
    assert abs(np.exp(one[0]) - (0.5 + round(2 * np.exp(one[0]))) / (2 + 0.5 / exact.p[0])) < 0.5


def test_shapes_and_counts_of_what_is_seen():
    """Gamma masses of shape 4 are recognised; Good and Turing's counts where a hundred patterns show them."""
    rng = np.random.default_rng(0)
    expected = rng.uniform(20, 60, 20_000)
    counts = rng.poisson(expected * rng.gamma(4.0, 0.25, 20_000))
    assert support._gamma_shape(counts, expected) == pytest.approx(4.0, rel=0.05)
    assert support._gamma_shape(expected, expected) == 100 and support._gamma_shape(100 * expected, expected) == 0.01
    counts = np.repeat([1, 2, 3, 7], [1000, 300, 100, 99])
    found = dict(zip(counts, support._good_turing(counts)))
    assert found == pytest.approx({1: 2 * 300 / 1000, 2: 3 * 100 / 300, 3: 0.0, 7: 7})


@pytest.mark.parametrize("dim, widths", [(6, [1, 19, 312, 5001]), (18, [9, 156, 2000])])
def test_widths_of_the_passes_and_inputs_that_rank(monkeypatch, dim, widths):
    """Each pass is 16 times as wide as the last. Where little mass is found, the width is at most `max_patterns`."""
    used = []

    def beam(net, width, *others):
        used.append((width, others[-1]))
        return np.random.default_rng(0).random((width, 40)) < 0.5, np.full(width, -20.0)

    monkeypatch.setattr(search, "beam", beam)
    monkeypatch.setattr(support, "RANKING", (2**10, 2**14))
    found = support.best_first(random_network((dim, 40, 1), 0), Gaussian(np.zeros(dim), 1.0), mass=1.0)
    assert used == [(width, dim == 6 or width == 9) for width in widths] and len(found) == 2000
    assert found.samples == (2**14 if dim == 6 else 0) and not found.exhausted
    assert support._ranking_inputs(random_network((4, 50, 300, 1), 0)) == 2**14
    monkeypatch.setattr(support, "RANKING", (2**10, 2**20))
    assert support._ranking_inputs(random_network((4, 50, 300, 1), 0)) == 2**18 == 2 ** int(np.log2(4e9 / 15200))


REACHED = {  # nodes; sum of masses; rms error of log q, without and with refinement; nodes and mass within 5 nats
    (2, 10, 8, 1): (2017, 0.958557, 0.76522, 0.46597, 25, 0.966976),
    (2, 6, 5, 4, 1): (592, 0.9762, 1.03871, 0.97965, 20, 0.997908),
    (2, 12, 6, 3): (492, 1.058621, 0.2734, 0.04254, 5, 0.99566),
}


@pytest.mark.parametrize("sizes", REACHED)
def test_how_close_the_search_comes(sizes):
    """Beside the exact regions of the plane. A change that comes closer may replace these numbers."""
    net = random_network(sizes, 1, 0.1 if len(sizes) == 5 else 0.0)
    inputs = random_gaussian(2, 1, 4.0 if sizes[1] == 12 else 1.0)
    pmf, small = pattern_pmf(net, inputs), net.whitened(inputs)
    truth = dict(zip(map(bytes, pmf.patterns), pmf.log_p))
    numbers = []
    for refine in (False, True):
        patterns, log_q = search.beam(small, 10**4, refine=refine)
        exact = np.array([truth.get(bytes(row), -np.inf) for row in patterns])
        gap = (log_q - exact)[exact > np.log(1e-3)]
        numbers += [len(patterns), np.exp(log_q).sum(), np.sqrt(np.mean(gap**2))]
    near = search.beam(small, 100, 5.0)[0]
    numbers += [len(near), sum(np.exp(truth.get(bytes(row), -np.inf)) for row in near)]
    assert numbers[1] == pytest.approx(1, abs=1e-5)  # each decision shares out the mass of its node
    assert [numbers[i] for i in (3, 4, 2, 5, 6, 7)] == pytest.approx(REACHED[sizes], rel=0.005)
    assert len(search.beam(small, 20)[0]) == 20


def test_shifts_are_uniform_and_belong_to_pattern_and_seed():
    patterns = np.array(list(itertools.product([False, True], repeat=12)))
    first, second = (shifts(patterns, 3, seed) for seed in (0, 1))
    np.testing.assert_array_equal(first[::-1], shifts(patterns[::-1], 3, 0))
    both = np.hstack([first, second])
    assert ((both >= 0) & (both < 1)).all() and len(np.unique(first)) == first.size
    assert np.abs(both.mean(axis=0) - 0.5).max() < 6 / np.sqrt(12 * 4096)
    assert np.abs(np.corrcoef(both.T) - np.eye(6)).max() < 6 / 64
    assert np.abs(np.cov(both.T).diagonal() * 12 - 1).max() < 0.1


def test_what_the_figures_show():
    net, inputs = random_network((3, 5, 4, 2), 0), random_gaussian(3, 0)
    pmf = pattern_pmf(net, inputs)
    law, (left, right) = pmf.output(), plt.subplots(1, 2)[1]
    assert pmf.plot(left) is left and law.plot(right) is right
    assert not left.lines and len(right.lines) == 1 and right.get_ylim() == (-0.02, 1.02)
    assert left.get_xlim() == (-0.03 * 2**9, 1.03 * 2**9)
    y, band = right.lines[0].get_xdata(), right.collections[0].get_paths()[0].vertices[:, 1]
    cdf = law.cdf(y)
    assert band.max() == pytest.approx((cdf + 3 * cdf.error).max())
    assert band.min() == pytest.approx((cdf - 3 * cdf.error).min())
    wide = pattern_pmf(random_network((2, 24, 1), 0), random_gaussian(2, 0))
    ax, shown = wide.plot(floor=0.02), (wide.p >= 0.02).sum()
    assert ax.get_xlim()[1] == pytest.approx(1.03 * (shown + 1))
    (line,) = wide.plot(frequencies=wide.p / 2, floor=0.02).lines
    np.testing.assert_array_equal(line.get_xdata(), 1 + np.flatnonzero(wide.p >= 0.02))
    np.testing.assert_array_equal(line.get_ydata(), wide.p[wide.p >= 0.02] / 2)
    stems = left.collections[0].get_segments()
    places, heights = zip(*((stem[1][0], stem[1][1]) for stem in stems))
    np.testing.assert_array_equal(places, np.array(pmf.labels)[pmf.p >= 1e-3])
    np.testing.assert_array_equal(heights, pmf.p[pmf.p >= 1e-3])
    samples = net(inputs.sample(1000, 0))
    for values, output in ((samples, 1), (samples[:, 0], 0)):
        circles = law.plot(output=output, samples=values).lines[1]
        np.testing.assert_allclose(circles.get_ydata(), (np.arange(25) + 0.5) / 25)
        np.testing.assert_allclose(circles.get_xdata(), np.quantile(samples[:, output], circles.get_ydata()))
    middle, deviation = law.mean[0], np.sqrt(law.cov[0, 0])
    np.testing.assert_allclose(y[[0, -1]], [middle - 4 * deviation, middle + 4 * deviation])
    plt.close("all")
