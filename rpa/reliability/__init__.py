"""Failure probabilities far below what sampling sees: P1's reliability analysis, carried through.

Start at `failure`: `failure_probability` answers how likely noise changes the class, or drives an output past a
threshold, with an error (`result`). `event` turns network, input and criterion into one function of a standard normal
z, the object that every method takes. `design` searches for failing inputs and lays mixtures of Gaussian tails
(`tails`) over them, from which `failure` samples. `splitting` is the independent referee, and the bridge where the
weights are uneven. `certified` lists the affine pieces that fail: in the plane all of them, elsewhere the likeliest.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules="certified design event failure result splitting tails".split()
)
