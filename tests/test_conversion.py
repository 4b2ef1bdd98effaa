"""A converted network equals its module, layer type by layer type; what cannot be converted is named."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.patterns.pmf import pattern_pmf


class Residual(nn.Module):
    """x + W2 act(W1 x), some layers deep."""

    def __init__(self, width, act, depth=2):
        super().__init__()
        self.inner = nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), act)))
        self.last = nn.Linear(width, width)

    def forward(self, x):
        return x + self.last(self.inner(x))


class Calls(nn.Module):
    """The same things as functions and methods."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.shift = nn.Conv2d(2, 3, 3), nn.Linear(24, 4), nn.Parameter(torch.randn(4))

    def forward(self, x):
        y = functional.relu(self.conv(x))
        y = torch.cat([functional.avg_pool2d(y, 2), -functional.avg_pool2d(2 * y, 2) / 3], dim=1)
        y = y.view(y.size(0), -1)
        return (self.head(y) - self.shift).relu()


class Branching(nn.Module):
    """A unit that is read one, two and three layers later, in a network with slope."""

    def __init__(self, slope):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.act = nn.LeakyReLU(slope) if slope else nn.ReLU()

    def forward(self, x):
        first = self.act(self.a(x))
        second = self.act(self.b(first))
        third = self.act(self.c(second) + first)
        return third + first - second


def _trained(norm):
    """A normalization whose running statistics are not those it starts with."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return norm


FLAT = {
    "linear": lambda: nn.Linear(4, 3),
    "sequential": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)),
    "ends in relu": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU()),
    "two affine layers": lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6, bias=False), nn.ReLU()),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Sequential(nn.Linear(5, 2))),
    "leaky": lambda: nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 2)),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), _trained(nn.BatchNorm1d(5)), nn.ReLU(), nn.Linear(5, 2)),
    "normalized first": lambda: nn.Sequential(_trained(nn.BatchNorm1d(4)), nn.Linear(4, 2)),
    "dropout, identity": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Dropout(), nn.ReLU(), nn.Identity()),
    "residual": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Residual(6, nn.ReLU()), nn.ReLU(), nn.Linear(6, 2)),
    "residual, leaky": lambda: nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.1), Residual(6, nn.LeakyReLU(0.1), 3)),
    "skips the input": lambda: Residual(4, nn.ReLU()),
    "in place": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)),
    "branching": lambda: Branching(0.0),
    "branching, leaky": lambda: Branching(0.3),
}
IMAGES = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)),
    "average": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)),
    "batch norm 2d": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), _trained(nn.BatchNorm2d(3)), nn.ReLU(), nn.Flatten()),
    "adaptive": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "padding": lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 1, 3), nn.ReLU(), nn.Flatten()),
    "functions": Calls,
}


@pytest.mark.parametrize("name", [*FLAT, *IMAGES])
def test_the_network_equals_the_module(name):
    torch.manual_seed(0)
    shape = (4,) if name in FLAT else (2, 6, 6)
    module = (FLAT | IMAGES)[name]().double().eval()
    net = ReLUNetwork.from_torch(module, shape)
    x = 3 * torch.randn(200, *shape, dtype=torch.float64)
    expected = module(x).numpy(force=True)
    np.testing.assert_allclose(net(x.flatten(1).numpy()), expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert not list(module.parameters())[0].grad and module(x).requires_grad  # the module is as it was


def test_rows_come_before_images():
    module = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(20, 16)
    np.testing.assert_allclose(ReLUNetwork.from_torch(module)(x.numpy()), module(x).numpy(force=True), atol=1e-5)


def test_plain_networks_keep_their_weights_to_the_bit():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    net = ReLUNetwork.from_torch(module)
    for weight, bias, layer in zip(net.weights, net.biases, (module[0], module[2])):
        assert (weight == layer.weight.double().numpy(force=True)).all()
        assert (bias == layer.bias.double().numpy(force=True)).all()


def test_carried_units_add_no_pattern():
    """A unit is carried by a copy that is on when it is: the patterns of the module's own units stay as many."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), Residual(4, nn.ReLU(), 1), nn.ReLU(), nn.Linear(4, 1)).eval()
    net = ReLUNetwork.from_torch(module)
    pmf = pattern_pmf(module, Gaussian([0.1, 0.2], 1.0))
    own = net.patterns(np.random.default_rng(0).normal(size=(20000, 2)))
    assert net.hidden_sizes == (4, 8, 4) and (own[:, :4] == own[:, 8:12]).all()
    assert pmf.p.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: [nn.Linear(2, 2), nn.Tanh()], "module: layer 1 is Tanh; expected affine layers"),
        (lambda: [nn.Linear(2, 2), nn.Softmax(1)], "layer 1 is Softmax; drop it and ask for class probabilities"),
        (lambda: [nn.Linear(2, 2), nn.Sigmoid()], "layer 1 is Sigmoid; drop it"),
        (lambda: [nn.Linear(2, 2), nn.ReLU(), nn.LeakyReLU(0.1)], "expected one slope"),
        (lambda: [nn.Linear(2, 2), nn.Dropout()], "Dropout in training mode .* module.eval"),
        (lambda: [nn.Linear(2, 2), nn.BatchNorm1d(2)], "BatchNorm1d in training mode"),
        (lambda: [nn.ReLU()], r"input_shape: expected the shape of one input"),
        (lambda: [nn.Conv2d(1, 2, 3)], r"input_shape: expected the shape of one input"),
    ],
)
def test_what_cannot_be_converted_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        ReLUNetwork.from_torch(nn.Sequential(*make()).train())


def test_other_refusals():
    with pytest.raises(ValueError, match="module: expected a torch module, got list"):
        ReLUNetwork.from_torch([])
    with pytest.raises(ValueError, match=r"layer 0 \(Linear\)|does not take"):
        ReLUNetwork.from_torch(nn.Sequential(nn.Conv2d(1, 1, 3)), (2, 5, 5))
    with pytest.raises(ValueError, match="input_shape: expected whole numbers"):
        ReLUNetwork.from_torch(nn.Linear(2, 2), (0,))
    big = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
    with pytest.raises(
        ValueError, match=r"layer 0 \(Conv2d\) as a dense matrix has 65,536 x 3,072 entries, 1.6 GB; rpa.two"
    ):
        ReLUNetwork.from_torch(big, (3, 32, 32))
    with pytest.raises(ValueError, match=r"the input as a dense matrix has 150,528 x 150,528"):
        ReLUNetwork.from_torch(big, (3, 224, 224))
    pooled = nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2))
    with pytest.raises(ValueError, match="MaxPool2d; a maximum has no ReLU pattern"):
        ReLUNetwork.from_torch(pooled, (1, 6, 6))

    class Wandering(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Product(nn.Module):
        def forward(self, x):
            return x * x

    class Inverse(nn.Module):
        def forward(self, x):
            return 1 / (x + 3)

    class Stacked(nn.Module):
        def forward(self, x):
            return torch.cat([x, x])

    class Held(nn.Module):
        def forward(self, x):
            y = 2 * x
            held = y
            y += x
            return y + held

    with pytest.raises(ValueError, match="its trace by torch.fx is not the module"):
        ReLUNetwork.from_torch(Held(), 2)
    with pytest.raises(ValueError, match="torch.fx cannot follow Wandering"):
        ReLUNetwork.from_torch(Wandering(), 2)
    with pytest.raises(ValueError, match="module: calls mul"):
        ReLUNetwork.from_torch(Product(), 2)
    with pytest.raises(ValueError, match="module: calls truediv"):
        ReLUNetwork.from_torch(Inverse(), 2)
    with pytest.raises(ValueError, match="layer cat mixes the inputs of a batch"):
        ReLUNetwork.from_torch(Stacked(), 2)
