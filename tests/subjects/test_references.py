"""Monte Carlo references: their moments, errors and files; which ones the notebooks need."""

import numpy as np
import pytest
import torch
from helpers import Net, given, refusals
from torch import nn

from rpa.subjects import datasets, referees, references

DIGITS = sorted(set(referees.SAMPLES) - set(referees.LARGE))
torch.manual_seed(0)
NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 7)).requires_grad_(False)
X = torch.zeros(1, 3, 2, 2)


test_sizes_that_give_no_moments_are_refused = refusals(
    {given(references.sample, net=NET, x=X, scale=1.0, n=8, seed=0): {"n": [1, 8.5], "most": [4, 0]}}
)


def test_moments_against_plain_sampling():
    x = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    ours = references.sample(NET, x, 0.8, 20_000, seed=5)
    for i in range(3):
        y = NET(x[i] + 0.8 * torch.randn(200_000, 3, 2, 2, generator=torch.Generator().manual_seed(2))).double()
        truth, error = y.mean(0)[ours.top[i]], (y.var(0) / len(y)).sqrt()[ours.top[i]]
        gap = np.abs(ours.mean[i] - truth.numpy()) / np.hypot(ours.stderr[i], error.numpy())
        assert gap.max() < 6
        assert np.allclose(ours.var[i], y.var(0)[ours.top[i]], rtol=0.06)
    assert (np.diff(ours.mean, axis=1) <= 0).all()


def test_stated_error_is_the_scatter():
    runs = [references.sample(NET, X, 1.0, 100, seed) for seed in range(200)]
    means = np.array([r.mean[0][np.argsort(r.top[0])] for r in runs])
    stated = np.array([r.stderr[0][np.argsort(r.top[0])] for r in runs]).mean(0)
    assert np.allclose(stated / means.std(0), 1, atol=0.25)


def test_seeds_and_inputs_have_streams_of_their_own():
    x = X.repeat(2, 1, 1, 1)
    one, again, other = (references.sample(NET, x, 1.0, 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.mean, again.mean) and not np.array_equal(one.mean, other.mean)
    assert not np.array_equal(one.mean[0], one.mean[1])
    assert np.array_equal(references.sample(NET, x[:1], 1.0, 8, 1).mean, one.mean[:1])


def test_noise_with_a_covariance_of_its_own():
    """Affine in the noise: the variance is the diagonal of W R R^T W^T."""
    net, n = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False), 20_000
    roots = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3))
    made = references.sample(net, torch.ones(2, 1, 2, 2), lambda i: roots[i], n, 0)
    for i, root in enumerate(roots):
        exact = (net[1].weight @ root).square().sum(1).numpy()[made.top[i]]
        assert (np.abs(made.var[i] / exact - 1) < 6 * np.sqrt(4 / n)).all() and made.stderr[i].max() < 1e-6


def test_inputs_of_open_order_get_more_samples():
    """Two outputs a hair apart, and five far from each other; the square of the noise does not cancel in a pair."""
    x = torch.tensor([[9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6.001, 6, 4]])
    net = Net(lambda x: x + x**2 / 10)
    few, more = (references.sample(net, x, 0.5, 64, 3, most=most) for most in (None, 200))
    assert more.n.tolist() == [64, 200] and few.n.tolist() == [64, 64]
    assert np.array_equal(few.mean[0], more.mean[0]) and more.stderr[1].mean() < few.stderr[1].mean()
    whole, alone = (references.sample(net, x[1:], 0.5, n, 3, most=200) for n in (200, 64))
    assert alone.n.tolist() == [200] and np.allclose(alone.mean, whole.mean) and np.allclose(alone.stderr, whole.stderr)


def test_one_pair_has_no_error_of_its_own_and_outputs_that_are_no_numbers_are_refused():
    made = references.sample(NET, X, 1.0, 2, 0)
    assert np.isinf(made.stderr).all() and np.isfinite(made.mean).all()
    with pytest.raises(ValueError, match="net: returned NaN"):
        references.sample(NET, X, np.nan, 4, 0)


def test_kept_references_are_found_by_their_whole_key(tmp_path):
    path, key = tmp_path / "small.npz", {"network": "small", "sigma": 1.0, "n": 8, "seed": 0, "weights": "a"}
    assert references.load(key, path) is None
    made = references.sample(NET, X, 1.0, 8, 0)
    references.save([(key, made), (key | {"seed": 1}, made)], path)
    references.save([(key | {"n": 4}, made)], path)
    for each in (key, key | {"seed": 1}, key | {"n": 4}):
        stored = vars(references.load(each, path))
        assert all(np.array_equal(value, stored[name]) for name, value in vars(made).items())
    assert references.load(key | {"weights": "b"}, path) is None and references.load(key | {"seed": 2}, path) is None
    wide = references.sample(Net(lambda x: torch.arange(70_000.0) + 0 * x[:, :1]), torch.zeros(1, 3), 0.1, 8, 0)
    references.save([(key, wide)], path)
    assert references.load(key, path).top[0, 0] == wide.top[0, 0] == 69_999


def test_a_file_that_is_none_is_named(tmp_path):
    path, key = tmp_path / "small.npz", {"sigma": 1.0, "n": 8, "seed": 0}
    made = references.sample(NET, X, 1.0, 8, 0)
    references.save([(key, made)], path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-50], b"<html>"):
        path.write_bytes(content)
        for use in (lambda: references.load(key, path), lambda: references.save([(key, made)], path)):
            with pytest.raises(OSError, match="small.npz: truncated, altered"):
                use()


def test_fingerprint_sees_weights_and_architecture():
    net = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    before = references.fingerprint(net)
    assert references.fingerprint(nn.Sequential(*net, nn.Identity())) != before
    net[0].weight[0, 0] += 1e-3
    assert references.fingerprint(net) != before


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_ten_a_class_and_the_networks_know_them(name):
    subject = referees.digits(name)
    if datasets.mnist("test").stand_in:
        pytest.skip("the networks were not trained on the stand-in")
    each = 2 if name == "lenet_p2" else 10
    assert subject.x.shape == (10 * each, 1, 28, 28) and len(set(subject.key["which"])) == 10 * each
    with torch.no_grad():
        right = subject.net(subject.x).argmax(1).numpy() == np.repeat(np.arange(10), each)
    assert right.mean() > 0.9


def test_a_missing_reference_is_sampled_and_added_to_its_networks_file(tmp_path, monkeypatch):
    subject = referees.digits("lenet_p2")
    monkeypatch.setattr(referees, "digits", lambda network: subject)
    monkeypatch.setattr(referees, "jobs", lambda: [("lenet_p2", 0.05, n, 1, None) for n in (4, 6)])
    monkeypatch.setattr(references, "FOLDER", tmp_path / "kept")
    monkeypatch.setenv("RPA_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("RPA_WORKERS", "1")
    assert [key["n"] for key in referees.sample_missing()] == [4, 6]
    (path,) = (tmp_path / "kept").iterdir()
    assert path.name == "lenet_p2.npz" and referees.sample_missing() == []
    assert subject.has_reference(0.05, 4, 1) and not subject.has_reference(0.05, 2, 1)
    mean, _ = referees.digit_moments(subject, 0.05, 4)
    assert (mean.argmax(1) == subject.reference(0.05, 4, 1).top[:, 0]).all()
    sampled = set((tmp_path / "build" / "references").iterdir())
    assert (subject.reference(0.05, 2, 1).n == 2).all() and (subject.reference(0.05, 4, 1).n == 4).all()
    (own,) = set((tmp_path / "build" / "references").iterdir()) - sampled
    assert "n2 " in own.name


def test_the_noise_of_the_released_code_has_its_trace():
    subject = referees.digits("lenet_p2")
    factor = subject.scale(0.1)(3) * 0.5  # in units of the pixel
    assert factor.shape == (784, 784) and factor.double().square().sum().item() == pytest.approx(7.84, rel=1e-4)
    assert not torch.equal(factor, subject.scale(0.1)(4) * 0.5)


def test_the_committed_file_of_a_network_holds_all_its_references():
    networks = {path.stem for path in references.FOLDER.glob("*.npz")}
    assert networks >= set(DIGITS)
    for network in sorted(networks):
        with np.load(references.FOLDER / f"{network}.npz", allow_pickle=False) as stored:
            entries = {name.rpartition("/")[0] for name in stored.files}
        jobs = [job[1:] for job in referees.jobs() if job[0] == network]
        assert entries == {references.entry_of(dict(zip(("sigma", "n", "seed", "most"), job))) for job in jobs}
