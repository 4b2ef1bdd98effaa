"""The failure event of a network with a Gaussian input, in coordinates in which the input is standard normal.

`events` makes one `Event` for each component of the input. An event is a function of z ~ N(0, I), the margin g(z): the
network fails at z where g(z) >= 0. For a label, g is the largest of f_c(z) - f_label(z) over the rival classes c; for a
direction and a threshold it is direction . f(z) - threshold. The coordinates z are those of the first layer
(`ReLUNetwork.whitened`) where the network is a chain of affine maps and ReLUs, and those of the input otherwise.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from rpa import _check
from rpa.inputs import RandomInput, components_of
from rpa.network import ReLUNetwork
from rpa.parallel import tmap
from rpa.tracing.graph import channels_last, check_evaluable, head_of

CPU_ROWS = {torch.float64: 4096, torch.float32: 64}  # inputs in a batch: small networks, convolutions
ACCELERATOR_ROWS = 2048  # inputs in a batch on an accelerator, which needs large batches
PROBES = 8  # inputs evaluated in one batch and one by one, which must agree
BELOW = -np.finfo(float).tiny
# Convolutions on an accelerator, the same on every call: cuDNN's default is TF32 with 10 bits.
FULL_PRECISION = {"enabled": True, "deterministic": True, "allow_tf32": False}


@dataclass(frozen=True, eq=False)
class Criterion:
    """The outputs f that fail: a union over q rivals of {rows[i] . f >= offsets[i]}, without equality where strict[i].

    rows (q, k), offsets (q,), strict bool (q,); rivals (q,): the class that takes over, or 0 for a direction.
    """

    rows: np.ndarray
    offsets: np.ndarray
    strict: np.ndarray
    rivals: np.ndarray


@dataclass(eq=False)
class Event:
    """Failure {z: g(z) >= 0} for z ~ N(0, I_dim), and how accurately its probability is wanted.

    net: outputs (n, k) for tensors z (n, dim) of the type and device of `like`; to_input maps z (n, dim) to inputs
    (n, d). weight: that of this component of the input. chain: `net` as a `ReLUNetwork`, if it is one. flipped: failure
    and success change roles. rtol, budget, rng: the relative error wanted, the evaluations of the network allowed, and
    the source of random numbers. evaluations: those up to now; a gradient counts as three.
    """

    net: Callable[[torch.Tensor], torch.Tensor]
    criterion: Criterion
    dim: int
    to_input: Callable[[np.ndarray], np.ndarray]
    like: torch.Tensor
    weight: float = 1.0
    chain: ReLUNetwork | None = None
    flipped: bool = False
    rtol: float = 0.05
    budget: int = 1_000_000
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    evaluations: int = 0

    @property
    def left(self) -> int:
        """Evaluations of the budget that have not been used."""
        return self.budget - self.evaluations

    @property
    def rivals(self) -> np.ndarray:
        """The indices that `gradient` takes as `which`: one for each rival, only one for a flipped event."""
        return np.arange(1 if self.flipped else len(self.criterion.rows))

    def each(self, z: np.ndarray) -> np.ndarray:
        """The margin of each rival, (n, q), whether flipped or not."""

        def values(z):
            with torch.inference_mode():
                return self._each(z).double().numpy(force=True)

        each = np.concatenate([np.zeros((0, len(self.criterion.rows))), *self._of_batches(values, z)])
        if not np.isfinite(each).all():
            raise ValueError("net: returned NaN or infinite values")
        self.evaluations += len(each)
        return each

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Margins (n,): g >= 0 exactly where the network fails."""
        each = self.each(z)
        fails = np.where(self.criterion.strict, each > 0, each >= 0).any(axis=1)
        g = each.max(axis=1)
        g = np.where(fails, np.maximum(g, 0.0), np.minimum(g, BELOW))
        return np.where(fails, np.minimum(-g, BELOW), -g) if self.flipped else g

    def gradient(self, z: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(margin of one rival (n,), its gradient (n, dim)) at z (n, dim); which (n,): the rival of each point."""

        def slopes(z, which):
            z = z.clone().requires_grad_(True)
            each = self._each(z)
            g = -each.amax(dim=1) if self.flipped else each.gather(1, which[:, None])[:, 0]
            (slope,) = torch.autograd.grad(g.sum(), z)
            return g.detach().double().numpy(force=True), slope.double().numpy(force=True)

        pairs = self._of_batches(slopes, z, which)
        self.evaluations += 3 * len(z)  # a backward pass costs about two forward passes
        return np.concatenate([np.zeros(0), *(g for g, _ in pairs)]), np.concatenate([z[:0], *(s for _, s in pairs)])

    def complement(self) -> Event:
        """The event of success, with the budget that is left."""
        return replace(self, flipped=not self.flipped, budget=self.left, evaluations=0)

    @property
    def _on_cpu(self):
        return self.like.device.type == "cpu"

    def _of_batches(self, function, z, *which):
        """function(batch of z, batch of which) for all batches."""
        rows = CPU_ROWS.get(self.like.dtype, 256) if self._on_cpu else ACCELERATOR_ROWS
        dtypes = self.like.dtype, torch.int64
        tensors = [torch.as_tensor(a, dtype=t, device=self.like.device) for a, t in zip((z, *which), dtypes)]
        with nullcontext() if self._on_cpu else torch.backends.cudnn.flags(**FULL_PRECISION):
            batches = zip(*(tensor.split(rows) for tensor in tensors)) if len(z) else []
            return tmap(lambda batch: function(*batch), batches)

    def _each(self, z):
        f = self.net(z).flatten(1)
        rows, offsets = (torch.as_tensor(a).to(f) for a in (self.criterion.rows, self.criterion.offsets))
        return f @ rows.T - offsets


def events(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    rtol: float = 0.05,
    seed: int = 0,
    budget: int = 1_000_000,
    input_shape: tuple[int, ...] | None = None,
    device: str | None = None,
    **criterion: Any,
) -> list[Event]:
    """One `Event` for each component of the input, with equal budgets and independent random streams.

    Arguments as in `rpa.reliability.failure.failure_probability`; criterion: label, or direction and threshold.
    """
    rtol, seed, device = _check.positive("rtol", rtol), _check.integer("seed", seed), _check.device("device", device)
    budget = _check.integer("budget", budget, 1)
    components, chain = components_of(inputs), _as_chain(net, input_shape)
    if chain is None:
        module, like = _as_rows(net, inputs.dim, input_shape, device)
        at_mean = module(torch.as_tensor(inputs.mean[None].copy()).to(like)).flatten().numpy(force=True)
        fields = [_of_module(module, like, gaussian) for _, gaussian in components]
    else:
        if chain.input_dim != inputs.dim:
            raise ValueError(f"inputs: expected dimension {chain.input_dim} of the network's input, got {inputs.dim}")
        at_mean, fields = chain(inputs.mean[None])[0], [_of_chain(chain, part, device) for _, part in components]
    head = "" if isinstance(net, ReLUNetwork) else head_of(net)
    if head and (criterion.get("direction") is not None if chain is not None else len(at_mean) == 1):
        raise ValueError(f"net: ends in {head}; expected the network without it, and a threshold for what it returns")
    shared = {"criterion": _criterion(at_mean, **criterion), "rtol": rtol, "budget": budget // len(components)}
    rngs = np.random.default_rng(seed).spawn(len(components))
    result = [Event(**own, **shared, weight=w, rng=rng) for own, (w, _), rng in zip(fields, components, rngs)]
    if chain is None:
        _check_repeatable(result[0])
    return result


def _as_chain(net, input_shape):
    """`net` as a `ReLUNetwork`; None for a torch module that is none, or that is faster as a convolution."""
    if isinstance(net, ReLUNetwork):
        return net
    check_evaluable(net)
    large = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd, nn.Unflatten)
    if not any(isinstance(layer, large) for layer in net.modules()):
        with suppress(ValueError):
            return ReLUNetwork.from_torch(net, input_shape)
    return None


def _criterion(at_mean, label=None, direction=None, threshold=None):
    """A `Criterion`; for a label the first of equal outputs wins, and one output is a logit, class 0 being f <= 0."""
    outputs, classes = len(at_mean), max(len(at_mean), 2)
    if direction is not None or threshold is not None:
        if label is not None:
            raise ValueError("label: expected either a label, or a direction and a threshold, got both")
        if direction is None or threshold is None:
            raise ValueError("direction, threshold: expected both or none, got one of them")
        row, offset = _check.array("direction", direction, (outputs,)), _check.array("threshold", threshold, ())
        if not row.any():
            raise ValueError("direction: expected a number other than zero, got zeros only")
        return Criterion(row[None], offset[None], np.array([False]), np.array([0]))
    if label is None:
        label = int(at_mean.argmax()) if outputs > 1 else int(at_mean[0] > 0)
    label = label.item() if getattr(label, "shape", None) == () else label  # NumPy's and torch's integers
    label = _check.index("label", label, classes)
    rivals = np.delete(np.arange(classes), label)
    rows = np.eye(classes)[rivals] - np.eye(classes)[label]
    return Criterion(rows[:, -outputs:], np.zeros(len(rivals)), rivals > label, rivals)


def _of_chain(chain, gaussian, device):
    """The fields of an `Event` in the coordinates of the first layer."""
    inner, weight, cov = chain.whitened(gaussian), chain.weights[0], gaussian.cov_given
    # The most likely input for z: mean + Cov(x, u) Cov(u)^+ (u - E u), u the first layer's pre-activations.
    back = np.linalg.pinv(inner.weights[0]) @ (weight @ cov if cov.ndim == 2 else weight * cov)
    return {
        "net": inner.to_torch().requires_grad_(False).to(device or "cpu"),
        "dim": inner.input_dim,
        "to_input": lambda z: gaussian.mean + z @ back,
        "like": torch.zeros(0, dtype=torch.float64, device=device),
        "chain": inner,
    }


def _of_module(module, like, gaussian):
    """The fields of an `Event` in the coordinates of the input."""
    if gaussian.root is None:
        times, scale = operator.mul, np.sqrt(gaussian.variances)
    else:
        times, scale = operator.matmul, gaussian.times_factor(np.eye(gaussian.dim)).T
    if not scale.any():  # an input that does not vary
        times, scale = operator.matmul, np.zeros((0, gaussian.dim))
    mean, moved = (torch.as_tensor(a).to(like) for a in (gaussian.mean.copy(), scale))
    return {
        "net": lambda z: module(mean + times(z, moved)),
        "dim": len(scale),
        "to_input": lambda z: gaussian.mean + times(z, scale),
        "like": like,
    }


def _as_rows(net, dim, input_shape, device):
    """(a copy of a module on a device that takes rows (n, dim), an empty tensor of its type)."""
    shape = (dim,) if input_shape is None else tuple(_check.integer("input_shape", n, 1) for n in input_shape)
    if np.prod(shape) != dim:
        raise ValueError(f"input_shape: expected {dim} entries in all, as inputs have, got {shape}")
    inner = copy.deepcopy(net).requires_grad_(False).to(device or "cpu")
    like = torch.zeros(0, dtype=next((p.dtype for p in net.parameters()), torch.float64), device=device)
    check_evaluable(nn.Sequential(nn.Unflatten(1, shape), inner), like.new_zeros(1, dim), "inputs")
    return nn.Sequential(nn.Unflatten(1, shape), channels_last(inner, like.new_zeros(1, *shape))), like


def _check_repeatable(event):
    """ValueError where the outputs for one input differ between two calls, or between two batches."""
    z = np.random.default_rng(0).standard_normal((PROBES, event.dim))
    together, alone = event.each(z), np.concatenate([event.each(row[None]) for row in z])
    event.evaluations = 0
    off = np.abs(together - alone).max()
    if off > np.sqrt(torch.finfo(event.like.dtype).eps) * np.abs(together).max():
        raise ValueError(
            f"net: expected outputs that depend on the input alone, got two evaluations that differ by {off:.1e} "
            "(F.dropout without training=self.training? statistics of the batch? or noise that moves the outputs by "
            "less than their rounding, which net.double() resolves?)"
        )


def impossible(event: Event) -> bool:
    """Whether failure is excluded by bounds that hold for every input: dead units, thresholds out of reach.

    Interval arithmetic through the layers from an unbounded input; False where the bounds do not decide.
    """
    if event.chain is None:
        return False
    chain, criterion = event.chain, event.criterion
    weights = *chain.weights[:-1], criterion.rows @ chain.weights[-1]
    biases = *chain.biases[:-1], criterion.rows @ chain.biases[-1] - criterion.offsets
    x = np.array([[-np.inf], [np.inf]]) * np.ones(chain.input_dim)
    for weight, bias in zip(weights, biases):
        with np.errstate(invalid="ignore"):
            terms = np.where(weight != 0, weight * x[:, None], 0.0)  # 0 * inf counts as 0
        low, high = bounds = bias + [terms.min(axis=0).sum(axis=1), terms.max(axis=0).sum(axis=1)]
        x = np.where(bounds > 0, bounds, chain.slope * bounds if chain.slope else 0.0)
    if event.flipped:
        return bool(np.where(criterion.strict, low > 0, low >= 0).any())
    return bool(np.where(criterion.strict, high <= 0, high < 0).all())
