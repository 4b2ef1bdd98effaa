"""P2: mean and covariance of a ReLU network's output under Gaussian input, without sampling.

Start at `two_stage`: exact for one hidden layer (`affine_relu_affine`, P2's theorems and corollary), a linearization
for deep networks. `layerwise` carries the moments through every layer instead; both rest on `relu` (a rectified
Gaussian's moments, any mean and covariance), `activation` and `pooling` (maxima of Gaussians). `layerwise` by its
diagonal rule and `two_stage_mean` take networks of ImageNet size. `prepared` reads networks and inputs, `linearized`
linearizes networks. `sensitivity` maps noise in one pixel or window, `attacks` builds noise that changes the class.
`sampling` checks all of it by Monte Carlo.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "activation",
        "attacks",
        "layerwise",
        "linearized",
        "pooling",
        "prepared",
        "relu",
        "sampling",
        "sensitivity",
        "two_stage",
    ],
)
