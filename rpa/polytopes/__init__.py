"""Gaussian probability of polytopes: P(H z <= h) for z ~ N(mean, cov), with an error, also far in the tails.

Start at `polytope`: `probability`, `probabilities` and `orthant` are what the rest of the package asks, the moments and
samples of the truncated law beside them (`truncated`). Rank one and two are exact (`normal`, `bivariate`, `planar`, and
`slices` for thin and far polygons). Above, `reduction` drops the rows that are all but certain, `trapezoid` puts the
others in lower-trapezoidal form, `tilting` and `lookahead` shape the proposal, and `quadrature` draws Sobol points from
it until the error asked for is reached. P1 needs these as its orthant probabilities (propositions 1 and 2), P2 as its
bivariate ones (lemma 2).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "bivariate",
        "lookahead",
        "normal",
        "planar",
        "polytope",
        "quadrature",
        "reduction",
        "slices",
        "tilting",
        "trapezoid",
        "truncated",
    ],
)
