"""Margins, proposals, searches and runs one by one, on half-spaces and spheres whose numbers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_event, random_gaussian, random_network
from scipy import stats
from scipy.special import log_ndtr, logsumexp, ndtr

from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork
from rpa.reliability import design, failure, splitting, tails
from rpa.reliability.event import BELOW, _criterion, events, impossible
from rpa.reliability.result import DesignPoint, estimated, nearest_of_each
from rpa.reliability.tails import EVEN_DRAWS, FLOOR, TailMixture


def _sphere(z):
    """Failure inside the sphere of radius 2 about (5, 0, ...)."""
    centre = torch.zeros(z.shape[1], dtype=z.dtype)
    centre[0] = 5.0
    return 2 - (z - centre).norm(dim=1, keepdim=True)


@pytest.mark.parametrize("label, outputs", [(1, 3), (0, 2), (0, 1), (1, 1)])
def test_the_first_of_equal_outputs_wins(label, outputs):
    f = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * outputs).reshape(-1, outputs)
    criterion = _criterion(np.zeros(outputs), label)
    event, z = replace(make_event(lambda z: f, 1), criterion=criterion), np.zeros((len(f), 1))
    fails = label != (f.numpy().argmax(axis=1) if outputs > 1 else f[:, 0].numpy() > 0)
    np.testing.assert_array_equal(event(z) >= 0, fails)
    np.testing.assert_array_equal(event.complement()(z) >= 0, ~fails)
    np.testing.assert_array_equal(criterion.rivals, np.delete(np.arange(max(outputs, 2)), label))
    if outputs == 1:
        (default,) = events(ReLUNetwork([[[1.0]]], [[0.0]]), Gaussian([label - 0.5], 1.0))
        np.testing.assert_array_equal(default.criterion.rows, criterion.rows)


def test_a_margin_is_the_largest_of_its_rivals_and_counts_its_evaluations():
    event = make_event(lambda z: z[:, :2] - 1, 3, 2)
    z = np.array([[0.5, 3.0, 9.0], [-1.0, -2.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(event(z), [2.0, -2.0, 0.0])
    values, slopes = event.gradient(z, np.array([1, 0, 1]))
    np.testing.assert_array_equal(values, [2.0, -2.0, -1.0])
    np.testing.assert_array_equal(slopes, np.eye(3)[[1, 0, 1]])
    assert event.evaluations == 3 + 3 * 3 and list(event.rivals) == [0, 1]
    other = event.complement()
    np.testing.assert_array_equal(other(z), [-2.0, 2.0, BELOW])
    values, slopes = other.gradient(z, np.zeros(3, dtype=int))
    np.testing.assert_array_equal(values, [-2.0, 2.0, 0.0])
    np.testing.assert_array_equal(slopes, -np.eye(3)[[1, 0, 0]])
    assert other.evaluations == 12 and list(other.rivals) == [0] and len(event(np.zeros((0, 3)))) == 0
    with pytest.raises(ValueError, match="^net: returned NaN"):
        make_event(lambda z: z / 0, 1)(np.zeros((1, 1)))


@pytest.mark.parametrize("cov", [random_gaussian(4, 1).cov, np.array([1.0, 4.0, 0.0, 9.0]), 2.0])
def test_margins_of_a_network_and_of_its_module_have_one_law(cov):
    net, inputs = random_network([4, 3, 2], 0), Gaussian([1.0, 2.0, 3.0, 4.0], cov)
    for f in (net, torch.nn.Sequential(net.to_torch(), torch.nn.Tanh())):
        (event,) = events(f, inputs, label=0)
        z = np.random.default_rng(0).standard_normal((40_000, event.dim))
        x = event.to_input(z)
        if f is net:
            np.testing.assert_allclose(event(z), net(x) @ [-1, 1], atol=1e-9)
        else:
            np.testing.assert_allclose(event(z), np.tanh(net(x)) @ [-1, 1], atol=1e-6)
            np.testing.assert_allclose(np.cov(x.T), Gaussian(inputs.mean, cov).cov, atol=0.3)
        np.testing.assert_allclose(x.mean(0), inputs.mean, atol=0.15)


@pytest.mark.parametrize("seed", range(6))
def test_what_bounds_exclude_never_happens(seed):
    """Thresholds just beyond and just within what the layers' signs allow, where they allow a bound."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((4, 3)), np.abs(rng.standard_normal((3, 4))), -np.abs(rng.standard_normal((1, 3)))]
    biases = [rng.standard_normal(4), np.array([0.5, -1.0, 0.25]), np.array([2.0])]
    highest = weights[2] @ [0.5, 0, 0.25] + 2.0  # all units of the first layer off
    cases = (0, 1, 1e-9, True), (0, 1, -1e-9, False), (0.1, 1, 1.0, False), (0, -1, 9, False)
    for slope, sign, share, expected in cases:
        net = ReLUNetwork([*weights[:2], sign * weights[2]], [*biases[:2], sign * biases[2]], slope)
        threshold = highest[0] + share
        (event,) = events(net, Gaussian(np.zeros(3), 1.0), direction=[1.0], threshold=threshold)
        assert impossible(event) is expected and not impossible(event.complement())
        (event,) = events(net, Gaussian(np.zeros(3), 1.0), direction=[-1.0], threshold=-threshold)
        assert impossible(event.complement()) is (expected and share > 0) and not impossible(event)


def test_proposals_are_what_they_say():
    starts, owner = np.array([-np.inf, 1.0, 2.0, -1.0, 0.5]), np.array([0, 0, 0, 1, 2])
    share = np.array([1, 2, 3, 3, 1.0]) / 10
    proposal, n = TailMixture(np.array([[0.6, 0.8, 0], [0, 0, 1], [1, 0, 0]]), owner, starts, np.log(share)), 40_000
    z = np.random.default_rng(0).standard_normal((200, 3))
    inside = (z @ proposal.directions.T)[:, owner] > starts
    np.testing.assert_allclose(np.exp(-proposal.log_weight(z)), inside @ (share / ndtr(-starts)), rtol=1e-12)
    joined = TailMixture.joined([proposal, TailMixture.prior(3)])
    mixture = logsumexp([-proposal.log_weight(z), np.zeros(200)], axis=0) - np.log(2)
    np.testing.assert_allclose(-joined.log_weight(z), mixture, rtol=1e-12, atol=1e-12)
    rng = np.random.default_rng(1)
    component = rng.choice(5, n, p=share)
    z = proposal.place(component, rng.standard_normal((n, 3)))
    other, back = proposal.placed(z, rng)
    np.testing.assert_allclose(proposal.place(other, back), z, atol=1e-9)
    # Components and coordinates have one joint law, whether drawn or traced back.
    for cell in (z[:, 2] > 1.5, z[:, 2] < -1, z[:, 0] > 1, z @ proposal.directions[0] > 2, np.ones(n, dtype=bool)):
        counts = np.array([np.bincount(which[cell], minlength=5) for which in (component, other)])
        assert (np.abs(counts[0] - counts[1]) <= 6 * np.sqrt(counts.sum(axis=0)) + 1).all()
    assert stats.kstest(back[:, 2], "norm").pvalue > 1e-6 and stats.kstest(back @ [0.6, 0.8, 0], "norm").pvalue > 1e-6
    z = proposal.draw(n, rng)
    for normal, limit in zip(proposal.directions, (1, 0.5, 2)):
        weight = np.exp(proposal.log_weight(z)) * (z @ normal > limit)
        assert abs(weight.mean() - ndtr(-limit)) < 6 * weight.std() / np.sqrt(n)


def test_shares_move_to_where_weighted_failures_lie():
    proposal = TailMixture.ladders(np.eye(2), [np.array([0.5, -np.inf]), np.array([1.0])])
    np.testing.assert_array_equal(proposal.starts, [-np.inf, 0.5, 1.0])
    np.testing.assert_allclose(np.exp(proposal.log_share), 1 / 3)
    z, log_weight = np.array([[0.6, 0.0], [0.0, 2.0], [-1.0, -1.0]]), np.log([0.2, 0.3, 0.5])
    density = np.array([[1, 1 / ndtr(-0.5), 0], [1, 0, 1 / ndtr(-1)], [1, 0, 0]])
    share = np.array([0.2, 0.3, 0.5]) @ (density / density.sum(axis=1, keepdims=True))
    for times in (1, 1000):  # few draws raise the floor
        effective = times / (0.04 + 0.09 + 0.25)
        floor = max(FLOOR, EVEN_DRAWS / (EVEN_DRAWS + effective))
        fitted = proposal.fitted(np.repeat(z, times, axis=0), np.repeat(log_weight, times) - 7.0)
        np.testing.assert_allclose(np.exp(fitted.log_share), (1 - floor) * share + floor / 3, rtol=1e-9)


def test_design_points_of_spheres_and_half_spaces():
    event, rng = make_event(_sphere, 4), np.random.default_rng(0)
    starts = np.concatenate([rng.standard_normal((20, 4)), 6 * np.eye(4)[:1]])
    points, which = design.nearest(event, starts, np.zeros(21, dtype=int))
    assert len(points) > 15 and (which == 0).all()
    np.testing.assert_allclose(points, np.tile([3.0, 0, 0, 0], (len(points), 1)), atol=0.1)
    assert (event(points) >= 0).all() and (event(0.999 * points) < 0).all()
    two = make_event(lambda z: z[:, :2] * torch.tensor([1.0, -2.0]) - torch.tensor([3.0, 10.0]), 3, 2)
    points, which = design.nearest(two, rng.standard_normal((6, 3)), np.arange(6) % 2)
    # Starts that meet count once.
    np.testing.assert_allclose(points[np.argsort(which)], [[3.0, 0, 0], [0, -5.0, 0]], atol=0.02)
    away = make_event(lambda z: z[:, :1] - 2000, 3)
    assert len(design.nearest(away, rng.standard_normal((4, 3)), np.zeros(4, dtype=int))[0]) == 0
    slope, z = np.array([[3.0, 4.0], [0.0, 0.0], [1e-6, 0.0]]), np.array([[1.0, 1.0], [2.0, 3.0], [0.0, 0.0]])
    aimed = design.aim(z, np.array([7.0 - 12, -1.0, -1.0]), slope)  # 3 x + 4 y = 12
    np.testing.assert_allclose(aimed, [[36 / 25, 48 / 25], [2.0, 3.0], [design.FARTHEST, 0.0]], rtol=1e-9)


def test_typical_failures_are_farther_away_than_the_nearest():
    """g = z_1 - 3 - c (sum of the other squares): on average over N(0, I) across, 0 at 3 + c (r - 1)."""
    dim, curvature = 101, 0.01
    event = make_event(lambda z: z[:, :1] - 3 - curvature * (z[:, 1:] ** 2).sum(1, keepdim=True), dim)
    start, rng = np.array([3.0 * np.eye(dim)[0]]), np.random.default_rng(0)
    (a,), (distance,), (spread,) = design.typical(event, start, np.zeros(1, dtype=int), rng)
    expected = curvature * np.sqrt(2 * (dim - 1))
    assert abs(a[0]) > 0.95 and abs(np.linalg.norm(a) - 1) < 1e-12
    assert abs(distance - 4) < 6 * expected / np.sqrt(design.NOISES)
    assert 0.5 * expected < spread < 1.6 * expected


def test_directions_that_are_alike_count_once():
    a = np.array([[1.0, 0, 0], [1.0, 0.01, 0], [1.0, 0.01, 0], [0, 1.0, 0]])
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    proposal = design.tails(a, np.array([10.0, 10.1, 11.0, 0.5]), np.array([0.0, 0.0, 3.0, 0.0]))
    np.testing.assert_array_equal(proposal.directions, a[[0, 2, 3]])
    for j, (distance, depth) in enumerate([(10.0, 0.1), (11.0, 2.0), (0.5, 1.0)]):
        expected = [-np.inf, *(distance + depth * design.START_OFFSETS)]
        np.testing.assert_allclose(proposal.starts[proposal.owner == j], expected)
    points = np.array([[4.0, 0, 0], [3.0, 0, 0], [0, 5.0, 0], [3.5, 0.1, 0], [0, 0, 9.0]])
    assert list(design.distinct(points, np.array([0, 0, 0, 1, 0]), 10**6, np.random.default_rng(0))) == [1, 3, 2]
    found = [DesignPoint(None, d, r) for d, r in ((3.0, 1), (2.0, 0), (1.0, 1), (5.0, 0))]
    nearest = nearest_of_each(found)
    assert [(point.distance, point.rival) for point in nearest] == [(1.0, 1), (2.0, 0)]


def test_a_search_finds_every_rival_and_a_sampler_knows_its_weights():
    fails = lambda z: torch.stack([z[:, 0] - 4, -z[:, 1] - 4.5, z[:, 2] - 5], dim=1)
    event = make_event(fails, 6, 3, budget=96_000, rng=np.random.default_rng(1))
    found = design.find_design_points(event, np.random.default_rng(0))
    assert [point.rival for point in found.points] == [0, 1, 2]
    np.testing.assert_allclose([point.distance for point in found.points], [4.0, 4.5, 5.0], rtol=0.02)
    exact = np.log(-np.expm1(log_ndtr([4.0, 4.5, 5.0]).sum()))
    draws = failure.WeightedDraws(event, [found.proposal] * 2)
    assert (draws.draw(9), len(draws.log_w))[1] == 10
    draws.draw(9991)
    w = np.exp(draws.log_w - exact)
    assert len(w) == 10_002 and 0.2 < (w > 0).mean() < 1 and draws.log_p == pytest.approx(np.log(w.mean()) + exact)
    assert draws.variance == pytest.approx(w.var() / w.mean() ** 2) and draws.variance < 8
    assert draws.greatest == pytest.approx(w.max() / w.sum()) and draws.covered_once == 0
    assert abs(w.mean() - 1) < 6 * w.std() / 100
    never = failure.WeightedDraws(make_event(lambda z: z[:, :1] - 60, 2), [TailMixture.prior(2)])
    never.draw(10)
    assert (never.log_p, never.variance, never.greatest, never.covered_once) == (-np.inf, np.inf, 1.0, 0.0)
    never = make_event(lambda z: z[:, :1] * 0 - 1, 2, budget=3200)
    assert design.find_design_points(never, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    "own, log_p, covering",
    [
        ([[0.0, 6.0, 7.0]], 0.0, [2]),  # a weight beyond 1,000 times the mean knows nothing
        ([[6.0, 12.0, 13.0]], 0.0, [2]),  # unless all are as large
        ([[6.0, 12.0, 13.0]], 5.0, [2]),
        ([[6.0, 12.0, 13.0], [0.0, 0.0, np.inf]], 7.0, [3, 2]),
    ],
)
def test_a_search_covers_where_its_weight_is_ordinary(own, log_p, covering):
    np.testing.assert_array_equal(tails.coverage(np.array(own), log_p), covering)


@pytest.mark.parametrize("plain", [True, False])
def test_splitting_ends_in_the_law_of_the_failures(plain):
    """Mean of 40 runs against the exact probability; the particles against the truncated normal law."""
    event = make_event(lambda z: z[:, :1] - 3, 3)
    rows = np.array([[0.8, 0.6, 0], [0, 0, 1.0]])
    proposal = TailMixture.prior(3) if plain else TailMixture.ladders(rows, [np.array([-np.inf, 2.0]), np.array([0.0])])
    runs = [splitting.bridge(event, proposal, 100, 6, rng) for rng in np.random.default_rng(0).spawn(40)]
    p, z = np.exp([run.log_p for run in runs]) / ndtr(-3.0), np.concatenate([run.z for run in runs])
    assert abs(p.mean() - 1) < 5 * stats.sem(p) and p.std() < 0.8 and all(run.reached for run in runs)
    assert (z[:, 0] >= 3).all() and all(len(run.z) == 100 for run in runs)
    means = np.array([run.z.mean(axis=0) for run in runs])
    mills = stats.norm.pdf(3.0) / ndtr(-3.0)
    assert (np.abs(means.mean(axis=0) - [mills, 0, 0]) < 5 * stats.sem(means)).all()
    assert abs(z[:, 1:].var() - 1) < 0.1


def test_levels_bias_no_run():
    """With a level at the worst particle that is kept, the mean of these runs was 1.7 times the probability."""
    event, prior = make_event(lambda z: z[:, :1] - 4, 2), TailMixture.prior(2)
    runs = [splitting.bridge(event, prior, 40, 6, rng) for rng in np.random.default_rng(1).spawn(100)]
    p = np.exp([run.log_p - log_ndtr(-4.0) for run in runs])
    assert abs(p.mean() - 1) < 4 * stats.sem(p)


def test_levels_and_powers():
    g = np.arange(-16.0, 4.0)
    assert splitting._next_level(g) == 0.0  # 4 of 20 fail
    assert splitting._next_level(g - 1) == np.nextafter(-3.0, 0.0)  # the upper quarter, without its lower end
    assert splitting._next_level(np.repeat([-3.0, -1.0], [16, 4])) == np.nextafter(-3.0, 0.0)
    assert splitting._next_level(np.repeat([-3.0, -1.0], [4, 16])) == np.nextafter(-3.0, 0.0)
    assert splitting._next_level(np.full(9, -1.0)) is None
    log_w = np.log(np.r_[np.ones(50), 9.0])
    for most in (0.3, 1.0):
        power = splitting._power_step(log_w * 3, most)
        effective = np.exp(power * log_w * 3).sum() ** 2 / np.exp(2 * power * log_w * 3).sum() / 51
        assert power == most or effective == pytest.approx(splitting.EVENNESS, abs=1e-6)
    assert power < 1 and splitting._power_step(log_w * 0, 0.7) == 0.7
    prior, rng = TailMixture.prior(1), np.random.default_rng(0)
    particles = splitting._Particles(make_event(lambda z: z, 1), prior, prior.draw(3, rng), rng)
    z = particles.z[:, 0].copy()
    particles.resample(np.log([0.5, 0.25, 0.25]), 8)
    assert [np.count_nonzero(particles.z[:, 0] == value) for value in z] == [4, 2, 2]
    np.testing.assert_array_equal(particles.g, particles.z[:, 0])


def test_components_have_equal_budgets_and_independent_streams():
    net, half = random_network([4, 3, 2], 0), Gaussian(np.zeros(4), 1.0)
    parts = events(net, GaussianMixture([0.25, 0.75], [half, half]), rtol=0.03, budget=1001, seed=7)
    assert [(event.weight, event.rtol, event.budget) for event in parts] == [(0.25, 0.03, 500), (0.75, 0.03, 500)]
    first, second = (event.rng.random() for event in parts)
    assert first != second
    single = estimated(np.log(0.9), 0.1, True, "a")
    assert np.exp(single.lower) == pytest.approx(0.9 / 1.1**3) and single.upper == 0.0
    assert single.p == pytest.approx(0.9)


@pytest.mark.parametrize("budget, levels", [(1000, 1), (2000, 2), (4000, 3)])
def test_a_run_that_is_cut_short_ends_with_the_levels_it_reached(budget, levels):
    event = make_event(lambda z: z[:, :1] - 6, 3)
    run = splitting.bridge(event, TailMixture.prior(3), 200, 8, np.random.default_rng(0), budget)
    assert not run.reached and run.log_p == pytest.approx(levels * np.log(splitting.KEPT), abs=0.02)
    assert event.evaluations <= 200 + 1600 * (levels - 1)


@pytest.mark.parametrize("budget", [3000, 10_000, 50_000])
def test_repeated_runs_keep_their_budget_and_end_once_they_converge(budget):
    event = make_event(lambda z: z[:, :1] - 2.2, 2, rtol=1e-3, budget=budget)
    found = splitting.repeated(event)
    assert not found.converged and 0.4 * budget < event.evaluations <= 1.05 * budget
    event = make_event(lambda z: z[:, :1] - 2.2, 2, rtol=0.2)
    found = splitting.repeated(event)
    assert found.converged and found.rel_error <= 0.2 and event.evaluations < 60_000
    assert abs(found.log_p - log_ndtr(-2.2)) < 4 * found.rel_error


def test_runs_that_lose_the_failures_leave_no_digit():
    """The mean of 8 runs, of which 3 reach the failure, is e^28 too low in one case of P(all of 12 x_i <= 0)."""
    runs = [splitting.Run(-48.0, i < 3, np.zeros((1, 2))) for i in range(8)]
    found = splitting._mean(runs, np.full(8, 500), 0.1, plain=False)
    assert not found.converged and found.rel_error > 1


def test_what_one_proposal_alone_covers_may_be_missed_as_often():
    """Of three half-spaces of equal probability the first proposal covers one, the second all."""
    event = make_event(lambda z: z[:, :3].amax(dim=1, keepdim=True) - 4, 3, budget=40_000)
    ladder = np.array([-np.inf, 3.0, 4.0])
    proposals = [TailMixture.ladders(np.eye(3)[:k], [ladder] * k) for k in (1, 3)]
    found = splitting.repeated(event, proposals)
    assert not found.converged and found.rel_error == pytest.approx(2.0, rel=0.3)
