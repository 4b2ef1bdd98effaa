"""Torch modules as chains of affine maps and ReLUs.

torch.fx follows the module's forward pass. Every value in it is an affine function of *atoms*: the input, and the
outputs of the ReLUs met so far. An affine layer is applied to the value's constant and to each of its columns; a ReLU
makes new atoms of its value. At the end, ReLUs are put into layers by depth. An atom that a later layer skips to (a
residual sum) is carried there: the output of a ReLU passes another ReLU as it is, since it is not negative, so that
its copy is on exactly when the unit itself is on; what may be negative passes as a pair, v = relu(v) - relu(-v).
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

__all__ = ["chain"]

LARGEST = 2**30  # bytes that a dense matrix may take
ROWS = 256  # columns that a layer is applied to at once
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)
SHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)
AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d,
          *DROPOUTS, *NORMALIZATIONS, *SHAPES)  # fmt: skip
RELU_CALLS = (torch.relu, functional.relu, functional.leaky_relu, "relu", "relu_")
SUMS = (operator.add, operator.iadd, operator.sub, operator.isub, operator.neg, torch.add, torch.sub, torch.cat)
SCALINGS = (operator.mul, operator.truediv)
POOLINGS = (functional.avg_pool2d, functional.adaptive_avg_pool2d)
RESHAPES = (torch.flatten, "flatten", "view", "reshape")
SOFT = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


@dataclass
class _Value:
    """An affine function of the atoms: points[0] is its constant, points[1:] its columns, (1 + atoms, *shape)."""

    points: torch.Tensor


@dataclass
class _Block:
    """Atoms that come together: the input (depth 0), or the outputs of one ReLU with its pre-activation."""

    start: int
    size: int
    depth: int = 0
    before: torch.Tensor | None = None

    def __post_init__(self):
        self.atoms = range(self.start, self.start + self.size)


def chain(module: nn.Module, input_shape: tuple[int, ...] | None = None) -> tuple[list, list, float]:
    """(weights, biases, slope) of the `rpa.network.ReLUNetwork` that equals `module`; arguments as in `from_torch`."""
    _refuse_training(module)
    if fx.Tracer().is_leaf_module(module, ""):
        module = nn.Sequential(module)
    module = copy.deepcopy(module).double().requires_grad_(False)
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"module: torch.fx cannot follow {type(module).__name__}: {reason}") from error
    with torch.no_grad():
        follower = _Follower(traced, input_shape)
        out = follower.run()
        found = _layers(follower.blocks, out.points.flatten(1), follower.slope or 0.0)
        _compare(module, follower.input.points.shape[1:], found)
    return found


def _compare(module, shape, found):
    """ValueError where the chain is not the module: torch.fx does not see what is changed in place for two holders."""
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights, biases, slope = found
    expected, y = module(x.clone()).flatten(1).numpy(), x.flatten(1).numpy()
    for weight, bias in zip(weights[:-1], biases[:-1]):
        y = y @ weight.T + bias
        y = np.where(y > 0, y, slope * y)
    off = np.abs(y @ weights[-1].T + biases[-1] - expected).max(initial=0.0)
    if not off <= 1e-9 * (1 + np.abs(expected).max(initial=0.0)):
        raise ValueError(
            f"module: its trace by torch.fx is not the module (off by {off:.1g}); expected no value changed in place "
            "and used again"
        )


def _refuse_training(module):
    for layer in module.modules():
        random = isinstance(layer, DROPOUTS) and layer.p
        if layer.training and (random or isinstance(layer, NORMALIZATIONS)):
            kind = type(layer).__name__
            raise ValueError(f"module: {kind} in training mode is no function of its input; call module.eval()")


class _Follower:
    """Runs the traced graph on `_Value`s; blocks: the atoms it made; slope: that of its activations."""

    def __init__(self, traced, input_shape):
        self.traced, self.slope = traced, None
        shape = _input_shape(traced, input_shape)
        size = int(np.prod(shape))
        _check_size("the input", size + 1, size)
        self.blocks = [_Block(1, size)]
        self.input = _Value(torch.cat([torch.zeros(1, size), torch.eye(size)]).double().reshape(-1, *shape))

    def run(self):
        found: dict = {}
        for node in self.traced.graph.nodes:
            args = fx.node.map_arg(node.args, lambda n: found[n])
            kwargs = fx.node.map_arg(node.kwargs, lambda n: found[n])
            if node.op == "output":
                if not isinstance(args[0], _Value):
                    raise ValueError(f"module: expected one tensor as output, got {type(args[0]).__name__}")
                return args[0]
            found[node] = self.step(node, args, kwargs)
        raise AssertionError("a traced graph ends with its output")

    def step(self, node, args, kwargs):
        if node.op == "placeholder":
            if node is not next(iter(self.traced.graph.nodes)):
                raise ValueError(f"module: expected one input, got {node.name} too")
            return self.input
        if node.op == "get_attr":
            return operator.attrgetter(node.target)(self.traced)
        if node.op == "call_module":
            return self.layer(node.target, self.traced.get_submodule(node.target), args[0])
        return self.call(node, args, kwargs)

    def layer(self, name, layer, value):
        if isinstance(layer, ACTIVATIONS):
            return self.relu(value, getattr(layer, "negative_slope", 0.0))
        if not isinstance(layer, AFFINE):
            raise ValueError(f"module: layer {name} is {type(layer).__name__}; {_advice(layer)}")
        if isinstance(layer, nn.Linear):  # exactly its weights, where subtracting a bias again would round
            points = functional.linear(value.points, layer.weight)
            points[0] += 0 if layer.bias is None else layer.bias
            return _Value(points)
        return _applied(f"{name} ({type(layer).__name__})", layer, [value])

    def call(self, node, args, kwargs):
        target, named = node.target, getattr(node.target, "__name__", node.target)
        values = [arg for arg in (args[0] if isinstance(args[0], (list, tuple)) else args) if isinstance(arg, _Value)]
        if target in RELU_CALLS:
            slope = 0.0 if "leaky" not in named else kwargs.get("negative_slope", [*args, 0.01][1])
            return self.relu(values[0], slope)
        if target == "size":
            shape = (1, *values[0].points.shape[1:])
            return shape if len(args) == 1 else shape[args[1]]
        if target in RESHAPES:
            points = values[0].points
            sizes = (-1,) if "flatten" in named else (args[1] if isinstance(args[1], tuple) else args[1:])[1:]
            if "flatten" in named and (kwargs.get("start_dim", [*args, 0][1]) != 1 or len(args) > 2):
                raise ValueError("module: flatten is taken from dimension 1 on only; expected start_dim=1")
            return _Value(points.reshape(len(points), *sizes))
        product = target in SCALINGS and len(values) > 1
        inverse = target is operator.truediv and not isinstance(args[0], _Value)
        if product or inverse or target not in (*SUMS, *SCALINGS, *POOLINGS):
            raise ValueError(f"module: calls {named}; expected affine layers, sums, relu and leaky_relu")
        return _applied(named, lambda *parts: target(*_filled(args, list(parts)), **kwargs), values)

    def relu(self, value, slope):
        if self.slope not in (None, slope):
            raise ValueError(f"module: expected one slope in all activations, got {sorted({self.slope, slope})}")
        self.slope = slope
        before = value.points.flatten(1)
        start, size = self.blocks[-1].atoms.stop, before.shape[1]
        depth = 1 + max((b.depth for b in self.blocks if _uses(before, b)), default=0)
        self.blocks.append(_Block(start, size, depth, before))
        _check_size("a ReLU", start + size, size)
        points = torch.zeros(start + size, size, dtype=torch.float64)
        points[start:] = torch.eye(size)
        return _Value(points.reshape(-1, *value.points.shape[1:]))


def _uses(points, block):
    return bool((points[block.start : block.atoms.stop] != 0).any())


def _input_shape(traced, given):
    if given is not None:
        shape = (given,) if isinstance(given, int) else tuple(given)
        if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"input_shape: expected whole numbers > 0, got {given!r}")
        return shape
    for node in traced.graph.nodes:
        layer = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.Linear):
            return (layer.in_features,)
        if isinstance(layer, nn.BatchNorm1d):
            return (layer.num_features,)
        if isinstance(layer, nn.Unflatten):
            return (int(np.prod(layer.unflattened_size)),)
        if layer is not None and not isinstance(layer, (*DROPOUTS, nn.Flatten, nn.Identity)):
            break
    raise ValueError("input_shape: expected the shape of one input, as in input_shape=(1, 28, 28); the module begins "
                     "with no layer that says it")  # fmt: skip


def _advice(layer):
    if isinstance(layer, SOFT):
        return "drop it and ask for class probabilities: pattern_pmf(...).output().class_probabilities()"
    if isinstance(layer, MAXIMA):
        return "a maximum has no ReLU pattern; rpa.two_stage and rpa.layerwise take it"
    return "expected affine layers, ReLU or LeakyReLU"


def _filled(args, parts):
    """`args` with its values, also those in a first list, replaced by `parts` in order."""
    if isinstance(args[0], (list, tuple)):
        return (list(parts), *args[1:])
    return tuple(parts.pop(0) if isinstance(arg, _Value) else arg for arg in args)


def _applied(name, op, values):
    """The `_Value` of an affine op: on the constants, and on each column without what the op adds to zero."""
    count = max(len(value.points) for value in values)
    parts = [_padded(value.points, count) for value in values]
    try:
        constant, nothing = op(*(part[:1] for part in parts)), op(*(torch.zeros_like(part[:1]) for part in parts))
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(part.shape[1:])) for part in parts)
        raise ValueError(f"module: layer {name} does not take {shapes}: {str(error).splitlines()[0]}") from error
    if len(constant) != 1:
        raise ValueError(f"module: layer {name} mixes the inputs of a batch; expected dimension 0 left alone")
    _check_size(f"layer {name}", count, constant.numel())
    columns = [op(*(part[i : i + ROWS] for part in parts)) - nothing for i in range(1, count, ROWS)]
    return _Value(torch.cat([constant, *columns]))


def _padded(points, count):
    return torch.cat([points, points.new_zeros(max(0, count - len(points)), *points.shape[1:])])


def _check_size(name, rows, columns):
    if 8 * rows * columns > LARGEST:
        size = f"{columns:,} x {rows - 1:,} entries, {8e-9 * rows * columns:,.1f} GB"
        raise ValueError(
            f"module: {name} as a dense matrix has {size}; rpa.two_stage and rpa.layerwise keep convolutions"
        )


def _layers(blocks, out, slope):
    """(weights, biases, slope) of the chain: in each layer the ReLUs of that depth, then what is carried through it."""
    depth = max([0, *(block.depth for block in blocks[1:])])
    readers = [(block.depth, block.before) for block in blocks[1:]] + [(depth + 1, out)]
    last = [max([0, *(level for level, points in readers if _uses(points, block))]) for block in blocks]
    weights, biases, held = [], [], [(blocks[0], [1.0])]
    for level in range(1, depth + 1):
        own = [block for block in blocks if block.depth == level]
        carried = [block for block, until in zip(blocks, last) if block.depth < level < until]
        rows, constants, now = [], [], []
        for block in own:
            rows.append(_read(block.before, held))
            constants.append(block.before[0].numpy())
            now.append((block, [1.0]))
        for block in carried:
            value = _read(_atoms(block), held)
            # The output of a ReLU is not negative and passes as it is; with a slope, and for the input, a pair does.
            signs = [1.0] if block.depth and slope == 0 else [1.0, -1.0]
            rows += [sign * value for sign in signs]
            constants += [np.zeros(block.size)] * len(signs)
            now.append((block, [sign / (1 + slope) for sign in signs] if len(signs) > 1 else [1.0]))
        weights.append(np.concatenate(rows))
        biases.append(np.concatenate(constants))
        held = now
    return [*weights, _read(out, held)], [*biases, out[0].numpy()], slope


def _atoms(block):
    """The block's own atoms as a value."""
    points = torch.zeros(block.atoms.stop, block.size, dtype=torch.float64)
    points[block.start :] = torch.eye(block.size)
    return points


def _read(points, held):
    """Weights of a value over the units at hand: each block held comes with the signs of its copies."""
    parts = []
    for block, signs in held:
        columns = _padded(points, block.atoms.stop)[block.start : block.atoms.stop].T.numpy()
        parts += [sign * columns for sign in signs]
    return np.concatenate(parts, axis=1)
