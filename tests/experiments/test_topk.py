import numpy as np
import pytest
from scipy.stats import binomtest

from rpa.experiments import topk


def test_order_is_what_counts():
    first, second = [[0, 1, 2], [0, 1, 2], [0, 1, 2]], [[0, 2, 1], [1, 0, 2], [0, 1, 2]]
    expected = [[True, False, False], [False, False, False], [True, True, True]]
    assert topk.ordered_agreement(first, second).tolist() == expected


def test_wilson_is_scipys_for_no_more_successes_than_trials():
    expected = [binomtest(k, 10).proportion_ci(0.95, method="wilson") for k in (0, 7, 10)]
    np.testing.assert_allclose(np.transpose(topk.wilson([0, 7, 10], 10)), expected, atol=1e-12)
    for successes, n in ((0, 0), ([1, 11], 10), (-1, 10), (np.nan, 10)):
        with pytest.raises(ValueError, match="successes: expected 0 to n"):
            topk.wilson(successes, n)


def test_errors_over_images_are_never_zero():
    rng = np.random.default_rng(0)
    means, errors = topk.percent(rng.random((100, 2)) < [0.8, 1.0])
    assert means[1] == 100 and errors[1] == pytest.approx(1, rel=0.01)
    assert errors[0] == pytest.approx(np.sqrt(means[0] * (100 - means[0]) / 99))
    assert topk.percent(np.zeros((100, 1)))[1] == pytest.approx(1, rel=0.01)
    with pytest.raises(ValueError, match="values: expected at least 2 images, got 1"):
        topk.percent([[1.0]])


@pytest.mark.parametrize("orders", [1, 2, 5])
def test_the_exact_mean_agrees_more_often_than_two_referees_and_within_the_bound(orders):
    """Referees that give each order of an image with its own probability; or one order in 70 %, four in 7.5 % each."""
    mixed = np.random.default_rng(0).dirichlet(np.full(orders, 0.3), 1000)
    for q in (mixed, np.array([[0.7, 0.075, 0.075, 0.075, 0.075]])):
        agreed, perfect = (q**2).sum(1).mean(), q.max(1).mean()
        assert agreed - 1e-12 <= perfect <= topk.perfect_at_most(agreed) + 1e-12
