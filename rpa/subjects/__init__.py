"""What is measured: data sets, trained networks, and references that cost too much to sample in a notebook.

Start at `datasets` (moons, MNIST, Fashion-MNIST: found, downloaded or replaced by a stand-in that says so) and `train`
(the small networks of both papers, from `data/weights` or trained again). `imagenet` brings P2's large networks with
their photographs, and downloads them; `referees` says which Monte Carlo references the notebooks need,
`references` samples and keeps them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["datasets", "imagenet", "referees", "references", "train"]
)
