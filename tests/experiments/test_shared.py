"""Clusters against brute force; shared linearizations where sharing loses nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from rpa.experiments import shared
from rpa.moments.two_stage import two_stage

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def network(bend):
    """One ReLU, or one with another behind it."""
    torch.manual_seed(1)
    rest = [nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)] if bend else [nn.Linear(8, 3)]
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), *rest).requires_grad_(False)


def test_clusters_are_means_and_farthest_members():
    features = X[:, :2].numpy()
    found = shared.clusters(X, features, 4, 0)
    assert sorted(set(found.labels)) == [0, 1, 2, 3]
    for label in range(4):
        members = np.flatnonzero(found.labels == label)
        assert torch.allclose(found.centres[label], X[members].mean(0), atol=1e-6)
        distance = ((features[members] - features[members].mean(0)) ** 2).sum(1)
        assert torch.equal(found.farthest[label], X[members[distance.argmax()]])


def test_of_two_images_of_a_cluster_the_second_is_farthest():
    """Both are equally far from their mean; rounding, which depends on the processor, must not choose."""
    pairs = np.random.default_rng(0).standard_normal((20, 2, 3)) + 100 * np.arange(20)[:, None, None]
    found = shared.clusters(X, pairs.reshape(40, 3), 20, 0)
    for label in set(found.labels):
        members = np.flatnonzero(found.labels == label)
        assert len(members) != 2 or torch.equal(found.farthest[label], X[members[1]])
    assert (np.bincount(found.labels) == 2).sum() > 5


@pytest.mark.parametrize("count", [0, 4, 41])
def test_no_cluster_is_empty(count):
    features = np.repeat(np.eye(3), [10, 10, 20], axis=0)
    assert torch.isfinite(shared.clusters(X, features, 3, 0).centres).all()
    with pytest.raises(ValueError, match="count: expected 1 to 3, the number of different images"):
        shared.clusters(X, features, count, 0)


@pytest.mark.parametrize("bend", [False, True])
def test_an_image_of_its_own_is_the_two_stage_analysis(bend):
    found = shared.shared_moments(network(bend), X, 0.3, X, np.arange(40))
    exact, plain = two_stage(network(bend), X, 0.3), network(bend)(X)
    assert np.allclose(found.effect, exact.mean - plain, atol=1e-5)
    assert np.allclose(found.extrapolated, exact.mean, atol=1e-5) and np.allclose(found.var, exact.var, rtol=1e-4)


def test_behind_an_affine_second_stage_every_point_serves():
    each = shared.shared_moments(network(False), X, 0.3, X, np.arange(40))
    one = shared.shared_moments(network(False), X, 0.3, X[:1] + 5, np.zeros(40, int))
    for a, b in zip(each, one):
        assert np.allclose(a, b, atol=1e-4)
    bent = [shared.shared_moments(network(True), X, 0.3, X[:1] + s, np.zeros(40, int)).effect for s in (0, 5)]
    assert not np.allclose(*bent, atol=1e-2)
