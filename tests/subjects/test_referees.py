"""Which references the notebooks need, and how the missing ones are made."""

import numpy as np
import pytest
import torch

from rpa.subjects import datasets, referees, references

DIGITS = sorted(set(referees.SAMPLES) - set(referees.LARGE))


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
        wanted = [job for job in referees.jobs() if job[0] == network]
        keys = [{"network": network, "sigma": s, "n": n, "seed": seed} for _, s, n, seed, _ in wanted]
        keys = [key | ({"most": job[4]} if job[4] else {}) for key, job in zip(keys, wanted)]
        assert entries == {references.entry_of(key) for key in keys}
