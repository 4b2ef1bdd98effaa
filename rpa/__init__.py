"""ReLU networks with random inputs: a companion to two papers, P1 (Chaudhari & Moura 2025) and P2 (Bibi et al. 2018).

A network f with a Gaussian input x is a random affine function; its activation pattern says which one.

    net = ReLUNetwork.from_torch(module)           f, as plain arrays
    x = Gaussian(mean, cov)                        its input; GaussianMixture, fit_mixture for data
    pmf = pattern_pmf(net, x)                      P1: P(pattern), with errors and what is not covered;
    pmf.output(), pmf.singular_values()            laws of f(x) and of its Jacobian
    best_first, entropy_pruned                     the patterns that carry the mass, without samples
    Region, region_of, region_at, planar_regions   a pattern's polytope {H x <= h} and affine map
    probability, probabilities, orthant            Gaussian probability of polytopes, far tails too
    affine_relu_affine, two_stage, layerwise       P2: mean and covariance of f(x), exact or linearized
    noise_map, noise_attack                        which pixels matter; noise that changes the class
    failure_probability                            how likely noise changes the class, down to 1e-40

Rooms, each importing only from those above it (companion, the machinery, comes before the mathematics):

    tracing     torch modules as affine parts           companion   notebooks run, records, verdicts
    polytopes   Gaussian probability of polytopes       patterns    P1: regions, search, PMF, output law
    moments     P2: ReLU moments, deep networks         subjects    data sets, trained networks, references
    reliability failure probabilities in far tails      experiments what the notebooks compute and draw

Every estimate carries its error, every stochastic call takes a seed, and arguments are never changed. Importing this
package loads none of it: each name is fetched when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
