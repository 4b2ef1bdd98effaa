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
import operator
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn

from rpa.tracing.graph import COPIES, SUMS, UNITS, WEIGHTED, called, check_evaluable, record, schedule, unwrapped
from rpa.tracing.nonlinear import act, advice, broadcast, is_smooth, max_pool
from rpa.tracing.parts import DENSE, Affine, Cut, Env, size

FEW, POINTS = 256, 64  # numbers up to which a node is tried at points of many sizes, and their number
MANY = 8  # rows from which a convolution is quicker in another memory layout


class Traced:
    """A torch module prepared for inputs like x (b, *shape): `parts`, and the values' shapes.

    name: what messages call the module. pool_first: exchange an activation and the max pooling after it, which leaves
    the function as it is. given: the module in its own precision, if net is a copy in another. inputs: what messages
    call x. Raises ValueError naming the part that is neither affine nor known, depends on its batch, draws random
    numbers or is not what torch.fx recorded.
    """

    def __init__(
        self,
        net: nn.Module,
        x: torch.Tensor,
        name: str = "net",
        pool_first: bool = False,
        given: nn.Module | None = None,
        inputs: str = "inputs",
    ):
        self.name = name
        probes = (2 * torch.randn(2, *x.shape[1:], generator=torch.Generator().manual_seed(0))).to(x)
        weight = probes if given is None else next((p for p in given.parameters() if p.is_floating_point()), probes)
        given = unwrapped(net if given is None else given)
        expected = check_evaluable(given, probes.to(weight, copy=True), inputs, name)
        graph, self.root, self.head = record(net, name, pool_first)
        self.like = x.detach().new_zeros(())
        nodes = list(graph.nodes)
        self.start, self.end = nodes[0], nodes[-1].args[0]
        self.constants: dict = {}
        self.sizes: dict = {}
        self.shapes: dict = {}
        self._offsets: dict = {}
        self._squares: dict = {}
        with torch.no_grad():
            self._probe(expected, nodes, probes)
            self.parts = self._cut([node for node in nodes if node in self.shapes and node is not self.start])

    def value(self, node: fx.Node, env: Env) -> torch.Tensor:
        """What the node returns."""
        return self._called(node, *self._arguments(node, env))

    def linear(self, node: fx.Node, env: Env) -> torch.Tensor:
        """The linear part of an affine node, applied to the values in `env`."""
        args, kwargs = self._arguments(node, env)
        if self.weighted(node):
            rows = args[0]
            if called(node) == "conv2d" and len(rows) >= MANY:
                rows = rows.contiguous(memory_format=torch.channels_last)  # many rows take half the time
            return self._called(node, (rows, args[1], None, *args[3:]), kwargs).contiguous()
        if called(node) in SUMS:
            return self._called(node, tuple(a if n in self.shapes else a * 0 for a, n in zip(args, node.args)), kwargs)
        if node not in self._offsets:
            with torch.no_grad():
                zeros = {n: self._zeros(self.shapes[n]) for n in node.all_input_nodes if n in self.shapes}
                offset = self.value(node, Env(self, 1, zeros))
            self._offsets[node] = offset if isinstance(offset, torch.Tensor) and offset.any() else None
        offset = self._offsets[node]
        if offset is None:
            return self._called(node, args, kwargs)
        # The difference of two values of the node, at a scale of 1, where it loses little beside the constants.
        given = self._given(node, env)
        scale = max(v.detach().abs().max() for v in given.values()).clamp(min=torch.finfo(offset.dtype).tiny)
        out = self.value(node, Env(self, env.rows, {n: v / scale for n, v in given.items()}))
        return (out - offset.repeat(len(out) // len(offset), *[1] * (out.ndim - 1))) * scale

    def squared(self, node: fx.Node, env: Env) -> torch.Tensor:
        """The linear part with squared coefficients, applied to the values in `env`."""
        given, weighted = self._given(node, env), self.weighted(node)
        if called(node) in (*UNITS, *COPIES) and not weighted:
            return self.linear(node, env)
        if called(node) in SUMS and len({*node.args}) == 2:
            return sum(given.values()).expand(-1, *self.shapes[node][1:])
        if node not in self._squares:
            with torch.no_grad():
                self._squares[node] = self.fixed(node.args[1], 1) ** 2 if weighted else self._plane_square(node)
        if weighted:
            args, kwargs = self._arguments(node, env)
            return self._called(node, (args[0], self._squares[node], None, *args[3:]), kwargs)
        (value,) = given.values()
        return (value.flatten(2) @ self._squares[node]).reshape(-1, *self.shapes[node][1:])

    def weighted(self, node: fx.Node) -> bool:
        """Whether the node is a layer of a constant weight, called as (input, weight, bias, ...)."""
        return called(node) in WEIGHTED and [n for n in node.all_input_nodes if n in self.shapes] == [node.args[0]]

    def fixed(self, node: fx.Node, rows: int) -> Any:
        """A value that depends on the number of inputs at most."""
        if node in self.constants:
            return self.constants[node]
        if node in self.sizes:
            one, two = self.sizes[node]
            return _extrapolated(one, two, rows)
        return self.value(node, Env(self, rows))

    def _arguments(self, node, env):
        return fx.node.map_arg(node.args, env.__getitem__), fx.node.map_arg(node.kwargs, env.__getitem__)

    def _given(self, node, env):
        return {n: env[n] for n in node.all_input_nodes if n in self.shapes}

    def _zeros(self, shape):
        return self.like.new_zeros(shape) if isinstance(shape, torch.Size) else [self._zeros(each) for each in shape]

    def _called(self, node, args, kwargs):
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return self.root.get_submodule(node.target)(*args, **kwargs)

    def _plane_square(self, node):
        """Squared coefficients (members, new members) of a node that treats every plane of (b, channels, ...) alike."""
        arguments = [n for n in node.all_input_nodes if n in self.shapes]
        given = torch.rand(self.shapes[arguments[0]], generator=torch.Generator().manual_seed(1)).to(self.like)
        of = lambda v: self.linear(node, Env(self, len(v), {arguments[0]: v}))
        n, out = math.prod(given.shape[2:]), self.shapes[node]
        small = len(arguments) == 1 and given.ndim > 2 and n * math.prod(out[2:]) <= 4 * DENSE
        if small and out[:2] == given.shape[:2]:
            expected, folded = of(given), given.flatten(0, 1).unsqueeze(1)
            with suppress(RuntimeError):  # what wants all channels takes no planes
                if self._offsets.get(node) is None and self._close(of(folded).reshape(out), expected):
                    return of(torch.eye(n).to(given).reshape(n, 1, *given.shape[2:])).reshape(n, -1) ** 2
        raise ValueError(f"{self.name}: {self._label(node)} is too large for independent units; use another rule")

    def _close(self, value, expected):
        if not value.is_floating_point() or not value.numel():
            return value.is_floating_point()
        scale = max(value.abs().max(), expected.abs().max())
        return bool((value - expected).abs().max() <= torch.finfo(value.dtype).eps ** 0.6 * scale)

    def _kind(self, node):
        return type(self.root.get_submodule(node.target)).__name__ if node.op == "call_module" else called(node)

    def _label(self, node):
        """The layer of torch.nn that makes the node, or the function called."""
        path, kind = node.target, self._kind(node)
        if node.op != "call_module":
            path, layer = list(node.meta.get("nn_module_stack", {"": ("", type(None))}).values())[-1]
            if not layer.__module__.startswith("torch.nn") or issubclass(layer, (nn.Sequential, nn.DataParallel)):
                return kind
            kind = layer.__name__
        return f"layer {path.partition('.')[2] or path} ({kind})"

    def _probe(self, expected, nodes, probes):
        """Fill `constants`, `sizes` and `shapes` from runs on two inputs and on a point between them, and check all.

        expected: the module's output for the first.
        """
        one, two = {self.start: _blend(probes)}, {self.start: probes}
        self.shapes[self.start] = one[self.start].shape
        for node in nodes[1:-1]:
            if node.op == "get_attr":
                self.constants[node] = operator.attrgetter(node.target)(self.root)
                continue
            try:
                batch = self.value(node, Env(self, 2, two))
                single = _blend(batch) if self._known(node) else self.value(node, Env(self, 1, one))
            except Exception as error:
                shape, reason = tuple(probes.shape[1:]), str(error).splitlines()[0]
                raise ValueError(f"{self.name}: {self._label(node)} fails on inputs of {shape}: {reason}") from error
            if any(n in self.shapes for n in node.all_input_nodes) and _tensors(single):
                one[node], two[node] = _blend(batch), batch
                self._check(node, single, one, two)
                shapes = [v.shape for v in _tensors(one[node])]
                self.shapes[node] = shapes if isinstance(batch, (tuple, list)) else shapes[0]
            elif not _tensors(single):
                self.sizes[node] = single, batch
            elif not any(n in self.sizes for n in node.all_input_nodes):
                self.constants[node] = single
        if not isinstance(self.end, fx.Node) or not isinstance(self.shapes.get(self.end), torch.Size):
            kind = "a constant" if isinstance(self.end, fx.Node) else type(self.end).__name__
            raise ValueError(f"{self.name}: expected one tensor as output that depends on the input, got {kind}")
        out = self.head[1](two[self.end]) if self.head else two[self.end]
        out, expected = out.reshape(2, -1)[:1].to(expected), expected.reshape(1, -1)
        if out.shape != expected.shape or not self._close(out, expected):
            raise ValueError(f"{self.name}: its trace by torch.fx is not the module; expected no hook that changes "
                             "values, and no value changed in place and used again")  # fmt: skip

    def _known(self, node):
        """Whether the node is a cut, or affine by what it calls."""
        return node.target in (act, max_pool) or self.weighted(node)

    def _check(self, node, at_one, one, two):
        """ValueError unless the node is affine and treats every input of a batch alone."""
        value, expected = _tensors(at_one), _tensors(one[node])
        alike = all(a.shape == b.shape for a, b in zip(value, expected))
        smooth = is_smooth(self._kind(node))
        # Sums are affine, and may cancel to values that are rounding errors.
        known = self._known(node) or called(node) in SUMS
        close = known or all(self._close(a, b) for a, b in zip(value, expected))
        if alike and not smooth and close and (known or not self._bends(node)):
            return
        label = self._label(node)
        # Several times, since dropout of few units often repeats itself.
        again = [b for _ in range(8) for b in _tensors(self.value(node, Env(self, 1, one)))]
        if not smooth and not all(torch.equal(a, b) for a, b in zip(8 * value, again)):
            raise ValueError(f"{self.name}: {label} draws random numbers: evaluations of one input differ; "
                             "expected F.dropout(..., training=self.training)")  # fmt: skip
        first = lambda v: _blend(v, (1.0, 0.0))
        given = {n: first(two[n]) for n in node.all_input_nodes if n in self.shapes}
        alone, batch = _tensors(self.value(node, Env(self, 1, given))), _tensors(first(two[node]))
        if not alike or not all(torch.allclose(a.to(b), b, rtol=1e-3, atol=1e-5) for a, b in zip(alone, batch)):
            raise ValueError(f"{self.name}: {label} mixes the inputs of a batch; expected each treated alone")
        raise ValueError(f"{self.name}: {label} is not affine; {advice(self._kind(node))}")

    def _bends(self, node):
        """Whether a node of few units is not affine between random points of many sizes; two probes may miss a bend."""
        shapes = {n: self.shapes[n] for n in node.all_input_nodes if n in self.shapes}
        known = called(node) in (*UNITS, *COPIES) or not all(isinstance(shape, torch.Size) for shape in shapes.values())
        if known or size(list(shapes.values())) > FEW:
            return False
        generator, sizes = torch.Generator().manual_seed(2), torch.logspace(-2, 2, POINTS)
        draw = lambda shape: torch.randn(POINTS, shape.numel(), generator=generator) * sizes[:, None]
        ends = [{n: draw(s).reshape(-1, *s[1:]).to(self.like) for n, s in shapes.items()} for _ in range(2)]
        middle = {n: (ends[0][n] + ends[1][n]) / 2 for n in shapes}
        values = (_tensors(self.value(node, Env(self, POINTS, given))) for given in (*ends, middle))
        first, second, between = (torch.cat([v.reshape(POINTS, -1) for v in each], 1) for each in values)
        allowed = torch.finfo(first.dtype).eps ** 0.6 * (first.abs() + second.abs()).amax(1)
        return bool((((first + second) / 2 - between).abs().amax(1) > allowed).any())

    def _cut(self, nodes):
        parts: list = []
        for now, state, group, carried in schedule(nodes, self.start, self.end):
            affine = Affine(self, now, state, [node.args[0] for node in group] + carried)
            parts.append(affine)
            if group and group[0].target is act:
                parts.append(Cut(affine.shapes, self.like, slopes=tuple(map(self._slope, group))))
            elif group:
                pool = fx.node.map_arg(group[0].args[1:], lambda n: self.fixed(n, 1))
                parts.append(Cut(affine.shapes, self.like, pool=pool))
        return parts

    def _slope(self, node):
        slope = node.args[1]
        return broadcast(self.fixed(slope, 1), len(self.shapes[node])) if isinstance(slope, fx.Node) else slope


def _extrapolated(one, two, rows):
    """A size for `rows` inputs, from those for one and two."""
    if isinstance(one, (tuple, list)):
        return tuple(_extrapolated(a, b, rows) for a, b in zip(one, two))
    return one + (two - one) * (rows - 1) if type(one) is int else one


def _tensors(value):
    return [v for v in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(v, torch.Tensor)]


def _blend(value, weights=(0.3, 0.7)):
    """A point between the two inputs of a value, as a batch of one."""
    if isinstance(value, (tuple, list)):
        return [_blend(v, weights) for v in value]
    if value.ndim == 0 or len(value) % 2:
        return value
    first, second = value.chunk(2)
    return weights[0] * first + weights[1] * second
