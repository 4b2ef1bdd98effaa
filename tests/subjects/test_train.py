"""Stored networks: what they claim of themselves, and that their recipes make them."""

import numpy as np
import pytest
import torch

from rpa.subjects import datasets, train

MOONS = [name for name in train.NETWORKS if name.startswith("moons")]
OF_IMAGES = [name for name in train.NETWORKS if name not in MOONS]


@pytest.mark.parametrize("name", MOONS)
def test_training_again_gives_the_stored_moons_network(name):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    arrays, metadata = train.train(name)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    stored, described = train._read(name)
    for key, value in stored.items():
        # Another processor sums in another order; what 600 to 800 steps make of that stays far below 1e-2.
        assert value.dtype == np.float32 and np.abs(arrays[key] - value).max() < 1e-2
    assert {**metadata, "torch": ""} == {**described, "torch": ""}
    x, y = datasets.moons()
    assert ((train.load_network(name)(x)[:, 0] > 0) == y).mean() >= 0.995


@pytest.mark.parametrize("name", [*OF_IMAGES, pytest.param("all of lenet_p2", marks=pytest.mark.slow)])
def test_stored_accuracy_is_the_accuracy(name):
    """On all images for networks without convolutions, on the first thousand for the others."""
    name, n = name.removeprefix("all of "), 1000 if name.startswith(("lenet", "alexnet")) else 10_000
    metadata = train.load_metadata(name)
    data = getattr(datasets, train.NETWORKS[name].data)("test")
    if data.stand_in:
        pytest.skip(f"needs the real {data.name}")
    assert metadata["test accuracy"] >= (0.86 if "fashion" in name else 0.96)
    module = train.load_module(name)
    x = torch.from_numpy((data.x if "net" in name else data.rows)[:n])
    x = (x - metadata.get("mean", 0)) / metadata.get("std", 1)
    x = train.enlarged(x) if name == "alexnet_fashion" else x
    right = torch.cat([module(part) for part in x.split(1000)]).argmax(1).numpy() == data.y[:n]
    # Two digits of 10,000 may change sides by rounding on another processor.
    stated = metadata["test accuracy"]
    tolerance = 2.1e-4 if n == 10_000 else 4 * np.sqrt(stated * (1 - stated) / n)
    assert abs(right.mean() - stated) <= tolerance


@pytest.mark.parametrize("store, steps", [("int8", 127), ("int6", 31)])
def test_few_bits_lose_half_a_step_at_most(store, steps):
    state = {"a.weight": torch.randn(5, 3, 2, 2), "a.bias": torch.randn(5)}
    packed = train._packed(state, store)
    back = train._unpacked(packed)
    assert packed["a.weight"].dtype == np.int8 and set(back) == set(state)
    half = state["a.weight"].abs().amax((1, 2, 3), keepdim=True) / (2 * steps)
    assert ((back["a.weight"] - state["a.weight"]).abs() <= half * 1.001).all()
    assert torch.equal(back["a.bias"], state["a.bias"])


def test_lenets_are_caffes_and_that_of_the_released_code():
    assert sum(p.numel() for p in train.load_module("lenet_mnist").parameters()) == 431_080
    module, made = train.load_module("lenet_p2"), train.load_metadata("lenet_p2")
    widths = [(layer.in_channels, layer.out_channels) for layer in module if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [(1, 32), (32, 64)] and module[7].weight.shape == (1024, 3136)
    assert (made["mean"], made["std"]) == (0.5, 0.5) and sum(isinstance(each, torch.nn.ReLU) for each in module) == 3


@pytest.mark.parametrize("layers, shape", [("784-32-32-10", (3, 784)), ("lenet", (3, 1, 28, 28))])
def test_folded_normalization_is_the_same_function(layers, shape):
    module = train.architecture(layers).double()
    x = torch.rand(shape, dtype=torch.float64)
    shift, scale = torch.tensor([0.13, 0.31], dtype=torch.float64)
    before = module((x - shift) / scale)
    train._fold(module[0], shift, scale)
    assert torch.allclose(module(x), before, rtol=1e-10, atol=1e-12)


def test_errors_name_the_network():
    for use in (train.load_module, lambda name: train.main([MOONS[0], name])):
        with pytest.raises(ValueError, match="name: expected one of .* got 'resnet'"):
            use("resnet")
    with pytest.raises(ValueError, match="name: expected a network of Linear layers only, got 'lenet_mnist'"):
        train.load_network("lenet_mnist")


def test_a_file_that_is_missing_or_of_another_version_or_of_no_weights_is_named(tmp_path, monkeypatch):
    stored = (train.WEIGHTS_FOLDER / f"{MOONS[0]}.npz").read_bytes()
    monkeypatch.setattr(train, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{MOONS[0]}.npz: .*python -m rpa.subjects.train {MOONS[0]}"):
        train.load_network(MOONS[0])
    method = stored.index(b"PK\1\2") + 10  # of the first array's compression
    for content in (b"", stored[:-100], b"version https://git-lfs", stored[:method] + b"c" + stored[method + 1 :]):
        (tmp_path / f"{MOONS[0]}.npz").write_bytes(content)
        with pytest.raises(OSError, match=f"{MOONS[0]}.npz: truncated, altered"):
            train.load_network(MOONS[0])
    (tmp_path / f"{MOONS[1]}.npz").write_bytes(stored)
    with pytest.raises(OSError, match=f"{MOONS[1]}.npz: .*expected the layers 2-16-16-1, got 2-8-8-1"):
        train.load_network(MOONS[1])


def test_nothing_is_trained_on_a_stand_in(data_root):
    with pytest.warns(UserWarning, match="STAND-IN"), pytest.raises(OSError, match="stand-in"):
        train.train("mnist_784-32-32-10")
