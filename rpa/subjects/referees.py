"""The Monte Carlo referees of the notebooks: which networks, noise levels and sample sizes; and their sampling.

Two referees of the same size and different seeds say how stable the order of the leading classes is; estimates from few
samples are what any analysis has to beat. `python -m rpa.subjects.referees` (`make references`) samples those that
data/references lacks, on all cores. It can be stopped at any time and goes on where it was. `python -m
rpa.subjects.referees lenet` samples only those of networks whose name begins so.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch

from rpa import _files
from rpa.parallel import pmap
from rpa.subjects import datasets, imagenet, references, train

if TYPE_CHECKING:
    from rpa.subjects.imagenet import Subject

__all__ = ["FEW", "MOST", "SAMPLES", "digit_moments", "digits", "jobs", "sample_missing"]

# Noise level -> samples of each of two referees, for the networks whose name begins with the key.
SAMPLES = {
    "lenet": {0.02: 16384, 0.05: 16384, 0.1: 16384},
    "mnist_784-128-64-10": {0.05: 16384},
    "squeezenet1_0": {0.02: 512, 0.01: 512, 0.0025: 256, 0.005: 256, 0.001: 256},
    "alexnet": {0.001: 256, 0.0025: 256, 0.005: 256, 0.01: 512, 0.02: 512, 0.04: 256},
    "alexnet_fashion": {0.001: 256, 0.01: 512, 0.02: 512, 0.05: 256, 0.1: 256, 0.2: 256, 0.4: 256},
}
# Where two such referees disagree on the order of too many images: samples where one leaves it open.
MOST = {("squeezenet1_0", 0.02): 4096}
FEW = (2, 8, 32)  # samples of the estimates that an analysis has to beat
SEEDS = {"first": 1, "second": 2, "few": 3}
DIGITS = ("lenet_mnist", "lenet_relu_mnist", "mnist_784-128-64-10")


def digits(name: str, per_class: int = 10) -> Subject:
    """A network of `rpa.subjects.train` on the first `per_class` test digits of each class, class by class."""
    data = datasets.mnist("test")
    which = np.concatenate([np.flatnonzero(data.y == c)[:per_class] for c in range(10)])
    module = train.load_module(name)
    net = module if name.startswith("lenet") else torch.nn.Sequential(torch.nn.Flatten(), *module)
    key: dict = {"network": name, "weights": references.fingerprint(net), "images": data.sha256}
    key["which"] = [int(i) for i in which]
    images = torch.as_tensor(data.x)
    others = np.setdiff1d(np.arange(200, 248), which)
    title, named = f"{name}, {len(which)} test digits", data.provenance
    return imagenet.Subject(name, title, net, images[which], images[others], (1.0,), key, named)


def digit_moments(subject: Subject, sigma: float, n: int) -> list[np.ndarray]:
    """[means, variances] (images, 10) of all scores of a network of `digits`, in the order of the classes."""
    found = subject.reference(sigma, n, SEEDS["first"])
    order = np.argsort(found.top, axis=1)
    return [np.take_along_axis(part, order, 1).astype(float) for part in (found.mean, found.var)]


def jobs(prefix: str = "") -> list[tuple[str, float, int, int, int | None]]:
    """(network, sigma, samples, seed, most samples) of every reference that is wanted of the networks at hand.

    prefix: of the names of the networks that count.
    """
    found = []
    for name, levels in SAMPLES.items():
        for network in [each for each in DIGITS if each.startswith(name)] or [name]:
            if not network.startswith(prefix):
                continue
            seeds = (SEEDS["first"],) if network in DIGITS else (SEEDS["first"], SEEDS["second"])
            for sigma, n in levels.items():
                found += [(network, sigma, n, seed, MOST.get((network, sigma))) for seed in seeds]
            if network not in DIGITS:
                found += [(network, sigma, n, SEEDS["few"], None) for sigma in levels for n in FEW]
    return found


def _subject(network):
    makers = {
        "squeezenet1_0": imagenet.squeezenet,
        "alexnet": imagenet.alexnet,
        "alexnet_fashion": imagenet.fashion_alexnet,
    }
    return makers[network]() if network in makers else digits(network)


def _sample(job):
    network, sigma, n, seed, most = job
    torch.set_num_threads(1)
    subject = _subject(network)
    if subject is None or subject.has_reference(sigma, n, seed, most):
        return None
    label = f"{network}, noise {sigma:g}, {n}{f' to {most}' if most else ''} samples, seed {seed}"
    shown = lambda i, of: i % 10 or print(f"{label}: {i} of {of} images", flush=True)
    subject.reference(sigma, n, seed, shown, most=most)
    return subject.key_of(sigma, n, seed, most)


def sample_missing(prefix: str = "") -> list[dict]:
    """Sample the references that data/references lacks, one process per core, and add them to it; their keys."""
    keys = [key for key in pmap(_sample, jobs(prefix), progress="references") if key is not None]
    references.pack(keys, _files.build("references"), references.FOLDER)
    return keys


if __name__ == "__main__":
    sample_missing(*sys.argv[1:2])
