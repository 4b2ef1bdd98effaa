"""Networks as people write them: options of layers against dense Jacobians, whole models against samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import rpa
from rpa.moments.layerwise import RULES
from rpa.moments.two_stage import splits
from rpa.subjects._torchvision import import_torchvision

F64 = torch.float64
few = settings(derandomize=True, deadline=None, max_examples=40, database=None)


@st.composite
def layers(draw):
    """One affine layer with random options, for images (2, 5, 6) or rows of a plane (2, 8)."""
    number = lambda low, high: draw(st.integers(low, high))
    dims, kind = number(1, 2), draw(st.sampled_from(["conv", "average", "adaptive", "padding"]))
    if kind == "adaptive":
        return (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[dims - 1]([number(1, 9) for _ in range(dims)])
    kernel, stride = [number(1, 3) for _ in range(dims)], [number(1, 2) for _ in range(dims)]
    if kind == "average":
        options = {"ceil_mode": draw(st.booleans()), "count_include_pad": draw(st.booleans())}
        options |= {"divisor_override": draw(st.sampled_from([None, 1, 3]))} if dims == 2 else {}
        return (nn.AvgPool1d, nn.AvgPool2d)[dims - 1](kernel, stride, [k // 2 for k in kernel], **options)
    if kind == "padding":
        modes = [nn.ReflectionPad1d, nn.ReplicationPad1d] if dims == 1 else [nn.ReflectionPad2d, nn.CircularPad2d]
        return draw(st.sampled_from(modes))(number(0, 2))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    options = {"stride": stride, "dilation": number(1, 2), "groups": number(1, 2), "padding_mode": mode}
    return (nn.Conv1d, nn.Conv2d)[dims - 1](2, 2, kernel, padding=[number(0, 2) for _ in range(dims)], **options)


def _image_and_net(drawn, seed):
    torch.manual_seed(seed)
    shape = (2, 8) if "1d" in type(drawn).__name__ else (2, 5, 6)
    x = torch.rand(2, *shape, dtype=F64)
    middle = drawn(x.float()).shape[1]
    net = nn.Sequential(drawn, (nn.Conv1d if len(shape) == 2 else nn.Conv2d)(middle, 2, 1), nn.Flatten(), nn.ReLU())
    net = net.double().eval().requires_grad_(False)
    net[1].bias += 1e3  # no unit is ever off
    jacobian = torch.autograd.functional.jacobian(lambda image: net(image[None])[0], x[0]).flatten(1)
    return x, net, jacobian


@few
@given(layers(), st.integers(0, 1000))
def test_every_function_is_exact_on_affine_networks(drawn, seed):
    x, net, jacobian = _image_and_net(drawn, seed)
    var = torch.rand(x.shape[1:], dtype=F64)
    expected = (jacobian * var.flatten()) @ jacobian.T
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    for rule in RULES:
        moments = rpa.layerwise(net, x, var, rule)
        close(moments.mean, net(x))
        close(moments.cov[0], expected if rule != "diagonal" else torch.diag(expected.diagonal()))
    for rule in ("exact", "linear"):
        close(rpa.two_stage(net, x, var, rule=rule).cov[1], expected)
        close(rpa.two_stage(net, x, torch.diag(var.flatten()), rule=rule).cov[1], expected)
    flat = rpa.ReLUNetwork.from_torch(net, tuple(x.shape[1:]))
    close(torch.from_numpy(flat(x.flatten(1).numpy())), net(x))
    if x.ndim == 4:
        for method in ("linear", "two-stage", "lines"):
            found = rpa.noise_map(net, x[0], 0.3, method=method)
            close(found, 0.09 * (jacobian.reshape(-1, *x.shape[1:]) ** 2).sum(1))


def _ones(**options):
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False, **options).double()
    layer.weight.data.fill_(1.0)
    return layer.requires_grad_(False)


CASES = {  # variances under white noise on a plane of 3 x 3, or a row of 8
    "circular": (_ones(padding_mode="circular"), [9.0] * 9),
    "reflect": (_ones(padding_mode="reflect"), [25.0, 15, 25, 15, 9, 15, 25, 15, 25]),
    "zeros": (_ones(), [4.0, 6, 4, 6, 9, 6, 4, 6, 4]),
    "ceil mode": (nn.AvgPool2d(2, ceil_mode=True), [0.25, 0.5, 0.5, 1]),
    "divisor": (nn.AvgPool2d(2, divisor_override=1), [4.0]),
    "adaptive": (nn.AdaptiveAvgPool2d((1, 5)), [0.5, 1 / 3, 0.5, 1 / 3, 0.5]),
}


@pytest.mark.parametrize("name", CASES)
def test_options_of_layers_count(name):
    layer, expected = CASES[name]
    x = torch.zeros(1, 1, *((1, 8) if name == "adaptive" else (3, 3)), dtype=F64)
    expected = torch.tensor(expected, dtype=F64)
    for rule in RULES:
        torch.testing.assert_close(rpa.layerwise(layer, x, 1.0, rule).var[0], expected)
    mean = rpa.two_stage(nn.Sequential(layer, nn.ReLU()), x, 1.0).mean[0]
    torch.testing.assert_close(mean, expected.sqrt() / math.sqrt(2 * math.pi))


def test_gradients_are_finite_where_a_variance_is_zero():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    slope = lambda rule: torch.autograd.grad(rpa.two_stage(net, torch.ones(1, 3), var, rule=rule).var.sum(), var)[0]
    var = torch.tensor([0.0, 0.1, 0.2], dtype=F64, requires_grad=True)
    shift = torch.tensor([1e-6, 0, 0], dtype=F64)
    total = lambda v: rpa.two_stage(net, torch.ones(1, 3), v).var.sum().item()
    difference = (total(var.detach() + shift) - total(var.detach())) / 1e-6
    assert slope("linear")[0].item() == pytest.approx(difference, rel=1e-4)
    assert slope("exact").isfinite().all()


def test_deep_networks_in_single_precision():
    torch.manual_seed(0)
    net = nn.Sequential(*(part for _ in range(20) for part in (nn.Linear(20, 20), nn.ReLU())))
    x = torch.randn(1, 20)
    single, double = rpa.layerwise(net, x, 1e-6), rpa.layerwise(net.double(), x, 1e-6)
    torch.testing.assert_close(single.var.double(), double.var, rtol=1e-2, atol=1e-4 * double.var.max().item())


class Model(nn.Module):
    """A forward pass given as a function of (x, layers)."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def _tutorial(x, a, b, c):
    x = functional.max_pool2d(functional.relu(a(x)), 2)
    x = functional.max_pool2d(functional.relu(b(x)), 2)
    return c(x.view(x.shape[0], -1))


def _unet(x, down, up, last):
    skip = functional.relu(down(x))
    low = functional.interpolate(functional.avg_pool2d(skip, 2), scale_factor=2)
    return last(torch.cat([skip, functional.relu(up(low))], 1)).mean((2, 3))


def _mixer(x, patch, tokens, channels, head):
    y = patch(x).flatten(2)
    y = y + functional.relu(tokens(y))
    y = y.transpose(1, 2)
    return head((y + channels(y).clamp(-1, 1)).mean(1))


def _block(channels, act):
    norm = lambda: nn.BatchNorm2d(channels)
    inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(), act,
                          nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm())  # fmt: skip
    return Model(lambda x, inner: act(inner(x) + x), inner)


def _dncnn():
    middle = [part for _ in range(2) for part in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True))]
    chain = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), *middle, nn.Conv2d(4, 1, 3, padding=1))
    return Model(lambda x, chain: (x - chain(x)).flatten(1), chain)


def _inverted():
    act = nn.ReLU6()
    inner = nn.Sequential(nn.Conv2d(4, 8, 1), act, nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), act,
                          nn.Conv2d(8, 4, 1))  # fmt: skip
    return Model(lambda x, stem, inner, head: head((stem(x) + inner(stem(x))).mean((2, 3))), nn.Conv2d(1, 4, 3), inner,
                 nn.Linear(4, 3))  # fmt: skip


conv, pool = nn.Conv2d, nn.MaxPool2d
MODELS = {
    "tutorial": lambda: Model(_tutorial, conv(1, 3, 3), conv(3, 4, 2), nn.Linear(4, 3)),
    "lenet": lambda: nn.Sequential(conv(1, 3, 3, padding=1), nn.Hardtanh(), nn.AvgPool2d(2), conv(3, 4, 2), nn.ReLU(),
                                   nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)),
    "alexnet": lambda: nn.Sequential(conv(1, 4, 3, 2, 1), nn.ReLU(inplace=True), pool(3, 2),
                                     nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(16, 6),
                                     nn.ReLU(inplace=True), nn.Linear(6, 3)),
    "conv, norm, pool": lambda: nn.Sequential(conv(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), pool(2), nn.Flatten(),
                                              nn.Linear(36, 3)),
    "fire": lambda: nn.Sequential(conv(1, 3, 3), nn.ReLU(), Model(
        lambda x, a, b: torch.cat([a(x).relu(), b(x).relu()], 1), conv(3, 2, 1), conv(3, 2, 3, padding=1)),
        pool(2), nn.Flatten(), nn.Linear(36, 3)),
    "residual": lambda: nn.Sequential(conv(1, 3, 3), _block(3, nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "residual, leaky": lambda: nn.Sequential(conv(1, 3, 3), _block(3, nn.LeakyReLU(0.1)), nn.Flatten(),
                                             nn.Linear(108, 3)),
    "inverted residual": _inverted,
    "u-net": lambda: Model(_unet, conv(1, 3, 3, padding=1), conv(3, 3, 3, padding=1), conv(6, 3, 1)),
    "mixer": lambda: Model(_mixer, conv(1, 4, 2, 2), nn.Linear(16, 16), nn.Linear(4, 4), nn.Linear(4, 3)),
    "autoencoder": lambda: nn.Sequential(conv(1, 3, 2, 2), nn.PReLU(3), nn.ConvTranspose2d(3, 1, 2, 2), nn.ReLU(),
                                         nn.Flatten(), nn.Linear(64, 3)),
    "dncnn": _dncnn,
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)),
    "one dimension": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 3, 5), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(),
                                           nn.Linear(45, 3)),
}  # fmt: skip


def _ready(net, shape=(1, 8, 8)):
    for layer in net.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return net.eval().requires_grad_(False), torch.rand(1, *shape, generator=torch.Generator().manual_seed(3))


def _agrees(net, x, sigma, n):
    """Means and variances of all functions near those of samples, for noise so small that few units change."""
    generator = torch.Generator().manual_seed(5)
    chunks = [x + sigma * torch.randn(500, *x.shape[1:], generator=generator, dtype=x.dtype) for _ in range(n // 500)]
    y = torch.cat([net(chunk).flatten(1) for chunk in chunks]).double()
    mean, var = y.mean(0), y.var(0)
    for moments in (rpa.layerwise(net, x, sigma**2), rpa.two_stage(net, x, sigma**2)):
        assert ((moments.mean[0] - mean).abs() < 0.4 * var.sqrt() + 1e-9).all()
        assert ((moments.var[0] - var).abs() < 0.15 * var + 1e-12).all()
    diagonal = rpa.layerwise(net, x, sigma**2, "diagonal")
    assert ((diagonal.mean[0] - mean).abs() < 0.3 * var.sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", MODELS)
def test_models_agree_with_samples(name):
    torch.manual_seed(1)
    net, x = _ready(MODELS[name]().double())
    x = x.double()
    _agrees(net, x, 0.004, 4000)
    flat = rpa.ReLUNetwork.from_torch(net, (1, 8, 8))
    images = torch.randn(50, 1, 8, 8, dtype=F64)
    np.testing.assert_allclose(flat(images.flatten(1).numpy()), net(images).reshape(50, -1), rtol=1e-9, atol=1e-9)
    lines, found = (rpa.noise_map(net, x[0], 0.004, method=m, at=[[3, 4]]) for m in ("lines", "two-stage"))
    torch.testing.assert_close(found, lines, rtol=0.35, atol=1e-7)
    law = rpa.Gaussian(x.flatten().numpy(), 0.004**2)
    same = rpa.layerwise(net, rpa.GaussianMixture([0.3, 0.7], [law, law]), input_shape=(1, 8, 8))
    torch.testing.assert_close(same.cov, rpa.layerwise(net, x, 0.004**2).cov)
    torch.testing.assert_close(
        rpa.layerwise(flat, law).mean, rpa.layerwise(net, x, 0.004**2).mean, rtol=1e-3, atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "resnet18", "vgg11_bn", "vgg11", "alexnet",
                                  "mnasnet0_5", "shufflenet_v2_x0_5", "mobilenet_v2", "densenet121"])  # fmt: skip
def test_models_of_torchvision(name):
    torch.manual_seed(1)
    options = {"width_mult": 0.25} if name == "mobilenet_v2" else {}
    options |= {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    net, x = _ready(getattr(import_torchvision().models, name)(weights=None, num_classes=4, **options), (3, 64, 64))
    mean = rpa.layerwise(net, x, 0.0, "diagonal").mean
    torch.testing.assert_close(mean, net(x), rtol=1e-3, atol=1e-5)
    found = rpa.two_stage(net, x, 1e-6)
    y = torch.cat([net(x + 1e-3 * torch.randn(100, *x.shape[1:])) for _ in range(5)])
    assert ((found.var[0] - y.var(0)).abs() < 0.5 * y.var(0) + 1e-15).all() and found.mean.isfinite().all()


def test_a_mixture_is_the_weighted_sum_of_its_parts():
    torch.manual_seed(0)
    net = rpa.ReLUNetwork.from_torch(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)))
    rng = np.random.default_rng(0)
    parts = [rpa.Gaussian(rng.standard_normal(3), np.diag([0.1, 0.5, 1.0]) + 0.05) for _ in range(2)]
    law = rpa.GaussianMixture([0.25, 0.75], parts)
    samples = net(law.sample(400_000, 1))
    for moments in (rpa.layerwise(net, law), rpa.two_stage(net, law, rule="exact")):
        np.testing.assert_allclose(moments.mean[0], samples.mean(0), atol=6 * samples.std() / 600)
        np.testing.assert_allclose(moments.cov[0], np.cov(samples.T), rtol=0.02, atol=0.01)


def test_a_smooth_function_is_refused_however_straight_it_is_at_the_probes():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        net[0].weight.mul_(1e-4), net[0].bias.zero_()
    with pytest.raises(ValueError, match=r"layer 1 \(Tanh\) is not affine"):
        rpa.layerwise(net, torch.zeros(1, 2), 0.1)


def test_networks_are_split_where_nothing_passes_by():
    torch.manual_seed(0)
    _, x = _ready(MODELS["tutorial"]())
    with pytest.raises(ValueError, match=r"two_stage\(net, inputs, relu=0\)"):
        splits(MODELS["residual, leaky"]().eval())
    net = MODELS["alexnet"]().eval()
    for first, second in splits(net):
        torch.testing.assert_close(second(torch.relu(first(x))), net(x))


def test_modules_in_half_precision_are_computed_in_single_and_stay_as_they_are():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.ReLU(inplace=True), nn.Linear(3, 2)).to(torch.bfloat16)
    assert (
        rpa.noise_map(net, np.ones((2, 2)), 0.1).dtype
        == rpa.layerwise(net, [[0.0] * 4], 0.1).cov.dtype
        == torch.float32
    )
    assert net[0].weight.dtype == torch.bfloat16
    assert rpa.layerwise(torch.compile(net), [[0.0] * 4], 0.1).mean.shape == (1, 2)


def test_maps_see_every_layer_before_the_first_activation():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    norm.running_var.uniform_(0.5, 2.0)
    layers = [nn.Flatten(), norm, nn.ReLU(), nn.Linear(4, 2)]
    for net in (layers, layers[:1] + layers[2:], [nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:])]):
        net = nn.Sequential(*net).double().eval()
        maps = [rpa.noise_map(net, np.ones((2, 2)), 0.3, method=m, nodes=401, order=9) for m in ("two-stage", "lines")]
        torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-6)


def test_heads_and_batches_are_refused_by_name():
    one = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 2), nn.Flatten(), nn.Sigmoid()).eval()
    law = rpa.Gaussian(np.ones(4), 0.3)
    with pytest.raises(ValueError, match="net: ends in sigmoid"):
        rpa.failure_probability(one, law)
    with pytest.raises(ValueError, match="without running statistics depends on the batch"):
        rpa.noise_map(
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, track_running_stats=False)).eval(), np.ones((2, 2)), 1
        )
    with pytest.raises(ValueError, match=r"net: does not tell .*from_torch\(net, input_shape=\(1, 28, 28\)\)"):
        rpa.pattern_pmf(nn.Sequential(nn.Conv2d(1, 1, 2)), law)
