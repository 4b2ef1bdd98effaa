"""What has to hold for every polytope and every Gaussian, on inputs that hypothesis makes up (always the same ones)."""

import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rpa.inputs import Gaussian
from rpa.polytopes import truncated
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
