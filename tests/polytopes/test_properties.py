"""What has to hold for every polytope and every Gaussian, on inputs that hypothesis makes up (always the same ones).

At the end 300 problems of known probability, each written in 20 other ways: the answer has to stay right, or say so.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr, owens_t
from scipy.stats import ortho_group

from rpa.experiments import known
from rpa.inputs import Gaussian
from rpa.polytopes import truncated
from rpa.polytopes.normal import log_interval
from rpa.polytopes.polytope import probability

SEEDS = st.integers(0, 2**32 - 1)
DIMENSIONS, ROWS = st.integers(1, 4), st.integers(1, 6)
UNITS = st.floats(-8, 8)
few = settings(max_examples=15, derandomize=True, deadline=None)


def problem(d, n, seed):
    """A polytope of n rows that holds a point near the mean, and a law with correlations, in d coordinates."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((d, d)) + 0.3 * np.eye(d)
    law = Gaussian(rng.standard_normal(d), factor @ factor.T)
    H = rng.standard_normal((n, d))
    return H, H @ law.sample(1, [seed, 1])[0] + rng.exponential(1.0, n), law, rng


def measure(H, h, law):
    return probability(H, h, law, rtol=5e-2)


def assert_same(one, other):
    """Equal to within three times both errors."""
    error = 3 * math.hypot(one.rel_error, other.rel_error)
    assert abs(math.expm1(one.log_p - other.log_p)) <= error, (one, other)


@given(DIMENSIONS, ROWS, SEEDS)
@few
def test_a_half_space_and_its_complement_share_the_polytope(d, n, seed):
    H, h, law, rng = problem(d, n, seed)
    row = rng.standard_normal((1, d))
    bound = row @ law.sample(1, seed)[0]
    whole = measure(H, h, law)
    inside = measure(np.vstack([H, row]), np.append(h, bound), law)
    outside = measure(np.vstack([H, -row]), np.append(h, -bound), law)
    allowed = 3 * math.hypot(*(part.p * part.rel_error for part in (whole, inside, outside) if part.p))
    assert abs(inside.p + outside.p - whole.p) <= allowed


@given(DIMENSIONS, ROWS, SEEDS, st.floats(-12, 0))
@few
def test_a_larger_bound_is_not_less_likely(d, n, seed, exponent):
    H, h, law, _ = problem(d, n, seed)
    more = h.copy()
    more[0] += 10.0**exponent
    small, large = measure(H, h, law), measure(H, more, law)
    assert large.log_p >= small.log_p - 3 * math.hypot(small.rel_error, large.rel_error)


@given(DIMENSIONS, ROWS, SEEDS, st.sampled_from([1e3, 1e8, 1e300]))
@few
def test_a_bound_out_of_reach_is_none(d, n, seed, size):
    H, h, law, rng = problem(d, n, seed)
    more = measure(np.vstack([rng.standard_normal((1, d)), H]), np.append(size, h), law)
    assert_same(measure(H, h, law), more)


@given(st.integers(1, 4), st.integers(1, 4), ROWS, SEEDS, UNITS)
@few
def test_a_coordinate_that_no_row_uses_does_not_matter(d, more, n, seed, exponent):
    H, h, law, rng = problem(d + more, n, seed)
    H[:, d:] = 0
    scale = np.append(np.ones(d), np.full(more, 10.0**exponent))
    small = Gaussian(law.mean[:d], law.cov[:d, :d])
    h = H[:, :d] @ small.sample(1, seed)[0] + rng.exponential(1.0, n)
    large = Gaussian(law.mean * scale, law.cov * np.outer(scale, scale))
    assert_same(measure(H[:, :d], h, small), measure(H, h, large))


@given(DIMENSIONS, st.integers(1, 4), SEEDS, st.lists(UNITS, min_size=4, max_size=4), st.floats(-6, 0))
@settings(few, max_examples=6)
def test_draws_lie_inside(d, n, seed, exponents, width):
    H, h, law, rng = problem(d, n, seed)
    scale = 10.0 ** np.array(exponents[:d])
    law, H = Gaussian(law.mean * scale, law.cov * np.outer(scale, scale)), H / scale
    # A thin slab through a point of the polytope.
    row = rng.standard_normal(d) / scale
    x = law.sample(200, seed)
    x = x[(x @ H.T <= h).all(axis=1)]
    assume(len(x))
    H, h = np.vstack([H, row, -row]), np.concatenate([h, [row @ x[0] + 10.0**width, 10.0**width - row @ x[0]]])
    assert (truncated.sample(H, h, law, 100, seed).points @ H.T <= h).all()


KINDS = ("orthant", "box", "wedge", "slab", "monotone", "polygon")


def known_problem(kind, seed):
    """(H, h, cov, log p) of N(0, cov): a set whose probability is known in closed form or by quadrature."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    d = int(rng.integers(2, 9))
    if kind == "orthant":
        rho, mean = rng.uniform(0.05, 0.95), -(10 ** rng.uniform(-1, 1.2)) * rng.uniform(0, 1)
        cov, log_p = known.equicorrelated(d, rho, mean)
        return -np.eye(d), np.full(d, mean), cov, log_p
    if kind == "box":
        low = rng.standard_normal(d) * 10 ** rng.uniform(-1, 1)
        high = low + 10 ** rng.uniform(-2, 1, d)
        return np.vstack([np.eye(d), -np.eye(d)]), np.append(high, -low), np.eye(d), log_interval(low, high).sum()
    if kind == "wedge":
        a, b = 10 ** rng.uniform(-2, 1), 10 ** rng.uniform(-6, 2)
        H = np.zeros((3, d))
        H[:, :2] = [[-1, 0], [0, -1], [-b, 1]]
        return H, np.array([-a, 0.0, 0.0]), np.eye(d), math.log(owens_t(a, b))
    if kind == "slab":
        width, others = 10 ** rng.uniform(-15, -3), rng.standard_normal(d - 1) * 10 ** rng.uniform(-1, 1)
        H = np.vstack([-np.eye(d)[:1], np.eye(d)])
        log_p = float(log_interval(0.0, width)) + log_ndtr(others).sum()
        return H, np.concatenate([[0.0, width], others]), np.eye(d), float(log_p)
    if kind == "monotone":
        return np.eye(d)[:-1] - np.eye(d)[1:], np.zeros(d - 1), np.eye(d), -math.lgamma(d + 1)
    H, h, log_p = known.rotated_blocks(1, int(rng.integers(3, 7)), seed, margin=rng.uniform(-1.5, 1.5))
    return H, h, np.eye(2), log_p


def rewritten(H, h, cov, rng, far):
    """The same event with coordinates turned, in other units and another order, rows repeated, mixed and rescaled."""
    d = len(cov)
    turn = ortho_group.rvs(d, random_state=rng) if d > 1 else np.eye(1)
    H, cov = H @ turn.T, turn @ cov @ turn.T
    units, order = 10 ** rng.uniform(-8, 8, d), rng.permutation(d)
    H, cov = (H / units)[:, order], (cov * np.outer(units, units))[np.ix_(order, order)]
    mean = rng.standard_normal(d) * far * np.sqrt(np.diag(cov))
    h = h + H @ mean
    rows = rng.permutation(np.append(np.arange(len(h)), rng.integers(len(h), size=rng.integers(3))))
    scale = 10 ** rng.uniform(-8, 8, (len(rows), 1))
    return H[rows] * scale, h[rows] * scale[:, 0], Gaussian(mean, (cov + cov.T) / 2)


def judge(kind, seed, ways, rtol=1e-2):
    """What is wrong with the answers to one problem."""
    H, h, cov, log_p = known_problem(kind, seed)
    rng, wrong = np.random.default_rng([seed, 99]), []
    for way in range(ways):
        far = [0.0, 0.0, 1.0, 1e3, 10 ** rng.uniform(0, 10)][way % 5]
        H_, h_, law = rewritten(H, h, cov, rng, far)
        found = probability(H_, h_, law, rtol=rtol, budget=2**17)
        off = abs(math.expm1(min(found.log_p - log_p, 700.0))) / max(found.rel_error, 1e-300)
        here = f"{kind} {seed} way {way}, d = {len(cov)}, far = {far:.1e}: log p = {log_p:.6g}, {found}"
        if found.log_p == -math.inf and found.rel_error < math.inf:
            wrong.append(f"empty: {here}")
        elif not off <= 4:
            wrong.append(f"{off:.3g} errors: {here}")
        if way < 2 and found.log_p > -math.inf:
            try:
                points = truncated.sample(H_, h_, law, 50, way).points
            except ValueError as error:
                wrong.append(f"no draws: {here} {error}")
                continue
            slack = h_ - points @ H_.T
            rounding = 8 * np.finfo(float).eps * (np.abs(h_) + np.abs(points) @ np.abs(H_).T)
            if (slack < -rounding).any():
                wrong.append(f"draws outside: {here}")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_how_a_problem_is_written(kind):
    wrong = [line for seed in range(50) for line in judge(kind, seed, 20)]
    far = [line for line in wrong if "errors: " in line]
    assert len(wrong) == len(far), "\n".join(wrong)
    assert len(far) <= 2, "\n".join(far)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_of_them(kind):
    assert [line for seed in range(3) for line in judge(kind, seed, 3, rtol=0.1)] == []
