"""Torch modules as chains of affine maps and ReLUs, as dense matrices.

`rpa.tracing.traced` cuts the module into affine parts. Here each cut becomes a layer of a `ReLUNetwork`, a max pooling
several: the largest of a window is found in rounds, max(a, b) = b + relu(a - b). A network has one slope; an activation
of another slope s is a combination of relu(v) and relu(-v), and so is a value that a later part reads (s = 1). A value
that is a sum of units with weights >= 0 passes a ReLU as it is.
"""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter

import numpy as np
import torch
from torch import nn

from rpa.tracing.graph import called, check_evaluable, max_pool, record, unwrapped
from rpa.tracing.parts import Affine, Cut, as_rows, as_values, size
from rpa.tracing.traced import Traced

__all__ = ["chain", "pool_tables", "windows"]

LARGEST = 2**30  # bytes that a dense matrix may take


def chain(module: nn.Module, input_shape: tuple[int, ...] | None = None) -> tuple[list, list, float, str]:
    """(weights, biases, slope, note) of the `rpa.network.ReLUNetwork` that equals `module`; arguments as in
    `from_torch`.
    """
    check_evaluable(module, net_name="module")
    given = unwrapped(module)
    module = _double(given)
    x = torch.zeros(1, *_input_shape(module, input_shape), dtype=torch.float64)
    with torch.no_grad():
        traced = Traced(module, x, "module", given=given, inputs="module" if input_shape is None else "input_shape")
        slope = _common_slope(traced.parts)
        layers, comparisons = _layers(traced.parts, slope)
    note = [f"{comparisons} of them comparisons of maxima"] if comparisons else []
    note += [f"without its {traced.head[0]}, which keeps the order of the outputs"] if traced.head else []
    return [weight for weight, _ in layers], [bias for _, bias in layers], slope, ", ".join(note)


def _double(module):
    """A copy in float64. Tensors that a hook computes before each pass, as weight_norm's does, are plain ones in it."""
    computed = [t for m in module.modules() for t in vars(m).values() if isinstance(t, torch.Tensor) and not t.is_leaf]
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in computed}).double().requires_grad_(False)


def _input_shape(module, given):
    if given is not None:
        shape = (given,) if isinstance(given, int) else tuple(given)
        if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"input_shape: expected whole numbers > 0, got {given!r}")
        return shape
    graph, root, _ = record(module, "module")
    example = (1, 28, 28)
    for node in graph.nodes:
        name = called(node)
        if name in ("linear", "scaled"):
            return (operator.attrgetter(node.args[1].target)(root).shape[-1],)
        if name == "unflatten":
            return (int(np.prod(node.args[2])),)
        if name in ("conv1d", "conv2d", "conv3d"):
            groups = node.kwargs.get("groups", [*node.args, 1, 1, 1, 1][6])
            channels = groups * operator.attrgetter(node.args[1].target)(root).shape[1]
            example = (channels, *[28] * int(name[4]))
        if node.op == "call_function" and name not in ("getattr", "getitem", "flatten", "reshape"):
            break
    raise ValueError(f"input_shape: expected the shape of one input, as in input_shape={example}; the module begins "
                     "with no layer that says it")  # fmt: skip


def _common_slope(parts):
    """The slope in [0, 1) of most units."""
    slopes: Counter = Counter()
    for part in parts:
        for s, shape in zip(getattr(part, "slopes", ()), part.shapes):
            if not isinstance(s, torch.Tensor) and 0 <= s < 1:
                slopes[float(s)] += size([shape])
    return slopes.most_common(1)[0][0] if slopes else 0.0


def _layers(parts, slope):
    """([(weight, bias), ...], number of comparisons): behind every part the values are weight @ units + bias."""
    layers: list = []
    comparisons, weight, bias = 0, None, np.zeros(size(parts[0].taken))
    for part in parts:
        if isinstance(part, Affine):
            _check_size(part, 0 if weight is None else weight.shape[1])
            weight = part.matrix().numpy() if weight is None else part.matrix().numpy() @ weight
            constant = as_values(torch.from_numpy(bias)[None], part.taken)
            bias = as_rows(part(constant), part.shapes)[0].numpy()
        elif part.pool:
            weight, bias, count = _maxima(layers, weight, bias, windows(part), size(part.shapes[1:]), slope)
            comparisons += count
        else:
            slopes = part.slope_vector()
            slopes = np.zeros(len(bias)) if slopes is None else slopes.numpy()
            weight, bias = _activated(layers, weight, bias, slopes, slope)
    return [*layers, (weight, bias)], comparisons


def _activated(layers, weight, bias, slopes, slope):
    """Add the layer of activations of weight @ units + bias; the values behind it as (weight, bias) over its units."""
    whole = (slopes == 1) & (slope == 0) & bool(layers) & (weight >= 0).all(1) & (bias >= 0)
    pairs = np.flatnonzero((slopes != slope) & ~whole)
    layers.append((np.concatenate([weight, -weight[pairs]]), np.concatenate([bias, -bias[pairs]])))
    # v+ = max(v, 0), v- = max(-v, 0): the units are v+ - slope v- and v- - slope v+; wanted is v+ - slopes v-.
    back = np.eye(len(weight), len(weight) + len(pairs))
    columns = len(weight) + np.arange(len(pairs))
    back[pairs, pairs] = (1 - slopes[pairs] * slope) / (1 - slope**2)
    back[pairs, columns] = (slope - slopes[pairs]) / (1 - slope**2)
    return back, np.zeros(len(weight))


def _maxima(layers, weight, bias, members, carried, slope):
    """Add the layers that find the largest member of every window (o, w); the last `carried` values are not pooled."""
    carried = np.arange(len(bias) - carried, len(bias))
    comparisons = 0
    while members.shape[1] > 1:
        half = members.shape[1] // 2
        first, second, odd = members[:, :half].ravel(), members[:, half : 2 * half].ravel(), members[:, 2 * half :]
        differ = first != second
        kept, places = np.unique(np.concatenate([second, odd.ravel()]), return_inverse=True)
        kept = np.concatenate([kept, carried])
        rows = np.concatenate([weight[first[differ]] - weight[second[differ]], weight[kept]])
        constants = np.concatenate([bias[first[differ]] - bias[second[differ]], bias[kept]])
        count = int(differ.sum())
        slopes = np.repeat([0.0, 1.0], [count, len(kept)])
        back, _ = _activated(layers, rows, constants, slopes, slope)
        comparisons += count
        won = np.zeros((len(second), back.shape[1]))
        won[differ] = back[:count]
        won += back[count + places[: len(second)]]
        weight = np.concatenate([won, back[count + places[len(second) :]], back[len(rows) - len(carried) :]])
        bias = np.zeros(len(weight))
        numbers = np.arange(len(won) + odd.size)
        members = np.concatenate([numbers[: len(won)].reshape(-1, half), numbers[len(won) :].reshape(odd.shape)], 1)
        carried = np.arange(len(numbers), len(weight))
    order = np.concatenate([members[:, 0], carried])
    return weight[order], bias[order], comparisons


def _check_size(affine, units):
    rows, columns = size(affine.shapes), size(affine.taken)
    columns = max(columns, units)
    if 8 * rows * columns > LARGEST:
        entries = f"{rows:,} x {columns:,} entries as a dense matrix, {8e-9 * rows * columns:,.1f} GB"
        raise ValueError(f"module: an affine part has {entries}; rpa.two_stage, rpa.layerwise and "
                         "rpa.failure_probability keep convolutions")  # fmt: skip


def windows(cut: Cut) -> np.ndarray:
    """Places (o, w) of the members of each window of a cut's pooling, among the values that it pools, flattened.

    A window that reaches over the edge counts one of its members more than once, which leaves the maximum as it is.
    """
    assert cut.pool is not None
    shape = cut.shapes[0]
    members = np.arange(math.prod(shape[:2]))[:, None]
    for table, side in zip(pool_tables(cut), shape[2:]):
        table = np.where(table < 0, table.max(1, keepdims=True), table)
        members = (members[:, None, :, None] * side + table[:, None, :]).reshape(len(members) * len(table), -1)
    probe = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if not torch.equal(probe.flatten()[members].amax(1), max_pool(probe, *cut.pool).flatten()):
        raise ValueError(f"net: {cut.pool[0]} with {cut.pool[1]} has no rule")
    return members


def pool_tables(cut: Cut) -> list[np.ndarray]:
    """For each axis of the pooled planes the places (windows, w) of its windows' members; -1 is none."""
    assert cut.pool is not None
    kind, options = cut.pool
    sides, tables = cut.shapes[0][2:], []
    for axis, (side, count) in enumerate(zip(sides, max_pool(torch.zeros(1, 1, *sides), *cut.pool).shape[2:])):
        at = lambda key, default=None: _per_axis(options.get(key, default), axis)
        index, step = np.arange(count)[:, None], 1
        if "adaptive" in kind:
            start, stop = index * side // count, -(-(index + 1) * side // count)
        else:
            step = at("dilation", 1)
            start = index * (at("stride") or at("kernel_size")) - at("padding", 0)
            stop = start + (at("kernel_size") - 1) * step + 1
        table = start + step * np.arange(-(-(stop - start).max() // step))
        tables.append(np.where((table >= np.maximum(start, 0)) & (table < np.minimum(stop, side)), table, -1))
    return tables


def _per_axis(value, axis):
    return value[axis if len(value) > 1 else 0] if isinstance(value, (tuple, list)) else value
