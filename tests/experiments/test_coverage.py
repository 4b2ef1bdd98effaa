"""The coverage experiment and the checks of P1's algorithms: counts against direct counts, and the sums they report."""

import numpy as np
import pytest
from helpers import random_gaussian, random_network
from scipy.special import ndtr

from rpa.experiments import coverage, support_checks
from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.patterns.support import best_first, entropy_pruned

NET, INPUTS = random_network([6, 8, 5, 3], 1), random_gaussian(6, 1)
ROWS = np.random.default_rng(0).standard_normal((3, 6))


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """The work is too little for workers of its own."""
    monkeypatch.setenv("RPA_WORKERS", "1")


def test_comparison_and_its_tables():
    options = dict(max_patterns=30, n_fresh=20_000, n_counted=[500, 5000], seed=0)
    results = coverage.experiment({"a": NET}, ROWS, [0, 2], [0.3, 1.0], **options)
    table = coverage.cell_table(results, 20_000)
    assert list(table.network) == ["a", "a"] and list(table.sigma) == [0.3, 1.0] and list(table.images) == [2, 2]
    for share, images in zip(table.search, results.values()):
        shares = {name: np.array([entries[name].coverage for entries in images]) for name in images[0]}
        assert share == pytest.approx(shares["search"].mean())
        for name in ("search", "pruned"):
            differ = np.mean([entries[name].disagreement for entries in images])
            assert abs(shares[name] - shares["counted_5000"]).mean() <= differ + 1e-12
    entries = results["a", 0.3][0]
    assert all(entry.seconds > 0 for entry in entries.values())
    for name, method in (("search", best_first), ("pruned", entropy_pruned)):
        expected = method(NET, Gaussian(ROWS[0], 0.3**2), max_patterns=30, mass=1.0)
        np.testing.assert_array_equal(entries[name].support.patterns, expected.patterns)
    again = coverage.cell_table(coverage.experiment({"a": NET}, ROWS, [0, 2], [0.3, 1.0], **options), 20_000)
    assert again.equals(table)


def table_of(pairs, disagreement, n):
    """The row of images with these coverages (of search, twice that of pruning; of counting)."""
    entry = lambda share, alone: coverage.Entry(None, np.array([share]), 1.0, alone)
    images = [{"search": entry(s, d), "pruned": entry(s / 2, d), "counted_9": entry(c, 0.0)}
              for (s, c), d in zip(pairs, disagreement)]  # fmt: skip
    (row,) = coverage.cell_table({("a", 0.1): images}, n).itertuples()
    return row


def test_an_image_without_a_covered_sample_is_no_worst_image():
    row = table_of([(0.0, 0.0), (0.4, 0.5), (0.5, 0.5)], [0.1] * 3, 1000)
    assert [row.worst_image, row.search_ratio, row.pruned_ratio] == pytest.approx([0.8, 0.9, 0.45])
    with pytest.raises(ValueError, match="results: counting covers no fresh sample of a at sigma 0.1"):
        table_of([(0.1, 0.0)], [0.1], 1000)


@pytest.mark.parametrize("both, ours, theirs", [(0.1, 0.1, 0.01), (1e-3, 0.05, 2e-4), (0.02, 0.0, 0.3)])
def test_the_error_of_a_ratio_is_its_spread(both, ours, theirs):
    n, rng = 100_000, np.random.default_rng(0)
    rows = []
    for draw in rng.multinomial(n, [both, ours, theirs, 1 - both - ours - theirs], (400, 3)) / n:
        covered = zip(draw[:, :2].sum(1), draw[:, [0, 2]].sum(1))
        rows.append(table_of(covered, draw[:, 1:3].sum(1), n))
    spread, stated = np.std([row.search_ratio for row in rows]), np.median([row.search_error for row in rows])
    assert stated == pytest.approx(spread, rel=6 / np.sqrt(800))
    assert table_of([(0.3, 0.3)], [0.0], n).search_error == pytest.approx(1 / n / 0.3)  # no sample tells them apart


def test_computed_mass_of_pruned_patterns_is_their_coverage():
    options = dict(max_patterns=60, n_fresh=100_000, rtol=1e-2, seed=3)
    table = support_checks.over_cells(support_checks.mass, {"a": NET}, ROWS, [2, 0], [0.3, 1.0], **options)
    assert table.image.tolist() == [2, 0, 2, 0] and table.sigma.tolist() == [0.3, 0.3, 1.0, 1.0]
    assert (table.gap < 6).all() and (table.gap > 0).all()
    assert (abs(table.mass - table.coverage) < table.error + 6 * np.sqrt(0.25 / 100_000)).all()
    alone = support_checks.mass(NET, Gaussian(ROWS[2], 0.09), **options | dict(seed=5))
    assert table.iloc[0].drop(["network", "sigma", "image"]).to_dict() == alone


def test_activation_probabilities_are_exact_in_the_first_layer_only():
    row = support_checks.activation(NET, INPUTS, n=100_000, seed=0)
    assert 0 < row["first_gap"] < 6 and row["deep_error"] > 10 * row["deep_stderr"]
    # One unit a ~ N(0.2, 1), then one that is on where a > 0.5: inside the region a > 0 its probability is a ratio of
    # two tails, while the formula leaves the condition out and certainty at the mean says off.
    net = ReLUNetwork([[[1.0]], [[1.0]], [[1.0]]], [[0.0], [-0.5], [0.0]])
    row = support_checks.activation(net, Gaussian([0.2], 1.0), n=200_000, seed=2)
    exact, stderr = ndtr(-0.3) / ndtr(0.2), row["deep_stderr"]
    assert abs(row["hits"] - 200_000 * ndtr(0.2)) < 6 * np.sqrt(200_000 / 4)
    assert abs(row["deep_error"] - (exact - ndtr(-0.3))) < 6 * stderr and abs(row["plain_error"] - exact) < 6 * stderr


def test_realizable_patterns_are_those_that_inputs_show():
    inputs, net = Gaussian(np.zeros(2), 1.0), random_network([2, 6, 4, 1], 2)
    seen = np.unique(net.patterns(inputs.sample(200_000, 0)), axis=0)
    assert support_checks.realizable(net, inputs, seen).all()
    every = np.array([[bool(i >> b & 1) for b in range(10)] for i in range(1024)])
    exist = support_checks.realizable(net, inputs, every)
    assert {bytes(p) for p in every[exist]} >= {bytes(p) for p in seen}
    assert exist.sum() < 100  # six lines cut the plane into at most 22 cells, each into at most 11
    row = support_checks.realizable_share(net, inputs, max_patterns=500, tested=30, seed=1)
    listed = entropy_pruned(net, inputs, max_patterns=500, mass=1.0).patterns
    share = support_checks.realizable(net, inputs, listed).mean()
    assert row["tested"] == 30 and abs(row["exist"] - share) < 6 * np.sqrt(max(share * (1 - share), 1 / 30) / 30)


def test_pruning_covers_more_with_a_lower_threshold_and_never_more_than_it_enumerates():
    options = dict(max_patterns=30, many=300, n_fresh=20_000, seed=0)
    table = support_checks.pruning_sweep(NET, ROWS[:2], 0.5, [0.9, 0.3, 0.01], **options)
    assert list(table.threshold) == [0.01, 0.3, 0.9]
    assert table.pruned.is_monotonic_decreasing and table.many.is_monotonic_decreasing
    assert (table.best <= table.many).all() and (table.pruned <= table.many + 1e-12).all()
