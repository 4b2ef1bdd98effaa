import numpy as np
import pytest
from scipy.stats import binomtest

from rpa.experiments import topk


def test_order_is_what_counts():
    first, second = topk.leading([[5, 4, 3, 1], [5, 4, 3, 1.0]], 3), topk.leading([[9, 7, 8, 1], [4, 5, 3, 1.0]], 3)
    assert first.tolist() == [[0, 1, 2], [0, 1, 2]] and second.tolist() == [[0, 2, 1], [1, 0, 2]]
    assert topk.ordered_agreement(first, second).tolist() == [[True, False, False], [False, False, False]]
    assert topk.ordered_agreement(first, first).all()


def test_agreement_never_rises_with_k():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((500, 10))
    share = topk.ordered_agreement(
        topk.leading(scores), topk.leading(scores + 0.3 * rng.standard_normal((500, 10)))
    ).mean(0)
    assert (np.diff(share) <= 0).all() and 0 < share[-1] < share[0] < 1


@pytest.mark.parametrize("successes, n", [(0, 10), (3, 10), (10, 10), (83, 100), (1, 1000)])
def test_wilson_is_scipys(successes, n):
    low, high = topk.wilson(successes, n)
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-12) and high == pytest.approx(expected.high, abs=1e-12)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="k: .*3 columns"):
        topk.leading(np.zeros((2, 3)), 4)
    with pytest.raises(ValueError, match="scores"):
        topk.leading([[np.nan, 1.0]], 1)
    with pytest.raises(ValueError, match="first, second"):
        topk.ordered_agreement(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="successes"):
        topk.wilson(11, 10)
    with pytest.raises(ValueError, match="level"):
        topk.wilson(1, 10, level=1.0)


def test_a_method_with_the_error_of_m_samples_is_worth_m():
    rng, truth, n = np.random.default_rng(0), np.sort(np.random.default_rng(1).standard_normal((4000, 5))), 512
    drawn = lambda m: truth + rng.standard_normal(truth.shape) / np.sqrt(m)
    first, second = drawn(n), drawn(n)
    for m in (2, 8, 32, 256):
        worth, low, high = topk.samples_worth(drawn(m), first, second, n, 0)
        assert low <= worth <= high and abs(worth / m - 1) < 0.1 and high - low < 0.2 * m
    shifted = drawn(8) + 100 * rng.standard_normal((len(truth), 1))
    assert abs(topk.samples_worth(shifted, first, second, n, 0)[0] / 8 - 1) < 0.1
    assert topk.samples_worth(truth, first, second, n, 0)[0] == n


def test_referees_may_have_more_samples_of_some_rows():
    rng, truth = np.random.default_rng(3), np.sort(np.random.default_rng(1).standard_normal((4000, 5)))
    n = np.where(np.arange(len(truth)) % 5, 64, 1024)
    first, second = (truth + rng.standard_normal(truth.shape) / np.sqrt(n[:, None]) for _ in range(2))
    found = truth + rng.standard_normal(truth.shape) / np.sqrt(8)
    assert abs(topk.samples_worth(found, first, second, n, 0)[0] / 8 - 1) < 0.1
    with pytest.raises(ValueError, match="n: .*4000"):
        topk.samples_worth(found, first, second, n[:-1], 0)


def test_rows_with_an_unknown_score_are_left_out():
    rng = np.random.default_rng(2)
    first, second, found = (rng.standard_normal((50, 5)) for _ in range(3))
    second[:10, 2] = np.nan
    assert topk.samples_worth(found, first, second, 64, 0) == topk.samples_worth(
        found[10:], first[10:], second[10:], 64, 0
    )
    with pytest.raises(ValueError, match="without NaN"):
        topk.samples_worth(found, first, second * np.nan, 64, 0)


def test_scores_are_looked_up_by_class():
    found = topk.scores_at([[7, 2], [1, 9]], [[2, 7, 5], [9, 3, 4]], [[0.2, 0.7, 0.5], [0.9, 0.3, 0.4]])
    assert np.allclose(found, [[0.7, 0.2], [np.nan, 0.9]], equal_nan=True)
    with pytest.raises(ValueError, match=r"classes, top, scores.*\(2, 2\)"):
        topk.scores_at([[7, 2], [1, 9]], [[2, 7]], [[0.2, 0.7]])


def test_the_noise_that_is_reached_is_interpolated_in_its_logarithm():
    hits = np.zeros((3, 100, 2))
    hits[0], hits[1, :80], hits[2, :40] = 1, 1, 1
    sigma, low, high = topk.reached_until([0.01, 0.1, 1.0], hits, [0.6, 0.5], 0)
    assert np.isclose(sigma, 10**-0.5) and 0.1 < low < sigma < high < 1
    assert topk.reached_until([0.01, 0.1, 1.0], hits * 0, [0.6, 0.5], 0) == (0, 0, 0)
    assert topk.reached_until([0.01, 0.1, 1.0], hits * 0 + 1, [0.6, 0.5], 0) == (1, 1, 1)
