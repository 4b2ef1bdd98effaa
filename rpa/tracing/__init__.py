"""Torch modules, of any class, read by what they do.

Start at `traced`: `Traced` is a module as a chain of affine maps, activations and max poolings, verified against the
module at random inputs. `graph` records the forward pass with torch.fx, and `nonlinear` says which calls it records as
activations and max poolings. `parts` holds the maps and cuts that every function of the package works on, and
`conversion` multiplies them out to the matrices of a `ReLUNetwork`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["conversion", "graph", "nonlinear", "parts", "traced"]
)
