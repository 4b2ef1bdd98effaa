import numpy as np
import pytest
import torch
from torch import nn

from rpa.subjects import references


class Square(nn.Module):
    """x + x^2 / 10 elementwise: the square does not cancel in a pair."""

    def forward(self, x):
        return x + x**2 / 10


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 7)).requires_grad_(False)


def test_moments_against_plain_sampling(net):
    x = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    ours = references.estimate(net, x, 0.8, 20_000, seed=5, keep=4, chunk=1000)
    for i in range(3):
        y = net(x[i] + 0.8 * torch.randn(200_000, 3, 2, 2, generator=torch.Generator().manual_seed(2))).double()
        truth, error = y.mean(0)[ours.top[i]], (y.var(0) / len(y)).sqrt()[ours.top[i]]
        gap = np.abs(ours.mean[i] - truth.numpy()) / np.hypot(ours.stderr[i], error.numpy())
        assert gap.max() < 6
        assert np.allclose(ours.var[i], y.var(0)[ours.top[i]], rtol=0.06)
    assert (np.diff(ours.mean, axis=1) <= 0).all()


def test_stated_error_is_the_scatter(net):
    x = torch.zeros(1, 3, 2, 2)
    runs = [references.estimate(net, x, 1.0, 100, seed) for seed in range(200)]
    means = np.array([r.mean[0][np.argsort(r.top[0])] for r in runs])
    stated = np.array([r.stderr[0][np.argsort(r.top[0])] for r in runs]).mean(0)
    assert np.allclose(stated / means.std(0), 1, atol=0.25)


def test_a_linear_network_has_no_error():
    made = references.estimate(nn.Linear(5, 3).requires_grad_(False), torch.ones(2, 5), 1.0, 8, 0)
    assert made.stderr.max() < 1e-6 and (made.var > 0).all()


def test_seeds_and_inputs_have_streams_of_their_own(net):
    x = torch.zeros(2, 3, 2, 2)
    one, again, other = (references.estimate(net, x, 1.0, 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.mean, again.mean) and not np.array_equal(one.mean, other.mean)
    assert not np.array_equal(one.mean[0], one.mean[1])
    assert np.array_equal(references.estimate(net, x[:1], 1.0, 8, 1).mean, one.mean[:1])


def test_a_stopped_call_goes_on_where_it_was(net, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "SAVED_EVERY", 0.0)
    x, partial, seen = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1)), tmp_path / "part.npz", []

    def stop(i, of):
        if i == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        references.estimate(net, x, 1.0, 8, 0, progress=stop, partial=partial)
    resumed = references.estimate(net, x, 1.0, 8, 0, progress=lambda i, of: seen.append(i), partial=partial)
    assert seen == [3, 4, 5] and not partial.exists()
    whole = references.estimate(net, x, 1.0, 8, 0)
    assert all(np.array_equal(a, b) for a, b in zip(vars(resumed).values(), vars(whole).values()))


def test_inputs_of_open_order_get_more_samples():
    """Two outputs a hair apart, and five that are far from each other."""
    x, net = torch.stack([torch.tensor([9.0, 8, 7, 6, 5, 4]), torch.tensor([9.0, 8, 7, 6.001, 6, 4])]), Square()
    few, more = (references.estimate(net, x, 0.5, 64, 3, keep=6, most=most) for most in (None, 200))
    assert more.n.tolist() == [64, 200] and few.n.tolist() == [64, 64]
    assert np.array_equal(few.mean[0], more.mean[0]) and more.stderr[1].mean() < few.stderr[1].mean()
    whole = references.estimate(net, x[1:], 0.5, 200, 3, keep=6)
    alone = references.estimate(net, x[1:], 0.5, 64, 3, keep=6, most=200)
    assert alone.n.tolist() == [200] and np.allclose(alone.mean, whole.mean) and np.allclose(alone.stderr, whole.stderr)


def test_one_pair_has_no_error_of_its_own(net):
    made = references.estimate(net, torch.zeros(1, 3, 2, 2), 1.0, 2, 0)
    assert np.isinf(made.stderr).all() and np.isfinite(made.mean).all()


def test_kept_files_are_found_by_their_whole_key(net, tmp_path):
    x, calls = torch.zeros(1, 3, 2, 2), []

    def make():
        calls.append(1)
        return references.estimate(net, x, 1.0, 8, 0)

    key = {"network": "small", "weights": references.fingerprint(net), "sigma": 1.0, "seed": 0}
    first, second = (references.load_or_make(key, make, tmp_path) for _ in range(2))
    assert len(calls) == 1 and (second.n == 8).all()
    assert all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(second).values()))
    references.load_or_make(key | {"seed": 1}, make, tmp_path)
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 2
    references.path_of(key, tmp_path).write_bytes(references.path_of(key | {"seed": 1}, tmp_path).read_bytes())
    references.load_or_make(key, make, tmp_path)
    assert len(calls) == 3


def test_fingerprint_sees_weights_and_architecture(net):
    before = references.fingerprint(net)
    assert references.fingerprint(nn.Sequential(*net, nn.Identity())) != before
    net[1].weight[0, 0] += 1e-3
    assert references.fingerprint(net) != before


def test_bad_arguments_are_named(net):
    with pytest.raises(ValueError, match="n: .*even"):
        references.estimate(net, torch.zeros(1, 12), 1.0, 7, 0)
    with pytest.raises(ValueError, match="n: "):
        references.estimate(net, torch.zeros(1, 12), 1.0, 0, 0)
    for most in (6, 9):
        with pytest.raises(ValueError, match="most: "):
            references.estimate(net, torch.zeros(1, 12), 1.0, 8, 0, most=most)
    with pytest.raises(ValueError, match="net: .*NaN"):
        references.estimate(net, torch.full((1, 12), torch.nan), 1.0, 8, 0)
