"""The trained networks of the notebooks: their architectures, their training from seeds, and their loading.

`load_network` and `load_module` read data/weights/<name>.npz, which hold plain arrays (no pickles) and, as JSON, how
they were made. `python -m rpa.subjects.train [names]` trains them again, on one thread, from fixed seeds. Weights of
image networks are stored in half precision, those of AlexNet in 8 bits and those of "lenet_p2" in 6; the network *is*
the stored one, and its accuracy is that of the stored one. All but these two take pixels in [0, 1]: the normalization
used in training is folded into the first layer, so that a noise level is in units of the pixel.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from rpa import _check, _files
from rpa._files import ROOT
from rpa.network import ReLUNetwork
from rpa.parallel import one_thread
from rpa.subjects import datasets

WEIGHTS_FOLDER = ROOT / "data" / "weights"


@dataclass(frozen=True)
class Recipe:
    """How a network is made: layers ("784-32-32-10", or a name of `architecture`), data set, epochs of AdamW, seed."""

    layers: str
    data: str
    epochs: int
    seed: int = 0
    rate: float = 3e-3
    decay: float = 0.05
    batch: int = 256
    store: str = "float16"


NETWORKS = {
    "moons_2-8-8-1": Recipe("2-8-8-1", "moons", 800, rate=1e-2, decay=0.3, batch=1000, store="float32"),
    "moons_2-16-16-1": Recipe("2-16-16-1", "moons", 600, rate=1e-2, decay=0.3, batch=1000, store="float32"),
    "mnist_784-32-32-10": Recipe("784-32-32-10", "mnist", 20),
    "mnist_784-128-64-10": Recipe("784-128-64-10", "mnist", 15),
    "fashion_784-32-32-10": Recipe("784-32-32-10", "fashion_mnist", 20),
    "fashion_784-128-64-10": Recipe("784-128-64-10", "fashion_mnist", 15),
    "lenet_mnist": Recipe("lenet", "mnist", 4, rate=2e-3),
    "lenet_relu_mnist": Recipe("lenet-relu", "mnist", 4, rate=2e-3),
    "lenet_p2": Recipe("lenet-p2", "mnist", 2, rate=1e-3, store="int6"),
    "alexnet_fashion": Recipe("alexnet", "fashion_mnist", 2, rate=5e-4, batch=128, store="int8"),
}


def architecture(layers: str) -> nn.Sequential:
    """A fresh `nn.Sequential`: "a-b-c" is fully connected with ReLU between; "lenet" is Caffe's 20-50-500, whose one
    ReLU follows the first Linear layer; "lenet-relu" is the same with a ReLU after each convolution too; "lenet-p2"
    is that of P2's released code, for images from which 0.5 is subtracted before the zero padding; "alexnet" has the
    convolutions of torchvision's AlexNet and hidden layers of 256 units instead of 4096, for (n, 3, 64, 64).
    """
    if layers == "alexnet":
        head = [nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
        module = nn.Sequential(*datasets.import_torchvision().models.alexnet(weights=None).features, *head)
        for layer in module:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        return module
    if layers == "lenet-p2":
        block = lambda a, b: [nn.Conv2d(a, b, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()]
        head = [nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Linear(1024, 10)]
        return nn.Sequential(*block(1, 32), *block(32, 64), *head)
    if layers.startswith("lenet"):
        gate = [nn.ReLU()] if layers == "lenet-relu" else []
        convolutions = [nn.Conv2d(1, 20, 5), *gate, nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), *gate, nn.MaxPool2d(2)]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    sizes = [int(size) for size in layers.split("-")]
    modules = [module for pair in zip(sizes[:-1], sizes[1:]) for module in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*modules[:-1])


def enlarged(x: torch.Tensor) -> torch.Tensor:
    """Grey images (n, 1, 28, 28) as AlexNet takes them, (n, 3, 64, 64): interpolated, the same in each channel."""
    return nn.functional.interpolate(x, 64, mode="bilinear").expand(-1, 3, -1, -1)


def load_module(name: str) -> nn.Sequential:
    """The network as an `nn.Sequential` in evaluation mode, float32, without gradients.

    LeNets take (n, 1, 28, 28), AlexNet (n, 3, 64, 64), the others rows. Convolutions have their channels last, which
    halves their time. Raises ValueError for an unknown name, OSError for a missing or altered file.
    """
    arrays, _ = _read(name)
    return _module(NETWORKS[name].layers, arrays).to(memory_format=torch.channels_last)


def _module(layers, arrays):
    module = architecture(layers)
    module.load_state_dict(_unpacked(arrays))
    return module.eval().requires_grad_(False)


def load_network(name: str) -> ReLUNetwork:
    """The network as a `ReLUNetwork` (float64): any without convolutions; those of moons give the logit of class 1."""
    module = load_module(name)
    if not NETWORKS[name].layers[0].isdigit():
        raise ValueError(f"name: expected a network of Linear layers only, got {name!r}; see load_module")
    return ReLUNetwork.from_torch(module)


def load_metadata(name: str) -> dict:
    """How the stored network was made, and its test accuracy: a dict."""
    return _read(name)[1]


def _recipe(name):
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"name: expected one of {', '.join(NETWORKS)}; got {name!r}")
    return NETWORKS[name]


def _read(name):
    recipe, path = _recipe(name), WEIGHTS_FOLDER / f"{name}.npz"
    if not path.is_file():
        way = f"use a git clone, or train it: `python -m rpa.subjects.train {name}`"
        raise FileNotFoundError(f"{path}: not there; {way}")
    with _files.reading(path) as stored:
        arrays = dict(stored)
        metadata = json.loads(str(arrays.pop("metadata")))
        if metadata["layers"] != recipe.layers:
            raise ValueError(f"expected the layers {recipe.layers}, got {metadata['layers']}")
    return arrays, metadata


def train(name: str) -> Any:
    """Trains a network from its seed, with a bar: (arrays by state-dict key, in the stored precision; metadata).

    Deterministic on one machine; across machines sums may be rounded differently. Raises OSError when only a
    stand-in of its data is at hand.
    """
    return _train(_recipe(name), name)


def moons_network(hidden: Sequence[int], seed: int = 0) -> ReLUNetwork:
    """A network 2-hidden-1 trained now on the two moons (seconds), the logit of class 1; hidden: widths of its layers.

    >>> moons_network([4, 3]).hidden_sizes
    (4, 3)
    """
    widths = [_check.integer("hidden", width, 1) for width in hidden]
    layers = "-".join(map(str, [2, *widths, 1]))
    recipe = replace(NETWORKS["moons_2-8-8-1"], layers=layers, seed=_check.integer("seed", seed))
    arrays, _ = _train(recipe)
    return ReLUNetwork.from_torch(_module(layers, arrays))


def _train(recipe, label=None):
    ((x, y), (x_test, y_test)), source = _data(recipe)
    planar, padded = recipe.data == "moons", recipe.layers in ("alexnet", "lenet-p2")
    shift, scale = (x.mean(0), x.std(0)) if planar else (x.mean(), x.std())
    if recipe.layers == "lenet-p2":
        shift, scale = torch.tensor([0.5, 0.5])
    loss = nn.BCEWithLogitsLoss() if planar else nn.CrossEntropyLoss()
    prepare = enlarged if recipe.layers == "alexnet" else nn.Identity()
    with one_thread(), torch.random.fork_rng(devices=[]):  # the same whatever surrounds it
        torch.manual_seed(recipe.seed)
        module = architecture(recipe.layers).to(x.dtype)
        optimizer = torch.optim.AdamW(module.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
        steps = recipe.epochs * -(-len(x) // recipe.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        normalized = (x - shift) / scale
        for _ in tqdm(range(recipe.epochs), label, disable=label is None):
            for rows in torch.randperm(len(x)).split(recipe.batch):
                optimizer.zero_grad()
                loss(module(prepare(normalized[rows])), y[rows]).backward()
                optimizer.step()
                schedule.step()
        if padded:  # padding keeps the first layer from taking the shift in
            x_test = (x_test - shift) / scale
        else:
            _fold(module[0], shift, scale)
        arrays = _packed(module.state_dict(), recipe.store)
        stored = _module(recipe.layers, arrays).to(x.dtype)
        output = torch.cat([stored(prepare(part)) for part in x_test.split(1000)])
    right = (output > 0 if planar else output.argmax(1)) == y_test
    metadata = {"layers": recipe.layers, "seed": recipe.seed, "epochs": recipe.epochs, "store": recipe.store,
                "test accuracy": round(right.double().mean().item(), 6),
                "data": source, "torch": torch.__version__}  # fmt: skip
    return arrays, metadata | ({"mean": float(shift), "std": float(scale)} if padded else {})


def _packed(state, store):
    """Arrays by name in the stored precision; "int8" and "int6" come with a scale for each output of a layer."""
    arrays = {key: value.numpy() for key, value in state.items()}
    if not store.startswith("int"):
        return {key: value.astype(store) for key, value in arrays.items()}
    packed = {key: value.astype(np.float32) for key, value in arrays.items() if value.ndim == 1}
    largest = 2 ** (int(store[3:]) - 1) - 1
    for key, value in ((key, value) for key, value in arrays.items() if value.ndim > 1):
        scale = np.abs(value).max(axis=tuple(range(1, value.ndim)), keepdims=True).astype(np.float32) / largest
        packed |= {key: np.rint(value / np.maximum(scale, 1e-30)).astype(np.int8), f"{key}.scale": scale}
    return packed


def _unpacked(arrays):
    """The state dict, float32, of what `_packed` returned."""
    values = {key: value.astype(np.float32) for key, value in arrays.items()}
    return {
        key: torch.from_numpy(value * values.get(f"{key}.scale", np.float32(1)))
        for key, value in values.items()
        if not key.endswith(".scale")
    }


def _data(recipe):
    """[(x, y) for training, (x, y) for testing], and the provenance."""
    if recipe.data == "moons":
        parts, source = [datasets.moons(seed=seed) for seed in (0, 1)], "datasets.moons()"
        parts = [(x, y[:, None].astype(float)) for x, y in parts]  # of the shape and type of the logits
    else:
        sets = [getattr(datasets, recipe.data)(split) for split in ("train", "test")]
        if any(each.stand_in for each in sets):
            raise OSError(f"{sets[0].name}: nothing is trained on its stand-in; see data/README.md")
        form = "rows" if recipe.layers[0].isdigit() else "x"
        parts, source = [(getattr(each, form), each.y) for each in sets], sets[0].provenance
    return [[torch.from_numpy(array) for array in part] for part in parts], source


def _fold(layer, shift, scale):
    """Lets the first layer take x where it took (x - shift) / scale; exact for a convolution without padding."""
    with torch.no_grad():
        weight = layer.weight / scale
        layer.bias -= (weight * shift).flatten(1).sum(1)
        layer.weight.copy_(weight)


def main(names: list[str]) -> None:
    """Trains and stores the named networks, or all."""
    for name in names:
        _recipe(name)  # before any is trained
    for name in names or NETWORKS:
        arrays, metadata = train(name)
        _files.save_arrays(WEIGHTS_FOLDER / f"{name}.npz", metadata=np.array(json.dumps(metadata)), **arrays)
        print(f"{name}: test accuracy {metadata['test accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
