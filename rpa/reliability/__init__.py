"""Failure probabilities far below what sampling sees: P1's reliability analysis, carried through.

Start at `failure`: `failure_probability` answers how likely noise changes the class, or drives an output past a
threshold, with an error (`result`). `margin` turns the event into one number in whitened coordinates. `design` finds
the most likely failing inputs, `proposal` lays half-spaces over the failure set, and `importance` samples from them.
`splitting` is the independent referee, and the bridge where the weights are uneven. `certified` says which affine
pieces fail: all of them in the plane, exactly, and a lower bound elsewhere. `screening` ranks thousands of inputs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "certified",
        "design",
        "failure",
        "importance",
        "margin",
        "proposal",
        "result",
        "screening",
        "splitting",
    ],
)
