"""Torch modules as affine parts between activations and maxima.

torch.fx records the forward pass of a module of any class, and `Traced` cuts it at the nonlinearities it knows:
activations v -> v for v > 0 and s v elsewhere (ReLU, leaky ReLU, PReLU, |v|), and max pooling; clamp, maximum and
minimum are sums of activations. What lies between two cuts must be affine, and the module itself says how it acts: no
list of layers and options is copied. A few random inputs verify that when the module is prepared.

The network is then a chain of parts on a list of values: an `Affine` map, a `Cut`, and so on to a last `Affine` map. A
cut activates or pools the first of the values. The others are carried to a later part, as in residual sums.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn

from rpa.tracing.graph import COPIES, SUMS, UNITS, WEIGHTED, called, check_evaluable, fx_graph, unwrapped
from rpa.tracing.nonlinear import act, advice, broadcast, is_smooth, max_pool
from rpa.tracing.parts import DENSE, Affine, Cut, Env, size

SMALL_NODE, BEND_POINTS = 256, 64  # numbers up to which a node is tried at points of many sizes, and their number
MANY = 8  # rows from which a convolution is quicker in another memory layout


class Traced:
    """A torch module prepared for inputs like x (b, *shape): `parts`, and the values' shapes.

    pool_first: exchange an activation and the max pooling after it, which leaves the function as it is. given: the
    module in its own precision, if net is a copy in another. inputs: what messages call x. Raises ValueError naming the
    part that is neither affine nor known, depends on its batch, draws random numbers or is not what torch.fx recorded.
    """

    def __init__(
        self, net: nn.Module, x: torch.Tensor, pool_first: bool = False, given: Any = None, inputs: str = "inputs"
    ):
        self.name = "net" if given is None else "module"
        probes = (2 * torch.randn(2, *x.shape[1:], generator=torch.Generator().manual_seed(0))).to(x)
        given = unwrapped(net if given is None else given)
        like = next((p for p in given.parameters() if p.is_floating_point()), probes)
        expected = check_evaluable(given, probes.to(like, copy=True), inputs, self.name)
        graph, root, self.head = fx_graph(net, self.name, pool_first)
        self.interpreter = fx.Interpreter(root, garbage_collect_values=False, graph=graph)
        self.like = x.detach().new_zeros(())
        self.shapes: dict = {}
        self._offsets: dict = {}
        self._squares: dict = {}
        start, *nodes, last = graph.nodes
        self.constants = {n: self.interpreter.fetch_attr(n.target) for n in nodes if n.op == "get_attr"}
        with torch.no_grad():
            self._probe(start, [n for n in nodes if n not in self.constants], last.args[0], probes, expected)
            self.parts = self._cut([node for node in nodes if node in self.shapes], [start], last.args[0])

    def value(self, node: fx.Node, env: Env) -> torch.Tensor:
        """What the node returns."""
        return self._called(node, *fx.node.map_arg((node.args, node.kwargs), env.__getitem__))

    def linear(self, node: fx.Node, env: Env) -> torch.Tensor:
        """The linear part of an affine node, applied to the values in `env`."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
        if self.weighted(node):
            rows = args[0]
            if called(node) == "conv2d" and len(rows) >= MANY:
                rows = rows.contiguous(memory_format=torch.channels_last)  # many rows take half the time
            return self._called(node, (rows, args[1], None, *args[3:]), kwargs).contiguous()
        if called(node) in SUMS:
            return self._called(node, [a if n in self.shapes else a * 0 for a, n in zip(args, node.args)], kwargs)
        offset = self._offsets[node]
        if offset is None:
            return self._called(node, args, kwargs)
        # The difference of two values of the node, at a scale of 1, where it loses little beside the constants.
        given = {n: env[n] for n in self._inputs(node)}
        scale = max(v.detach().abs().max() for v in given.values()).clamp(min=torch.finfo(offset.dtype).tiny)
        out = self.value(node, Env(self, env.rows, {n: v / scale for n, v in given.items()}))
        return (out - offset.repeat(len(out) // len(offset), *[1] * (out.ndim - 1))) * scale

    def squared(self, node: fx.Node, env: Env) -> torch.Tensor:
        """The linear part with squared coefficients, applied to the values in `env`."""
        if self.weighted(node):
            if node not in self._squares:
                self._squares[node] = env[node.args[1]].detach() ** 2
            return self.linear(node, Env(self, env.rows, env | {node.args[1]: self._squares[node]}))
        if called(node) in (*UNITS, *COPIES):
            return self.linear(node, env)
        given = [env[n] for n in self._inputs(node)]
        if called(node) in SUMS and len({*node.args}) == 2:
            return sum(given).expand(-1, *self.shapes[node][1:])
        if node not in self._squares:
            self._squares[node] = self._plane_square(node).detach()
        return (given[0].flatten(2) @ self._squares[node]).reshape(-1, *self.shapes[node][1:])

    def weighted(self, node: fx.Node) -> bool:
        """Whether the node is a layer of a constant weight, called as (input, weight, bias, ...)."""
        return called(node) in WEIGHTED and self._inputs(node) == [node.args[0]]

    def _inputs(self, node):
        return [n for n in node.all_input_nodes if n in self.shapes]

    def _called(self, node, args, kwargs):
        return getattr(self.interpreter, node.op)(node.target, args, kwargs)

    def _plane_square(self, node):
        """Squared coefficients (members, new members) of a node that treats every plane of (b, channels, ...) alike."""
        (before, *others), out = self._inputs(node), self.shapes[node]
        given = torch.rand(self.shapes[before], generator=torch.Generator().manual_seed(1)).to(self.like)
        of = lambda v: self.linear(node, Env(self, len(v), {before: v}))
        n = math.prod(given.shape[2:])
        small = not others and given.ndim > 2 and n * math.prod(out[2:]) <= 4 * DENSE
        if small and out[:2] == given.shape[:2]:
            with suppress(RuntimeError):  # what wants all channels takes no planes
                expected = of(given)
                if _close(of(given.flatten(0, 1).unsqueeze(1)).reshape(out), expected, expected):
                    return of(torch.eye(n).to(given).reshape(n, 1, *given.shape[2:])).reshape(n, -1) ** 2
        raise ValueError(f"{self.name}: {self._label(node)} is too large for independent units; use another rule")

    def _label(self, node):
        """The layer of torch.nn that makes the node, or the function called."""
        path, layer = list(node.meta.get("nn_module_stack", {"": ("", type(None))}).values())[-1]
        named = layer.__module__.startswith("torch.nn") and not issubclass(layer, (nn.Sequential, nn.DataParallel))
        if named or node.op == "call_module":
            return f"layer {path.partition('.')[2] or path} ({layer.__name__})"
        return called(node)

    def _probe(self, start, nodes, end, probes, expected):
        """Fill `constants` and `shapes` from runs on two inputs and on a point between them, and check all.

        expected: the module's output for the first.
        """
        one, two = {start: _blend(probes)}, {start: probes}
        self.shapes[start] = one[start].shape
        for node in nodes:
            known = node.target in (act, max_pool) or self.weighted(node)  # a cut, or affine by what it calls
            try:
                batch = self.value(node, Env(self, 2, two))
                single = _blend(batch) if known else self.value(node, Env(self, 1, one))
            except Exception as error:
                shape, reason = tuple(probes.shape[1:]), str(error).splitlines()[0]
                raise ValueError(f"{self.name}: {self._label(node)} fails on inputs of {shape}: {reason}") from error
            if node.target is max_pool and batch.isneginf().any():
                raise ValueError(f"{self.name}: {self._label(node)} has a window of padding alone, of maximum -inf")
            made = called(node).startswith("new_") and _same(single, batch)  # has the input's type, not its values
            if self._inputs(node) and _tensors(single) and not made:
                one[node], two[node] = _blend(batch), batch
                if not known:
                    self._check(node, single, one, two)
                    offset = self.value(node, Env(self, 1))
                    self._offsets[node] = offset if isinstance(offset, torch.Tensor) and offset.any() else None
                self.shapes[node] = getattr(one[node], "shape", None)  # several tensors have none
            elif _same(single, batch):
                self.constants[node] = single
        if not isinstance(end, fx.Node) or self.shapes.get(end) is None:
            kind = "a constant" if isinstance(end, fx.Node) else type(end).__name__
            raise ValueError(f"{self.name}: expected one tensor as output that depends on the input, got {kind}")
        out = self.head[1](two[end]) if self.head else two[end]
        out, expected = out.reshape(2, -1)[:1].to(expected), expected.reshape(1, -1)
        if out.shape != expected.shape or not _close(out, expected, expected):
            raise ValueError(f"{self.name}: its trace by torch.fx is not the module; expected no hook that changes "
                             "values, and no value changed in place and used again")  # fmt: skip

    def _check(self, node, at_one, one, two):
        """ValueError unless the node is affine and treats every input of a batch alone."""
        label = self._label(node)
        kind = type(self.interpreter.submodules[node.target]).__name__ if node.op == "call_module" else called(node)
        value, expected, ends = _tensors(at_one), _tensors(one[node]), _tensors(two[node])
        alike = all(a.shape == b.shape for a, b in zip(value, expected))
        # Sums are affine, and may cancel to values that are rounding errors.
        affine = called(node) in SUMS or (alike and all(map(_between, value, ends)) and not self._bends(node))
        if alike and affine and not is_smooth(kind):
            return
        # Several times, since dropout of few units often repeats itself.
        again = [b for _ in range(8) for b in _tensors(self.value(node, Env(self, 1, one)))]
        if not is_smooth(kind) and not all(map(torch.equal, 8 * value, again)):
            raise ValueError(f"{self.name}: {label} draws random numbers: evaluations of one input differ; "
                             "expected F.dropout(..., training=self.training)")  # fmt: skip
        first = lambda v: _blend(v, (1.0, 0.0))
        alone = _tensors(self.value(node, Env(self, 1, {n: first(two[n]) for n in self._inputs(node)})))
        if not alike or not all(torch.allclose(a.to(b), b, 1e-3, 1e-5) for a, b in zip(alone, map(first, ends))):
            raise ValueError(f"{self.name}: {label} mixes the inputs of a batch; expected each treated alone")
        raise ValueError(f"{self.name}: {label} is not affine; {advice(kind)}")

    def _bends(self, node):
        """Whether a node of few units is not affine between random points of many sizes; two probes may miss a bend."""
        shapes = {n: self.shapes[n] for n in self._inputs(node)}
        if called(node) in (*UNITS, *COPIES) or None in shapes.values() or size(list(shapes.values())) > SMALL_NODE:
            return False
        generator, sizes = torch.Generator().manual_seed(2), torch.logspace(-2, 2, BEND_POINTS).repeat(2)
        draw = lambda shape: torch.randn(2 * BEND_POINTS, shape.numel(), generator=generator) * sizes[:, None]
        ends = {n: draw(shape).reshape(-1, *shape[1:]).to(self.like) for n, shape in shapes.items()}
        values = self.value(node, Env(self, 2 * BEND_POINTS, ends))
        between = self.value(node, Env(self, BEND_POINTS, {n: _blend(v) for n, v in ends.items()}))
        return not all(_between(a, b, BEND_POINTS) for a, b in zip(_tensors(between), _tensors(values)))

    def _cut(self, pending, before, end):
        """The chain of parts. pending: the nodes that depend on the input; before: the values ahead of the next part.

        Activations join as early as they can.
        """
        parts: list = []
        while True:
            now, group, later, blocked = [], [], [], set()
            for node in pending:
                waits = any(n in blocked for n in node.all_input_nodes)
                if not waits and node.target not in (act, max_pool):
                    now.append(node)
                    continue
                blocked.add(node)
                joins = not group or (node.target is act and group[0].target is act)
                (later if waits or not joins else group).append(node)
            needed = [n for node in later for n in node.all_input_nodes if n in {*before, *now}] + [end]
            carried = [n for n in dict.fromkeys(needed) if n not in blocked]
            affine = Affine(self, now, before, [node.args[0] for node in group] + carried)
            parts.append(affine)
            if not group:
                return parts
            options = [fx.node.map_arg(node.args[1:], Env(self, 1).__getitem__) for node in group]
            if group[0].target is act:
                slopes = tuple(broadcast(slope, len(shape)) for (slope,), shape in zip(options, affine.shapes))
                parts.append(Cut(affine.shapes, self.like, slopes))
            else:
                parts.append(Cut(affine.shapes, self.like, pool=options[0]))
            pending, before = later, group + carried


def _tensors(value):
    return [v for v in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(v, torch.Tensor)]


def _same(a, b):
    if isinstance(a, (tuple, list)):
        return all(map(_same, a, b))
    return a is b or (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)


def _blend(value, weights=(0.3, 0.7)):
    """Points between the first half of a batch and the second."""
    if isinstance(value, (tuple, list)):
        return [_blend(v, weights) for v in value]
    if value.ndim == 0 or len(value) % 2:
        return value
    first, second = value.chunk(2)
    return weights[0] * first + weights[1] * second


def _between(value, ends, rows=1):
    """Whether values at points between others are what lies between the others' values."""
    return ends.is_floating_point() and _close(value, _blend(ends), _blend(ends.abs(), (1.0, 1.0)), rows)


def _close(value, expected, scale, rows=1):
    """Whether values agree, those of each of the rows up to a part of the largest number of `scale`."""
    if not value.numel():
        return True
    gap, largest = (v.abs().reshape(rows, -1).amax(1) for v in (value - expected, scale))
    return bool((gap <= torch.finfo(value.dtype).eps ** 0.6 * largest).all())
