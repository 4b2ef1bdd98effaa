import numpy as np
import pytest
from scipy.stats import binomtest

from rpa.experiments import topk


def test_order_is_what_counts():
    first, second = [[0, 1, 2], [0, 1, 2], [0, 1, 2]], [[0, 2, 1], [1, 0, 2], [0, 1, 2]]
    expected = [[True, False, False], [False, False, False], [True, True, True]]
    assert topk.ordered_agreement(first, second).tolist() == expected


@pytest.mark.parametrize("successes, n", [(0, 10), (10, 10), (83, 100)])
def test_wilson_is_scipys(successes, n):
    low, high = topk.wilson(successes, n)
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-12) and high == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_exact_mean_agrees_more_often_than_two_referees_and_within_the_bound(spread):
    """Referees that take the wrong of two orders with probability e, the same for all images or not."""
    e = np.clip(0.25 + spread * (np.random.default_rng(0).random(10_000) - 0.5), 0, 0.5)
    agreed, perfect = (1 - 2 * e * (1 - e)).mean(), (1 - e).mean()
    bound = topk.perfect_at_most(agreed)
    assert agreed < perfect <= bound + 1e-12 and (bound - perfect < 1e-12) == (spread == 0)
