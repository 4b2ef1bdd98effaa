"""P1: the law of a ReLU network with random input, one activation pattern at a time.

Start at `pmf`: `pattern_pmf` gives the probability of each pattern (proposition 1), its `PatternPMF` the output law
(`output_law`, proposition 2) and the law of the Jacobian. `regions` turns a pattern into its polytope and affine map
(lemma 1), and enumerates those of an input of rank up to five. In the plane everything is exact (`planar_law`). Above,
`support` looks for the patterns that carry the mass (proposition 3), by moment matching (`search`, ours) or by P1's
algorithms 1 to 3 (`pruning`). `pieces` holds the regions of each component of the input and draws in them.
`packing` draws and compares patterns. Results carry errors: see `estimate`.
"""

import lazy_loader

SUBMODULES = """estimate output_law packing pieces planar_law pmf pruning regions search
support"""
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=SUBMODULES.split())
