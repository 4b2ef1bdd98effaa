"""The failure event as one number: the margin g(z) of a network whose input is standard normal.

A network fails at z where g(z) >= 0. For a label, g is the largest of f_c(z) - f_label(z) over the rival classes c; for
a direction and a threshold it is direction . f(z) - threshold. `margins` makes one `Margin` for each component of the
input, in coordinates where that component is N(0, I): those of the first layer (`ReLUNetwork.whitened`) where the
network is a chain of affine maps and ReLUs, those of the input otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from rpa import _check
from rpa.inputs import components_of
from rpa.network import ReLUNetwork
from rpa.parallel import tmap
from rpa.tracing.graph import check_evaluable, head_of

if TYPE_CHECKING:
    from rpa.inputs import Gaussian, RandomInput


__all__ = ["Event", "Margin", "as_chain", "impossible", "margins"]

ROWS = {torch.float64: 4096, torch.float32: 64}  # inputs evaluated at once: small networks, convolutions
ACCELERATED = 2048  # the same on an accelerator, which one call keeps busy only if it is large
PROBES = 8  # inputs evaluated together and alone, which must agree
BELOW = -np.finfo(float).tiny


@dataclass(frozen=True, eq=False)
class Event:
    """Failure as a union over q rivals of {rows[i] . f >= offsets[i]}; where strict[i], equality is no failure.

    rows (q, k), offsets (q,), strict bool (q,); rivals (q,): the class that takes over, or 0 for a direction.
    """

    rows: np.ndarray
    offsets: np.ndarray
    strict: np.ndarray
    rivals: np.ndarray

    @classmethod
    def of_label(cls, label: int, outputs: int) -> Event:
        """argmax f != label, the first of equal outputs winning; one output is a logit, class 0 being f <= 0."""
        given: Any = label
        given = given.item() if getattr(given, "shape", None) == () else given  # NumPy's and torch's integers
        label = _check.index("label", given, max(outputs, 2))
        rivals = np.delete(np.arange(max(outputs, 2)), label)
        rows = np.eye(max(outputs, 2))[rivals] - np.eye(max(outputs, 2))[label]
        return cls(rows[:, -outputs:], np.zeros(len(rivals)), rivals > label, rivals)

    @classmethod
    def of_direction(cls, direction: ArrayLike, threshold: float, outputs: int) -> Event:
        """direction . f >= threshold."""
        row = _check.array("direction", direction, (outputs,))
        if not row.any():
            raise ValueError("direction: expected a number other than zero, got zeros only")
        offset = _check.array("threshold", threshold, ())
        return cls(row[None], offset[None], np.array([False]), np.array([0]))


@dataclass(eq=False)
class Margin:
    """g(z) for z (n, dim) with law N(0, I): failure is g >= 0. `evaluations` counts the networks' forward passes.

    chain: the `ReLUNetwork` in these coordinates, if there is one. to_input maps z (n, dim) to inputs (n, d).
    flipped: failure and success change roles.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    event: Event
    dim: int
    to_input: Callable[[np.ndarray], np.ndarray]
    like: torch.Tensor
    chain: ReLUNetwork | None = None
    flipped: bool = False
    evaluations: int = 0

    def each(self, z: np.ndarray) -> np.ndarray:
        """The margin of each rival, (n, q), whether flipped or not."""
        with self._accurate():
            found = tmap(self._evaluated, self._parts(z))
        each = np.concatenate(found) if found else np.zeros((0, len(self.event.rows)))
        if not np.isfinite(each).all():
            raise ValueError("net: returned NaN or infinite values")
        self.evaluations += len(each)
        return each

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Margins (n,): g >= 0 exactly where the network fails."""
        each = self.each(z)
        fails = np.where(self.event.strict, each > 0, each >= 0).any(axis=1)
        g = each.max(axis=1)
        g = np.where(fails, np.maximum(g, 0.0), np.minimum(g, BELOW))
        return np.where(fails, np.minimum(-g, BELOW), -g) if self.flipped else g

    @property
    def rivals(self) -> np.ndarray:
        """What `gradient` takes as `which`: one number for each rival; one alone for a flipped margin."""
        return np.arange(1 if self.flipped else len(self.event.rows))

    def gradient(self, z: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(margin of one rival (n,), its gradient (n, dim)) at z (n, dim); which (n,): the rival of each point."""
        with self._accurate():
            values, slopes = zip(*tmap(self._sloped, zip(self._parts(z), self._parts(which, torch.int64))))
        self.evaluations += 3 * len(z)  # a backward pass costs about two forward ones
        return np.concatenate(values), np.concatenate(slopes)

    def complement(self) -> Margin:
        """The margin of the complement: it is >= 0 where this one is not."""
        return replace(self, flipped=not self.flipped, evaluations=0)

    @property
    def _on_cpu(self):
        return self.like.device.type == "cpu"

    def _accurate(self):
        """Convolutions in full float32, and the same from call to call: cuDNN's own choice is TF32, 10 bits."""
        if self._on_cpu:
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)

    def _parts(self, z, dtype=None):
        rows = torch.as_tensor(z, dtype=dtype or self.like.dtype, device=self.like.device)
        return rows.split(ROWS.get(self.like.dtype, 256) if self._on_cpu else ACCELERATED) if len(rows) else []

    def _evaluated(self, z):
        with torch.inference_mode():
            return self._each(z).double().numpy(force=True)

    def _sloped(self, z_and_which):
        z, which = z_and_which
        z = z.clone().requires_grad_(True)
        each = self._each(z)
        g = -each.amax(dim=1) if self.flipped else each.gather(1, which[:, None])[:, 0]
        (slope,) = torch.autograd.grad(g.sum(), z)
        return g.detach().double().numpy(force=True), slope.double().numpy(force=True)

    def _each(self, z):
        f = self.forward(z).flatten(1)
        rows, offsets = (torch.as_tensor(a).to(f) for a in (self.event.rows, self.event.offsets))
        return f @ rows.T - offsets


def as_chain(net: ReLUNetwork | nn.Module, input_shape: tuple[int, ...] | None = None) -> ReLUNetwork | None:
    """`net` as a `ReLUNetwork`, or None for a torch module that is none (convolutions, maxima)."""
    if isinstance(net, ReLUNetwork):
        return net
    check_evaluable(net)
    large = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd, nn.Unflatten)
    if any(isinstance(layer, large) for layer in net.modules()):
        return None
    try:
        return ReLUNetwork.from_torch(net, input_shape)
    except ValueError:
        return None


def margins(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    label: int | None = None,
    direction: ArrayLike | None = None,
    threshold: float | None = None,
    input_shape: tuple[int, ...] | None = None,
    device: str | None = None,
) -> list[tuple[float, Margin]]:
    """[(weight, `Margin`), ...], one for each component of the input; arguments as in `failure_probability`."""
    device = _check.device("device", device)
    components = components_of(inputs)
    chain = as_chain(net, input_shape)
    if chain is not None and chain.input_dim != inputs.dim:
        raise ValueError(f"inputs: expected dimension {chain.input_dim} of the network's input, got {inputs.dim}")
    make = _of_chain if chain is not None else _of_module
    whole = chain if chain is not None else _prepared(net, inputs.dim, input_shape, device)
    outputs = _outputs(whole, inputs.mean)
    head = "" if isinstance(net, ReLUNetwork) else head_of(net)
    if head and (direction is not None if chain is not None else len(outputs) == 1):
        raise ValueError(f"net: ends in {head}; expected the network without it, and a threshold for what it returns")
    event = _event(outputs, label, direction, threshold)
    parts = [(weight, make(whole, part, event, device)) for weight, part in components]
    if chain is None:
        _check_repeatable(parts[0][1])
    return parts


def _event(at_mean, label, direction, threshold):
    outputs = len(at_mean)
    if direction is None and threshold is None:
        if label is None:
            label = int(at_mean.argmax()) if outputs > 1 else int(at_mean[0] > 0)
        return Event.of_label(label, outputs)
    if label is not None:
        raise ValueError("label: expected either a label, or a direction and a threshold, got both")
    if direction is None or threshold is None:
        raise ValueError("direction, threshold: expected both or none, got one of them")
    return Event.of_direction(direction, threshold, outputs)


def _outputs(whole, mean):
    if isinstance(whole, ReLUNetwork):
        return whole(mean[None])[0]
    with torch.no_grad():
        return whole(torch.as_tensor(mean[None], dtype=whole.like.dtype, device=whole.like.device))[0].numpy(force=True)


def _of_chain(chain: ReLUNetwork, gaussian: Gaussian, event: Event, device: str | None) -> Margin:
    inner = chain.whitened(gaussian)
    weight = chain.weights[0]
    cov = gaussian.cov_given
    # The most likely input behind z: mean + Cov(x, u) Cov(u)^+ (u - E u), u the first layer's pre-activations.
    back = np.linalg.pinv(inner.weights[0]) @ (weight @ cov if cov.ndim == 2 else weight * cov)
    module = inner.to_torch().requires_grad_(False).to(device or "cpu")
    like = torch.zeros(0, dtype=torch.float64, device=device)
    return Margin(module, event, inner.input_dim, lambda z: gaussian.mean + z @ back, like, inner)


def _of_module(module: Any, gaussian: Gaussian, event: Event, device: str | None) -> Margin:
    factor = gaussian.times_factor(np.eye(gaussian.dim)) if gaussian.cov_given.ndim == 2 else None
    scale = np.sqrt(gaussian.cov_given) if factor is None else 1.0
    like = module.like
    mean = torch.as_tensor(gaussian.mean, dtype=like.dtype, device=like.device)
    moved = torch.as_tensor(scale if factor is None else factor.T, dtype=like.dtype, device=like.device)

    def forward(z):
        return module(mean + (z * moved if factor is None else z @ moved))

    def to_input(z):
        return gaussian.mean + (z * scale if factor is None else z @ factor.T)

    return Margin(forward, event, gaussian.dim if factor is None else factor.shape[1], to_input, like)


class _Rows(nn.Module):
    """A copy of a module on a device that takes rows (n, d); convolutions keep their channels last, which is faster."""

    def __init__(self, net, shape, device):
        super().__init__()
        self.shape = shape
        self.inner = copy.deepcopy(net).requires_grad_(False).to(device or "cpu")
        if any(isinstance(layer, nn.Conv2d) for layer in net.modules()):
            self.inner = self.inner.to(memory_format=torch.channels_last)
        dtype = next((p.dtype for p in net.parameters()), torch.float64)
        self.like = torch.zeros(0, dtype=dtype, device=device)

    def forward(self, rows):
        return self.inner(rows.reshape(-1, *self.shape))


def _prepared(net, dim, input_shape, device):
    shape = (dim,) if input_shape is None else tuple(_check.integer("input_shape", n, 1) for n in input_shape)
    if np.prod(shape) != dim:
        raise ValueError(f"input_shape: expected {dim} entries in all, as inputs have, got {shape}")
    rows = _Rows(net, shape, device)
    check_evaluable(rows, torch.zeros(1, dim, dtype=rows.like.dtype, device=rows.like.device), "inputs")
    return rows


def _check_repeatable(margin):
    """ValueError where the outputs of an input change between two calls, or with the batch that it is in."""
    z = np.random.default_rng(0).standard_normal((PROBES, margin.dim))
    together, alone = margin.each(z), np.concatenate([margin.each(row[None]) for row in z])
    margin.evaluations = 0
    if np.abs(together - alone).max() > np.sqrt(torch.finfo(margin.like.dtype).eps) * np.abs(together).max():
        raise ValueError(
            "net: expected outputs that depend on the input alone, got two evaluations of one input that differ "
            "(F.dropout without training=self.training? statistics of the batch?)"
        )


def impossible(margin: Margin) -> bool:
    """Whether failure is excluded by bounds that hold for every input: dead units, thresholds out of reach.

    Interval arithmetic through the layers from an unbounded input. False means only that it excludes nothing.
    """
    if margin.chain is None:
        return False
    chain, event = margin.chain, margin.event
    low, high = np.full(chain.input_dim, -np.inf), np.full(chain.input_dim, np.inf)
    for weight, bias in zip(chain.weights[:-1], chain.biases[:-1]):
        low, high = _interval(weight, bias, low, high)
        low, high = (np.where(bound > 0, bound, chain.slope * bound if chain.slope else 0.0) for bound in (low, high))
    rows = event.rows @ chain.weights[-1]
    low, high = _interval(rows, event.rows @ chain.biases[-1] - event.offsets, low, high)
    if margin.flipped:
        return bool(np.where(event.strict, low > 0, low >= 0).any())
    return bool(np.where(event.strict, high <= 0, high < 0).all())


def _interval(weight, bias, low, high):
    up, down = np.maximum(weight, 0), np.minimum(weight, 0)
    with np.errstate(invalid="ignore"):
        reach = [np.where(part != 0, part * bound, 0.0).sum(axis=1) for part, bound in
                 ((up, low), (down, high), (up, high), (down, low))]  # fmt: skip
    return bias + reach[0] + reach[1], bias + reach[2] + reach[3]
