import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_ndtr

from rpa.experiments import known

GOLDENS = json.loads((Path(__file__).parents[1] / "reference" / "orthants.json").read_text())


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda g: f"n={g['n']},rho={g['rho']},mean={g['mean']}")
def test_equicorrelated_equals_mpmath(golden):
    cov, log_p = known.equicorrelated(golden["n"], golden["rho"], golden["mean"])
    assert log_p == pytest.approx(float(golden["log_p"]), abs=1e-12)
    assert cov.shape == (golden["n"], golden["n"]) and cov[0, 1] == golden["rho"] and cov[1, 1] == pytest.approx(1)


def test_autoregressive_closed_forms():
    arcsines = 2 * math.asin(0.5) + math.asin(0.25)
    assert known.autoregressive(2, 0.5)[1] == pytest.approx(math.log(1 / 3), abs=1e-12)
    assert known.autoregressive(3, 0.5)[1] == pytest.approx(math.log(1 / 8 + arcsines / (4 * math.pi)), abs=1e-12)
    assert known.autoregressive(9, 0.0, -6.0)[1] == pytest.approx(9 * log_ndtr(-6.0), abs=1e-9)


def test_rotated_blocks_against_counting():
    H, h, log_p = known.rotated_blocks(3, 3, seed=4, margin=1.0)
    n = 400_000
    inside = (np.random.default_rng(0).standard_normal((n, 6)) @ H.T <= h).all(axis=1).sum()
    p = math.exp(log_p)
    assert abs(inside - n * p) < 6 * math.sqrt(n * p * (1 - p))
