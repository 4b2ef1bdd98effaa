"""Gaussian probability of polytopes: P(H z <= h) for z ~ N(mean, cov), with an error, also far in the tails.

Start at `polytope`: `probability`, `probabilities`, `orthant`; `truncated` has moments and draws of the truncated law.
Rank one and two are exact (`normal`, `bivariate`, `planar`, `slices`). Above, `reduction` drops nearly certain rows,
`trapezoid` brings the others into lower-trapezoidal form, `lookahead` makes the proposal, `quadrature`
draws Sobol points. P1 needs these as orthant probabilities (propositions 1, 2), P2 as bivariate ones (lemma 2).
"""

import lazy_loader

SUBMODULES = """bivariate lookahead normal planar polytope quadrature reduction slices trapezoid truncated"""
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=SUBMODULES.split())
