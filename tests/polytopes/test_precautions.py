"""Numerical precautions inside `probability`, each on a polytope whose answer is lost without it."""

import numpy as np
import pytest
from scipy.stats import ortho_group

import rpa
from rpa.polytopes import lookahead


def test_nearly_dependent_rows_span_a_plane_wherever_it_lies():
    """A wedge of 2e-6 radians, cut at radius 1: the direction of its second row is known to 1e-10 only."""
    theta = 2e-6
    rows = np.array([[1.0, 0.0], [-np.cos(theta), np.sin(theta)], [0.0, -1.0]])
    p = theta / (2 * np.pi) * -np.expm1(-0.5)
    for seed in range(12):
        plane = ortho_group.rvs(6, random_state=seed)[:2]
        found = rpa.probability(rows @ plane, [0.0, 0.0, 1.0], rpa.Gaussian(np.zeros(6), 1.0))
        assert found.method == "planar" and found.rel_error < 1e-5
        assert abs(found.p / p - 1) < 4 * found.rel_error


@pytest.mark.parametrize("row, h, log_p", [([1, 1], 0.3, 0), ([-1, -1], -0.3, 0), ([1, 1], 0.3 - 1e-12, -np.inf)])
def test_a_row_that_holds_with_equality_but_for_rounding_holds(row, h, log_p):
    inputs = rpa.Gaussian([0.1, 0.2], [[1.0, -1.0], [-1.0, 1.0]])  # x_1 + x_2 = 0.3
    assert rpa.probability([row, [1, 0]], [h, 5.1], inputs).log_p == pytest.approx(log_p, abs=1e-6)


@pytest.mark.parametrize("correlation, sharpness", [(0.9, 1.0), (0.2, 0.25)])
def test_what_another_sharpness_costs(monkeypatch, correlation, sharpness):
    """Twice and half the factors' precision: 1.6 and 1.5 times the error, on orthants that hold with room or without.

    Neither is better everywhere: twice errs less where half errs more, and the other way round.
    """
    inputs = rpa.Gaussian(np.zeros(20), (1 - correlation) * np.eye(20) + correlation)
    error = lambda: rpa.probability(-np.eye(20), np.zeros(20), inputs, rtol=1e-9, budget=2**13).rel_error
    ours = error()
    monkeypatch.setattr(lookahead, "SHARPNESS", sharpness)
    assert 1.25 < error() / ours < 2
