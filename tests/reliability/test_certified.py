import mpmath
import numpy as np
import pytest
from helpers import assert_binomial, random_gaussian, random_mixture, random_network
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import norm

from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork
from rpa.reliability.certified import failing_patterns
from rpa.reliability.failure import failure_probability

PLANE = Gaussian([0.0, 0.0], 1.0)


@pytest.mark.parametrize("inputs", [random_gaussian(2, 3), random_mixture(2, 1)], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_every_rival_of_the_plane_against_samples(inputs, outputs):
    net, n, classes = random_network((2, 12, 8, outputs), 7), 100_000, max(outputs, 2)
    f = net(inputs.sample(n, 1))
    counts = np.bincount(f.argmax(1) if outputs > 1 else (f[:, 0] > 0).astype(int), minlength=classes)
    for label in range(classes):
        found = failing_patterns(net, inputs, label=label)
        shares = [np.exp(found.log_p[found.rival == c]).sum() for c in range(classes)]
        assert found.exact and shares[label] == 0 and found.total_error < 1e-9
        assert_binomial(np.delete(counts, label), n, np.delete(shares, label))


@pytest.mark.parametrize("distance", [6.0, 9.0, 13.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plane_far_out_against_sampling_beyond_a_circle(seed, distance):
    """|z|^2 / 2 is exponential: all failures lie beyond the circle, P(|z| > distance) = exp(-distance^2 / 2)."""
    net, n, rng = random_network((2, 12, 12, 1), seed), 150_000, np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    threshold = net(distance * ray).max()
    assert net(distance * np.sqrt(rng.uniform(0, 1, (n, 1))) * ray).max() < threshold
    fails = net(np.sqrt(distance**2 + 2 * rng.standard_exponential((n, 1))) * ray)[:, 0] >= threshold
    found = failing_patterns(net, PLANE, direction=[1.0], threshold=threshold)
    assert fails.sum() > 300
    assert_binomial(fails.sum(), n, np.exp(found.log_total + distance**2 / 2))


def test_a_line_far_out_against_mpmath():
    """Rank one: f along x = mean + t (1, 1, 1), its crossings by root finding, their masses with 50 digits."""
    net, mean, threshold = random_network((3, 8, 8, 1), 2), np.array([0.1, 0.2, 0.3]), 16.0
    found = failing_patterns(net, Gaussian(mean, np.ones((3, 3))), direction=[1.0], threshold=threshold)

    def above(t):
        return net((mean + t)[None])[0, 0] - threshold

    grid = np.linspace(-60, 60, 24_001)
    values = np.array([net(mean + grid[:, None])[:, 0] - threshold]).ravel()
    at = [brentq(above, grid[i], grid[i + 1], xtol=1e-14) for i in np.flatnonzero(values[:-1] * values[1:] < 0)]
    ends = [*([-np.inf] if values[0] > 0 else []), *at, *([np.inf] if values[-1] > 0 else [])]
    with mpmath.workdps(50):
        mass = sum(mpmath.ncdf(-a) - mpmath.ncdf(-b) for a, b in zip(ends[::2], ends[1::2]))
        expected = float(mpmath.log(mass))
    assert found.exact and found.log_total < -80
    assert abs(found.log_total - expected) < 1e-10 * abs(expected)


@pytest.mark.parametrize("inputs", [random_gaussian(6, 3), random_mixture(6, 2)], ids=["gaussian", "mixture"])
def test_pieces_of_many_dimensions_against_samples(inputs):
    net, n = random_network((6, 10, 8, 4), 5), 300_000
    found = failing_patterns(net, inputs, label=2, max_patterns=40)
    x = inputs.sample(n, 4)
    winner, patterns = net(x).argmax(1), net.patterns(x)
    pieces = list(zip(found.rival, found.patterns))[:10]
    counts = [np.count_nonzero((winner == c) & (patterns == p).all(1)) for c, p in pieces]
    sampled = np.array(counts) / n
    error = np.hypot(np.sqrt(sampled / n), found.rel_error[:10] * sampled)
    assert not found.exact and 30 < len(found) <= 40 and 2 not in found.rival
    # A component of a mixture counts where its own draws met the piece.
    low = -np.inf if isinstance(inputs, GaussianMixture) else -6
    assert ((np.exp(found.log_p[:10]) - sampled < 6 * error) & (np.exp(found.log_p[:10]) - sampled > low * error)).all()
    share = np.exp(found.log_total) / (winner != 2).mean()
    assert share > 0.3 and share * (1 - 3 * found.total_error) < 1


def test_the_bound_is_below_the_failure_probability_and_near_it_far_out():
    net, inputs = random_network((5, 6, 5, 1), 3), Gaussian(np.zeros(5), 1.0)
    event = {"direction": [1.0], "threshold": 40.0}
    found, whole = failing_patterns(net, inputs, **event), failure_probability(net, inputs, **event, rtol=0.02)
    assert whole.log_p < np.log(1e-9) and whole.converged
    assert found.log_total + np.log1p(-3 * found.total_error) < whole.upper and found.log_total > whole.log_p - 0.2
    assert (np.diff(found.log_p) <= 0).all() and found.log_total < whole.log_p + np.log1p(6 * whole.rel_error)
    np.testing.assert_array_equal(found.log_p, failing_patterns(net, inputs, **event).log_p)


def test_an_input_that_does_not_vary_fails_or_does_not():
    net = random_network((4, 6, 3), 0)
    winner = int(net(np.ones((1, 4))).argmax())
    still = Gaussian(np.ones(4), 0.0)
    assert failing_patterns(net, still, label=winner).log_total == -np.inf
    assert failing_patterns(net, still, label=(winner + 1) % 3).log_total == pytest.approx(0.0, abs=1e-12)
    wide = Gaussian(np.zeros(4), 1.0)
    both = failing_patterns(net, GaussianMixture([0.25, 0.75], [still, wide]), label=(winner + 1) % 3)
    part = failing_patterns(net, wide, label=(winner + 1) % 3)
    assert np.exp(both.log_total) == pytest.approx(0.25 + 0.75 * np.exp(part.log_total), rel=0.1)


def test_equal_outputs_belong_to_the_first_class():
    net = ReLUNetwork([np.eye(2), np.ones((3, 2))], [[0.0, 0.0], [0.0, 0.0, 0.0]])
    assert failing_patterns(net, PLANE, label=0).log_total == -np.inf
    found = failing_patterns(net, PLANE, label=2)
    assert set(found.rival) == {0} and found.log_total == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("height, believed", [(12.0, True), (40.0, False)])
def test_pieces_as_thin_as_rounding_count_as_errors(height, believed):
    """Class 1 equals class 0 on half-planes at most, which leaves 1e-15; class 2 wins where 2 x_1 > height + x_2^+."""
    net = ReLUNetwork([np.eye(2), [[1, 1], [0, 0], [3, 0]]], [np.zeros(2), [0, 0, -height]])
    found = failure_probability(net, Gaussian([-1.0, -1.0], 1.0), label=0)
    tail = lambda x: np.exp(norm.logpdf(x + 1) + log_ndtr(-1 - (height + max(x, 0)) / 2))
    exact = np.log(sum(quad(tail, *ends, epsabs=0)[0] for ends in ((-9, 0), (0, 9))))
    assert found.converged == believed and found.lower <= exact <= found.upper < np.log(1e-11)
    assert (found.rel_error < 0.01) == believed


def test_ties_along_rays_leave_nothing_but_rounding():
    """Outputs w . a^+ and -w . a^+: class 1 wins nowhere, on slices of zero width whose quadrature must end."""
    rng = np.random.default_rng(4)
    first, share = rng.standard_normal((5, 2)), np.abs(rng.standard_normal(5))
    net = ReLUNetwork([first, [share, -share]], [np.zeros(5), np.zeros(2)])
    assert failing_patterns(net, Gaussian([-1.0, -1.0], 1.0), label=0).log_total < -30


def test_nothing_found_is_an_empty_bound():
    net = ReLUNetwork([np.eye(3), np.zeros((2, 3))], [np.zeros(3), [1.0, 0.0]])
    found = failing_patterns(net, Gaussian(np.zeros(3), 1.0), label=0)
    assert len(found) == 0 and found.log_total == -np.inf and not found.exact


def test_failures_are_found_where_the_mean_is_on_their_boundary():
    """x_1 >= |x_2| + |x_3| without biases: 4 pieces of a cone from the origin, of the solid angle P = 0.10817."""
    last = [[1.0, -1, -1, -1, -1, -1]]
    net = ReLUNetwork([np.vstack([np.eye(3), -np.eye(3)]), last], [np.zeros(6), np.zeros(1)])
    pieces = failing_patterns(net, Gaussian(np.zeros(3), 1.0), direction=[1.0], threshold=0.0)
    assert len(pieces) == 4 and np.exp(pieces.log_total) == pytest.approx(0.10817, rel=0.01)
