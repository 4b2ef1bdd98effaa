"""Equicorrelated orthant probabilities by mpmath, for test_polytope: run `python tests/reference/make_orthants.py`."""

import json
import pathlib

import mpmath as mp

mp.mp.dps = 30
CASES = [(3, 0.5, 0), (10, 0.2, -2), (20, 0.5, -4), (50, 0.8, -3), (100, 0.5, 0), (20, 0.3, -7), (100, 0.1, -1.5)]


def log_probability(n, rho, mean):
    """log int phi(x) Phi((mean + sqrt(rho) x) / sqrt(1 - rho))^n dx, scaled by the integrand's maximum."""
    rho, mean = mp.mpf(str(rho)), mp.mpf(str(mean))

    def exponent(x):
        return n * mp.log(mp.ncdf((mean + mp.sqrt(rho) * x) / mp.sqrt(1 - rho))) - x**2 / 2

    mode = mp.findroot(lambda x: mp.diff(exponent, x), max(0, -mean) / mp.sqrt(rho) * mp.mpf("0.8"), tol=1e-12)
    top, width = exponent(mode), 1 / mp.sqrt(-mp.diff(exponent, mode, 2))
    cuts = [mode + width * k for k in (-40, -20, -10, -5, -2, 0, 2, 5, 10, 20, 40)]
    return top + mp.log(mp.quad(lambda x: mp.exp(exponent(x) - top), cuts) / mp.sqrt(2 * mp.pi))


if __name__ == "__main__":
    rows = [{"n": n, "rho": r, "mean": m, "log_p": mp.nstr(log_probability(n, r, m), 20)} for n, r, m in CASES]
    pathlib.Path(__file__).with_name("orthants.json").write_text(json.dumps(rows, indent=1) + "\n")
