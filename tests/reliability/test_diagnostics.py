"""What `converged` and `rel_error` rest on: each diagnostic on a failure set that was made to need it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import Net, coordinate, make_event, random_network
from scipy import stats
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork
from rpa.reliability import failure
from rpa.reliability.design import SearchResult
from rpa.reliability.failure import WeightedDraws, failure_probability, widened
from rpa.reliability.result import complemented, estimated, mixed, unseen
from rpa.reliability.splitting import LOOSE, Run, _mean, repeated, splitting
from rpa.reliability.tails import TailMixture, coverage, log_weights

ABOVE = {"direction": [1.0], "threshold": 0.0}


def _event(limits, dim=3, seed=0, **options):
    """Failure where z_i >= limits[i] for some i."""
    limits = torch.tensor(limits, dtype=torch.float64)
    highest = lambda z: (z[:, : len(limits)] - limits).amax(dim=1, keepdim=True)
    return make_event(highest, dim, rng=np.random.default_rng(seed), **options)


def _log_union(*limits):
    return np.log(-np.expm1(log_ndtr(np.array(limits)).sum()))


def _half_spaces(starts, shares, dim=3):
    """The proposal that draws z_i > starts[i] with these shares."""
    return TailMixture(np.eye(len(starts), dim), np.arange(len(starts)), np.array(starts), np.log(shares))


def _gap(found, log_p):
    return abs(1 - np.exp(log_p - found.log_p)) / found.rel_error


def test_a_place_met_by_a_few_heavy_draws_widens_the_error():
    """Four of 4,000 draws carry 15 % of the weight, on average: one of them alone must not be believed."""
    share, gaps = 4 / 4000 * ndtr(-3.0) / ndtr(-3.5), []
    for seed in range(50):
        event = _event([3.0, 3.5], seed=seed, budget=8000)
        result = failure._sampled(event, [_half_spaces([3.0, 3.0], [1 - share, share])] * 2)
        gaps.append(_gap(result, _log_union(3.0, 3.5)))
    assert np.quantile(gaps, 0.9) <= 2


@pytest.mark.parametrize("start, hits", [(-np.inf, failure.MIN_FAILURES), (1.0, failure.MIN_EFFECTIVE), (0.0, 0)])
def test_an_error_of_few_failures_is_not_believed_and_uneven_weights_vary_more_than_they_show(start, hits):
    """However large rtol: plain sampling counts 50 failures, importance sampling 400."""
    event, p = _event([2.2], rtol=0.5), ndtr(-2.2) / ndtr(-start)
    proposals = [TailMixture.prior(3)] if start == -np.inf else [_half_spaces([start], [1.0])] * 2
    found, variance = failure._sampled(event, proposals), 1 / p - 1
    assert found.converged and hits < event.evaluations * p and _gap(found, log_ndtr(-2.2)) < 4
    if start == 0:
        assert variance > 2 * failure.HEAVY
        variance *= variance / failure.HEAVY
    else:
        assert event.evaluations * p < 3 * hits
    np.testing.assert_allclose(found.rel_error, np.sqrt(variance / event.evaluations), rtol=0.1)


def test_what_one_search_covers_alone_is_part_of_the_error():
    """Half of the failures lie where only the second proposal goes: others may lie where none does."""
    first, second = _half_spaces([4.9], [1.0]), _half_spaces([4.9, 4.9], [0.5, 0.5])
    draws = WeightedDraws(_event([5.0, 5.0]), [first, second])
    draws.draw(4000)
    z = np.random.default_rng(1).standard_normal((1000, 3)) * [0, 0, 1] + np.repeat([[5.5, 0, 0], [0, 5.5, 0]], 500, 0)
    for proposals, share in (([first, second], 0.5), ([second, second], 0)):
        assert (coverage(log_weights(proposals, z), draws.log_p) <= 1).mean() == share
    assert draws.covered_once == pytest.approx(0.5, abs=0.1) and draws.missed == pytest.approx(0.25**2, abs=0.03)
    for estimate, error in ((failure._sampled, 0.5), (repeated, 0.5 / (1 - 0.5))):
        found = estimate(_event([5.0, 5.0], seed=2, rtol=0.2, budget=100_000), [first, second])
        assert not found.converged and found.rel_error == pytest.approx(error, rel=0.3)
        assert abs(found.log_p - _log_union(5.0, 5.0)) < 0.3
        alike = estimate(_event([5.0, 5.0], seed=2, rtol=0.2, budget=200_000), [second, second])
        assert alike.converged and alike.rel_error < 0.2 and _gap(alike, _log_union(5.0, 5.0)) < 4


def spot(x):
    """x_0 - 6, but 1 in a spot that no gradient points at and that no start away from N(0, I) meets: p = 3e-4."""
    return torch.where((x[:, [1]] > 2.3) & ((x**2).sum(dim=1, keepdim=True) < 10), 1.0, x[:, [0]] - 6)


@pytest.mark.parametrize("seed", [0, 4, 11])
def test_failures_of_the_pilot_contradict_a_result_far_below_them(seed):
    found = failure_probability(Net(spot).eval(), Gaussian(np.zeros(10), 1.0), **ABOVE, seed=seed)
    assert found.p < 1e-8 and not found.converged


@pytest.mark.parametrize("share, believed", [(1.05, True), (0.95, False)])
def test_the_pilot_contradicts_below_one_in_ten_thousand(monkeypatch, share, believed):
    event = _event([2.8])
    failures = np.count_nonzero(np.random.default_rng(0).standard_normal((1000, 3))[:, 0] >= 2.8)
    tail = lambda p: stats.binom.pmf(np.arange(failures, 200), 1000, p).sum() - 1e-4
    result = estimated(np.log(share * brentq(tail, 1e-9, 1e-2)), 0.01, True, "importance sampling")
    monkeypatch.setattr(failure, "_rare", lambda *arguments: ([], result))
    assert failures > 0
    assert failure._component(event).converged == believed


@pytest.mark.parametrize("rounds, calls", [("12 22", 2), ("12" + 6 * " 11", 6), ("22 22", 1), ("13" + 5 * " 13", 5)])
def test_searches_are_repeated_while_failures_are_covered_once_or_each_covers_few(monkeypatch, rounds, calls):
    """Rounds of two searches: 1 finds one half of the failures, 3 the other, 2 finds both."""
    kinds = {"1": _half_spaces([4.9], [1.0]), "2": _half_spaces([4.9, 4.9], [0.5, 0.5])}
    kinds["3"] = TailMixture.ladders(np.eye(3)[1:2], [np.array([-np.inf, 4.9])])
    left = [[SearchResult(kinds[kind], ()) for kind in pair] for pair in rounds.split()]
    expected = [each for pair in left[:calls] for each in pair]
    monkeypatch.setattr(failure, "_searched", lambda *arguments: left.pop(0))
    found, result = failure._rare(_event([5.0, 5.0], rtol=0.2), [])
    assert found == expected and result.converged == (rounds.count("2") != 1)


def test_failures_outside_all_half_spaces_are_found_and_covered(monkeypatch):
    """Failure beyond 4.8; the proposals draw beyond 5, where a third of the probability is."""
    proposals = [TailMixture(np.eye(1, 3), np.zeros(2, int), np.array([-np.inf, 5.0]), np.log([1e-9, 1 - 1e-9]))] * 2
    event = _event([4.8], budget=200_000)
    uncovered, wider = widened(event, proposals, log_ndtr(-5.0))
    assert uncovered == pytest.approx(1 - ndtr(-5.0) / ndtr(-4.8), abs=0.15)
    assert 4.8 <= wider[0].starts[1] < 4.83 and 0.3 < np.exp(wider[0].log_share[1:3]).sum() < 0.9
    assert widened(event, [_half_spaces([4.7], [1.0])] * 2, log_ndtr(-4.8))[0] == 0
    results = [SearchResult(proposal, ()) for proposal in proposals]
    monkeypatch.setattr(failure, "_searched", lambda *arguments: results)
    _, result = failure._rare(event, [])
    assert result.converged and _gap(result, log_ndtr(-4.8)) < 4
    monkeypatch.setattr(failure, "WIDENINGS", 1)
    _, result = failure._rare(_event([4.8], budget=200_000), [])
    assert not result.converged and 0.4 < result.rel_error < 0.8


def test_a_failure_set_that_no_slope_leads_to():
    """Beside a half-space z_1 >= 5, a band of z_2 that the margin shows next to it only: 36 % of the failures."""

    def margin(z):
        band = (2 - 10 * (z[:, 1] + 5.3).abs()).clamp(min=-1)
        return torch.maximum(0.01 * (z[:, 0] - 5), band)[:, None]

    log_p = np.log(ndtr(-5.0) + ndtr(5.0) * (ndtr(-5.1) - ndtr(-5.5)))
    found = [failure._component(make_event(margin, 3, rng=np.random.default_rng(seed))) for seed in range(5)]
    assert max(_gap(each, log_p) for each in found) <= 4


CURVED = lambda z: z[:, :1] - 3 - 0.05 * (z[:, 1:] ** 2).sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "event, evaluations",
    [(_event([9.0], 6), 65_000), (make_event(CURVED, 20, rtol=0.01), 104_700), (_event([2.0]), 29_600)],
)
def test_what_an_answer_costs(event, evaluations):
    """Evaluations with the tuned constants; another choice of them shows here."""
    assert failure._component(event).converged
    assert abs(event.evaluations / evaluations - 1) < 0.03


def test_a_mixture_is_believed_as_far_as_its_parts_are():
    sure, unsure = estimated(np.log(0.01), 0.01, True, "a"), estimated(np.log(0.01), 0.01, False, "b")
    for share, converged in ((0.01, True), (0.2, False)):
        found = mixed([1 - share, share], [sure, unsure], 0.05)
        assert found.converged == converged and found.p == pytest.approx(0.01) and found.method == "a + b"
        assert found.rel_error == pytest.approx(0.01 * np.hypot(share, 1 - share))
    never = unseen(-50.0, np.log(1e-3), "c")
    found = mixed([0.5, 0.5], [sure, never], 0.1)
    assert found.rel_error == pytest.approx(np.hypot(0.01, 0.1)) and not found.converged
    assert found.lower == pytest.approx(np.log(0.5) + sure.lower)
    assert np.exp(found.upper) == pytest.approx(0.5 * np.exp(sure.upper) + 5e-4)
    loose = replace(estimated(-50.0, 1.5, False, "c"), lower=-np.inf, upper=np.log(1e-3))  # as `_component` leaves it
    found = mixed([0.5, 0.5], [sure, loose], 0.1)
    assert found.rel_error == pytest.approx(np.hypot(0.01, 0.1)) and not found.converged
    far = estimated(-10.0, 5.0, False, "c")  # 0.5 % of the other's probability, but up to 100 % of it
    assert not mixed([0.5, 0.5], [sure, far], 0.05).converged
    assert mixed([0.5, 0.5], [estimated(-900.0, 0.1, True, "a"), unseen(-999.0, -7.0, "c")], 0.1).rel_error == np.inf
    found = mixed([0.25, 0.75], [never, unseen(-40.0, np.log(1e-2), "c")], 0.1)
    assert np.exp(found.upper) == pytest.approx(0.25 * 1e-3 + 0.75 * 1e-2) and not found.converged
    assert (found.rel_error, found.lower) == (np.inf, -np.inf) and found.log_p == pytest.approx(np.log(0.75) - 40)


def test_a_complement_is_judged_by_its_upper_bound_where_it_is_not_believed():
    q, event = 0.02, _event([0.0])
    event(np.zeros((7, 3)))
    for other, error, converged in (
        (estimated(np.log(q), 0.5, True, "a"), 0.5 * q / (1 - q), True),
        (estimated(np.log(q), 0.5, False, "a"), 0.5 * q / (1 - q), False),
        (estimated(np.log(q), 0.01, False, "a"), 0.01 * q / (1 - q), True),
        (unseen(np.log(q), np.log(0.03), "a"), 0.03 / (1 - q), True),
        (unseen(np.log(q), np.log(0.3), "a"), 0.3 / (1 - q), False),
    ):
        found = complemented(other, event)
        assert found.p == pytest.approx(1 - q) and found.rel_error == pytest.approx(error)
        assert (found.converged, found.method, found.n) == (converged, "complement of a", 7)
        assert np.exp([found.lower, found.upper]) == pytest.approx(1 - np.exp([other.upper, other.lower]))


@pytest.mark.parametrize("spread, converged", [(0.3, True), (0.5, True), (0.75, False)])
def test_the_error_of_repeated_runs_is_students_and_loose_runs_are_not_believed(spread, converged):
    p = 1e-9 * (1 + spread * stats.zscore(np.arange(8.0) ** 2, ddof=1))
    found = _mean([Run(np.log(each), True, None) for each in p], np.full(8, 100), 0.5, True)
    assert found.p == pytest.approx(1e-9) and found.converged == converged
    error = stats.t.ppf(0.995, 7) / 3 * stats.sem(p) / 1e-9
    assert found.rel_error == pytest.approx(error if converged else spread)


def test_a_run_that_does_not_arrive_counts_as_zero_and_none_leaves_a_bound():
    runs = [Run(np.log(2e-4), True, None), Run(np.log(0.5), False, None)]
    found = _mean(runs * 4, np.array([100, 300] * 4), 9.0, True)
    assert found.p == pytest.approx(0.5e-4) and not found.converged
    deviation, size = np.array([3.0, -1.0] * 4), np.array([100, 300] * 4)
    assert found.rel_error == pytest.approx(np.sqrt((size * deviation**2).sum() / 7 / size[-1]))  # of a single run
    one_lost = _mean(runs[:1] * 7 + runs[1:], np.full(8, 100), 9.0, True)
    assert one_lost.rel_error < LOOSE and not one_lost.converged  # although its runs are not loose
    for plain, upper in ((True, -np.log(0.01) / 1200), (False, 1.0)):
        found = _mean(runs[1:] * 4, size[1::2], 9.0, plain)
        assert np.exp(found.upper) == pytest.approx(upper) and found.log_p == min(found.upper, np.log(0.5))
        assert found.rel_error == np.inf and not found.converged


@pytest.mark.parametrize("budget", [20_000, 25_000, 30_000, 60_000])
@pytest.mark.parametrize("threshold", [1.88, 2.326, 2.5, 3.1])
def test_a_small_budget_is_enough_for_an_easy_event_and_is_kept(threshold, budget):
    event = {"direction": [1.0], "threshold": threshold, "budget": budget, "seed": int(budget / 1000)}
    found = failure_probability(coordinate(4), Gaussian(np.zeros(4), 1.0), **event)
    assert found.converged and found.rel_error <= 0.05 and found.n < 1.1 * budget
    assert _gap(found, log_ndtr(-threshold)) < 4


def test_plain_sampling_that_cannot_converge_gives_way_to_searches():
    """A pilot of many failures by chance: 4,000 draws say that the budget is not enough for plain sampling."""
    event = _event([2.7], budget=40_000)
    assert failure._sampled(event, [TailMixture.prior(3)]) is None
    event.evaluations, rng = 30_000, np.random.default_rng(0)
    found = failure._sampled(replace(event, rng=rng), [TailMixture.prior(3)])
    assert not found.converged and _gap(found, log_ndtr(-2.7)) < 4


@pytest.mark.parametrize("estimate", [failure_probability, splitting])
@pytest.mark.parametrize("width", [3, 2], ids=["network", "plane"])
def test_certain_and_impossible_failures_are_exact(estimate, width):
    net = ReLUNetwork([np.eye(width), np.ones((1, width))], [np.zeros(width), [0.0]])  # at least 0
    dead = ReLUNetwork([np.zeros((3, width)), np.ones((2, 3))], [-np.ones(3), np.zeros(2)])  # equal outputs
    inputs = GaussianMixture([0.5, 0.5], [Gaussian(np.full(width, m), 1.0) for m in (-1.0, 2.0)])
    still = Gaussian(np.ones(width), 0.0)  # where the network is `width`
    rows = [(inputs, 1, -1.0, 0.0), (inputs, 1, 0.0, 0.0), (inputs, -1, 1.0, -np.inf)]
    for law, sign, threshold, log_p in [*rows, (still, 1, 4.0, -np.inf), (still, 1, 2.0, 0.0)]:
        found = estimate(net, law, direction=[sign], threshold=threshold)
        assert found.log_p == pytest.approx(log_p, abs=1e-15) and found.rel_error < 1e-12 and found.converged
        assert found.method == "exact" and found.log_p <= 0
    tied = ReLUNetwork([np.eye(width), np.eye(2, 1) * np.ones(width)], [np.zeros(width), np.zeros(2)])  # second is 0
    for net, label, log_p in ((dead, 0, -np.inf), (dead, 1, 0.0), (tied, 0, -np.inf), (tied, 1, 0.0)):
        found = estimate(net, inputs.components[0], label=label)
        assert (found.log_p, found.upper, found.converged, found.method) == (log_p, log_p, True, "exact")
        assert found.rel_error == 0


@pytest.mark.parametrize("label", [torch.tensor(1), np.array(1), np.int32(1)])
def test_labels_of_numpy_and_torch_are_integers(label):
    net, inputs = random_network([2, 4, 3], 0), Gaussian(np.zeros(2), 1.0)
    assert failure_probability(net, inputs, label=label).log_p == failure_probability(net, inputs, label=1).log_p
