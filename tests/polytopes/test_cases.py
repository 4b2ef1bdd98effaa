"""Small inputs on which neighbouring packages, or earlier versions of this one, failed, with the right values."""

import math

import numpy as np
import pytest
import torch
from helpers import given, refusals, standard
from scipy.special import log_ndtr
from scipy.stats import norm

from rpa.inputs import Gaussian, GaussianMixture, fit_mixture
from rpa.polytopes import truncated
from rpa.polytopes.polytope import orthant, probabilities, probability
from rpa.polytopes.trapezoid import plan


def assert_right(answer, log_p, rtol=1e-3):
    """Finite, asked-for accuracy, and within three stated errors of exp(log_p)."""
    assert answer.rel_error <= rtol
    assert abs(math.expm1(answer.log_p - log_p)) <= 3 * answer.rel_error


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e-5])
@pytest.mark.parametrize("gap", [1e-2, 1e-6, 1e-10])
def test_difference_of_two_nearly_equal_coordinates(gap, scale):
    cov = (0.5 + 0.5 * np.eye(3)) * np.outer([1.0, 1.0, scale], [1.0, 1.0, scale])
    cov[0, 1] = cov[1, 0] = 1 - gap
    a = np.array([1.0, -1.0, 0.0])
    answer = probability([a], [-3 * math.sqrt(a @ cov @ a)], Gaussian(np.zeros(3), cov))
    assert_right(answer, float(log_ndtr(-3)), 1e-13 / gap)


@pytest.mark.parametrize("width", [-4e-8, 1e-9, 1e-7, 1e-3])
def test_coordinates_that_only_rounding_tells_apart(width):
    """x_1 <= width and x_2 >= 0, where x_1 - x_2 has the deviation s: (width + s z)^+ times the density at 0."""
    cov = np.eye(100)
    cov[0, 1] = cov[1, 0] = 1 - 2.2e-14
    answer = probability(np.eye(100)[:2] * [[1.0], [-1.0]], [width, 0.0], Gaussian(np.zeros(100), cov))
    s = math.sqrt(2 * (1 - cov[0, 1]))
    t = width / s
    p = norm.pdf(0) * s * (t * norm.cdf(t) + norm.pdf(t))
    assert answer.rel_error == math.inf or abs(answer.p / p - 1) < 3 * answer.rel_error + width**2 / 6
    assert answer.converged == (width > 1e-6)


@pytest.mark.parametrize("d, size", [(1, 1.0), (1, 1e10), (1, 1e14), (2, 1e10), (3, 1e13)])
def test_rounding_of_the_bounds_is_in_the_error(d, size):
    """A box [1, 1.5]^d far from the origin: each bound is known to a unit of rounding of its terms, not better."""
    H, mean = np.vstack([np.eye(d), -np.eye(d)]), np.full(d, size)
    answer = probability(H, H @ mean + np.repeat([1.5, -1.0], d), Gaussian(mean, 1.0), rtol=1e-3)
    log_p, heights = log_ndtr(-1) + math.log1p(-math.exp(log_ndtr(-1.5) - log_ndtr(-1))), norm.pdf([1.0, 1.5]).sum()
    expected = d * heights / math.exp(log_p) * 2 * np.finfo(float).eps * size
    expected /= 1 - expected * (d == 1)
    assert expected < answer.rel_error < 1.05 * expected + 6e-15 * (d == 1) + 1e-3 * (d == 3)
    assert abs(answer.log_p - d * log_p) <= 3 * answer.rel_error


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("width", [1e-6, 1e-12, 1e-15, 1e-16, 1e-100])
def test_slab_of_small_width_times_an_orthant(d, width):
    H = np.vstack([-np.eye(1, d), np.eye(d)])
    answer = probability(H, [0.0, width] + [0.0] * (d - 1), standard(d))
    assert_right(answer, math.log(width) - width**2 / 6 + norm.logpdf(0) - (d - 1) * math.log(2))


THIN = [(np.vstack([-np.eye(1, 3), np.eye(3)]), [-1e10, 1e10, 1e10, 1e10], np.full(3, 1e10), -20, -10)]
THIN += [([[1, 0, 0], [-1, 0, 0], [0, 0, 1]], [3, -3 - 1e-15, 0], [3.0, 0, 0], -50, -20)]


@pytest.mark.parametrize("H, h, mean, low, high", THIN)
def test_a_slab_thinner_than_rounding_is_neither_empty_nor_known(H, h, mean, low, high):
    answer = probability(H, h, Gaussian(mean, 1.0))
    assert low < answer.log_p < high and answer.rel_error == math.inf and not answer.converged


@pytest.mark.parametrize(
    "rows, tangent, rtol",
    [([[1.0, 0.0], [-1.0, c]], c, 0.1) for c in (1e-3, 1e-10, 1e-13)]
    + [([[-1.0, 0.0], [0.0, -1.0], [-a, 1.0]], a, 1e-13) for a in (1.0, 1e10)],
)
def test_wedges(rows, tangent, rtol):
    answer = probability(rows, np.zeros(len(rows)), Gaussian([0, 0], 1.0))
    assert_right(answer, math.log(math.atan(tangent) / (2 * math.pi)), rtol)


@pytest.mark.parametrize("tangent", [1e-13, 1e-16, 1e-20, 1e-100, 1e-300])
@pytest.mark.parametrize("d", [2, 3])
def test_a_wedge_thinner_than_rounding_is_not_proved_empty(tangent, d):
    rows = np.array([[1.0, tangent, 0.0], [-1.0, 0.0, 0.0]])[:, :d]
    answer = probability(rows, [0.0, 0.0], standard(d))
    assert answer.rel_error > 0 and not answer.converged
    rows[0, 1] = 0.0
    assert probability(rows, [0.0, 0.0], standard(d)).rel_error == 0.0


@pytest.mark.parametrize("rows, d", [(1, 1), (1, 2), (1, 3), (2, 2), (3, 3)])
@pytest.mark.parametrize("far", [1.0, 10.0, 1e3, 39_000.0, 41_000.0, 1.01e6, 1e9])
def test_far_half_spaces_and_corners(rows, d, far):
    answer, exact = probability(-np.eye(d)[:rows], [-far] * rows, standard(d)), rows * log_ndtr(-far)
    assert answer.log_p == pytest.approx(float(exact), rel=1e-14 if rows == 1 else 1e-13)
    assert abs(answer.log_p - exact) <= 3 * answer.rel_error


@pytest.mark.parametrize("width", [1e-3, 1e-8])
def test_variances_of_a_narrow_box(width):
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    H, h = np.vstack([turn, -turn]), [width, 0.5, 0, width - 0.5]
    _, _, cov = truncated.moments(H, h, Gaussian([0, 0], 1.0), rtol=1e-3)
    np.testing.assert_allclose(np.diag(turn @ cov @ turn.T), width**2 / 12, rtol=3e-3)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("width", [1e-3, 1e-12])
def test_no_draw_outside_a_narrow_interval(d, width):
    H, h = np.vstack([np.eye(1, d), -np.eye(1, d)]), np.array([0.3 + width, -0.3])
    drawn = truncated.sample(H, h, standard(d), 5000, 0)
    turned = truncated.sample(H[::-1], h[::-1], standard(d), 5000, 0)
    assert (drawn.points @ H.T <= h).all() and drawn.method == turned.method == "exact"
    np.testing.assert_array_equal(drawn.points, turned.points)
    assert drawn.points[:, 0].std() == pytest.approx(width / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("rows, d", [(12, 6), (3, 5), (7, 2), (9, 3), (2, 1), (20, 12)])
def test_neighbours_padding_order_and_copies_change_no_bit(rows, d):
    rng = np.random.default_rng(0)
    H, h = rng.standard_normal((24, rows, d)), rng.uniform(-0.5, 2, (24, rows)) * math.sqrt(d)
    h[::3] += 5  # with fewer rows that matter
    together = np.array(probabilities(H, h))
    alone = np.hstack([probabilities(H[[i]], h[[i]]) for i in range(len(H))])
    np.testing.assert_array_equal(together, alone)
    padded = np.concatenate([np.zeros_like(H), H, np.zeros_like(H)], axis=1)
    np.testing.assert_array_equal(together, probabilities(padded, np.concatenate([h + 20, h, h + 20], axis=1)))
    np.testing.assert_array_equal(together, probabilities(np.repeat(H, 2, axis=1), np.repeat(h, 2, axis=1)))
    order = np.random.default_rng(1).permutation(rows)
    np.testing.assert_array_equal(together, probabilities(H[:, order], h[:, order]))
    np.testing.assert_array_equal(together, probabilities(4 * H, 4 * h))
    single = [probability(*pair, standard(d), rtol=1e-2) for pair in zip(H, h)]
    np.testing.assert_array_equal(together, np.transpose([(found.log_p, found.rel_error) for found in single]))


def test_rounding_below_the_largest_variance_is_taken():
    cov = [[1, 0, 0], [0, 1e-17, -3e-17], [0, -3e-17, 1e-17]]
    assert_right(orthant([0.0, 1.0, 1.0], cov), math.log(0.5), 1e-12)
    assert_right(probability(-np.eye(3), [0, 1.0, 1.0], Gaussian(np.zeros(3), cov)), math.log(0.5), 1e-12)


def test_noise_free_gaussian_process_posteriors_are_taken():
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(20):
        known, new = rng.uniform(0, 1, (rng.integers(2, 6), 1)), rng.uniform(0, 1, (rng.integers(2, 10), 1))
        kernel = lambda a, b: np.exp(-((a - b.T) ** 2) / 2 / 0.3**2)
        factor = np.linalg.solve(np.linalg.cholesky(kernel(known, known)), kernel(known, new))
        cov = kernel(new, new) - factor.T @ factor
        if np.diag(cov).max() > 1e-3:
            answer = orthant(rng.standard_normal(len(cov)), cov, rtol=1.0, budget=512)
            taken += 0 <= answer.p <= 1
    assert taken > 10


@pytest.mark.parametrize(
    "cov, message",
    [
        ([[1e12, 3e6], [3e6, 1]], "positive semidefinite"),
        ([[1e12, 0], [0, -1.0]], "positive semidefinite"),
        ([[1e12, 5], [-5, 1]], "symmetric"),
        (np.float32([[1.0, 1.0], [1.0, 1.0]]) - np.float32([[0, 0], [0, 1e-6]]), "single precision"),
    ],
)
def test_matrices_that_are_no_covariances_in_any_units(cov, message):
    for make in (lambda: Gaussian([0, 0], cov), lambda: orthant([0, 0], cov)):
        with pytest.raises(ValueError, match=f"^cov: expected a .*{message}"):
            make()


@pytest.mark.parametrize("cov", [1.0, [1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]]])
def test_arrays_of_a_law_are_read_only(cov):
    g = Gaussian([0.0, 0.0], cov)
    for values in (g.mean, g.cov_given, g.cov, g.variances):
        with pytest.raises(ValueError, match="read-only"):
            values[...] = 7.0


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1.0, 1e6, np.array([1e-8, 1e8])])
def test_fit_follows_the_units(scale):
    truth = GaussianMixture([0.5, 0.5], [Gaussian([0.0, 0.0], 1.0), Gaussian([2.5, 1.0], [0.5, 2.0])])
    x = truth.sample(3000, 0)
    fit, scaled = fit_mixture(x, 2, 0), fit_mixture(x * scale, 2, 0)
    np.testing.assert_allclose(scaled.weights, fit.weights, rtol=1e-6)
    for one, other in zip(fit.components, scaled.components):
        np.testing.assert_allclose(other.mean, one.mean * scale, atol=1e-6 * np.max(scale), rtol=1e-6)
        np.testing.assert_allclose(other.cov, one.cov * np.outer(scale * np.ones(2), scale * np.ones(2)), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-100, 1e100])
def test_rows_whose_norm_underflows_or_overflows(size):
    assert_right(probability([[size]], [-(size**2)], Gaussian([0], size**2)), float(log_ndtr(-1)), 1e-13)
    log_p, _ = probabilities([[[size**2, size**2]]], [[-(size**2)]])
    assert log_p[0] == pytest.approx(float(log_ndtr(-1 / math.sqrt(2))), rel=1e-13)


def test_tensors_with_gradients_are_taken():
    mean, cov = torch.zeros(2, requires_grad=True), torch.eye(2, requires_grad=True)
    assert orthant(mean, cov).p == pytest.approx(0.25, rel=1e-13)


LINE = Gaussian([0.0], 1.0)
DRAWS = LINE.sample, GaussianMixture([1.0], [LINE]).sample, given(truncated.sample, H=[[1.0]], h=[0.0], gaussian=LINE)
test_draws_need_a_whole_number_and_a_seed = refusals(
    {given(draw, n=2, seed=0): {"n": [2.5, -1], "seed": [None, 0.5]} for draw in DRAWS}
    | {given(fit_mixture, x=norm.rvs(size=(20, 1), random_state=0), n_components=1): {"seed": [None, 0.5]}}
)


def test_axes_of_nearly_dependent_rows_are_orthonormal():
    rng = np.random.default_rng(0)
    H = rng.standard_normal((1, 1, 8)) + 1e-10 * rng.standard_normal((1, 8, 8))
    H /= np.linalg.norm(H, axis=2, keepdims=True)
    axes = plan(H, np.zeros((1, 8))).axes[0]
    np.testing.assert_allclose(axes @ axes.T, np.eye(8), atol=1e-14)


def test_a_row_without_variance_whose_bound_is_rounding_holds():
    g = Gaussian([0.1 + 0.2, 0.3], np.full((2, 2), 0.3))
    assert_right(probability([[1.0, -1.0], [1.0, 0.0]], [0.0, 0.3], g), math.log(0.5), 1e-13)
