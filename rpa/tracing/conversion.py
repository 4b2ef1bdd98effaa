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
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from rpa.tracing.graph import WEIGHTED, called, check_evaluable, fx_graph, unwrapped
from rpa.tracing.nonlinear import max_pool
from rpa.tracing.parts import Affine, Cut, as_rows, as_values, size
from rpa.tracing.traced import Traced

LARGEST = 2**30  # bytes that a dense matrix may take


def chain(module: nn.Module, input_shape: tuple[int, ...] | None = None) -> tuple[tuple, tuple, float, str]:
    """(weights, biases, slope, note) of the `rpa.network.ReLUNetwork` that equals `module`; arguments as in
    `from_torch`.
    """
    check_evaluable(module, net_name="module")
    given = unwrapped(module)
    # Tensors that a hook computes before each pass, as weight_norm's does, are plain ones in the copy.
    computed = [t for m in given.modules() for t in vars(m).values() if isinstance(t, torch.Tensor) and not t.is_leaf]
    module = copy.deepcopy(given, {id(t): t.detach().clone() for t in computed}).double().requires_grad_(False)
    shape = _first_shape(module) if input_shape is None else checked_shape(input_shape)
    x = torch.zeros(1, *shape, dtype=torch.float64)
    traced = Traced(module, x, given=given, inputs="module" if input_shape is None else "input_shape")
    units: Counter = Counter()  # of each slope in [0, 1)
    for cut in traced.parts[1::2]:
        for s, shape in zip(cut.slopes, cut.shapes):
            if not isinstance(s, torch.Tensor) and 0 <= s < 1:
                units[float(s)] += size([shape])
    slope = max(units, key=units.__getitem__, default=0.0)
    with torch.no_grad():
        layers, comparisons = _layers(traced.parts, slope)
    note = [f"{comparisons} of them comparisons of maxima"] if comparisons else []
    note += [f"without its {traced.head[0]}, which keeps the order of the outputs"] if traced.head else []
    weights, biases = zip(*layers)
    return weights, biases, slope, ", ".join(note)


def checked_shape(given: Any) -> tuple[int, ...]:
    """The shape of one input, given as one number or several; ValueError naming input_shape for anything else."""
    shape = tuple(given) if isinstance(given, Iterable) else (given,)
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"input_shape: expected whole numbers > 0, got {given!r}")
    return shape


def _first_shape(module):
    """The shape of one input, as far as the first layer says it."""
    graph, root, _ = fx_graph(module, "module")
    example = (1, 28, 28)
    for node in graph.nodes:
        name = called(node)
        if name == "unflatten":
            return (math.prod(node.args[2]),)
        if name in WEIGHTED and "transpose" not in name and node.args[1].op == "get_attr":
            weight = operator.attrgetter(node.args[1].target)(root)
            if weight.ndim < 3:
                return (weight.shape[-1],)
            groups = node.kwargs.get("groups", [*node.args, 1, 1, 1, 1, 1][6])
            example = (groups * weight.shape[1], *[28] * (weight.ndim - 2))
        if node.op == "call_function" and name not in ("getattr", "getitem", "flatten", "reshape"):
            break
    raise ValueError(f"input_shape: expected the shape of one input, as in input_shape={example}; the module begins "
                     "with no layer that says it")  # fmt: skip


def _layers(parts, slope):
    """([(weight, bias), ...], number of comparisons): behind every part the values are weight @ units + bias."""
    for part in parts[::2]:
        rows, columns = size(part.shapes), size(part.taken)
        if 8 * rows * columns > LARGEST:
            entries = f"{rows:,} x {columns:,} entries as a dense matrix, {8e-9 * rows * columns:,.1f} GB"
            raise ValueError(f"module: an affine part has {entries}; rpa.two_stage, rpa.layerwise and "
                             "rpa.failure_probability keep convolutions")  # fmt: skip
    layers: list = []
    comparisons, weight, bias = 0, None, np.zeros(size(parts[0].taken))
    for part in parts:
        if isinstance(part, Affine):
            weight = part.matrix().numpy() if weight is None else part.matrix().numpy() @ weight
            constant = as_values(torch.from_numpy(bias)[None], part.taken)
            bias = as_rows(part(constant), part.shapes)[0].numpy()
        elif part.pool:
            weight, bias, count = _maxima(layers, weight, bias, windows(part), size(part.shapes[1:]), slope)
            comparisons += count
        else:
            slopes = part.slope_vector()
            slopes = np.zeros(len(bias)) if slopes is None else slopes.numpy()
            weight = _activated(layers, weight, bias, slopes, slope)
            bias = np.zeros(len(weight))
    return [*layers, (weight, bias)], comparisons


def _activated(layers, weight, bias, slopes, slope):
    """Add the layer of activations of weight @ units + bias; returns the weights of its units in the values behind."""
    whole = (slopes == 1) & (slope == 0) & bool(layers) & (weight >= 0).all(1) & (bias >= 0)
    pairs = np.flatnonzero((slopes != slope) & ~whole)
    layers.append((np.concatenate([weight, -weight[pairs]]), np.concatenate([bias, -bias[pairs]])))
    # v+ = max(v, 0), v- = max(-v, 0): the units are v+ - slope v- and v- - slope v+; wanted is v+ - slopes v-.
    back = np.eye(len(weight), len(weight) + len(pairs))
    columns = len(weight) + np.arange(len(pairs))
    back[pairs, pairs] = (1 - slopes[pairs] * slope) / (1 - slope**2)
    back[pairs, columns] = (slope - slopes[pairs]) / (1 - slope**2)
    return back


def _maxima(layers, weight, bias, members, carried, slope):
    """Add the layers that find the largest member of every window (o, w); the last `carried` values are not pooled."""
    carried = np.arange(len(bias) - carried, len(bias))
    comparisons = 0
    while members.shape[1] > 1:
        half = members.shape[1] // 2
        first, second, odd = (part.ravel() for part in np.split(members, [half, 2 * half], 1))
        differ = first != second
        count = int(differ.sum())
        kept = np.unique(np.concatenate([second, odd, carried]))
        rows, constants = (np.concatenate([v[first[differ]] - v[second[differ]], v[kept]]) for v in (weight, bias))
        back = _activated(layers, rows, constants, np.repeat([0.0, 1.0], [count, len(kept)]), slope)
        won, *rest = (back[count + np.searchsorted(kept, places)] for places in (second, odd, carried))
        won[differ] += back[:count]
        weight = np.concatenate([won, *rest])
        bias = np.zeros(len(weight))
        first, odd, carried = np.split(np.arange(len(weight)), np.cumsum([len(second), len(odd)]))
        members = np.concatenate([part.reshape(len(members), -1) for part in (first, odd)], 1)
        comparisons += count
    order = np.concatenate([members[:, 0], carried])
    return weight[order], bias[order], comparisons


def windows(cut: Cut) -> np.ndarray:
    """Places (o, w) of the members of each window of a cut's pooling, among the values that it pools, flattened.

    A window that reaches over the edge counts one of its members more than once, which leaves the maximum as it is.
    """
    members = np.arange(math.prod(cut.shapes[0][:2]))[:, None]
    for table, side in zip(pool_tables(cut), cut.shapes[0][2:]):
        table = np.where(table < 0, table.max(1, keepdims=True), table)
        members = (members[:, None, :, None] * side + table[:, None, :]).reshape(len(members) * len(table), -1)
    return members


def pool_tables(cut: Cut) -> list[np.ndarray]:
    """For each axis of the pooled planes the places (windows, w) of its windows' members; -1 is none.

    A plane that is 1 at one place of the axis and 0 elsewhere says which windows hold that place.
    """
    assert cut.pool is not None
    sides, tables = cut.shapes[0][2:], []
    for axis, side in enumerate(sides):
        planes = torch.eye(side).reshape(side, 1, *[side if other == axis else 1 for other in range(len(sides))])
        pooled = max_pool(planes.expand(-1, -1, *sides), *cut.pool).movedim(axis + 2, 1)
        held = pooled.flatten(2).amax(2).T.numpy() > 0
        places = np.argsort(~held, axis=1, kind="stable")[:, : held.sum(1).max()]
        tables.append(np.where(np.take_along_axis(held, places, 1), places, -1))
    return tables
