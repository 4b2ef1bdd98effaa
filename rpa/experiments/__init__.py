"""What the notebooks compute and draw beyond a call or two, one file a topic.

Start at `plots`, the panels that several figures share, and `montecarlo`, sampling as the reference for both papers.
P1's support tables are measured by `coverage`, its algorithms one by one by `support_checks`. `tightness` says how good
P2's moments are, `shared` lets images share linearizations, `topk` says how well means order classes. Failure
probabilities are compared by `failures`. `known` holds polytopes whose probability is known by another route, for
notebook 12. `scaling` measures how cost grows, and `explorer` is notebook 99.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules="coverage explorer failures known montecarlo plots scaling shared support_checks tightness topk".split(),
)
