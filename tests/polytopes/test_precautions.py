"""Numerical precautions inside `probability`, each on a polytope whose answer is lost without it."""

import numpy as np
import pytest

import rpa
from rpa.polytopes import lookahead


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
