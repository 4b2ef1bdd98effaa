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
    noisy = scores + 0.3 * rng.standard_normal((500, 10))
    share = topk.ordered_agreement(topk.leading(scores), topk.leading(noisy)).mean(0)
    assert (np.diff(share) <= 0).all() and 0 < share[-1] < share[0] < 1


@pytest.mark.parametrize("successes, n", [(0, 10), (3, 10), (10, 10), (83, 100), (1, 1000)])
def test_wilson_is_scipys(successes, n):
    low, high = topk.wilson(successes, n)
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-12) and high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_takes_means_over_repetitions():
    low, high = topk.wilson([98.5, 99.0], 100)
    assert low[0] < 0.985 < high[0] and low[0] < low[1]


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_exact_mean_agrees_more_often_than_two_referees_and_within_the_bound(spread):
    """Referees that take the wrong of two orders with probability e, the same for all images or not."""
    e = np.clip(0.25 + spread * (np.random.default_rng(0).random(10_000) - 0.5), 0, 0.5)
    agreed, perfect = (1 - 2 * e * (1 - e)).mean(), (1 - e).mean()
    bound = topk.perfect_at_most(agreed)
    assert agreed < perfect <= bound + 1e-12 and (bound - perfect < 1e-12) == (spread == 0)
