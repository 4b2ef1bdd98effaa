"""Linearizations that images share (P2): clusters of images, and the two-stage moments with a cluster's Jacobians."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import nn

from rpa.moments.prepared import traced
from rpa.moments.two_stage import two_stage


class Clusters(NamedTuple):
    """k clusters of n images: labels (n,); centres, the mean images, and farthest, the images farthest from them in
    the features that were clustered, both (k, *shape).
    """

    labels: np.ndarray
    centres: torch.Tensor
    farthest: torch.Tensor


class Shared(NamedTuple):
    """For b images: the noise's effect on the mean, the variances, and the mean extrapolated from the point (b, k)."""

    effect: np.ndarray
    var: np.ndarray
    extrapolated: np.ndarray


def clusters(x: torch.Tensor, features: np.ndarray, count: int, seed: int) -> Clusters:
    """`Clusters` of the images x (n, *shape) by k-means on their features (n, f), from a random start."""
    features = np.asarray(features, dtype=float)
    different = len(np.unique(features, axis=0))
    if not 1 <= count <= different:
        raise ValueError(f"count: expected 1 to {different}, the number of different images, got {count}")
    fit = KMeans(count, init="random", n_init=1, random_state=seed).fit(features)
    labels = torch.from_numpy(fit.labels_).long()
    sums = torch.zeros(count, *x.shape[1:]).index_add_(0, labels, x)
    sizes = labels.bincount(minlength=count).reshape(-1, *[1] * (x.ndim - 1))
    distance = ((features - fit.cluster_centers_[fit.labels_]) ** 2).sum(1)
    last = np.zeros(count, int)
    # Of several images of a cluster the last one stays; of two, which are equally far, rounding must not choose.
    order = np.argsort(distance.round(6), kind="stable")
    last[fit.labels_[order]] = order
    return Clusters(fit.labels_, sums / sizes, x[last])


def shared_moments(net: nn.Module, x: torch.Tensor, var: float, points: torch.Tensor, labels: np.ndarray) -> Shared:
    """`Shared` of images x (b, *shape) under white noise of variance `var`, image i linearized at points[labels[i]].

    The two stages meet at the first ReLU. The effect is the two-stage mean with noise less the one without, so that
    f(x) + effect does not depend on how well f is extrapolated from the point.
    """
    prepared, f = traced(net, x), net(x)
    parts = f.new_empty(3, *f.shape)
    of_image = torch.from_numpy(labels).long()
    for label in of_image.unique():
        members = (of_image == label).nonzero().squeeze(1)
        noise = torch.tensor([var, 0.0]).repeat_interleave(len(members)).reshape(-1, *[1] * (x.ndim - 1))
        both = x[members].repeat(2, *[1] * (x.ndim - 1))
        found = two_stage(prepared, both, noise.expand(both.shape), points=points[label : label + 1])
        (noisy, still), (spread, _) = found.mean.chunk(2), found.var.chunk(2)
        parts[:, members] = torch.stack([noisy - still, spread, noisy])
    return Shared(*parts.double().numpy())
