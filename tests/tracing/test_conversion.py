"""A converted network equals its module, whatever the module is made of; what cannot be converted is named."""

import numpy as np
import pytest
import torch
from helpers import Net
from torch import nn
from torch.nn import functional

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.patterns.pmf import pattern_pmf

Seq = nn.Sequential


def residual(width, act, depth=2):
    """x + W2 act(W1 x), some layers deep."""
    inner = [part for _ in range(depth) for part in (nn.Linear(width, width), act)]
    return Net(lambda x, inner: x + inner(x), Seq(*inner, nn.Linear(width, width)))


def branching(act):
    """A unit that is read one, two and three layers later."""

    def forward(x, a, b, c):
        first = act(a(x))
        second = act(b(first))
        third = act(c(second) + first)
        return third + first - second

    return Net(forward, nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5))


class Capped(nn.ReLU):
    def forward(self, x):
        return functional.relu(x).clamp(max=0.5)


def _shapes(x, layer):
    b, c, h, w = x.shape
    y = layer(x).reshape(b, -1, 4, 4).permute(0, 2, 3, 1).contiguous()
    left, right = torch.chunk(y.clone(), 2, dim=-1)
    return torch.stack([left.mean((1, 2)), right[:, 1:, 0].mean(1)], 1).relu().unsqueeze(1).flatten(1, -1)


def _calls(x, first, last):
    y = functional.relu(first(x))
    y = torch.cat(tensors=[functional.avg_pool2d(y, 2), -functional.avg_pool2d(torch.mul(y, 2), 2) / 3], dim=1)
    y = functional.dropout(functional.pad(y.view(y.size(0), -1), (0, 0)), training=False)
    return (last(y) - last.bias * last.bias).relu().add(last.bias)


def _matmul(x, layer):
    return torch.mm(functional.linear(x, layer.weight) @ layer.weight, layer.weight.T).relu()


def _faint():
    """6 - relu(6 - v) of v = 1e-10 has few digits, as in deep networks with random weights: no reason to refuse."""
    module = Seq(nn.Linear(4, 5, bias=False), nn.ReLU6(), nn.Linear(5, 3)).requires_grad_(False)
    module[0].weight.mul_(1e-10)
    return module


FLAT = {
    "linear": lambda: nn.Linear(4, 3),
    "ends in relu": lambda: Seq(nn.Linear(4, 5), nn.ReLU()),
    "two slopes": lambda: Seq(nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)),
    "prelu": lambda: Seq(nn.Linear(4, 5), nn.PReLU(5, 0.3), nn.Linear(5, 2), nn.PReLU(init=-2.0)),
    "residual, leaky": lambda: Seq(nn.Linear(4, 6), nn.LeakyReLU(0.1), residual(6, nn.LeakyReLU(0.1), 3)),
    "skips the input": lambda: residual(4, nn.ReLU()),
    "branching": lambda: branching(nn.ReLU()),
    "branching, leaky": lambda: branching(nn.LeakyReLU(0.3)),
    "capped": lambda: Seq(nn.Linear(4, 5), Capped(), nn.Linear(5, 2)),
    "made in forward": lambda: Net(lambda x, a: a(nn.ReLU()(a(x))), nn.Linear(4, 4)),
    "matmul": lambda: Net(_matmul, nn.Linear(4, 3)),
    "constants of the input's type": lambda: Net(
        lambda x, a: (a(x) * x.new_tensor([1.0, 2.0, -3.0]) - x.new_full((1, 3), 0.5)).relu() / x.new_tensor(2.0)
        + torch.tensor([0.5, 0.25, 1.0]).type_as(x),
        nn.Linear(4, 3),
    ),
    "outputs (n,)": lambda: Seq(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1), nn.Flatten(0)),
    "rows before images": lambda: Seq(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten()),
    "lost beside a limit": _faint,
}  # fmt: skip
IMAGES = {
    "functions": lambda: Net(_calls, nn.Conv2d(2, 3, 3), nn.Linear(24, 4)),
    "shapes": lambda: Net(_shapes, nn.Conv2d(2, 2, 3)),
}


@pytest.mark.parametrize("name", [*FLAT, *IMAGES])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_network_equals_the_module(name):
    shape = (4,) if name in FLAT else (2, 6, 6)
    module = (FLAT | IMAGES)[name]().double().eval()
    net = ReLUNetwork.from_torch(module, None if name in FLAT else shape)
    x = 3 * torch.randn(200, *shape, dtype=torch.float64)
    expected = module(x).reshape(200, -1).numpy(force=True)
    np.testing.assert_allclose(net(x.flatten(1).numpy()), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert all(p.grad is None and p.dtype == torch.float64 for p in module.parameters())  # the module is as it was


@pytest.mark.parametrize("head", [nn.Softmax(1), nn.LogSoftmax(-1), nn.Sigmoid()])
def test_a_head_that_keeps_the_order_is_dropped_with_a_word(head):
    module = Seq(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    net, plain = (ReLUNetwork.from_torch(each) for each in (Seq(*module, head), module))
    assert all((a == b).all() for a, b in zip(net.weights, plain.weights))
    assert "which keeps the order of the outputs" in repr(net) and "order" not in repr(plain)


def test_a_module_that_computes_in_single_precision_is_taken():
    module = Net(lambda x, a: a(x.float()).relu(), nn.Linear(4, 3))
    x = torch.randn(20, 4)
    np.testing.assert_allclose(ReLUNetwork.from_torch(module)(x.numpy()), module(x).numpy(force=True), atol=1e-5)


def test_plain_networks_keep_their_weights_to_the_bit():
    module = Seq(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    net = ReLUNetwork.from_torch(module)
    for weight, bias, layer in zip(net.weights, net.biases, (module[0], module[2])):
        assert (weight == layer.weight.double().numpy(force=True)).all()
        assert (bias == layer.bias.double().numpy(force=True)).all()


def test_carried_units_add_no_pattern():
    """A unit is carried by a copy that is on when it is: the patterns of the module's own units stay as many."""
    torch.manual_seed(1)
    module = Seq(nn.Linear(2, 4), nn.ReLU(), residual(4, nn.ReLU(), 1), nn.ReLU(), nn.Linear(4, 1)).eval()
    net = ReLUNetwork.from_torch(module)
    pmf = pattern_pmf(module, Gaussian([0.1, 0.2], 1.0))
    patterns = net.patterns(np.random.default_rng(0).normal(size=(20000, 2)))
    assert net.hidden_sizes == (4, 8, 4) and (patterns[:, :4] == patterns[:, 8:12]).all()
    assert pmf.p.sum() == pytest.approx(1, abs=1e-12)


def test_comparisons_of_a_pooling_are_hidden_units():
    module = Seq(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)).eval()
    net = ReLUNetwork.from_torch(module, (1, 6, 6))
    # Windows of four: two comparisons, with the two units that may lose carried, then one.
    assert net.hidden_sizes == (16, 16, 8) and "12 of them comparisons of maxima" in repr(net)


def _held(x, m):
    y = 2 * x
    held = y
    y += x
    return y + held


REFUSED = [
    (lambda: Seq(nn.Linear(2, 2), nn.Tanh()), r"module: layer 1 \(Tanh\) is not affine; smooth functions have no"),
    (lambda: Seq(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 2)), r"layer 1 \(Sigmoid\) is not affine; smooth"),
    (lambda: Seq(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), "without running statistics d"),
    (lambda: Seq(nn.ReLU()), "input_shape: expected the shape of one input"),
    (lambda: Net(lambda x, a: functional.linear(x, a.weight.t()), nn.Linear(2, 2)), "input_shape: expected the shape"),
    (lambda: Seq(nn.Conv2d(1, 2, 3)), r"input_shape: .* input_shape=\(1, 28, 28\)"),
    (lambda: Net(lambda x: x if x.sum() > 0 else -x), "torch.fx cannot follow Net: its forward decides by values"),
    (lambda: Seq(nn.Linear(2, 2), Net(lambda x: x * x)), "module: mul is not affine; expected affine operations"),
    (lambda: Net(lambda x, a: 1 / (a(x) + 3), nn.Linear(2, 2)), "module: truediv is not affine"),
    (lambda: Net(lambda x, a: torch.cat([a(x), x]), nn.Linear(2, 2)), "cat mixes the inputs of a batch"),
    (lambda: Net(lambda x, a: _held(a(x), x), nn.Linear(2, 2)), "its trace by torch.fx is not the module"),
    (lambda: Net(lambda x, a: functional.dropout(a(x)), nn.Linear(2, 2)), "dropout draws random numbers"),
    (lambda: Net(lambda x, a: (a(x), x), nn.Linear(2, 2)), "expected one tensor as output .*, got tuple"),
    (lambda: Net(lambda x, a: {"out": a(x)}, nn.Linear(2, 2)), "expected one tensor .*, got .*dict"),
    (lambda: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), "got TorchScript, which hides its layers"),
    (lambda: [], "module: expected a torch module, got list"),
]  # fmt: skip


@pytest.mark.parametrize("make, message", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_converted_is_named(make, message):
    module = make()
    with pytest.raises(ValueError, match=message):
        ReLUNetwork.from_torch(module.eval() if isinstance(module, nn.Module) else module)


@pytest.mark.parametrize("seed", range(10))
def test_bends_that_two_probes_miss_are_seen(seed):
    torch.manual_seed(seed)
    one = Net(lambda x, a, b: torch.fmax(a(x), b(x)), nn.Linear(2, 1), nn.Linear(2, 1))
    for module in (one, Seq(nn.Linear(2, 1), nn.Hardshrink(0.1))):
        with pytest.raises(ValueError, match="is not affine; expected affine operations"):
            ReLUNetwork.from_torch(module.eval())


def test_other_refusals():
    with pytest.raises(ValueError, match=r"input_shape: the network does not take inputs .* \(2, 5, 5\)"):
        ReLUNetwork.from_torch(Seq(nn.Conv2d(1, 1, 3)), (2, 5, 5))
    with pytest.raises(ValueError, match="input_shape: expected whole numbers"):
        ReLUNetwork.from_torch(nn.Linear(2, 2), (0,))
    big = Seq(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
    with pytest.raises(ValueError, match=r"65,536 x 3,072 entries as a dense matrix, 1.6 GB; rpa.two_stage"):
        ReLUNetwork.from_torch(big, (3, 32, 32))
    hooked = Seq(nn.Linear(2, 2), nn.ReLU())
    hooked[0].register_forward_hook(lambda layer, inputs, out: out.abs() * 2)
    x = np.ones((3, 2))
    expected = hooked.double()(torch.from_numpy(x)).numpy(force=True)
    np.testing.assert_allclose(ReLUNetwork.from_torch(hooked)(x), expected)
