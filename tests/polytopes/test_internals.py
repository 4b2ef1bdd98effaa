"""Parts that no public answer shows sharply enough: the bivariate law, slices, slice sampling, reported errors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import spy, standard
from scipy import optimize
from scipy.special import log_ndtr
from scipy.stats import norm, truncnorm

from rpa.experiments import known
from rpa.inputs import Gaussian
from rpa.polytopes import bivariate, lookahead, planar, polytope, quadrature, reduction, slices, trapezoid, truncated
from rpa.polytopes.normal import log_interval
from rpa.polytopes.polytope import METHODS, probability
from rpa.polytopes.truncated import _slice_step, minimax, moments

NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def dense(a1, a2, low, high, size=None):
    """int phi2(a1, a2; tanh y) dr over y in [low, high], weighted by size - tanh y, by 400 pieces of 20 nodes."""
    A, B = ((a1 + a2) ** 2 / 8)[:, None, None], ((a1 - a2) ** 2 / 8)[:, None, None]
    edges = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 401)
    half = np.diff(edges) / 2
    y = edges[:, :-1, None] + half[:, :, None] * (1 + NODES)
    t = np.exp(2 * y)
    value = np.exp(-A * (1 + 1 / t) - B * (1 + t)) / np.cosh(y) / (2 * np.pi)
    value *= 1 if size is None else 2 / (1 + t) - (1 - size[:, None, None])
    return (value @ WEIGHTS * half).sum(axis=1)


def test_bivariate_law_against_a_dense_rule(monkeypatch):
    """To 13 digits up to 35 standard deviations out, with correlations within 1e-9 of 0 and 1e-12 of 1."""
    rng, n = np.random.default_rng(0), 300
    a1, a2 = rng.uniform(-1, 1, (2, n)) * 10 ** rng.uniform(-1, 1.55, n)
    a2[::3] = a1[::3] + rng.standard_normal(n // 3) * 10 ** rng.uniform(-4, 0, n // 3)
    rho, zero = rng.uniform(0, 1, n), np.zeros(n)
    rho[::4], rho[1::4] = 1 - 10 ** rng.uniform(-12, -1, n // 4), 10 ** rng.uniform(-9, -1, n // 4)
    phi = lambda x: bivariate.ndtr(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.log(phi(a1)), log_ndtr(a1), rtol=1e-14, atol=1e-14)
    cdf, covariance = (
        lambda *z, f=f: f(*map(torch.from_numpy, z)).numpy() for f in (bivariate.cdf, bivariate.relu_covariance)
    )
    cost = lambda A, B, low, high, size, nodes: nodes * (1 + high - low)
    nodes = spy(monkeypatch, bivariate, "_gauss_legendre", cost)
    np.testing.assert_allclose(cdf(a1, a2, rho), phi(a1) * phi(a2) + dense(a1, a2, zero, np.arctanh(rho)), rtol=1e-13)
    bend = dense(a1, a2, zero, np.arctanh(rho), rho)
    np.testing.assert_allclose(covariance(a1, a2, rho), rho * phi(a1) * phi(a2) + bend, rtol=1e-13)
    # For -rho the formula subtracts two probabilities and adds an integral from rho to 1.
    rest = dense(a1, a2, np.arctanh(rho), zero + 45)
    overlap = np.where((a1 > 0) & (a2 > 0), phi(-a2) - phi(-a1), phi(a1) - phi(a2))
    negative = cdf(a1, -a2, -rho)
    np.testing.assert_allclose(negative, np.maximum(overlap, 0) + rest, rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(negative, np.maximum(overlap, 0) + rest, rtol=0, atol=2e-14)
    product = rho * phi(a1) * phi(-a2)
    assert (np.abs(covariance(a1, -a2, -rho) - (bend - product)) <= 3e-11 * (bend + product)).all()
    assert float(torch.cat(nodes).sum()) == pytest.approx(167_144.3688769, rel=1e-9)  # nodes times the widths plus one


FREE = (-np.inf, np.inf)  # no probability is too small or too large for rtol


def test_slices_agree_with_polygons():
    """Random polygons, near and 30 deviations out; an error of the lines is passed on as by the derivatives."""
    rng = np.random.default_rng(0)
    for far in (0.0, 0.0, 0.0, 5.0, 5.0, 30.0, 30.0):
        a = rng.standard_normal((5, 2))
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        if far == 5.0:
            a = np.vstack([np.eye(2), -np.eye(2)[:1], a[:1]])  # parallel lines: ends of the slices
        c, n = a @ (far * rng.uniform(0.5, 1, 2)) + rng.exponential(0.7, len(a)), len(a)
        shift, step = 10 ** rng.uniform(-9, -7, n), 1e-5 / (1 + far) * np.eye(n)
        exact = planar.log_probability(np.tile(a, (2 * n + 1, 1, 1)), c + np.vstack([0 * c, step, -step]))[0]
        found, error = slices.log_probability(np.column_stack([a, c]), np.zeros(n))
        assert abs(found - exact[0]) < min(3e-11, 3 * error + 1e-12) and error < 1e-12 * (1 + far)
        change = (exact[1 : n + 1] - exact[n + 1 :]) @ shift / (2 * step[0, 0])
        assert slices.log_probability(np.column_stack([a, c]), shift)[1] == pytest.approx(change, rel=1e-4)
        assert 0.8 * change < planar.log_probability(a[None], c[None], shift[None])[1][0] < 40 * change
    assert slices.log_probability(np.column_stack([a, c]), np.full(n, 10.0))[1] == np.inf
    # Far, thin slabs: a bound moved by 1e-9 changes log P by 1e5 times that.
    for turn in np.random.default_rng(0).uniform(0, 2 * np.pi, 12):
        normals = np.column_stack([np.cos([turn, turn, turn + 1]), np.sin([turn, turn, turn + 1])])
        slab = np.column_stack([normals * [[1], [-1], [1]], [-1e5, 1e5 + 1e-4, 0.0]])
        assert slices.log_probability(slab, 1e-9 * np.eye(3)[0])[1] == pytest.approx(1e-4, rel=0.1)


def test_slices_of_corners_against_the_bivariate_law():
    rng = np.random.default_rng(0)
    for c in rng.uniform(-3, 3, (60, 2)):
        a = rng.standard_normal((2, 2))
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        exact = bivariate.cdf(*torch.tensor([*c, a[0] @ a[1]]))
        found, error = slices.log_probability(np.column_stack([a, c]), np.zeros(2))
        assert abs(np.expm1(found - np.log(float(exact)))) < 3 * error + 3e-14 * (1 + 0.01 / float(exact))


@pytest.mark.parametrize("more", [0, 300])
def test_slices_with_many_lines(more, monkeypatch):
    """A thin square that hundreds of lines do not cut, and a disc of 30 sides, of which few make a frame."""
    frames = spy(monkeypatch, slices, "_in_frame")
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, more)
    a = np.column_stack([np.cos(angles), np.sin(angles)])
    lines = np.vstack([np.eye(2), -np.eye(2), a])
    c = np.concatenate([[45.0, 1e-9, -44.0, 0.0], a @ [44.5, 0.0] + 1.0])
    found, error = slices.log_probability(np.column_stack([lines, c]), np.zeros(len(c)))
    assert abs(found - log_interval(44.0, 45.0) - np.log(1e-9) - norm.logpdf(0)) < 3 * error < 1e-6
    assert len(frames) == 4
    angles = np.arange(30) * np.pi / 15
    a = np.column_stack([np.cos(angles), np.sin(angles)])
    slices.log_probability(np.column_stack([a, a @ [45.0, 0.0] + 1e-7]), np.zeros(30))
    assert len(frames) == 4 + slices.FRAMES


def test_slices_of_a_disc_of_many_sides_end_at_its_corners(monkeypatch):
    """Of the places where 200 lines meet only the corners of the disc count, and each piece is looked at once."""
    angles = np.arange(200) * np.pi / 100 + 0.3
    points = spy(monkeypatch, slices._Frame, "log_density", lambda frame, t: np.size(t))
    lines = np.column_stack([np.cos(angles), np.sin(angles), np.full(200, 1e-9)])
    found, error = slices.log_probability(lines, np.zeros(200))
    area = 200 * np.tan(np.pi / 200) * 1e-18
    assert abs(found - np.log(area / (2 * np.pi))) < 3 * error < 1e-12
    assert sum(points) < 12_000 * slices.FRAMES


def test_a_move_along_an_ellipse_is_uniform_on_the_part_inside():
    rng, t, u = np.random.default_rng(0), (np.arange(100_000) + 0.5) * 2e-5 * np.pi, (np.arange(40) + 0.5) / 40
    for count in (1, 2, 4, 6, 6, 6, 6):
        rows, (x, v) = rng.standard_normal((count, 3)), rng.standard_normal((2, 3))
        h = rows @ x + rng.exponential(0.3, count)
        given = SimpleNamespace(standard_normal=lambda shape, v=v: np.tile(v, (40, 1)), random=lambda n: u)
        moved = _slice_step(np.tile(x, (40, 1)), rows, h, given)
        ellipse = np.outer(np.cos(t), x) + np.outer(np.sin(t), v)
        ellipse = ellipse[(ellipse @ rows.T <= h).all(axis=1)]
        np.testing.assert_allclose(moved, ellipse[(u * len(ellipse)).astype(int)], atol=2e-3)


def naive_weights(p, proposals, i, y):
    """Fractions u (c, M) of the laws of the first proposal below draws y (c, M), and log weights under each (J, M)."""
    u, log_w = np.zeros_like(y), np.zeros((len(proposals), y.shape[1]))
    for k, own in enumerate(p.owner[i] == np.arange(len(y))[:, None]):
        last = p.coef[i, own, k][:, None]
        bound = (p.h[i, own, None] - p.coef[i, own, :k] @ y[:k]) / last
        upper = np.where(last > 0, bound, np.inf).min(axis=0, initial=np.inf)
        lower = np.where(last < 0, bound, -np.inf).max(axis=0, initial=-np.inf)
        for j, q in enumerate(proposals):
            centre = q.shift[i, k] + q.slope[i, k, :k] @ y[:k]
            low, high, x = ((end - centre) / q.spread[i, k] for end in (lower, upper, y[k]))
            mass = log_interval(low, high)
            log_w[j] += np.log(q.spread[i, k]) + mass + (x**2 - y[k] ** 2) / 2
            u[k] = np.exp(log_interval(low, x) - mass) if j == 0 else u[k]
    return u, log_w


@pytest.mark.parametrize("far", [0.0, 4.0, 45.0])
def test_draws_and_weights_are_those_of_the_conditionals(far):
    """One interval after the other, in the bulk and far out, with slabs of any width and rows from above and below."""
    rng = np.random.default_rng(0)
    H = rng.standard_normal((12, 7, 4))
    H[::3, 1], H[::4, 3] = -H[::3, 0], -H[::4, 2]
    H /= np.linalg.norm(H, axis=2, keepdims=True)
    h = H @ (far * H[0, 0]) + rng.exponential(0.7, (12, 7))
    h[:, 1] = np.where((H[:, 0] == -H[:, 1]).all(axis=1), 10 ** rng.uniform(-8, -2, 12) - h[:, 0], h[:, 1])
    p = trapezoid.plan(H, h)
    np.testing.assert_allclose(p.coef @ p.axes, H, atol=1e-12)
    proposals = [*lookahead.lookahead(p), trapezoid.plain(p)]
    shifts = np.concatenate([minimax(trapezoid.take(p, [i]))[0].shift for i in range(12)])
    proposals[1], uniforms = trapezoid.plain(p, shifts), rng.random((4, 200))
    for source in range(3):
        order = [proposals[source], *proposals[:source], *proposals[source + 1 :]]
        y, log_w = (
            part.numpy()
            for part in trapezoid.PolytopeSampler(p, order).points(np.arange(12), torch.from_numpy(uniforms))
        )
        for i in range(12):
            u, weights = naive_weights(p, order, i, y[i])
            real = np.isfinite(weights).all(axis=0)  # elsewhere an interval is empty
            np.testing.assert_allclose(log_w[i][:, real], weights[:, real], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(u[:, real], uniforms[:, real], atol=1e-5)


def test_moments_of_truncated_normals_by_a_dense_rule():
    """In the bulk, on half-lines, on short and on far intervals."""
    low = np.array([-np.inf, -1.0, 0.3, 5.0, 30.0, -40.0, -3.0, 2.0, -2.0, -np.inf])
    high = np.array([0.5, 2.0, np.inf, 5.5, np.inf, -39.0, -3 + 2e-5, 2 + 1e-6, -2 + 1e-6, -30.0])
    mean, variance = trapezoid.truncated_normal(low, high)
    for i, (a, b) in enumerate(zip(low, high)):
        a = max(a, b - 20) if b < np.inf else a
        b = min(b, a + 20)
        x = a + (b - a) * ((np.arange(400)[:, None] + (1 + NODES) / 2) / 400).ravel()
        density = np.exp(-(x**2) / 2 + (x**2).min() / 2) * np.tile(WEIGHTS, 400)
        centre = a + density @ (x - a) / density.sum()
        assert mean[i] == pytest.approx(centre, rel=1e-9, abs=1e-9 * (b - a))
        assert variance[i] == pytest.approx(density @ (x - centre) ** 2 / density.sum(), rel=3e-5, abs=1e-9)
    assert all(float(part) == expected for part, expected in zip(trapezoid.truncated_normal(3.0, 1.0), (2.0, 0.0)))


def test_minimax_shifts_are_a_saddle():
    """psi is the largest log weight, and every other shift has a larger one."""
    cov, _ = known.autoregressive(3, 0.5)
    H = -np.linalg.cholesky(cov)
    p = trapezoid.plan((H / np.linalg.norm(H, axis=1, keepdims=True))[None], np.array([[-1.0, 0.4, -0.2]]))
    proposal, psi = minimax(p)

    def largest(move):
        moved = trapezoid.plain(p, proposal.shift + move)
        log_w = lambda y: naive_weights(p, [moved], 0, np.append(y, 0.0)[:, None])[1][0, 0]
        less = lambda y: -log_w(y) if np.isfinite(log_w(y)) else 1e9  # the last coordinate may be anything
        return -optimize.minimize(less, p.mean[0, :2], method="Nelder-Mead", options=dict(xatol=1e-5, fatol=1e-10)).fun

    assert largest(0.0) == pytest.approx(psi, abs=1e-8)
    for step in 0.05 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0.0]]):
        assert largest(step) > psi + 1e-5


def test_no_weight_exceeds_its_bound():
    H = -np.linalg.cholesky(known.equicorrelated(6, 0.5)[0])
    H, h = np.vstack([H, -H[:1]]), np.append(np.full(6, -2.0), 2.5)
    p = trapezoid.plan(H / np.linalg.norm(H, axis=1, keepdims=True)[None], h[None])
    proposal, psi = minimax(p)
    sampler = trapezoid.PolytopeSampler(p, [proposal])
    log_w = sampler.points([0], np.random.default_rng(0).random((sampler.dim - 1, 20_000)))[1]
    assert np.isfinite(psi) and log_w.max() <= psi + 1e-9 and log_w.max() > psi - 1.0


def test_newton_finds_the_saddle_in_few_steps(monkeypatch):
    count = spy(monkeypatch, truncated._Saddle, "slopes")
    for correlation in (0.2, 0.9):
        rows = -np.linalg.cholesky(known.equicorrelated(6, correlation)[0])
        h = np.random.default_rng(0).standard_normal((5, 6)) - np.array([[0], [1], [3], [8], [30.0]])
        plans = [trapezoid.plan(rows[None], bounds[None]) for bounds in h]
        assert all(np.isfinite(minimax(p)[1]) for p in plans)
    assert len(count) <= 44  # 42: of ten, one or two may take a step more elsewhere


def test_moments_of_a_turned_box():
    """Errors between a fifth and all of what was asked for, in the largest of 15 numbers."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    low, high = np.array([-1, 0.5, -0.3, 2.0]), np.array([1, 3, 0.4, 2.5])
    spread = truncnorm.std(low, high)
    for rtol in (1e-2, 2e-3):
        H, h = np.vstack([turn, -turn]), np.append(high, -low)
        log_p, mean, cov = moments(H, h, standard(4), rtol=rtol)
        gaps = (turn @ mean - truncnorm.mean(low, high)) / spread, np.diag(turn @ cov @ turn.T) / spread**2 - 1
        assert log_p == pytest.approx(log_interval(low, high).sum(), abs=rtol / 10)
        assert 0.2 * rtol < np.abs(gaps).max() < rtol


def test_terms_beyond_the_range_need_the_absolute_error_at_its_end():
    H, h, log_p = known.rotated_blocks(4, 3, 0)
    ranges = log_p + np.array([FREE, (0.0, np.inf), (1.0, np.inf), (6.0, np.inf), (-np.inf, -1.0)])
    efforts = [quadrature.Effort(0.01, 0, polytope.BUDGET, first=8, log_range=ends) for ends in ranges]
    errors = [polytope.solve(H[None], h[None], effort)[1][0] for effort in efforts]
    assert errors[0] == errors[1] and errors[2] == errors[3]  # the latter with the fewest points
    assert errors[4] <= 0.01 / np.e < 0.005 < errors[0] <= 0.01 < errors[2] < 0.01 * np.e


def test_what_is_proved_of_thin_and_empty_sets():
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    H = np.vstack([np.eye(3)[0], -np.eye(3)[0], np.eye(3)[1]])[None] @ turn
    for width, empty in ((1e-2, False), (1e-6, False), (0.0, False), (-1e-14, False), (-1e-13, True), (-0.1, True)):
        h = np.array([[0.5 * width, 0.5 * width, 3.0]]) if width > 0 else np.array([[0.5, width - 0.5, 3.0]])
        y = reduction.inscribed_ball(H, h)
        np.testing.assert_allclose(y, [[0.5, 0.5, 0.0]], atol=1e-12)
        assert reduction.is_empty(H, h, y) == empty
        bound = np.exp(reduction.log_slab(H, h, y)[0])
        assert width * norm.pdf(0) <= bound <= max(width, 0) * 0.4 + 1e-14
    half = np.array([[-1.0, 2.0, 3.0]])
    assert reduction.log_slab(np.eye(3)[None], half, np.array([[1.0, 0, 0]])) == log_ndtr(-1.0)
    tilted = np.array([[[1.0, 0.0], [-1.0, 1e-6]]])
    bound = reduction.log_slab(tilted, np.array([[0.0, 1e-7]]), np.array([[0.5, 0.5]]))
    assert np.exp(bound) == pytest.approx([0.4 * (1e-7 + 1e-6 * (9 + np.sqrt(2)))])


def test_many_linear_programs_are_solved_together(monkeypatch):
    """Of 201 intervals [0, i - 100], the first hundred are empty; balls have a radius of at most one."""
    calls = spy(monkeypatch, optimize, "linprog")
    monkeypatch.setattr(reduction, "ROWS_AT_ONCE", 300)  # of three rows each
    H, h = np.tile([[1.0], [-1.0], [0.0]], (201, 1, 1)), np.stack([np.arange(-100.0, 101), 0 * np.ones(201)], axis=1)
    h = np.column_stack([h, np.full(201, np.inf)])
    y = reduction.inscribed_ball(H, h)
    assert len(calls) == 3
    np.testing.assert_allclose(y[:102], [[0.5, 0.5, 0.0]] * 102)
    np.testing.assert_array_equal(y[103:], 0.0)
    np.testing.assert_array_equal(reduction.is_empty(H, h, y), np.arange(201) < 100)
    expected = [log_ndtr(-50.0), np.log(1e-17), np.log(0.5)]
    np.testing.assert_allclose(reduction.log_slab(H, h, y)[[50, 100, 150]], expected, rtol=1e-12)


def test_thin_slabs_come_first():
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    H = np.vstack([turn, -turn[:2]])
    for widths, owners in (((1e-4, 5e-4), (0, 1, 2)), ((5e-4, 1e-4), (1, 0, 2)), ((2e-3, 1e-4), (2, 0, 1))):
        p = trapezoid.plan(H[None], np.array([[1.0, 1.0, -8.0, widths[0] - 1, widths[1] - 1]]))
        np.testing.assert_array_equal(p.owner[0], [*owners, *owners[:2]])


def test_rows_that_are_left_out_and_groups_of_the_others():
    h = np.random.default_rng(0).uniform(2, 7, (50, 9))
    h[:, 5], budget = np.inf, np.log(np.geomspace(1e-9, 1e-2, 50))
    kept, log_dropped = reduction.uncertain(h, budget)
    for bounds, keep, most, dropped in zip(norm.sf(h), kept, np.exp(budget), np.exp(log_dropped)):
        assert dropped == pytest.approx(bounds[~keep].sum()) and dropped <= most
        assert not keep.any() or dropped + bounds[keep].min() > most
    groups = reduction.groups(kept, 10**5)
    np.testing.assert_array_equal(np.sort(np.concatenate([index for index, _ in groups])), np.arange(50))
    for index, rows in groups:
        number = kept[index].sum(axis=1)
        assert (rows == np.where(number > 4, -(-number // 4) * 4, number)).all()
        assert len(index) <= max(1, 2**22 / (max(rows, 1) * 10**5))
    assert len(reduction.groups(kept, 2)) == 1 and len(groups) > len(reduction.groups(kept, 3)) > 3


def equal(n, rho, mean, family=known.equicorrelated):
    cov, log_p = family(n, rho, mean)
    return -np.eye(n), np.full(n, mean), Gaussian(np.zeros(n), cov), log_p


def blocks(*sizes):
    H, h, log_p = known.rotated_blocks(*sizes, 0)
    return H, h, standard(H.shape[1]), log_p


ACCURACY = {  # errors of 2^13 points of "lookahead", "minimax", "genz"; estimates of all three, sweeps of factors
    "equal": (equal(6, 0.5, -2.0), (0.00013283571, 0.00019223918, 0.0022770225, 3, 21)),
    "tail": (equal(5, 0.3, -7.0), (0.00011060558, 0.00013231111, 0.0287602, 3, 21)),
    "alike": (equal(5, 1 - 1e-4, -1.0), (0.00052176714, 0.00014826354, 0.00014826354, 3, 9)),
    "chain": (equal(8, 0.8, 0.0, known.autoregressive), (0.00030396065, 0.00019940182, 0.00024469874, 3, 18)),
    "blocks34": (blocks(3, 4), (0.00045568748, 0.00014228215, 0.0061545678, 3, 27)),
    "blocks26": (blocks(2, 6), (0.00018465647, 0.00019271847, 0.00016216187, 3, 21)),
}


@pytest.mark.parametrize("name", ACCURACY)
def test_accuracy_of_a_budget(name, monkeypatch):
    """What a method's points buy. A change that buys more may replace these numbers, to be printed by this test."""
    (*problem, log_p), expected = ACCURACY[name]
    estimates, sweeps = spy(monkeypatch, quadrature, "integrals"), spy(monkeypatch, lookahead, "truncated_above")
    found = [probability(*problem, rtol=1e-9, method=method, budget=2**13) for method in METHODS[1:]]
    numbers = [each.rel_error for each in found] + [len(estimates), len(sweeps)]
    assert numbers == pytest.approx(expected, rel=1e-5), f"{numbers}"
    assert all(abs(np.expm1(each.log_p - log_p)) < 3 * each.rel_error for each in found if each.rel_error < 0.01)


def test_replicates_deviate_by_the_reported_error_and_average_to_nothing():
    H, h, log_p = known.rotated_blocks(4, 3, 0)
    gaps = []
    for seed in range(12):
        effort = quadrature.Effort(0.03, seed, polytope.BUDGET, first=8)
        found, error, deviation, _ = polytope.solve(H[None], h[None], effort)
        np.testing.assert_allclose(deviation.mean(axis=1), 0.0, atol=1e-12)
        gaps.append(np.expm1(found[0] - log_p) / error[0])
    assert 0.3 < np.sqrt(np.mean(np.square(gaps))) < 1.5


def test_factors_of_an_empty_polytope_stay_finite(monkeypatch):
    """Their precisions stop at HARDEST, the updates after 40 sweeps."""
    sweeps = spy(monkeypatch, lookahead, "truncated_above")
    H = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    found = lookahead.sites(trapezoid.plan(H[None], np.array([[-1.0, -1.0, 0.5]])))
    assert len(sweeps) == 40 and found.tau.max() == pytest.approx(5.999972e11, rel=1e-6), (len(sweeps), found)


def test_points_of_two_proposals_and_shifts():
    """One point of the second for eight of the first, all weights those of the mixture; shifts move the uniforms."""
    drawn, rng = [], np.random.default_rng(0)

    def points(index, u, counts):
        drawn[:] = u, torch.from_numpy(rng.standard_normal((len(index), 2, sum(counts))))
        return u.transpose(0, 1), drawn[1]

    sampler, shifts = SimpleNamespace(dim=3, sources=2, device=None, points=points), rng.random((20, 3))
    u = torch.cat([quadrature.uniforms(2, *ends, 7) for ends in ((64, 128), (8, 16))], dim=1)
    chunks = quadrature.draws(sampler, np.arange(1, 20), 64, 128, 7, shifts=shifts)
    for (index, y, log_w), chunk in zip(chunks, (range(1, 17), range(17, 20)), strict=True):
        np.testing.assert_array_equal(index, chunk)
        moved = (u[:, None] + torch.from_numpy(shifts[index, :2].T)[:, :, None]) % 1
        torch.testing.assert_close(drawn[0], moved)
        logs = -torch.logsumexp(torch.tensor([[8 / 9], [1 / 9]]).log() - drawn[1], dim=1)
        for found, exact in ((y, moved.transpose(0, 1)), (log_w, logs)):
            torch.testing.assert_close(found[..., :64].flatten(-2), exact[..., :1024])
            torch.testing.assert_close(found[..., 64:].flatten(-2), exact[..., 1024:])
