"""P1: the law of a ReLU network with random input, one activation pattern at a time.

Start at `pmf`: `pattern_pmf` gives the probability of each pattern (proposition 1), and its `PatternPMF` the output law
(`output_law`, proposition 2), the probability of each class (`classes`) and the law of the Jacobian. `regions` turns a
pattern into its polytope and affine map (lemma 1), exactly so in the plane. `support` looks for the patterns that carry
the mass (proposition 3): by moment matching (`search`, ours) or by P1's algorithms 1 to 3 (`pruning`). `pieces` asks
`rpa.polytopes` for the numbers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["classes", "output_law", "pieces", "pmf", "pruning", "regions", "search", "support"]
)
