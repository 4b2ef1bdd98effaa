import math
from fractions import Fraction

import numpy as np
import pytest
from helpers import assert_binomial, given, refusals, standard
from scipy.special import log_ndtr

from rpa.experiments import known
from rpa.inputs import Gaussian
from rpa.polytopes.normal import log_interval
from rpa.polytopes.polytope import moments, orthant, probabilities, probability, sample


def assert_honest(found, log_p, rtol=1e-3):
    """Accuracy asked for, reported, and true: within three reported errors of exp(log_p)."""
    assert found.converged and found.rel_error <= rtol
    assert abs(math.expm1(found.log_p - log_p)) <= 3 * found.rel_error + 1e-12


EQUICORRELATED = [(n, 0.5, 0) for n in (1, 2, 3, 5, 10, 20, 50, 100)]
EQUICORRELATED += [(10, 0.2, -2), (20, 0.5, -4), (20, 0.3, -7), (50, 0.8, -3), (100, 0.1, -1.5)]
EQUICORRELATED += [(5, 0.5, -8), (12, 0.5, -6), (30, 0.5, -5), (8, 0.2, -8), (6, 0.9, -1), (6, 1 - 1e-6, -1)]
AUTOREGRESSIVE = [(10, 0.8, 0), (20, 0.8, -5), (25, 0.5, -8), (40, 0.95, 1), (50, -0.5, -1), (60, 0.8, -1)]
ORTHANTS = [(known.equicorrelated, *case) for case in EQUICORRELATED]
ORTHANTS += [(known.autoregressive, *case) for case in AUTOREGRESSIVE]


@pytest.mark.parametrize("family, n, rho, mean", ORTHANTS)
def test_orthants_from_one_half_to_1e_150(family, n, rho, mean):
    cov, log_p = family(n, rho, mean)
    assert_honest(orthant(np.full(n, float(mean)), cov), log_p)


@pytest.mark.parametrize(
    "first, count, rtol, least",
    [(0, 50, 1e-2, 1.0)] + [pytest.param(1000, 500, rtol, 0.95, marks=pytest.mark.slow) for rtol in (1e-2, 1e-3)],
)
def test_errors_of_random_polytopes(first, count, rtol, least):
    """Rank 4 to 14, 1 to 5 rows per pair of coordinates, p from about one to 1e-100."""
    gaps, errors = [], []
    for seed in range(first, first + count):
        rng = np.random.default_rng([seed, 7])
        sizes, margin = (int(rng.integers(2, 8)), int(rng.integers(1, 6))), rng.uniform(-1.5, 1.5)
        H, h, log_p = known.rotated_blocks(*sizes, seed, margin=margin)
        found, error = probabilities(H[None], h[None], rtol=rtol, seed=seed)
        gaps.append(abs(math.expm1(found[0] - log_p)))
        errors.append(error[0])
    within, met = np.less_equal(gaps, 3 * np.array(errors)), np.less_equal(errors, rtol)
    assert within.mean() >= 0.99 and met.mean() >= least


@pytest.mark.parametrize("method", ["lookahead", "minimax", "genz"])
def test_methods_agree_with_the_exact_plane_and_line(method):
    H, h = np.array([[1.0, 0.3], [-0.5, 1.0], [-1.0, -1.0]]), np.array([0.5, 0.7, 1.0])
    exact = probability(H, h, standard(2))
    assert exact.method == "planar" and exact.rel_error < 1e-12
    assert_honest(probability(H, h, standard(2), method=method), exact.log_p)
    interval = probability(H[:, :1], h, standard(1))
    assert interval.method == "interval"
    assert interval.log_p == pytest.approx(float(log_interval(-1.0, 0.5)), abs=1e-14)
    assert_honest(probability(H[:, :1], h, standard(1), method=method), interval.log_p)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_singular_covariance_is_ordinary_input(rank):
    rng = np.random.default_rng(rank)
    factor = rng.standard_normal((6, rank))
    mean = rng.uniform(0.0, 1.0, 6)
    found, n = orthant(mean, factor @ factor.T), 1_000_000
    count = (rng.standard_normal((n, rank)) @ factor.T + mean > 0).all(axis=1).sum()
    assert found.converged and 0 < found.p < 1
    assert_binomial(count, n, found.p, found.p * found.rel_error)


def test_rows_without_variance_are_certain_or_impossible():
    cov = np.diag([1.0, 0.0])
    assert orthant([0.0, 1.0], cov).log_p == pytest.approx(math.log(0.5))
    never = orthant([0.0, -1.0], cov)
    assert never.log_p == -math.inf and never.rel_error == 0 and never.method == "empty" and never.p == 0
    assert probability(np.zeros((1, 2)), [0.0], standard(2)).log_p == 0
    assert probability(np.zeros((0, 2)), np.zeros(0), standard(2)).log_p == 0
    # Zero only up to rounding: x1 - x2 has no variance here.
    sure = probability([[1.0, -1.0], [1.0, 1.0]], [1e-3, 0.0], Gaussian([0.1, 0.1], np.full((2, 2), 0.3)))
    assert sure.log_p == pytest.approx(float(log_ndtr(-0.2 / math.sqrt(1.2))), abs=1e-12) and sure.converged
    # A bound of the size of that rounding, from either side.
    law, rows = Gaussian([0.1, 0.1], np.full((2, 2), 0.3)), [[1.0, -1.0], [1.0, 1.0]]
    inside, outside = (probability(rows, [bound, 0.0], law) for bound in (5e-8, -5e-8))
    assert outside.rel_error == math.inf and -4 < outside.log_p < -3.5 and outside.method == "interval"
    assert inside.log_p == sure.log_p
    assert inside.rel_error == pytest.approx(math.exp(outside.log_p - inside.log_p), rel=1e-6)
    with pytest.raises(ValueError, match="without variance"):
        sample(rows, [-5e-8, 0.0], law, 3, 0)


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e10])
def test_a_point_is_empty_where_its_bounds_are_exact(mean):
    found = probability([[1.0], [-1.0]], [mean, -mean], Gaussian([mean], 1.0))
    assert (found.log_p, found.method) == (-math.inf, "empty") if mean == 0 else -40 < found.log_p < -12
    assert found.rel_error == (0 if mean == 0 else math.inf) and (mean == 0 or found.method == "interval")


def test_an_interval_as_thin_as_rounding_is_not_called_empty():
    thin = 0
    for a, b, c, mean in np.random.default_rng(0).uniform([0.1, 0.1, -2, -2], [10, 10, 2, 2], (200, 4)):
        if Fraction(b * c) / Fraction(b) < Fraction(a * c) / Fraction(a):
            thin += 1
            assert probability([[a], [-b]], [a * c, -(b * c)], Gaussian([mean], 1.0)).rel_error > 0
    assert thin > 50


STATED = {1: -324.44078, 2: -270.51552, 3: -58.478555}  # sum of logs of stated errors


@pytest.mark.parametrize("rank", STATED)
def test_stated_errors_of_laws_far_from_the_origin(rank):
    """Rounding of bounds and covariances. A sharper bound may replace these numbers, to be printed by this test."""
    rng, total = np.random.default_rng(rank), 0.0
    for _ in range(12):
        factor, H = rng.standard_normal((rank, rank)), rng.standard_normal((5, rank))
        law = Gaussian(rng.standard_normal(rank) * 10 ** rng.uniform(0, 6), factor @ factor.T)
        h = H @ (law.mean + factor @ rng.standard_normal(rank)) + rng.exponential(1.0, 5)
        total += math.log(probability(H, h, law, budget=512).rel_error)
    assert total == pytest.approx(STATED[rank], rel=1e-6), f"[{total}]"


def test_a_log_probability_beyond_the_doubles_is_unknown():
    for rank in (1, 2, 3, 4):
        found = probability(-np.eye(rank), np.append(np.zeros(rank - 1), -1e160), standard(rank))
        assert (found.log_p, found.rel_error, found.method) == (-math.inf, math.inf, "beyond")


def test_empty_polytopes_of_every_rank():
    for rank in (1, 2, 3, 8):
        H = np.vstack([np.eye(rank), -np.eye(rank)[:1]])
        for gap in (0.5, 1e-10, 1e-300):
            found = probability(H, np.append(np.zeros(rank), -gap), standard(rank))
            assert found.log_p == -math.inf and found.rel_error == 0 and found.converged and found.method == "empty"


def test_dropped_rows_enter_the_error():
    """Ten rows at 5.5 sigma: together 1.9e-7, below the rounding of rtol = 0.1 but not below that of 1e-6."""
    H, h = np.eye(12), np.concatenate([[-1.0, -2.0], np.full(10, 5.5)])
    exact = float(log_ndtr(h).sum())
    for rtol in (0.1, 1e-6):
        found = probability(H, h, standard(12), rtol=rtol)
        assert abs(math.expm1(found.log_p - exact)) <= found.rel_error <= rtol
        if rtol == 0.1:  # the union bound, beside which the plane is exact
            assert found.rel_error == pytest.approx(10 * math.exp(log_ndtr(-5.5) - log_ndtr(h[:2]).sum()), rel=1e-6)


def test_rows_that_matter_only_conditionally():
    """x > 12 makes y > x - 12 and y < x + 1 matter, though each alone would hold with probability 1 - 1e-17."""
    H, h = np.array([[-1.0, 0, 0], [1, -1, 0], [-1, 1, 0], [0, 0, 1.0]]), np.array([-12.0, 12.0, 1.0, 0.0])
    exact = probability(H[:3, :2], h[:3], standard(2))
    assert_honest(probability(H, h, standard(3)), exact.log_p + math.log(0.5))
    log_p, mean, _ = moments(H, h, standard(3))
    assert log_p == pytest.approx(exact.log_p + math.log(0.5), abs=0.03)
    assert mean[2] == pytest.approx(-math.sqrt(2 / math.pi), abs=0.03) and 12 < mean[0] < 12.2 and 0 < mean[1] < 1
    # Two rows that share a corner make p far smaller than their product: what is dropped beside it is judged again.
    for bound, kept in ((7.2, True), (7.6, False)):
        found = probability([[-1, 0], [0.5, -math.sqrt(0.75)], [1, 0]], [-3, -3, bound], standard(2), rtol=1e-2)
        assert found.rel_error == pytest.approx(0 if kept else math.exp(log_ndtr(-bound) - found.log_p), abs=1e-12)


def test_batch_of_nothing():
    for shape in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        log_p, error = probabilities(np.zeros(shape), np.zeros(shape[:2]))
        assert log_p.shape == error.shape == shape[:1] and (log_p == 0).all()


def test_same_seed_same_answer_and_arguments_unchanged():
    H, h, _ = known.rotated_blocks(4, 3, 5)
    kept = H.copy(), h.copy()
    first, again = (probability(H, h, standard(8), seed=1) for _ in range(2))
    other = probability(H, h, standard(8), seed=2)
    assert first == again and first.log_p != other.log_p
    assert np.array_equal(H, kept[0]) and np.array_equal(h, kept[1])
    assert probabilities(H[None], h[None], rtol=1e-3, device="cpu")[0][0] == probability(H, h, standard(8)).log_p


test_bad_values_are_refused_by_name = refusals(
    {
        given(probability, H=np.ones((2, 3)), h=np.ones(2), gaussian=standard(3)): {
            "H": [np.ones((2, 4)), np.full((2, 3), np.nan)],
            "h": [[1.0, np.inf]],
            "gaussian": [(0, 1)],
            "rtol": [2.0],
            "seed": [-1],
            "budget": [100],
            "method": ["magic"],
        },
        given(orthant, mean=[0.0, 0.0]): {"cov": [np.eye(3)]},
        given(probabilities, H=np.ones((2, 3, 4)), h=np.ones((2, 3))): {
            "H": [np.ones((2, 3))],
            "h": [np.ones((2, 4))],
            "device": ["x", "meta"],
        },
    }
)


WIDE = 0.5 * np.eye(3) + 0.5
REGIONS = {
    "full rank": (-np.eye(4), np.full(4, -1.0), Gaussian(np.zeros(4), 0.5 * np.eye(4) + 0.5)),
    "more rows than rank": (*known.rotated_blocks(2, 4, 3, margin=1.0)[:2], standard(4)),
    "singular": (-np.eye(5), np.full(5, 0.3), Gaussian(np.zeros(5), np.ones((5, 5)) + np.diag([1.0, 1, 0, 0, 0]))),
    "one row": (np.ones((1, 6)), np.array([-1.0]), Gaussian(np.arange(6) / 6, np.linspace(0.5, 2, 6))),
    "slabs": (np.vstack([-np.eye(3), np.eye(3)[:2]]), np.array([-0.5, 0.2, 0, 1.5, 2]), Gaussian(np.zeros(3), WIDE)),
    "chains": (*known.rotated_blocks(4, 7, 0, margin=-0.5)[:2], standard(8)),
}


@pytest.mark.parametrize("name", list(REGIONS)[:-1])
def test_moments_and_draws_against_rejection(name):
    H, h, gaussian = REGIONS[name]
    x = gaussian.sample(1_000_000, 1)
    x = x[(x @ H.T <= h).all(axis=1)]
    log_p, mean, cov = moments(H, h, gaussian, rtol=1e-3)
    spread = np.sqrt(np.diag(cov))
    allowed = 6 / math.sqrt(len(x)) + 4e-3
    assert len(x) > 5_000 and math.exp(log_p) == pytest.approx(len(x) / 1e6, rel=allowed)
    assert (np.abs(mean - x.mean(axis=0)) <= allowed * spread).all()
    assert (np.abs(cov - np.cov(x.T)) <= 3 * allowed * np.outer(spread, spread)).all()
    drawn = sample(H, h, gaussian, 20_000, 2)
    assert drawn.method == "exact" and drawn.points.shape == (20_000, gaussian.dim)
    assert (drawn.points @ H.T <= h + 1e-9).all()
    assert (np.abs(drawn.points.mean(axis=0) - mean) <= (6 / math.sqrt(20_000) + 4e-3) * spread).all()
    assert (np.abs(np.cov(drawn.points.T) - cov) <= 0.1 * np.outer(spread, spread)).all()


def test_draws_too_rare_for_acceptance_walk_along_slices():
    H, h, gaussian = REGIONS["chains"]
    drawn, (_, mean, cov) = sample(H, h, gaussian, 4000, 0), moments(H, h, gaussian, rtol=5e-3)
    assert drawn.method == "slice" and (drawn.points @ H.T <= h).all()
    assert len(np.unique(drawn.points, axis=0)) == 4000
    assert (np.abs(drawn.points.mean(axis=0) - mean) <= 0.15 * np.sqrt(np.diag(cov))).all()


EMPTY = [{"H": H, "h": h} for H, h in (([[1], [-1]], [-1, -1]), ([[0]], [-1]), ([[1]], [-1e160]))]
test_empty_polytopes_have_no_moments = refusals(
    {
        given(function, gaussian=standard(1), **more): {"H, h: expected a polytope of positive probability": EMPTY}
        for function, more in ((moments, {}), (sample, {"n": 3, "seed": 0}))
    }
)


@pytest.mark.parametrize("H, h", [(-np.eye(1), [-1e8]), (-np.eye(3), [-1e8, 0, 0]), ([[1], [-1]], [0.3 + 1e-15, -0.3])])
def test_deviations_that_doubles_do_not_resolve_are_refused(H, h):
    with pytest.raises(ValueError, match="^H, h: expected deviations that doubles resolve"):
        moments(H, h, standard(np.shape(H)[1]))
