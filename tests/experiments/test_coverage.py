"""The coverage experiment: counts against a direct count, the sums it reports, and its geometry."""

import numpy as np
import pytest
from helpers import random_gaussian, random_network

from rpa.experiments import coverage, coverage_plots, support_checks
from rpa.experiments.fresh import Fresh
from rpa.experiments.montecarlo import pattern_counts
from rpa.inputs import Gaussian
from rpa.patterns.support import best_first, draw_packed

NET, INPUTS = random_network([6, 8, 5, 3], 1), random_gaussian(6, 1)


def test_fresh_samples_are_counted_one_by_one():
    patterns = best_first(NET, INPUTS, max_patterns=40, mass=1.0).patterns
    fresh = Fresh(draw_packed(NET, INPUTS, 5000, 3))
    drawn = np.unpackbits(draw_packed(NET, INPUTS, 5000, 3), axis=1, count=13).astype(bool)
    expected = [(drawn == pattern).all(axis=1).sum() for pattern in patterns]
    np.testing.assert_array_equal(fresh.counts(patterns), expected)
    assert fresh.coverage(patterns) == sum(expected) / 5000
    assert fresh.coverage(patterns[:0]) == 0


def test_fresh_samples_against_the_network_itself():
    patterns, n = best_first(NET, INPUTS, max_patterns=40, mass=1.0).patterns, 200_000
    counts, _ = pattern_counts(NET, INPUTS, patterns, n, seed=1)
    p = counts.sum() / n
    assert abs(Fresh(draw_packed(NET, INPUTS, n, 2)).coverage(patterns) - p) < 6 * np.sqrt(2 * p * (1 - p) / n)


def test_contest_and_its_tables():
    rows = np.random.default_rng(0).standard_normal((3, 6))
    setting = dict(max_patterns=30, n_fresh=20_000, n_counted=[500, 5000], n_timed=1, seed=0)
    results = coverage.experiment({"a": NET}, rows, [0, 2], [0.3, 1.0], **setting)
    table = coverage.cell_table(results, 20_000)
    assert list(table.network) == ["a", "a"] and list(table.sigma) == [0.3, 1.0] and list(table.images) == [2, 2]
    for cell, contests in zip(table.itertuples(), results.values()):
        ours = np.array([c["search"].coverage for c in contests])
        rival = np.array([c["counted_5000"].coverage for c in contests])
        assert cell.ratio == pytest.approx(ours.sum() / rival.sum())
        assert cell.worst_image == pytest.approx((ours / rival).min())
        apart = np.mean([c["search"].apart for c in contests])
        assert abs(ours - rival).mean() <= apart + 1e-12
        assert cell.ratio_error == pytest.approx(np.sqrt(apart / 2 / 20_000) / rival.mean())
    assert (coverage.time_table(results)[["search", "pruned", "counted_500", "counted_5000"]] > 0).all(axis=None)
    again = coverage.cell_table(coverage.experiment({"a": NET}, rows, [0, 2], [0.3, 1.0], **setting), 20_000)
    assert again.equals(table)


def test_computed_mass_agrees_with_coverage():
    for found in support_checks.mass_gap(NET, INPUTS, 60, 400_000, 1e-2, seed=0, scales=(0.3, 1.0)):
        assert found["gap"] < 6
        assert abs(found["mass"] - found["coverage"]) < found["error"] + 6 * np.sqrt(0.25 / 400_000)


def test_the_table_of_masses_has_the_means_over_images_and_the_largest_gap():
    rows, levels = np.random.default_rng(5).standard_normal((2, NET.input_dim)), [0.3, 0.6]
    setting = dict(max_patterns=30, n_fresh=20_000, rtol=1e-2, seed=3)
    table = support_checks.mass_table({"a": NET}, rows, [1, 0], levels, **setting)
    alone = [support_checks.mass_gap(NET, Gaussian(rows[k], 0.09), 30, 20_000, 1e-2, 3 + k, (1.0, 2.0)) for k in (0, 1)]
    assert table.sigma.tolist() == levels
    for cell, each in zip(table.itertuples(), zip(*alone)):
        assert cell.gap == max(row["gap"] for row in each) < 6
        assert cell.mass == pytest.approx(np.mean([row["mass"] for row in each]))


def test_activation_probabilities_agree_with_samples():
    assert 0 < support_checks.activation_gap(NET, INPUTS, 100_000, seed=0, scales=(0.3, 1.0)) < 6


def test_realizable_patterns_are_those_that_inputs_show():
    inputs = Gaussian(np.zeros(2), 1.0)
    net = random_network([2, 6, 4, 1], 2)
    seen = np.unique(net.patterns(inputs.sample(200_000, 0)), axis=0)
    assert support_checks.realizable(net, inputs, seen).all()
    every = np.array([[bool(i >> b & 1) for b in range(10)] for i in range(1024)])
    exist = support_checks.realizable(net, inputs, every)
    keys = {bytes(p) for p in seen}
    assert {bytes(p) for p in every[exist]} >= keys
    assert exist.sum() < 100  # six lines cut the plane into at most 22 cells, each into at most 11


def test_images_by_class_and_neighbours():
    np.testing.assert_array_equal(coverage.by_class(np.array([2, 0, 1, 0, 2, 2, 0]), 2), [1, 3, 2, 0, 4])
    patterns = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
    assert coverage.neighbours(patterns) == (0, 3, 1)
    assert coverage.neighbours(patterns[:2]) is None


def test_a_flip_changes_the_map_by_rank_one_along_the_facet():
    """f is continuous, so the change of its gradient is a multiple of the facet's normal."""
    patterns = best_first(NET, INPUTS, max_patterns=50, mass=1.0).patterns
    i, j, unit = coverage.neighbours(patterns)
    rows, label = coverage_plots.flip(NET, patterns, i, j, unit)
    assert 0 <= label < 3
    np.testing.assert_allclose(rows["after"] - rows["before"], rows["change"])
    np.testing.assert_allclose(rows["change"] - rows["facet"] * (rows["change"] @ rows["facet"]), 0, atol=1e-12)


def test_pruning_covers_more_with_a_lower_threshold_and_never_more_than_it_enumerates():
    rows = np.random.default_rng(0).standard_normal((2, 6))
    searched = [best_first(NET, Gaussian(row, 0.25), max_patterns=30, mass=1.0) for row in rows]
    table = support_checks.pruning_sweep(NET, rows, 0.5, [0.9, 0.3, 0.01], 30, 300, 1, 20_000, 0, searched)
    assert list(table.threshold) == [0.01, 0.3, 0.9]
    assert table.pruned.is_monotonic_decreasing and table.many.is_monotonic_decreasing
    assert (table.best <= table.many).all() and (table.search >= table.pruned - 0.01).all()
    assert table.search.nunique() == 1
